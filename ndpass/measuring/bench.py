"""`ndpass bench`: models side by side in every runtime and precision asked for, in turns (`ndpass.measuring.turns`).

Runtimes and precisions come one after another: the waiting threads of one runtime would keep the cores busy while the
other computes. Ratios across them are not given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ndpass.errors import UsageError, blaming
from ndpass.graph.input_spec import InputSpec, static_batch
from ndpass.listener import Listener, expect
from ndpass.measuring.environment import Environment, environment
from ndpass.measuring.fake_int8 import is_int8, quantised
from ndpass.measuring.openvino_core import read_model, shared_core
from ndpass.measuring.random_inputs import random_feed
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO, Precision, Session, existing
from ndpass.measuring.turns import COMPILED, WARM_UP, Range, Verdict, percentiles, time_anew, verdict

if TYPE_CHECKING:
    import openvino as ov

log = logging.getLogger(__name__)

QUANTISED = "quantised to be timed, with ranges of no meaning"

Runtime = Literal["openvino", "onnxruntime"]


@dataclass(frozen=True)
class Row:
    """One model in one runtime and precision; without figures if `skipped` says why.

    speedup: time of the first model over time of this one, the median over rounds; verdict: None for the first itself.
    times_ms: of each round; element r of every row was measured in the same round.
    note: what was done to the model so that it could be timed.
    """

    model: str
    runtime: Runtime
    precision: Precision
    median_ms: float | None = None
    spread_ms: Range | None = None
    speedup: float | None = None
    speedup_spread: Range | None = None
    verdict: Verdict | None = None
    rounds: int = 0
    times_ms: tuple[float, ...] = ()
    skipped: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class BenchResult:
    """Rows in the order runtime, precision, model, and what they were measured with."""

    rows: tuple[Row, ...]
    environment: Environment
    batch: int
    shape: tuple[int, ...] | None
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    models: Sequence[Path],
    *,
    runtimes: Sequence[Runtime] = get_args(Runtime),
    precisions: Sequence[Precision] = ("f32", "bf16"),
    threads: int | None = None,
    batch: int = 1,
    shape: tuple[int, ...] | None = None,
    rounds: int = 10,
    seconds: float = 10.0,
    seed: int = 0,
    listen: Listener = lambda *_: None,
) -> BenchResult:
    """Latency of every model, as read from its file, against the first one.

    int8: a model that is not quantised yet is timed with the kernels that it would run with if it were.
    batch fills dynamic first axes, shape (height, width) the other dynamic ones, counted from the last.
    At least `rounds` rounds and `seconds` seconds for each runtime and precision; onnxruntime runs f32 only.
    Raises UsageError for options that do not fit a model, InputError for one that does not load or run.
    """
    _check_options(models, runtimes, precisions)
    rows: list[Row] = []
    cases = _cases(runtimes, precisions)
    each = seconds + COMPILED * WARM_UP * len(models)
    expect(listen, {f"timing {runtime} {precision}": each for runtime, precision in cases})
    for runtime, precision in cases:
        listen(f"timing {runtime} {precision}", 0, 1)
        log.info("bench %s %s", runtime, precision)
        todo = {i: _skip(path, runtime, precision) for i, path in enumerate(models)}
        sources = {i: _source(models[i], precision) for i, reason in todo.items() if reason is None}
        notes = {i: note for i, (_, note) in sources.items()}
        load = partial(_loaded, models, sources, runtime, precision, threads, batch, shape, seed)
        times = dict(zip(sources, time_anew(load, seconds=seconds, min_rounds=rounds), strict=True))
        heads = [Row(str(models[i]), runtime, precision, skipped=todo[i], note=notes.get(i)) for i in todo]
        rows += [_row(head, i, times) for i, head in enumerate(heads)]
    return BenchResult(tuple(rows), environment(threads), batch, shape, seed)


def concrete(
    name: str, specs: Sequence[InputSpec], batch: int, shape: tuple[int, ...] | None
) -> dict[str, tuple[int, ...]]:
    """{input name: shape without open axes}; UsageError if the batch is fixed at another size or axes stay open."""
    fixed = static_batch(specs)
    if fixed and fixed.size != batch:
        raise UsageError(f"{name}: the batch is fixed at {fixed.size}, {batch} was asked for: give batch {fixed.size}")
    return {spec.name: _filled_axes(name, spec, batch, shape or ()) for spec in specs}


def _check_options(models: Sequence[Path], runtimes: Sequence[str], precisions: Sequence[str]) -> None:
    if not models:
        raise UsageError("bench takes one model or more, none is given")
    for kind, given, known in (
        ("runtime", runtimes, get_args(Runtime)),
        ("precision", precisions, get_args(Precision)),
    ):
        if not given or (wrong := [one for one in given if one not in known]):
            raise UsageError(f"a {kind} of bench is one of {', '.join(known)}; got {', '.join(wrong) or 'none'}")


def _cases(runtimes: Sequence[Runtime], precisions: Sequence[Precision]) -> list[tuple[Runtime, Precision]]:
    """onnxruntime has no switch for the precision: it stands in the table once."""
    once: Sequence[Precision] = ("f32",) if "f32" in precisions else precisions[:1]
    return [(runtime, p) for runtime in runtimes for p in (precisions if runtime == "openvino" else once)]


def _skip(path: Path, runtime: Runtime, precision: Precision) -> str | None:
    if runtime == "onnxruntime":
        if path.suffix == ".xml":
            return "onnxruntime reads ONNX only"
        return "onnxruntime runs a model in its own types" if precision != "f32" else None
    return "this CPU has no bf16" if precision == "bf16" and not _has_bf16() else None


def _has_bf16() -> bool:

    return "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _source(path: Path, precision: Precision) -> tuple[Path | ov.Model, str | None]:
    """What is loaded, and what was done to it."""
    if precision != "int8":
        return path, None

    with blaming(f"{path}: OpenVINO cannot load it"):
        model = read_model(existing(path))
        return (model, None) if is_int8(model) else (quantised(model), QUANTISED)


def _loaded(
    models: Sequence[Path], sources: Mapping[int, tuple[Path | ov.Model, str | None]], *how: Any
) -> list[Callable[[], object]]:
    """Those of the models that have a source, ready to be timed; how: as `_call` takes it."""
    return [_call(str(models[i]), source, *how) for i, (source, _) in sources.items()]


def _call(
    name: str,
    source: Path | ov.Model,
    runtime: Runtime,
    precision: Precision,
    threads: int | None,
    batch: int,
    shape: tuple[int, ...] | None,
    seed: int,
) -> Callable[[], object]:
    """One inference on random inputs of fixed shapes."""

    def shapes(specs: Sequence[InputSpec]) -> dict[str, tuple[int, ...]]:
        return concrete(name, specs, batch, shape)

    session: Session
    if isinstance(source, Path) and runtime == "onnxruntime":
        session = OnnxRuntime(source, threads=threads, lean=False)
    else:
        session = OpenVINO(source, precision=precision, threads=threads, shapes=shapes)
    feed = random_feed(session.inputs, shapes(session.inputs), seed)
    session(feed)  # what cannot run says so here, in one line
    return session.prepared(feed)


def _row(row: Row, index: int, times: dict[int, list[float]]) -> Row:
    if index not in times:
        return row
    own = times[index]
    median, spread = float(np.median(own)), percentiles(own)
    figures: dict[str, Any] = {
        "median_ms": 1e3 * median,
        "spread_ms": (1e3 * spread[0], 1e3 * spread[1]),
        "rounds": len(own),
        "times_ms": tuple(1e3 * seconds for seconds in own),
    }
    if 0 in times:
        speedups = [first / this for first, this in zip(times[0], own, strict=True)]
        figures |= {"speedup": float(np.median(speedups)), "speedup_spread": percentiles(speedups)}
        figures |= {"verdict": verdict(speedups)} if index else {}
    return replace(row, **figures)


def _filled_axes(name: str, spec: InputSpec, batch: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = list(spec.shape)
    if sizes and sizes[0] is None:
        sizes[0] = batch
    last = len(sizes) - int(spec.channels_last)
    for axis, size in zip(range(last)[::-1], shape[::-1], strict=False):
        sizes[axis] = size if sizes[axis] is None else sizes[axis]
    if None in sizes:
        axes = ", ".join("?" if size is None else str(size) for size in sizes)
        remedy = "give --size 224x224 or what the model is made for (in Python shape=(224, 224))"
        raise UsageError(f"{name}: input '{spec.name}' ({axes}) leaves axes open: {remedy}")
    return tuple(size for size in sizes if size is not None)
