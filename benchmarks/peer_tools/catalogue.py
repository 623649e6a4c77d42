"""What `benchmarks.peers` compares: each tool as a function that writes a model, and what it needs to be installed.

ndpass runs as a command of its own, with and without data. Without data and in one form it is two of the peers: nd with
pinned T is Guo et al. 2018, dw-pw is DAC (Li et al. 2018), whose rank is T and which needs no other code.
Tools that prune channels are brought to the same MACs by every criterion that they have for it, local and global; the
best on CHOICE labelled images of the calibration data is taken. Nothing is trained or fine-tuned after it.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.rows import Row, by_name
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph
from ndpass.measuring.evaluate import accuracy
from ndpass.measuring.runtime import OpenVINO

INT8_SAMPLES = 300
CHOICE = 500
INSTALL = "pip install -e '.[peers]'"


@dataclass(frozen=True)
class Task:
    """A model to make faster, and where the result goes."""

    model: Path
    out: Path
    setting: str
    calibration: Path
    validation: Path
    preprocess: str
    samples: int | None
    threads: int | None

    def feeds(self, samples: int | None) -> Feeds:
        """Of the calibration data."""
        proto = onnx.load(self.model)
        return open_feeds(self.calibration, Graph(proto).inputs(), Preprocess.parse(self.preprocess), samples=samples)

    def share(self) -> float:
        """Of a setting macs=0.8."""
        return float(self.setting.removeprefix("macs="))


@dataclass(frozen=True)
class Peer:
    """build: writes `task.out`, returns what is to be kept in the row. settings: those of any model, or by its name."""

    name: str
    build: Callable[[Task], Row]
    settings: Sequence[str] | dict[str, Sequence[str]]
    marker: str
    needs: Sequence[str] = ()
    suffix: str = ".onnx"

    def of(self, model: str) -> Sequence[str]:
        return self.settings.get(model, self.settings["others"]) if isinstance(self.settings, dict) else self.settings

    def missing(self) -> str:
        """Why it cannot be run here; empty if it can."""
        absent = [name for name in self.needs if find_spec(name) is None]
        return f"{' and '.join(absent)} not installed: {INSTALL}" if absent else ""


class RefusedError(Exception):
    """A tool that gives no model at a setting, and what it says."""


def without_data(task: Task) -> Row:
    return _ndpass(task, [])


def with_data(task: Task) -> Row:
    given = [
        "--calibration",
        str(task.calibration),
        "--validation",
        str(task.validation),
        "--preprocess",
        task.preprocess,
    ]
    return _ndpass(task, given + (["--samples", str(task.samples)] if task.samples else []))


def _ndpass(task: Task, data: Sequence[str]) -> Row:
    """Keeps the plan, which `benchmarks.curves` times."""
    report = task.out.with_suffix(".json")
    command = [
        sys.executable,
        "-m",
        "ndpass",
        "run",
        str(task.model),
        "-q",
        *task.setting.split(),
        *data,
        *(["--threads", str(task.threads)] if task.threads else []),
        "--json",
        str(report),
        "-o",
        str(task.out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RefusedError(by_name(said, task.model, task.out, task.calibration, task.validation))
    found = json.loads(report.read_text(encoding="utf-8"))
    layers = [{"name": row["name"], "setting": row["setting"]} for row in found["layers"] if row["status"] == "done"]
    return {"pipeline": ",".join(found["passes"]), "layers": layers}


def nncf(task: Task) -> Row:
    """The setting is NNCF's preset."""
    with contextlib.redirect_stdout(io.StringIO()):  # its notes and bars
        import nncf
        import openvino as ov

        preset = nncf.QuantizationPreset(task.setting)
        items = list(task.feeds(INT8_SAMPLES).batches(1))
        int8 = nncf.quantize(
            ov.Core().read_model(task.model), nncf.Dataset(items), preset=preset, subset_size=len(items)
        )
    ov.save_model(int8, task.out, compress_to_fp16=False)
    return {}


