"""The peers: every tool with its settings, and what it needs to be installed.

ndpass runs as a command of its own, with and without data. Without data and in one form it is two of the peers: nd with
pinned T is Guo et al. 2018, dw-pw is DAC (Li et al. 2018), whose rank is T and which needs no other code.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.ndpass_command import run
from benchmarks.peer_tools.pruning import onnxsim, torch_pruning
from benchmarks.peer_tools.task import SAMPLES, Task
from benchmarks.results.rows import Row
from benchmarks.results.summary import BY_MS

INSTALL = "pip install -e '.[peers]'"


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

    @property
    def by_ms(self) -> bool:
        """Whether it chooses by latency: it is built anew for each kind of CPU, with nothing running beside it."""
        return self.name.endswith(BY_MS)

    def missing(self) -> str:
        """Why it cannot be run here; empty if it can."""
        absent = [name for name in self.needs if find_spec(name) is None]
        return f"{' and '.join(absent)} not installed: {INSTALL}" if absent else ""


def without_data(task: Task) -> Row:
    return _ndpass(task, {})


def with_data(task: Task) -> Row:
    data = {
        "calibration": task.calibration,
        "validation": task.validation,
        "preprocess": task.preprocess,
        "samples": task.samples,
    }
    return _ndpass(task, data)


def _ndpass(task: Task, data: Mapping[str, Any]) -> Row:
    """Keeps the plan, which `benchmarks.curves` times."""
    found, _ = run(task.model, task.out, task.setting.split(), {**data, "threads": task.threads})
    layers = [{"name": row["name"], "setting": row["setting"]} for row in found["layers"] if row["status"] == "done"]
    return {"pipeline": ",".join(found["passes"]), "layers": layers}


def nncf(task: Task) -> Row:
    """The setting is NNCF's preset."""
    with contextlib.redirect_stdout(io.StringIO()):  # its notes and bars
        import nncf
        import openvino as ov

        preset = nncf.QuantizationPreset(task.setting)
        items = list(task.feeds(SAMPLES).batches(1))
        int8 = nncf.quantize(
            ov.Core().read_model(task.model), nncf.Dataset(items), preset=preset, subset_size=len(items)
        )
    ov.save_model(int8, task.out, compress_to_fp16=False)
    return {}


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
