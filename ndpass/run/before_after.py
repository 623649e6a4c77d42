"""What a run has come to in milliseconds: original and result timed in turns; with --int8 four models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ndpass.measuring.evaluate import Evaluation
from ndpass.measuring.layer_profile import inference
from ndpass.measuring.runtime import Feed
from ndpass.measuring.target import Target
from ndpass.measuring.turns import percentiles, time_anew, verdict
from ndpass.report import Latency, Variant
from ndpass.run.judge import Judge

SECONDS = 2.0  # for a comparison, at least
ROUNDS = 20  # for models that take longer than that lasts

Pair = tuple[Path, Path]


@dataclass(frozen=True)
class Variants:
    """rows: original, original int8, rewritten, rewritten int8; evaluation: of the last; latency: of the int8 ones;
    slower: a sentence where the last is slower than the original in int8, else empty."""

    rows: list[Variant]
    evaluation: Evaluation
    latency: Latency
    slower: str


def compare_variants(
    plain: Pair, quantised: Pair, rewritten: Evaluation, judge: Judge, target: Target, feed: Feed
) -> Variants:
    """plain, quantised: (original, rewritten); rewritten: what the judge found of the latter as it is, in f32."""
    found = [judge(path, "int8") for path in quantised]
    as_is = replace(target, precision=Target.default_precision(target.device))
    before, after, before8, after8 = time_anew(
        lambda: [*(inference(p, as_is, feed) for p in plain), *(inference(p, target, feed) for p in quantised)],
        seconds=4 * SECONDS,
        min_rounds=ROUNDS,
    )
    rows = [
        _row("original", as_is, _value(rewritten, before=True), before, before),
        _row("original int8", target, _value(found[0]), before8, before),
        _row("rewritten", as_is, _value(rewritten), after, before),
        _row("rewritten int8", target, _value(found[1]), after8, before),
    ]
    return Variants(rows, found[1], *_latency(before8, after8))


def _value(found: Evaluation, before: bool = False) -> float | None:
    metric = found.before if before else found.after
    if metric is not None:
        return metric.value
    return 100.0 if before and found.agreement.top1_agreement is not None else found.agreement.top1_agreement


def _row(name: str, target: Target, value: float | None, own: Sequence[float], original: Sequence[float]) -> Variant:
    speedups = [a / b for a, b in zip(original, own, strict=True)]
    return Variant(
        name=name,
        precision=target.precision,
        metric=value,
        latency_ms=1e3 * float(np.median(own)),
        speedup=float(np.median(speedups)),
        spread=percentiles(speedups),
    )


def timed(model: Path, written: Path, target: Target, feed: Feed) -> tuple[Latency, str]:
    """The original and the result on the target; with it a sentence where the result is slower."""
    before, after = time_anew(
        lambda: [inference(path, target, feed) for path in (model, written)], seconds=SECONDS, min_rounds=ROUNDS
    )
    return _latency(before, after)


def _latency(before: Sequence[float], after: Sequence[float]) -> tuple[Latency, str]:
    """before, after: seconds in the same rounds; with them a sentence where `after` is longer."""
    speedups = [a / b for a, b in zip(before, after, strict=True)]
    speedup = float(np.median(speedups))
    slower = f"the rewritten model is {speedup:.2f} times as fast as the original, that is slower"
    latency = Latency(
        before=1e3 * float(np.median(before)),
        after=1e3 * float(np.median(after)),
        speedup=speedup,
        spread=percentiles(speedups),
    )
    return latency, slower if verdict(speedups) == "slower" else ""
