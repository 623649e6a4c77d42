"""What a run has come to in milliseconds: original and result timed in turns; with --int8 four models side by side.

The one number is the speedup, the median of the paired rounds: each round times all models one after the other, and
gives one ratio. Milliseconds follow from it, because two medians of their own would not agree with it: those of the
original are the median of its rounds, those of another model are the original's divided by its speedup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndpass.measuring.evaluate import Evaluation
from ndpass.measuring.machine import Machine, time_models
from ndpass.measuring.runtime import Feed
from ndpass.measuring.target import Target
from ndpass.measuring.turns import percentiles, ratios, time_anew, verdict
from ndpass.report import Latency, Variant
from ndpass.run.judge import Judge

SECONDS = 1.0  # for a comparison of two models, at least
ROUNDS = 20  # for models that take longer than that lasts

Pair = tuple[Path, Path]


@dataclass(frozen=True)
class Variants:
    """rows: original, original int8, rewritten, rewritten int8; evaluation: of the last; latency: of the int8 ones."""

    rows: list[Variant]
    evaluation: Evaluation
    latency: Latency


def compare_variants(
    plain: Pair, quantised: Pair, rewritten: Evaluation, judge: Judge, machines: tuple[Machine, Machine], feed: Feed
) -> Variants:
    """plain, quantised: (original, rewritten); rewritten: what the judge found of the latter as it is, in f32;
    machines: what the plain and what the quantised models are timed on."""
    found = [judge(path, "int8") for path in quantised]
    as_is, int8 = machines
    loaders = [*(as_is.load(path, feed) for path in plain), *(int8.load(path, feed) for path in quantised)]
    before, after, before8, after8 = time_anew(
        lambda: [load() for load in loaders],
        seconds=8 * SECONDS,
        min_rounds=ROUNDS,
        now=int8.now,
        turns=int8.turns,
    )
    rows = [
        _row("original", as_is.target, _value(rewritten, before=True), before, before),
        _row("original int8", int8.target, _value(found[0]), before8, before),
        _row("rewritten", as_is.target, _value(rewritten), after, before),
        _row("rewritten int8", int8.target, _value(found[1]), after8, before),
    ]
    return Variants(rows, found[1], _latency(before8, after8, rows[1].latency_ms))


def _value(found: Evaluation, before: bool = False) -> float | None:
    metric = found.before if before else found.after
    if metric is not None:
        return metric.value
    return 100.0 if before and found.agreement.top1_agreement is not None else found.agreement.top1_agreement


def _row(name: str, target: Target, value: float | None, own: Sequence[float], original: Sequence[float]) -> Variant:
    speedups = ratios(original, own)
    speedup = float(np.median(speedups))
    return Variant(
        name=name,
        precision=target.precision,
        metric=value,
        latency_ms=1e3 * float(np.median(original)) / speedup,
        speedup=speedup,
        spread=percentiles(speedups),
    )


def timed(model: Path, written: Path, machine: Machine, feed: Feed, times: int = 1) -> Latency:
    """The original and the result on the machine, in turns. times: as many rounds as usual."""
    seconds, rounds = times * SECONDS, times * ROUNDS
    before, after = time_models(machine, [model, written], feed, seconds=seconds, min_rounds=rounds)
    return _latency(before, after, 1e3 * float(np.median(before)))


def _latency(before: Sequence[float], after: Sequence[float], milliseconds: float) -> Latency:
    """before, after: seconds in the same rounds; milliseconds: of the first."""
    speedups = ratios(before, after)
    speedup, proven = float(np.median(speedups)), verdict(speedups)
    return Latency(
        before=milliseconds,
        after=milliseconds / speedup,
        speedup=speedup,
        spread=percentiles(speedups),
        is_slower=proven == "slower",
        is_faster=proven == "faster",
    )
