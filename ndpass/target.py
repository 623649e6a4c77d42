"""The machine that a model is made fast for, and how long a block takes there.

A block is timed by the clock in a small model (see `ndpass.latency_model`) in turns with the dense original, so that
what slows the machine down slows both. OpenVINO's own counters tell nodes apart, which `node_shares` needs, but they
cut every run to whole microseconds and give the mean over all runs since compiling, the first and the disturbed ones
among them.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Block, Conv
from ndpass.errors import UsageError
from ndpass.latency_cache import LatencyCache
from ndpass.latency_model import copies_for, geometry, is_int8, quantised, small_model, width_of
from ndpass.runtime import Feed, Precision, Runnable, blaming, existing, port_name

if TYPE_CHECKING:
    import openvino as ov

Timed = Callable[[], object]

PRECISION = 0.015  # half-width of a latency's interval at which two that are 3 % apart can be told apart
SECONDS = 0.4  # time for each block; twice that where it is not precise enough by then
MIN_ROUNDS = 6
CALLS = 4  # a turn is the fastest of so many: what disturbs a single inference only ever adds to it
AT_ONCE = 8  # blocks that are compiled and timed together, beside the dense one
PROFILES = 3  # times that a model is compiled anew to be profiled
PROFILED = 20  # inferences each time


@dataclass(frozen=True)
class Target:
    """Precision, CPU threads (None: OpenVINO's choice), batch and OpenVINO's name of the device.

    Raises UsageError for a number below 1 and for a device that is not there.
    """

    precision: Precision = "f32"
    threads: int | None = None
    batch: int = 1
    device: str = "CPU"

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("batch", self.batch)):
            if value is not None and value < 1:
                raise UsageError(f"{name} of a target is a whole number from 1 on; got {value}")
        if self.device != "CPU" and self.device not in _core().available_devices:
            there = ", ".join(_core().available_devices)
            raise UsageError(f"device {self.device} is not there: OpenVINO finds {there} on this machine")

    def properties(self) -> dict[str, Any]:
        """OpenVINO's, one stream so that all threads work on one request; UsageError for bf16 on a device without it.

        int8: a model that is quantised already; what is not is left to OpenVINO.
        """
        if self.precision == "bf16" and "BF16" not in _core().get_property(self.device, "OPTIMIZATION_CAPABILITIES"):
            raise UsageError(f"precision bf16 needs a device that has it, {self.device} here has not: use f32 or int8")
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        config |= {} if self.precision == "int8" else {"INFERENCE_PRECISION_HINT": self.precision}
        return config | ({"INFERENCE_NUM_THREADS": self.threads} if self.threads and self.device == "CPU" else {})

    @classmethod
    def default_precision(cls, device: str = "CPU") -> Literal["f32", "bf16"]:
        """What OpenVINO runs an f32 model in on this device if it is left the choice, f16 counted as f32."""
        import openvino as ov
        from openvino import opset13

        x = opset13.parameter([1, 1], np.float32)
        compiled = _core().compile_model(ov.Model([opset13.relu(x)], [x]), device, {})
        return "bf16" if compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.bf16 else "f32"

    def environment(self) -> dict[str, str]:
        """All that a latency depends on besides block and size, as text."""
        import openvino as ov

        core = _core()
        return {
            "device": self.device,
            "cpu": str(core.get_property(self.device, "FULL_DEVICE_NAME")).strip(),
            "capabilities": " ".join(sorted(core.get_property(self.device, "OPTIMIZATION_CAPABILITIES"))),
            "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(),
            "openvino": str(ov.__version__),
            "threads": str(self.threads or f"all {_cpus()}"),
            "precision": self.precision,
            "batch": str(self.batch),
        }


@dataclass(frozen=True)
class _Turns:
    """times: (rounds, models) seconds of the bases, the dense layer and the blocks; bases: how many come first.

    The first base is the dense layer's, the last the blocks', another one where their input is narrower.
    """

    times: NDArray[np.float64]
    bases: int

    @property
    def dense(self) -> NDArray[np.float64]:
        """(rounds,)"""
        return self.times[:, self.bases]

    @property
    def blocks(self) -> NDArray[np.float64]:
        """(rounds, blocks)"""
        return self.times[:, self.bases + 1 :]

    def dense_seconds(self) -> float:
        return max(float(np.median(self.dense - self.times[:, 0])), 1e-7)

    def ratios(self) -> NDArray[np.float64]:
        """(rounds, blocks), to dense of the same round.

        A base that was disturbed alone would turn single ratios round, so its median counts.
        """
        base, own = (np.median(self.times[:, i]) for i in (0, self.bases - 1))
        smallest = 1e-3 * np.median(self.dense)
        return np.maximum(self.blocks - own, smallest) / np.maximum(self.dense - base, smallest)[:, None]

    def spread(self) -> float:
        """Widest 95 % interval of a median ratio, half of it, relative; of the dense one itself where it is alone."""
        values = self.ratios() if self.blocks.size else self.dense[:, None]
        middle = np.median(values, axis=0)
        deviation = 1.4826 * np.median(np.abs(values - middle), axis=0)
        return float(np.max(1.96 * 1.2533 * deviation / np.sqrt(len(values)) / middle))


class Latencies:
    """Seconds that blocks take on a target, measured once and remembered.

    cache: folder of remembered latencies, None for none. Raises UsageError where the target is not to be had here.
    spread: of the last measurement, half a 95 % interval of the median, relative. noisy: that is more than what tells
    3 % apart although it was measured twice as long; the figures are given all the same.
    """

    def __init__(self, target: Target, cache: Path | None) -> None:
        self.target = target
        self.spread = 0.0
        self.noisy = False
        self._config = target.properties()
        self._remembered = LatencyCache(cache, target.environment())

    def of(self, blocks: Sequence[Block], in_hw: tuple[int, ...], rows: int | None = None) -> list[float]:
        """Seconds of each block on an input (batch, n_i, *in_hw), in order; blocks[0] is the dense original.

        Weights mean nothing, only shapes do. rows: how many a matrix product takes, the batch if left out.
        A latency that is not remembered is the block's ratio to the dense one, in turns with it, times the latency
        that is remembered of the dense one.
        """
        dense, rows = blocks[0], rows or self.target.batch
        if not isinstance(dense, Conv):
            raise ValueError("the first block is the dense original, a Conv")
        copies = copies_for(dense, in_hw, rows)
        size = f"{'x'.join(map(str, in_hw))} rows={rows} copies={copies}"
        keys = [f"{geometry(block)} @ {size}" for block in blocks]
        missing = {key: block for key, block in zip(keys, blocks, strict=True) if self._remembered.get(key) is None}
        alone = missing.pop(keys[0], None) is not None and not missing
        for part in [{}] if alone else _parts(missing):
            widths = dict.fromkeys([dense.n_i, *map(width_of, part.values())])
            models = [small_model(None, dense, in_hw, rows, copies, width) for width in widths]
            models += [small_model(block, dense, in_hw, rows, copies) for block in (dense, *part.values())]
            self._measure(keys[0], list(part), models, copies)
        return [self._remembered.get(key) or 0.0 for key in keys]

    def _measure(self, dense: str, keys: Sequence[str], models: Sequence[bytes], copies: int) -> None:
        """Times the bases, dense and the blocks in turns and remembers what is new."""
        turns = self._turns([self._compiled(model) for model in models], len(models) - 1 - len(keys))
        known = self._remembered.get(dense) or turns.dense_seconds() / copies
        ratios = np.median(turns.ratios(), axis=0)
        self._remembered.put({dense: known} | {k: float(r) * known for k, r in zip(keys, ratios, strict=True)})

    def _compiled(self, model: bytes) -> Timed:
        """One inference on random numbers."""
        import openvino as ov

        with blaming("a block that is to be timed: OpenVINO cannot run it"):
            read = _core().read_model(model)
            if self.target.precision == "int8":
                read = quantised(read)
            request = _core().compile_model(read, self.target.device, self._config).create_infer_request()
            shape = list(request.get_input_tensor(0).shape)
            x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            request.set_input_tensor(0, ov.Tensor(x))
            request.infer()
        return lambda: request.infer(share_outputs=True)

    def _turns(self, calls: Sequence[Timed], bases: int) -> _Turns:
        start, limit = time.perf_counter(), SECONDS * len(calls)
        rows: list[list[float]] = []
        while True:
            step = -1 if len(rows) % 2 else 1  # forwards, backwards
            rows.append([_turn(call) for call in calls[::step]][::step])
            turns = _Turns(np.array(rows), bases)
            if len(rows) < MIN_ROUNDS or len(rows) % 2:
                continue
            self.spread, passed = turns.spread(), time.perf_counter() - start
            self.noisy = self.spread > PRECISION
            if passed > 2 * limit or (not self.noisy and passed > limit / 4):
                return turns


def _parts(missing: Mapping[str, Block]) -> Iterator[dict[str, Block]]:
    """AT_ONCE at the most, of the same width."""
    widths = {key: width_of(block) for key, block in missing.items()}
    for _, same in itertools.groupby(sorted(widths, key=widths.__getitem__), widths.__getitem__):
        keys = list(same)
        for start in range(0, len(keys), AT_ONCE):
            yield {key: missing[key] for key in keys[start : start + AT_ONCE]}


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
    source = existing(model) if isinstance(model, Path) else model
    with blaming("the model that is to be profiled: OpenVINO cannot run it"):
        read = loaded(source, target, feed)
        config = target.properties() | {"PERF_COUNT": True}
        rounds = [_profile(_core().compile_model(read, target.device, config), feed) for _ in range(PROFILES)]
    owners, shares = rounds[0].owners(sites, _renamed(source)), [r.shares() for r in rounds]
    total = dict.fromkeys(sites if sites is not None else (), 0.0)
    for node in shares[0]:
        owner = owners.get(node, "" if sites is not None else node)
        total[owner] = total.get(owner, 0.0) + float(np.median([s.get(node, shares[0][node]) for s in shares]))
    return total


def inference(model: Path | Runnable, target: Target, feed: Feed) -> Timed:
    """One inference of the whole model on `feed` as the target runs it, for timing; int8 as in `node_shares`."""
    with blaming("the model that is to be timed: OpenVINO cannot run it"):
        compiled = _core().compile_model(loaded(model, target, feed), target.device, target.properties())
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
    read = _core().read_model(model) if isinstance(model, Path | bytes) else model.clone()
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


def _turn(call: Timed) -> float:
    """Seconds of the fastest of CALLS inferences, after one that brings the code back to the caches."""
    call()
    best = float("inf")
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _core() -> ov.Core:
    import openvino as ov

    return ov.Core()
