"""Which plan is tried next: searches on tables and times that are given."""

from __future__ import annotations

import itertools

import pytest
from planned_times import PlannedTimes, table, way

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Candidate, damage, seconds_of
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.timed_search import CLOSE, SETTLE, TimedSearch


def search(of: LatencyTable, **how: object) -> tuple[TimedSearch, PlannedTimes]:
    timer = PlannedTimes(of, **how)  # type: ignore[arg-type]
    return TimedSearch(of, timer, ["nd"]), timer


def many(layers: int = 5, ratios: int = 40) -> LatencyTable:
    """Layers of 100 µs that can be up to ten times as fast at an error of up to 0.5."""
    each = [way(100e-6, 0.0)]
    for rank in range(1, ratios):
        ratio = 1 + 9 * rank / (ratios - 1)
        each.append(way(100e-6 / ratio, 0.5 * rank / (ratios - 1), nd={"rank": rank}))
    names = [f"l{n}" for n in range(layers)]
    return LatencyTable({n: list(each) for n in names}, layers * 110e-6, dict.fromkeys(names, 100e-6))


def passes_of(found: TimedPlan) -> set[str]:
    return {name for choice in found.plan.values() for name in choice.candidate.setting}


# ------------------------------------------------------------------------------------------------------------ speedups


@pytest.mark.parametrize("wanted", [1.2, 2.0, 4.0])
def test_a_speedup_is_reached_with_little_more_damage_than_it_needs(wanted: float) -> None:
    one, timer = search(many(), takes=lambda _name, _candidate, seconds: 1.3 * seconds)  # the table is optimistic
    found = one.for_speedup(wanted)
    assert wanted <= found.speedup <= wanted * (1 + CLOSE)
    assert 2 <= len(timer.plans) <= SETTLE
    sure, _ = search(many(), takes=lambda _name, _candidate, seconds: 1.3 * seconds)
    assert found.damage <= 1.1 * damage(sure.planned(sure.table.whole / wanted / 1.3)) or wanted == 1.2


def test_a_search_for_a_speedup_stays_between_what_was_fast_enough_and_what_was_not() -> None:
    """On a machine that shows 20 % more or less in turn; of what is fast enough the least damage is taken."""
    noise = itertools.cycle([1.2, 0.85])
    one, timer = search(many(), noise=lambda: next(noise))
    best = one.for_speedup(1.8)
    predicted = [one.table.predicted({n: c.candidate for n, c in plan.items()}) for plan in timer.plans]
    assert len(timer.plans) == SETTLE
    low, high = sorted(predicted[:2])
    assert all(low <= seconds <= high for seconds in predicted[2:])
    assert best.speedup >= 1.8
    shown = itertools.cycle([1.2, 0.85])
    fast = [p for p, s in zip(timer.plans, predicted, strict=True) if one.table.whole / s * next(shown) >= 1.8]
    assert damage(best.plan) == min(damage(plan) for plan in fast)


def test_what_is_offered_instead_was_measured() -> None:
    """The table promises 150 µs, twice as fast; in place the fastest plan takes 240."""
    one, timer = search(table(), takes=lambda _name, _candidate, seconds: 1.8 * seconds)
    assert one.table.whole / one.least == pytest.approx(2.0)
    with pytest.raises(BudgetError) as refusal:
        one.for_speedup(5)
    assert len(timer.plans) >= 1
    assert str(refusal.value) == (
        "--speedup 5 cannot be reached: the best measured is 1.58 times as fast; ask for --speedup 1.54, or allow more "
        "passes (--passes auto tries all) or --precision f32"
    )


def test_a_table_that_promises_too_little_is_no_reason_to_give_up() -> None:
    one, _ = search(table(), takes=lambda _name, _candidate, seconds: 0.5 * seconds)
    assert one.for_speedup(2.2).speedup == pytest.approx(300 / 125)


def test_where_nothing_is_faster_nothing_is_offered() -> None:
    one, _ = search(table(), takes=lambda _name, _candidate, _seconds: 130e-6)
    with pytest.raises(
        BudgetError, match=r"no rewrite was measured faster than the original; allow more passes \(--passes auto"
    ):
        one.for_speedup(1.5)


def test_who_gave_all_passes_in_f32_is_not_told_to() -> None:
    one, _ = search(table(), takes=lambda _name, _candidate, _seconds: 130e-6)
    one.more = ()
    with pytest.raises(BudgetError) as refusal:
        one.for_speedup(1.5)
    assert str(refusal.value).endswith("no rewrite was measured faster than the original")


def test_noise_does_not_make_the_original_faster_than_itself() -> None:
    """The stand-in of a plan that rewrites nothing is shown to be 20 % faster."""
    as_it_is = LatencyTable({"a": [way(100e-6, 0.0)]}, 300e-6, {"a": 100e-6})
    one, _ = search(as_it_is, noise=lambda: 1.2)
    with pytest.raises(BudgetError, match="no rewrite was measured faster than the original"):
        one.for_speedup(1.1)


# --------------------------------------------------------------------------------------------- plans that have settled


def test_the_least_is_that_of_the_fastest_candidates() -> None:
    assert search(table())[0].least == pytest.approx(150e-6)


def test_no_layer_of_a_settled_plan_is_slower_than_it_was() -> None:
    """Rank 2 of "a" takes 120 µs in place: it goes back to something that is faster."""

    def takes(name: str, candidate: Candidate, seconds: float) -> float:
        return 120e-6 if (name, candidate.setting) == ("a", {"nd": {"rank": 2}}) else seconds

    one, timer = search(table(), takes=takes)
    found = one.settled(210e-6)
    assert len(timer.plans) == 2
    assert timer.plans[0]["a"].candidate.setting == {"nd": {"rank": 2}}
    assert found.plan["a"].candidate.setting in ({}, {"nd": {"rank": 1}})
    assert all(found.in_place[name] < one.table.in_place[name] for name in found.rewritten)