def torch_pruning(task: Task) -> Row:
    """Step by step, as its guide has it, until no more than a share of the MACs is left."""
    import torch

    torch.manual_seed(0)
    if task.threads:
        torch.set_num_threads(task.threads)
    return _best(task, torch_pruned(task))


def torch_pruned(task: Task) -> Iterator[tuple[str, onnx.ModelProto]]:
    """(criterion, model) at the MACs of the setting; Taylor's first-order criterion reads the labels."""
    import torch_pruning as tp

    from benchmarks.onnx_torch import Network

    proto = onnx.load(task.model)
    batch_norm = any(node.op_type == "BatchNormalization" for node in proto.graph.node)
    rules: dict[str, Any] = {
        "L1": tp.importance.GroupMagnitudeImportance(p=1),
        "L2": tp.importance.GroupMagnitudeImportance(p=2),
        "LAMP": tp.importance.LAMPImportance(),
        "FPGM": tp.importance.FPGMImportance(),
        **({"BN scale": tp.importance.BNScaleImportance()} if batch_norm else {}),
        "Taylor": tp.importance.GroupTaylorImportance(),
    }
    feeds = task.feeds(INT8_SAMPLES)
    for rule, importance in rules.items():
        for everywhere in (False, True):
            network = Network(proto).eval()
            if rule == "Taylor":
                _gradients(network, feeds)
            _prune(network, importance, everywhere, task.share(), _example(feeds))
            yield f"{rule}, {'global' if everywhere else 'local'}", network.to_onnx()


def _prune(network: Any, importance: Any, everywhere: bool, share: float, example: Any) -> None:
    import torch_pruning as tp

    whole, _ = tp.utils.count_ops_and_params(network, example)
    pruner = tp.pruner.BasePruner(
        network,
        example,
        importance,
        global_pruning=everywhere,
        pruning_ratio=0.95,
        iterative_steps=95,
        ignored_layers=network.fixed(),
    )
    left = whole
    while left > share * whole and pruner.current_step < pruner.iterative_steps:
        pruner.step()
        left, _ = tp.utils.count_ops_and_params(network, example)


def _example(feeds: Feeds) -> Any:
    import torch

    return torch.from_numpy(np.array(next(iter(next(iter(feeds.batches(1))).values()))))


def _gradients(network: Any, feeds: Feeds) -> None:
    """Of the loss over the labelled images, which the pruner cuts along with the weights."""
    import torch

    if feeds.labels is None:
        raise RefusedError("Taylor's criterion needs labels, the calibration data have none")
    seen = 0
    for feed in feeds.batches(100):
        (images,) = feed.values()
        labels = torch.from_numpy(feeds.labels[seen : seen + len(images)])
        seen += len(images)
        loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(np.array(images))), labels, reduction="sum")
        loss.backward()


def onnxsim(task: Task) -> Row:
    """Batch norms are folded first, as it does for any model; Wanda's criterion looks at calibration data."""
    return _best(task, simplified(task))


def simplified(task: Task) -> Iterator[tuple[str, onnx.ModelProto]]:
    """(criterion, model) at the least sparsity, in hundredths, at which no more than the share of the MACs is left."""
    import onnxsim

    with contextlib.redirect_stdout(io.StringIO()):
        folded, _ = onnxsim.simplify(onnx.load(task.model))
    whole = Graph(onnx.load(task.model)).macs()
    batches = [{k: np.array(v) for k, v in feed.items()} for feed in task.feeds(INT8_SAMPLES).batches(100)]
    for norm in ("l1", "l2"):
        for everywhere in (False, True):
            options = {"importance_norm": norm, "global_sparsity": everywhere}

            def plain(hundredths: int, options: dict[str, Any] = options) -> onnx.ModelProto:
                return onnxsim.apply_structured_pruning(folded, sparsity=hundredths / 100, **options)

            def wanda(hundredths: int, options: dict[str, Any] = options) -> onnx.ModelProto:
                return onnxsim.apply_structured_wanda_pruning(
                    folded, calibration_data=batches, sparsity=hundredths / 100, **options
                )

            for rule, prune in ((norm.upper(), plain), (f"Wanda {norm.upper()}", wanda)):
                if found := _least(prune, task.share() * whole):
                    yield f"{rule}, {'global' if everywhere else 'local'}", found


