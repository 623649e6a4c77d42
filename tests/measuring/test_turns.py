"""Turns and verdicts, without any model."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from ndpass.measuring.turns import COMPILED, median_interval, time_anew, time_in_turns, verdict


def spin(steps: int, calls: list[int], mark: int) -> Callable[[], None]:
    def work() -> None:
        calls.append(mark)
        sum(range(steps))

    return work


def test_turns_alternate_their_order_and_rounds_are_even() -> None:
    calls: list[int] = []
    times = time_in_turns([spin(20_000, calls, mark) for mark in (0, 1)], seconds=0, min_rounds=5)
    assert [len(rounds) for rounds in times] == [6, 6]
    turns = calls[:1] + [b for a, b in pairwise(calls) if a != b]
    # warm-up 0 1, then the rounds 0 1 | 1 0 | 0 1 | 1 0 | 0 1 | 1 0, where neighbours of one model run into one
    assert turns == [0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_the_seconds_asked_for_are_filled_with_rounds() -> None:
    few, many = (time_in_turns([lambda: sum(range(20_000))], seconds=s, min_rounds=2) for s in (0, 1.0))
    assert len(few[0]) == 2
    assert len(many[0]) > 2


def test_what_is_timed_is_made_anew_for_each_part_of_the_rounds() -> None:
    """And the last is gone before the next is there: two large models need not be in memory twice."""
    alive: list[int] = []
    seen: list[int] = []

    class Model:
        def __init__(self) -> None:
            alive.append(1)
            seen.append(len(alive))

        def __call__(self) -> None:
            sum(range(20_000))

        def __del__(self) -> None:
            alive.pop()

    times = time_anew(lambda: [Model(), Model()], seconds=0, min_rounds=8)
    assert [len(rounds) for rounds in times] == [4 * COMPILED] * 2
    assert seen == [1, 2] * COMPILED
    assert time_anew(list, seconds=0) == []


def test_the_slower_of_two_is_told_and_nothing_is_nothing() -> None:
    light, heavy = time_in_turns([lambda: sum(range(5_000)), lambda: sum(range(50_000))], seconds=0, min_rounds=10)
    assert verdict([a / b for a, b in zip(light, heavy, strict=True)]) == "slower"
    assert time_in_turns([], seconds=1) == []


@pytest.mark.parametrize(
    ("center", "noise", "rounds", "expected"),
    [
        (1.5, 0.1, 20, "faster"),
        (0.7, 0.05, 20, "slower"),
        (1.0, 0.1, 20, "no significant difference"),
        (1.01, 0.001, 20, "no significant difference"),
        (3.0, 0.0, 7, "no significant difference"),
        (3.0, 0.0, 8, "faster"),
    ],
    ids=["faster", "slower", "noise", "certain but small", "too few rounds", "just enough"],
)
def test_verdicts(center: float, noise: float, rounds: int, expected: str) -> None:
    speedups = center + noise * np.random.default_rng(0).standard_normal(rounds)
    assert verdict(list(speedups)) == expected


@pytest.mark.parametrize("count", [8, 9, 20, 101])
def test_the_interval_is_the_narrowest_that_the_sign_test_allows(count: int) -> None:
    low, high = median_interval(list(range(1, count + 1)))
    k = int(low)
    missed = [2 * sum(math.comb(count, i) for i in range(limit)) / 2**count for limit in (k, k + 1)]
    assert missed[0] <= 0.01 < missed[1]
    assert high == count + 1 - k
