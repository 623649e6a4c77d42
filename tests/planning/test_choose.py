"""The planner against trying everything, and what it says when it cannot or will not."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Budget, Candidate, pareto
from ndpass.planning.choose import choose, choose_local
from ndpass.planning.knapsack import knapsack

CLOSE = 1e-6  # relative difference of two sums of errors that the solver may call equal


def way(macs: int, error: float, rank: int = 1) -> Candidate:
    return Candidate(macs, error, {"nd": {"rank": rank}})


DENSE = Candidate(100)

errors = st.floats(0, 1, allow_subnormal=False)
fronts = st.lists(st.lists(st.builds(way, st.integers(0, 200), errors), min_size=1, max_size=4), min_size=1, max_size=4)


def brute(fronts: Sequence[Sequence[Candidate]], room: float) -> float | None:
    """The least summed error of any choice that fits, or None."""
    fitting = [c for c in itertools.product(*fronts) if sum(w.macs for w in c) <= room]
    return min((sum(w.error for w in c) for c in fitting), default=None)


@settings(max_examples=80, deadline=None)
@given(fronts, st.integers(0, 600))
def test_knapsack_is_as_good_as_trying_everything(fronts: list[list[Candidate]], room: int) -> None:
    best = brute(fronts, room)
    if best is None:
        with pytest.raises(BudgetError, match="no choice of layers within the budget"):
            knapsack(fronts, room)
        return
    picked = knapsack(fronts, room)
    assert all(any(c is w for w in front) for c, front in zip(picked, fronts, strict=True))
    assert sum(c.macs for c in picked) <= room
    assert sum(c.error for c in picked) == pytest.approx(best, rel=CLOSE, abs=CLOSE * 1e-3)


@settings(max_examples=80, deadline=None)
@given(fronts, st.integers(6, 64).map(lambda k: k / 64))  # exact in binary, so that no rounding decides what fits
def test_a_choice_by_macs_is_as_good_as_trying_everything(ways: list[list[Candidate]], fraction: float) -> None:
    """The first of each site is the dense layer; 50 MACs belong to layers that no pass touches."""
    sites = {str(i): [Candidate(200), *more] for i, more in enumerate(ways)}
    total = 200 * len(sites) + 50
    best = brute(list(sites.values()), fraction * total - 50)
    if best is None:
        with pytest.raises(BudgetError):
            choose(sites, Budget("macs", fraction), total)
        return
    chosen = [c.candidate for c in choose(sites, Budget("macs", fraction), total).values()]
    assert sum(c.macs for c in chosen) + 50 <= fraction * total
    assert sum(c.error for c in chosen) == pytest.approx(best, rel=CLOSE, abs=CLOSE * 1e-3)


def test_a_budget_of_billions_is_kept_to_the_last_one() -> None:
    """One MAC too many is too many, where tolerances of a solver are relative."""
    front = [way(10**9, 0.0), way(10**9 - 1, 0.5)]
    assert [c.error for c in knapsack([front], 10**9)] == [0.0]
    assert [c.error for c in knapsack([front], 10**9 - 1)] == [0.5]


def test_many_choices_over_the_room_by_one_leave_one_within() -> None:
    """More of them than are ruled out one by one."""
    front = [way(10**9 + k, 1 / (1 + k)) for k in range(50)]
    assert [c.macs for c in knapsack([front, [way(10**9, 0.0)]], 2 * 10**9 + 45)] == [10**9 + 45, 10**9]
    assert knapsack([[*front, way(9 * 10**8, 2.0)]], 10**9 - 1)[0].macs == 9 * 10**8


def test_room_may_be_a_ten_thousandth_of_a_second() -> None:
    """With choices that are over it by less than the solver tells apart, and more of them than are ruled out."""
    front = [*(way(10**8 + k, 1 / (1 + k)) for k in range(1, 50)), way(5 * 10**7, 2.0)]
    assert knapsack([front], 1e-4, lambda c: c.macs * 1e-12)[0].macs == 5 * 10**7


def test_choices_over_the_room_do_not_take_room_from_one_that_fills_it() -> None:
    """Each is over by less than the solver's tolerance and better than the one that fits, to the last MAC."""
    over = [way(10**9 + k, k / 1000) for k in range(1, 6)]
    assert knapsack([[*over, way(10**9, 0.1), way(5 * 10**8, 0.5)]], 10**9)[0].macs == 10**9