def _least(prune: Callable[[int], onnx.ModelProto], macs: float) -> onnx.ModelProto | None:
    low, high, best = 0, 100, None
    while high - low > 1:
        middle = (low + high) // 2
        model = _clean(prune(middle))
        if Graph(model).macs() <= macs:
            high, best = middle, model
        else:
            low = middle
    return best


def _clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the shapes of inner tensors, which are those before pruning."""
    del model.graph.value_info[:]
    return model


def _best(task: Task, found: Iterator[tuple[str, onnx.ModelProto]]) -> Row:
    """Writes the model that is right most often on CHOICE calibration images; keeps what all of them reached."""
    feeds, scores, best = task.feeds(CHOICE), {}, None
    for criterion, model in found:
        scores[criterion] = accuracy(OpenVINO(model.SerializeToString(), threads=task.threads), feeds, 100)
        if scores[criterion] == max(scores.values()):
            best = model
    if best is None:
        raise RefusedError("no criterion gets to so few MACs")
    onnx.save(best, task.out)
    return {"criterion": max(reversed(list(scores)), key=scores.__getitem__), "criteria": scores}


def _at(passes: Sequence[str], shares: Sequence[float]) -> list[str]:
    """The first budget of all pipelines comes first, for a run that may be stopped."""
    return [f"--passes {p} --macs {share:g}" for share in shares for p in passes]


SHARES = [f"macs={share:g}" for share in (0.9, 0.8, 0.65, 0.5)]
PIPELINES = ("nd", "cd", "sd", "cd,nd", "cp", "auto")

PEERS = [
    Peer(
        "nd without data (Guo)",
        without_data,
        [*(f"--passes nd:rank={t}" for t in (1, 2, 3, 4)), *(f"--passes nd --macs {m}" for m in (0.6, 0.75))],
        "o",
    ),
    Peer("DAC", without_data, [f"--passes nd:rank={t}:form=dw-pw" for t in (1, 2, 3, 4, 5)], "v"),
    Peer("NNCF int8", nncf, ["performance", "mixed"], "D", ("nncf",), ".xml"),
    Peer("Torch-Pruning", torch_pruning, SHARES, "s", ("torch", "torch_pruning")),
    Peer("onnxsim", onnxsim, SHARES, "P", ("onnxsim",)),
    Peer(
        "ndpass by MACs",
        with_data,
        {
            "vgg16_cifar10": [
                *(
                    f"--passes {p} --macs {m}"
                    for p, m in (("sd", 0.18), ("nd", 0.3), ("auto", 0.18), ("cd", 0.3), ("cd,nd", 0.25), ("cp", 0.38))
                ),
                *(f"--passes {p} --macs {m}" for p, m in (("sd", 0.3), ("auto", 0.3), ("nd", 0.5), ("cd", 0.5))),
            ],
            "others": _at(PIPELINES, (0.7, 0.5)),
        },
        "^",
    ),
    Peer(
        "ndpass by ms",
        with_data,
        [f"--passes {p} --max-drop {d} --precision f32" for d in (1, 0.5) for p in ("auto", "sd")],
        "*",
    ),
    Peer(
        "ndpass int8 by ms",
        with_data,
        ["--passes auto --max-drop 1 --int8", "--passes sd --max-drop 1 --int8"],
        "X",
        ("nncf",),
        ".xml",
    ),
]
