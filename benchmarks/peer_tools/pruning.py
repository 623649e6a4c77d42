"""Tools that prune channels, as peers of ndpass: each brings a model to a share of its MACs by every criterion it has.

The best criterion on CHOICE labelled images of the calibration data is taken. Nothing is trained or fine-tuned after
it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from benchmarks.ndpass_command import RefusedError
from benchmarks.peer_tools.task import SAMPLES, Task
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import Feeds
from ndpass.graph.graph import Graph
from ndpass.measuring.evaluate import accuracy
from ndpass.measuring.runtime import OpenVINO

CHOICE = 500


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

    from benchmarks.networks.onnx_torch import OnnxModule

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
    feeds = task.feeds(SAMPLES)
    for rule, importance in rules.items():
        for everywhere in (False, True):
            network = OnnxModule(proto).eval()
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
    batches = [{k: np.array(v) for k, v in feed.items()} for feed in task.feeds(SAMPLES).batches(100)]
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
