"""Latency, measured so that two models can be told apart on a machine that is never quiet.

Models of one runtime and precision take turns: A B, B A, A B, ... What slows the machine down for a while slows both.
Each model is loaded COMPILED times, because the same model may come out a quarter faster or slower each time. A turn is
as many inferences as fill TURN seconds. Each round gives one ratio; the median of the ratios is the speedup. It is
significant if the CONFIDENCE interval of that median (between order statistics by the sign test, whatever the
distribution) leaves out 1 and the median is more than MARGIN away from 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np

TURN = 0.02  # seconds
WARM_UP = 0.1  # seconds, of each model
MARGIN = 0.02
COMPILED = 3  # times that a model is loaded to be timed
CONFIDENCE = 0.99  # eight rounds or more can reach it

Timed = Callable[[], object]
Clock = Callable[[], float]  # seconds since some moment
Turn = Callable[..., float]  # (a model, a clock, what is given for this model) -> seconds
Verdict = Literal["faster", "slower", "no significant difference"]
Range = tuple[float, float]  # 10th and 90th percentile over the rounds


class Turns(Protocol):
    """What has every model take its turn, as `in_order`: here, or where the models are."""

    def __call__(self, turn: Turn, calls: Sequence[Timed], *given: Sequence[Any]) -> list[float]: ...


def in_order(turn: Turn, calls: Sequence[Timed], *given: Sequence[Any], now: Clock = time.perf_counter) -> list[float]:
    """Seconds of each model's turn, one after the other. given: what the turn is told of each model."""
    return [turn(call, now, *own) for call, *own in zip(calls, *given, strict=True)]


def time_anew(
    load: Callable[[], Sequence[Timed]],
    *,
    seconds: float,
    min_rounds: int = 10,
    compiled: int = COMPILED,
    now: Clock = time.perf_counter,
    turns: Turns | None = None,
) -> list[list[float]]:
    """As `time_in_turns`, with callables that `load` makes anew `compiled` times, each time for a part of the rounds.

    Where a compiled model lies in memory makes it faster or slower for as long as it lives. So one compilation of each
    model does not tell two models apart, and the spread of the rounds has to show it.
    """
    parts: list[list[list[float]]] = []
    for _ in range(compiled):
        calls = load()
        fewest = -(-min_rounds // compiled)
        rounds = time_in_turns(calls, seconds=seconds / compiled, min_rounds=fewest, now=now, turns=turns)
        parts.append(rounds)
        del calls  # frees the models before they are loaded again
    return [list(chain.from_iterable(rounds)) for rounds in zip(*parts, strict=True)]


def time_in_turns(
    callables: Sequence[Timed],
    *,
    seconds: float,
    min_rounds: int = 10,
    now: Clock = time.perf_counter,
    turns: Turns | None = None,
) -> list[list[float]]:
    """Seconds a call, [callable][round]; the rounds are alternately in order and in reverse, and even in number.

    Every callable is warmed up first, which is not counted. Rounds go on until there are `min_rounds` of them and
    `seconds` have passed. Element r of every list was measured in the same round, so ratios are taken within rounds.
    now: seconds on a clock; turns: what has the models take their turns, left out this process by that clock.
    """
    turns = turns or partial(in_order, now=now)
    repeats = turns(_warm_up, callables)
    times: list[list[float]] = [[] for _ in callables]
    end = now() + seconds
    done = 0
    while callables and (done < min_rounds or done % 2 or now() < end):
        step = -1 if done % 2 else 1  # forwards, backwards
        for own, seconds_taken in zip(times[::step], turns(_turn, callables[::step], repeats[::step]), strict=True):
            own.append(seconds_taken)
        done += 1
    return times


def ratios(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """How many times as fast the second is, in each round; both were timed in the same rounds."""
    return [a / b for a, b in zip(before, after, strict=True)]


def percentiles(values: Sequence[float]) -> Range:
    """The 10th and the 90th percentile."""
    low, high = np.percentile(values, (10, 90))
    return float(low), float(high)


def verdict(speedups: Sequence[float]) -> Verdict:
    """What the speedups of the rounds prove; fewer than eight rounds prove nothing."""
    low, high = median_interval(speedups)
    median = float(np.median(speedups))
    if low > 1 and median > 1 + MARGIN:
        return "faster"
    if high < 1 and median < 1 / (1 + MARGIN):
        return "slower"
    return "no significant difference"


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Range:
    """Interval (x_(k), x_(n+1−k)) of the true median, k the largest with P(Binomial(n, ½) < k) ≤ (1 − confidence)/2."""
    from scipy.stats import binom

    k = int(binom.ppf((1 - confidence) / 2, len(values), 0.5))
    ordered = sorted(values)
    return (ordered[k - 1], ordered[-k]) if k else (-math.inf, math.inf)


def _warm_up(call: Timed, now: Clock) -> int:
    """Calls until WARM_UP seconds have passed, three of them at least unless they are long; returns how many calls fill
    a turn."""
    times: list[float] = []
    while sum(times) < WARM_UP or (len(times) < 3 and sum(times) < 2 * WARM_UP):
        start = now()
        call()
        times.append(now() - start)
    return max(1, math.ceil(TURN / max(float(np.median(times)), 1e-9)))


def _turn(call: Timed, now: Clock, repeats: int) -> float:
    """Seconds a call, the mean of `repeats`."""
    if repeats > 1:
        call()  # brings back to the caches what the other models have pushed out
    start = now()
    for _ in range(repeats):
        call()
    return (now() - start) / repeats
