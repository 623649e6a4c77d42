"""A whole model on a target: an inference to be timed, and what each layer takes of it.

OpenVINO's own counters tell nodes apart, which `node_shares` needs, but they cut every run to whole microseconds and
give the mean over all runs since compiling, the first and the disturbed ones among them; the clock is kept beside them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndpass.errors import blaming
from ndpass.graph.openvino.port_names import port_name
from ndpass.measuring.fake_int8 import is_int8, quantised
from ndpass.measuring.runtime import Feed, Runnable, existing
from ndpass.measuring.target import Target
from ndpass.measuring.turns import Timed

if TYPE_CHECKING:
    import openvino as ov

PROFILES = 3  # times that a model is compiled anew to be profiled
PROFILED = 20  # inferences each time


def node_shares(
    model: Path | Runnable, target: Target, feed: Feed, sites: Collection[str] | None = None
) -> dict[str, float]:
    """What each layer takes of the time of the whole model, by OpenVINO's counters and a clock around the same runs.

    Shares and not seconds: a neighbour on the machine who takes the memory's bandwidth slows a large model for minutes,
    and what one such time says does not go with what the next one does. What no counter shows has no share.

    sites: layer names as `Graph.sites()` has them; a node belongs to the longest one that it is named after or was
    fused with (a rewritten layer's nodes are named `site/...`), a reorder to what it is done for; what belongs to none
    is summed under "". None: each node under its own name. int8: with ranges of no meaning if it is not quantised yet.
    Counters are cut to whole microseconds: a small node's share may be given as 0.
    """
    import openvino as ov

    source = existing(model) if isinstance(model, Path) else model
    with blaming("the model that is to be profiled: OpenVINO cannot run it"):
        read = loaded(source, target, feed)
        config = target.properties() | {"PERF_COUNT": True}
        rounds = [_profile(ov.Core().compile_model(read, target.device, config), feed) for _ in range(PROFILES)]
    owners, shares = rounds[0].owners(sites, _renamed(source)), [r.shares() for r in rounds]
    total = dict.fromkeys(sites if sites is not None else (), 0.0)
    for node in shares[0]:
        owner = owners.get(node, "" if sites is not None else node)
        total[owner] = total.get(owner, 0.0) + float(np.median([s.get(node, shares[0][node]) for s in shares]))
    return total


def inference(model: Path | Runnable, target: Target, feed: Feed) -> Timed:
    """One inference of the whole model on `feed` as the target runs it, for timing; int8 as in `node_shares`."""
    import openvino as ov

    with blaming("the model that is to be timed: OpenVINO cannot run it"):
        compiled = ov.Core().compile_model(loaded(model, target, feed), target.device, target.properties())
        request = _request(compiled, feed)
    return lambda: request.infer(share_outputs=True)


def _request(compiled: ov.CompiledModel, feed: Feed) -> ov.InferRequest:
    """One with its inputs set."""
    import openvino as ov

    request = compiled.create_infer_request()
    for i, port in enumerate(compiled.inputs):
        request.set_input_tensor(i, ov.Tensor(np.ascontiguousarray(feed[port_name(port)])))
    return request


def loaded(model: Path | Runnable, target: Target, feed: Feed) -> ov.Model:
    """The model at the shapes of `feed`, quantised if the target is int8 and it is not."""
    import openvino as ov

    read = ov.Core().read_model(model) if isinstance(model, Path | bytes) else model.clone()
    read.reshape({port: list(feed[port_name(port)].shape) for port in read.inputs})
    return quantised(read) if target.precision == "int8" and not is_int8(read) else read


@dataclass(frozen=True)
class _Profile:
    """By node: micros, the mean of those executed; originals, ',names,' that it stands for; after, its readers.

    wall: microseconds of an inference by the clock.
    """

    micros: Mapping[str, float]
    wall: float
    originals: Mapping[str, str]
    after: Mapping[str, Sequence[str]]

    def shares(self) -> dict[str, float]:
        """Of the wall's time; all nodes together take no more than that."""
        whole = max(self.wall, sum(self.micros.values()))
        return {node: micros / whole for node, micros in self.micros.items()}

    def owners(self, sites: Collection[str] | None, renamed: Mapping[str, str]) -> dict[str, str]:
        """Node -> the site that it belongs to; renamed: what OpenVINO calls a node -> its name."""
        if sites is None:
            return {}
        by_length = sorted(sites, key=len, reverse=True)
        owned: dict[str, str] = {}
        for node, originals in self.originals.items():
            own = [renamed[name] for name in originals.split(",") if name in renamed]
            owned[node] = next(_owning("".join(f",{name}," for name in [*own, originals]), by_length), "")
        for node in reversed(list(self.originals)):  # what the runtime has added: readers come later, so they are known
            if self.originals[node] == ",,":
                owned[node] = next((owned[reader] for reader in self.after[node] if owned[reader]), "")
        return owned


def _renamed(source: Path | Runnable) -> dict[str, str]:
    """Output of the model -> the ONNX node that computes it: OpenVINO names such nodes after the output."""
    import onnx

    if not isinstance(source, Path | bytes) or (isinstance(source, Path) and source.suffix == ".xml"):
        return {}
    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source, load_external_data=False)
    outputs = {output.name for output in model.graph.output}
    return {name: node.name for node in model.graph.node if node.name for name in node.output if name in outputs}


def _owning(names: str, sites: Sequence[str]) -> Iterator[str]:
    """Of the sites, those that a node of these original names comes from."""
    return (site for site in sites if f",{site}," in names or f",{site}/" in names)


def _profile(compiled: ov.CompiledModel, feed: Feed) -> _Profile:
    request = _request(compiled, feed)
    request.infer(share_outputs=True)
    first = _counters(request)
    start = time.perf_counter()
    for _ in range(PROFILED - 1):
        request.infer(share_outputs=True)
    wall = (time.perf_counter() - start) / (PROFILED - 1)
    mean = _counters(request)
    # the counters hold the mean of all runs: the first, which finds everything cold, is taken out again; a node that
    # took less than a microsecond is none that was executed
    micros = {n: max(0.0, mean[n] * PROFILED - first.get(n, 0.0)) / (PROFILED - 1) for n in mean}
    ops = compiled.get_runtime_model().get_ordered_ops()
    originals = {op.get_friendly_name(): f",{_info(op, 'originalLayersNames')}," for op in ops}
    after = {
        op.get_friendly_name(): [
            i.get_node().get_friendly_name() for port in op.outputs() for i in port.get_target_inputs()
        ]
        for op in ops
    }
    return _Profile(micros, 1e6 * wall, originals, after)


def _counters(request: ov.InferRequest) -> dict[str, float]:
    return {
        p.node_name: p.real_time.total_seconds() * 1e6 for p in request.profiling_info if p.status.name == "EXECUTED"
    }


def _info(op: ov.Node, key: str) -> str:
    info = op.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def layer_seconds(
    model: Runnable, target: Target, feed: Feed, names: Collection[str], clock: float
) -> dict[str, float]:
    """Seconds of each layer inside the model, which takes `clock`."""
    return {name: clock * share for name, share in node_shares(model, target, feed, names).items()}
