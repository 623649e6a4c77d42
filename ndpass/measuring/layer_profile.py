"""A whole model in OpenVINO: an inference to be timed, and what each layer takes of it.

OpenVINO's counters tell nodes apart. They cut every run to whole microseconds and give the mean of all runs since
compiling, the first and the disturbed ones among them. So they give shares, and a clock around the same runs gives the
time of the whole.
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
from ndpass.measuring.openvino_core import read_model, shared_core
from ndpass.measuring.runtime import Feed, Runnable, existing
from ndpass.measuring.target import Target
from ndpass.measuring.turns import Timed

if TYPE_CHECKING:
    import openvino as ov

PROFILES = 3  # how often a model is compiled to be profiled
PROFILED = (5, 20)  # inferences of each compiled model, at least and at most
ENOUGH = 0.3  # seconds of them, from which on there need be no more


def node_shares(
    model: Path | Runnable, target: Target, feed: Feed, sites: Collection[str] | None = None
) -> dict[str, float]:
    """What each layer takes of the time of one inference: layer name -> share, 0 to 1.

    These are shares and not seconds: another process that takes the memory's bandwidth slows a large model for minutes,
    so times of different moments do not go together. A layer that no counter shows has share 0, and so may one of less
    than a microsecond: that does not mean that it takes no time.

    sites: layer names as `Graph.sites()` has them. A node belongs to the longest name that it is named after or was
    fused with (the nodes of a rewritten layer are named `site/...`); a reorder belongs to the node it is done for. The
    nodes that belong to no site are summed under "". None: each node under its own name.
    A target of int8: a model that is not quantised yet is timed with ranges of no meaning. Raises InputError where
    OpenVINO cannot run the model.
    """
    source = existing(model) if isinstance(model, Path) else model
    with blaming("the model that is to be profiled: OpenVINO cannot run it"):
        read = loaded(source, target, feed)
        config = target.properties() | {"PERF_COUNT": True}
        rounds = [_profile(shared_core().compile_model(read, target.device, config), feed) for _ in range(PROFILES)]
    owners, shares = rounds[0].owners(sites, _renamed(source)), [r.shares() for r in rounds]
    total = dict.fromkeys(sites if sites is not None else (), 0.0)
    for node in shares[0]:
        owner = owners.get(node, "" if sites is not None else node)
        total[owner] = total.get(owner, 0.0) + float(np.median([s.get(node, shares[0][node]) for s in shares]))
    return total


def inference(model: Path | Runnable, target: Target, feed: Feed) -> Timed:
    """One inference of the whole model on `feed` as the target runs it, to be timed; int8 as in `node_shares`.

    Raises InputError where OpenVINO cannot run the model.
    """
    with blaming("the model that is to be timed: OpenVINO cannot run it"):
        compiled = shared_core().compile_model(loaded(model, target, feed), target.device, target.properties())
        request = _request(compiled, feed)
        request.infer(share_outputs=True)
    return lambda: request.infer(share_outputs=True)


def _request(compiled: ov.CompiledModel, feed: Feed) -> ov.InferRequest:
    """A request with its inputs set to `feed`."""
    import openvino as ov

    request = compiled.create_infer_request()
    for i, port in enumerate(compiled.inputs):
        request.set_input_tensor(i, ov.Tensor(np.require(feed[port_name(port)], requirements="C")))
    return request


def loaded(model: Path | Runnable, target: Target, feed: Feed) -> ov.Model:
    """The model in memory at the shapes of `feed`, quantised if the target is int8 and the model is not.

    Raises InputError where OpenVINO cannot read the model, or not at these shapes.
    """
    with blaming("the model that is to be timed: OpenVINO cannot read it"):
        read = read_model(model) if isinstance(model, Path | bytes) else model.clone()
        read.reshape({port: list(feed[port_name(port)].shape) for port in read.inputs})
    return quantised(read) if target.precision == "int8" and not is_int8(read) else read


@dataclass(frozen=True)
class _Profile:
    """What the counters say of one compiled model.

    micros: node -> mean microseconds, of the nodes that were executed; wall: microseconds of an inference by the clock;
    originals: node -> ',names,' of the model's nodes that it stands for; after: node -> the nodes that read it.
    """

    micros: Mapping[str, float]
    wall: float
    originals: Mapping[str, str]
    after: Mapping[str, Sequence[str]]

    def shares(self) -> dict[str, float]:
        """Node -> its share of the wall's time; all nodes together take no more than that."""
        whole = max(self.wall, sum(self.micros.values()))
        return {node: micros / whole for node, micros in self.micros.items()}

    def owners(self, sites: Collection[str] | None, renamed: Mapping[str, str]) -> dict[str, str]:
        """Node -> the site that it belongs to, "" for none; renamed: what OpenVINO calls a node -> its ONNX name."""
        if sites is None:
            return {}
        by_length = sorted(sites, key=len, reverse=True)
        owned: dict[str, str] = {}
        for node, originals in self.originals.items():
            own = [renamed[name] for name in originals.split(",") if name in renamed]
            owned[node] = next(_owning("".join(f",{name}," for name in [*own, originals]), by_length), "")
        for node in reversed(list(self.originals)):  # nodes that the runtime has added belong to what reads them
            if self.originals[node] == ",,":
                owned[node] = next((owned[reader] for reader in self.after[node] if owned[reader]), "")
        return owned


def _renamed(source: Path | Runnable) -> dict[str, str]:
    """Output of the model -> the ONNX node that computes it, because OpenVINO names such nodes after the output."""
    import onnx

    if not isinstance(source, Path | bytes) or (isinstance(source, Path) and source.suffix == ".xml"):
        return {}
    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source, load_external_data=False)
    outputs = {output.name for output in model.graph.output}
    return {name: node.name for node in model.graph.node if node.name for name in node.output if name in outputs}


def _owning(names: str, sites: Sequence[str]) -> Iterator[str]:
    """The sites that a node with these original names comes from."""
    return (site for site in sites if f",{site}," in names or f",{site}/" in names)


def _profile(compiled: ov.CompiledModel, feed: Feed) -> _Profile:
    request = _request(compiled, feed)
    request.infer(share_outputs=True)
    first = _counters(request)
    fewest, most = PROFILED
    start, warm = time.perf_counter(), 0
    while warm + 1 < fewest or (warm + 1 < most and time.perf_counter() - start < ENOUGH):
        request.infer(share_outputs=True)
        warm += 1
    wall = (time.perf_counter() - start) / warm
    mean = _counters(request)
    # the counters hold the mean of all runs; the first run, which finds everything cold, is taken out again
    micros = {n: max(0.0, mean[n] * (warm + 1) - first.get(n, 0.0)) / warm for n in mean}
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