def test_after_so_many_plans_layers_only_go_back_and_no_correction_is_made_twice() -> None:
    """In each plan another layer is slow. "z" takes twice as long as predicted from the last plan that is made on.

    After that its candidate is the one of that plan: 40 µs are learnt once and stay 40 µs.
    """
    layers = [f"l{i}" for i in range(SETTLE + 3)]
    each = [way(100e-6, 0.0), way(20e-6, 0.1, nd={"rank": 1})]
    names = [*layers, "z"]
    known = LatencyTable({n: list(each) for n in names}, 1100e-6, dict.fromkeys(names, 100e-6))

    def takes(name: str, _candidate: Candidate, seconds: float) -> float:
        now = len(timer.plans)
        if name == "z":
            return 40e-6 if now >= SETTLE else seconds
        return 110e-6 if name == layers[now - 1] else seconds

    one, timer = search(known, takes=takes)
    found = one.settled(0.0)
    assert len(timer.plans) == len(layers) + 1
    assert found.rewritten == ["z"]
    assert [found.plan[name].status for name in layers] == ["reverted"] * len(layers)
    assert seconds_of(one.table.candidates["z"][1]) == pytest.approx(40e-6)


def test_the_aim_for_a_damage_is_the_fastest_that_does_no_more() -> None:
    one, _ = search(table())
    # damages, squared errors: a 0.01 or 0.09, b 0.04 or 0.25
    for wanted, seconds in ((0.011, 250e-6), (0.051, 210e-6), (0.35, 150e-6), (1.0, 150e-6)):
        plan = one.planned(one.aim_for(wanted))
        assert damage(plan) <= wanted
        assert one.table.predicted({n: c.candidate for n, c in plan.items()}) <= seconds + 1e-9


# ------------------------------------------------------------------------------------------- plans of one pass alone


@pytest.mark.parametrize(("sd", "expected"), [(1.02, {"sd"}), (1.5, {"nd"})])
def test_a_plan_of_one_pass_that_is_predicted_near_is_taken_if_it_is_faster_in_turns(
    sd: float, expected: set[str]
) -> None:
    """Layers that nd can halve; sd is predicted to take `sd` times as long at the same damage and takes a tenth less.

    It is found where it was near enough to be timed.
    """
    each = [way(1e-4, 0.0), way(5e-5, 0.1, nd={"rank": 1}), way(sd * 5e-5, 0.1, sd={"rank": 1})]
    known = LatencyTable({name: list(each) for name in "abc"}, 4e-4, dict.fromkeys("abc", 1e-4))
    timer = PlannedTimes(known, lambda _name, c, _seconds: 4.5e-5 if "sd" in c.setting else 5e-5)
    best = TimedSearch(known, timer, ["nd", "sd"]).fastest(0.03)
    assert passes_of(best) == expected
    settings = [str({n: c.candidate.setting for n, c in plan.items()}) for plan in timer.compared]
    assert len(settings) == len(set(settings))  # the same plan is not timed twice
    assert damage(best.plan) <= 0.03 + 1e-12


# ------------------------------------------------------------------------------------------------------- without time


def test_without_time_layers_that_are_slower_only_go_back() -> None:
    each = [way(100e-6, 0.0), way(50e-6, 0.1, nd={"rank": 1}), way(20e-6, 0.2, nd={"rank": 2})]
    known = LatencyTable({n: list(each) for n in "ab"}, 300e-6, dict.fromkeys("ab", 100e-6))
    one, timer = search(known, takes=lambda name, _c, seconds: 120e-6 if name == "a" else 1.5 * seconds)
    one.hurry = lambda: True
    found = one.settled(180e-6)
    assert len(timer.plans) == 2
    assert found.rewritten == ["b"]
    assert found.plan["b"].candidate.setting == timer.plans[0]["b"].candidate.setting


def test_without_time_no_plan_of_one_pass_is_timed_beside_that_of_all() -> None:
    each = [way(1e-4, 0.0), way(5e-5, 0.1, nd={"rank": 1}), way(5.1e-5, 0.1, sd={"rank": 1})]
    known = LatencyTable({name: list(each) for name in "abc"}, 4e-4, dict.fromkeys("abc", 1e-4))
    timer = PlannedTimes(known)
    assert passes_of(TimedSearch(known, timer, ["nd", "sd"], hurry=lambda: True).fastest(0.03)) == {"nd"}
    assert not timer.compared


def test_without_time_a_speedup_that_is_met_is_not_improved() -> None:
    one, timer = search(many(), takes=lambda _name, _candidate, seconds: 0.7 * seconds)
    one.hurry = lambda: True
    assert one.for_speedup(2.0).speedup > 2.0 * (1 + CLOSE)
    assert len(timer.plans) == 1


def test_when_time_is_over_the_first_plan_that_was_timed_has_to_do() -> None:
    """Layers that it does not make faster stay in it, and a speedup that it does not reach is not reached."""
    each = [way(100e-6, 0.0), way(50e-6, 0.1, nd={"rank": 1}), way(20e-6, 0.2, nd={"rank": 2})]
    known = LatencyTable({n: list(each) for n in "ab"}, 300e-6, dict.fromkeys("ab", 100e-6))
    one, timer = search(known, takes=lambda name, _c, seconds: 101e-6 if name == "a" else seconds)
    one.hurry = one.late = lambda: True
    assert one.settled(180e-6).rewritten == ["a", "b"]
    assert len(timer.plans) == 1
    with pytest.raises(BudgetError, match="the best measured is"):
        one.for_speedup(2.0)
    assert len(timer.plans) == 2
