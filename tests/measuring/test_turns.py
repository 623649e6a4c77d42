"""Turns and verdicts, without any model, on a clock whose times are planned."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from ndpass.measuring.turns import COMPILED, median_interval, ratios, time_anew, time_in_turns, verdict


@pytest.fixture(autouse=True)
def few_rounds() -> None:
    """As many rounds as on a user's machine, in the place of conftest's few: the clock is planned here."""


class Planned:
    """Calls that take planned seconds of a clock that only they move; calls: which, in the order in which they ran."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, list[int]()

    def now(self) -> float:
        return self.seconds

    def call(self, mark: int, seconds: float, drift: float = 0.0) -> Callable[[], None]:
        """drift: how much slower the machine is for each second that has passed."""

        def run() -> None:
            self.calls.append(mark)
            self.seconds += seconds * (1 + drift * self.seconds)

        return run


def test_turns_alternate_their_order_and_rounds_are_even() -> None:
    clock = Planned()
    calls = [clock.call(mark, 0.015) for mark in (0, 1)]  # two of them fill a turn
    times = time_in_turns(calls, seconds=0, min_rounds=5, now=clock.now)
    assert times == [pytest.approx([0.015] * 6)] * 2
    turns = clock.calls[:1] + [b for a, b in pairwise(clock.calls) if a != b]
    # warm-up 0 1, then the rounds 0 1 | 1 0 | 0 1 | 1 0 | 0 1 | 1 0, where neighbours of one model run into one
    assert turns == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert len(clock.calls) == 2 * (7 + 6 * 3)  # 0.1 s of warm-up; before each turn one that is not counted


def test_the_seconds_asked_for_are_filled_with_rounds() -> None:
    few, many = Planned(), Planned()
    assert len(time_in_turns([few.call(0, 0.02)], seconds=0, min_rounds=2, now=few.now)[0]) == 2
    assert len(time_in_turns([many.call(0, 0.02)], seconds=1, min_rounds=2, now=many.now)[0]) == 50


def test_a_machine_that_slows_down_slows_both() -> None:
    clock = Planned()
    first, second = time_in_turns(
        [clock.call(0, 0.02, drift=0.5), clock.call(1, 0.01, drift=0.5)], seconds=2, now=clock.now
    )
    assert second[-1] > 1.5 * second[0]
    assert float(np.median(ratios(first, second))) == pytest.approx(2, rel=0.02)


def test_what_is_timed_is_made_anew_for_each_part_of_the_rounds() -> None:
    """And the last is gone before the next is there: two large models need not be in memory twice."""
    alive: list[int] = []
    seen: list[int] = []
    clock = Planned()

    class Model:
        def __init__(self) -> None:
            alive.append(1)
            seen.append(len(alive))

        def __call__(self) -> None:
            clock.seconds += 0.02

        def __del__(self) -> None:
            alive.pop()

    times = time_anew(lambda: [Model(), Model()], seconds=0, min_rounds=8, now=clock.now)
    assert [len(rounds) for rounds in times] == [4 * COMPILED] * 2
    assert seen == [1, 2] * COMPILED
    assert time_anew(list, seconds=0) == []
    assert len(time_anew(lambda: [Model()], seconds=0, min_rounds=8, compiled=2, now=clock.now)[0]) == 2 * 4


def test_the_real_clock_gives_times_of_the_same_form() -> None:
    light, heavy = time_in_turns([lambda: sum(range(500)), lambda: sum(range(5_000))], seconds=0, min_rounds=10)
    assert len(light) == len(heavy) == 10
    assert all(0 < seconds < math.inf for seconds in (*light, *heavy))
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