def test_tiny_errors_still_decide() -> None:
    """A model that is nearly exact everywhere: 1e-9 against 3e-9, with the same cost."""
    a, b = [way(10, 1e-9), way(5, 4e-9)], [way(10, 1e-9), way(5, 2e-9)]
    assert [c.error for c in knapsack([a, b], 15)] == [1e-9, 2e-9]


def test_small_errors_beside_a_large_one_still_decide() -> None:
    big = [way(10, 1.0)]
    a, b = [way(10, 1e-6), way(5, 4e-6)], [way(10, 1e-6), way(5, 2e-6)]
    assert [c.error for c in knapsack([big, a, b], 25)] == [1.0, 1e-6, 2e-6]


def test_choices_made_side_by_side_leave_stdout_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    """As with --jobs; the solver prints a line of its own now and then, which is not seen either."""
    rng = np.random.default_rng(0)
    sizes = [[11, 8, 24, 24, 15, 23, 9, 25, 24], [28, 10, 27, 5, 23, 23, 15, 28, 23]] * 4
    many = [[[way(int(m), float(e)) for m, e in zip(*front(rng, n), strict=True)] for n in own] for own in sizes]
    rooms = [sum(ways[len(ways) // 2].macs for ways in fronts) for fronts in many]
    before = os.fstat(1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(knapsack, many, rooms))
    os.write(1, b"heard\n")
    assert os.path.samestat(os.fstat(1), before)
    assert capfd.readouterr().out == "heard\n"
    assert [sum(c.macs for c in choice) <= room for choice, room in zip(found, rooms, strict=True)] == [True] * 8


def front(rng: np.random.Generator, size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """MACs and errors, the more of the ones the fewer of the others."""
    return np.sort(rng.integers(1, 10**9, size)), np.sort(rng.random(size))[::-1] ** 3


def test_no_layers_is_no_choice() -> None:
    assert knapsack([], 0) == []
    assert choose({}, Budget("energy", 0.9), 10) == {}


@settings(deadline=None)
@given(st.lists(st.builds(way, st.integers(0, 30), st.integers(0, 10).map(float)), min_size=1, max_size=12))
def test_pareto_is_what_nothing_beats(ways: list[Candidate]) -> None:
    front = pareto(ways)
    points = [(c.macs, c.error) for c in front]
    assert points == sorted(set(points))
    beaten = {
        (c.macs, c.error)
        for c in ways
        if any(d.macs <= c.macs and d.error <= c.error and (d.macs, d.error) != (c.macs, c.error) for d in ways)
    }
    assert set(points) == {(c.macs, c.error) for c in ways} - beaten


def test_a_budget_out_of_reach_says_what_can_be_reached() -> None:
    sites = {"a": [DENSE, way(40, 0.1)], "b": [DENSE, way(30, 0.1)]}
    with pytest.raises(BudgetError) as refusal:
        choose(sites, Budget("macs", 0.2), 400)
    text = "--macs 0.2 cannot be reached: with these passes the least is 0.675 (the other layers alone are 0.500)"
    assert str(refusal.value).startswith(text)
    assert refusal.value.exit_code == 4


@pytest.mark.parametrize("least", [40, 41, 42, 43, 44, 45, 46])
def test_the_least_that_is_offered_can_be_asked_for(least: int) -> None:
    """(100 + least) / 700 has no three digits: rounded down it would be refused again."""
    sites = {"a": [DENSE, way(least, 0.1)], "b": [Candidate(500)]}
    with pytest.raises(BudgetError) as refusal:
        choose({"a": sites["a"]}, Budget("macs", 0.1), 700)
    offered = re.search(r"the least is ([\d.]+)", str(refusal.value))
    assert offered
    assert choose({"a": sites["a"]}, Budget("macs", float(offered[1])), 700)["a"].candidate.macs == least


def test_a_model_without_sites_cannot_become_cheaper() -> None:
    with pytest.raises(BudgetError, match=r"the least is 1\.000"):
        choose({}, Budget("macs", 0.5), 100)


def test_a_layer_left_alone_says_that_others_were_cheaper_to_spoil() -> None:
    sites = {"a": [DENSE, way(20, 0.9)], "b": [DENSE, way(20, 0.01)]}
    chosen = choose(sites, Budget("macs", 0.6), 200)
    assert (chosen["a"].candidate, chosen["a"].reason) == (DENSE, "the budget is met with less damage elsewhere")
    assert (chosen["b"].candidate.macs, chosen["b"].reason) == (20, "")


# pinned settings


def test_pinned_takes_the_best_that_saves() -> None:
    chosen = choose({"a": [DENSE, way(60, 0.2), way(50, 0.1), way(120, 0.0)]}, Budget("pinned"), 100)["a"]
    assert (chosen.candidate.macs, chosen.reason) == (50, "")


def test_pinned_to_an_exact_setting_takes_it_although_it_saves_nothing() -> None:
    chosen = choose({"a": [DENSE, way(140, 0.0), way(120, 0.0)]}, Budget("pinned"), 100)["a"]
    assert chosen.candidate.macs == 120


def test_pinned_to_what_saves_nothing_and_spoils_is_left_alone_and_says_why() -> None:
    chosen = choose({"a": [DENSE, way(140, 0.2), way(120, 0.1)]}, Budget("pinned"), 100)["a"]
    assert chosen.candidate is DENSE
    assert chosen.reason == "with the settings given it would take more MACs than it does now"


# energy


@pytest.mark.parametrize(("energy", "macs"), [(0.5, 30), (0.8, 50), (0.85, 60), (0.91, 100), (1.0, 100)])
def test_energy_takes_the_cheapest_that_keeps_it(energy: float, macs: int) -> None:
    ways = [DENSE, way(30, 0.4), way(50, 0.2), way(60, 0.1), way(110, 0.0)]
    chosen = choose({"a": ways}, Budget("energy", energy), 100)["a"]
    assert chosen.candidate.macs == macs
    assert chosen.reason == ("" if macs < 100 else f"nothing cheaper keeps {energy:.4g} of the energy")


def test_energy_decides_each_layer_by_itself() -> None:
    sites = {"a": [DENSE, way(50, 0.05)], "b": [DENSE, way(50, 0.3)]}
    chosen = choose(sites, Budget("energy", 0.9), 200)
    assert [c.candidate.macs for c in chosen.values()] == [50, 100]


def test_of_two_equally_cheap_the_better_is_taken() -> None:
    assert choose({"a": [DENSE, way(50, 0.09), way(50, 0.01)]}, Budget("energy", 0.9), 100)["a"].candidate.error == 0.01


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget("pinned"), {"pinned": "as given"}),
        (Budget("energy", 0.9), {"energy": 0.9}),
        (Budget("macs", 0.5), {"macs": 0.5}),
    ],
)
def test_a_budget_in_a_report(budget: Budget, text: dict[str, object]) -> None:
    assert budget.to_json() == text


@pytest.mark.parametrize("saves", [False, True])
def test_macs_decide_between_errors_that_differ_by_rounding(saves: bool) -> None:
    """Of two forms of full rank, the costlier was taken where its last digit was the lower."""
    base, error = (10 if saves else 110), 6.296447350612819e-09
    ways = [way(base + 20, error - 3e-24, 9), way(base, error, 3), way(base - 5, error + 1e-9, 2)]
    dense = Candidate(100, error + 1e-14)
    assert choose_local([dense, *ways], Budget("pinned")).candidate == ways[1]


def test_a_smaller_error_that_is_no_rounding_is_worth_its_macs() -> None:
    ways = [way(20, 1e-9, 2), way(10, 1e-6, 1)]
    assert choose_local([DENSE, *ways], Budget("pinned")).candidate == ways[0]
