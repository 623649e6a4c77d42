"""The fastest plan within a drop: bisection on drops that are functions of the damage, on times that are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from planned_times import PlannedTimes, way
from test_timed_search import many

from ndpass.errors import BudgetError
from ndpass.planning.drop_search import MOST_FITS, Fit, within_drop
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.timed_search import TimedSearch


def on_paper(known: LatencyTable | None = None) -> TimedSearch:
    """Plans take what the table says."""
    of = known or many(ratios=10)
    return TimedSearch(of, PlannedTimes(of), ["nd"])


def bisect(
    limit: float, drop_of: Callable[[float], float], at_least: float = 1.0, known: LatencyTable | None = None
) -> tuple[Fit[None], list[float]]:
    """The fit found, and all drops measured, where the drop is a function of the damage."""
    one = on_paper(known)
    fits: list[float] = []

    def fit(found: TimedPlan, _number: int) -> tuple[float, None]:
        fits.append(drop_of(found.damage))
        return fits[-1], None

    return within_drop(one, limit, lambda wanted, _: one.fastest(wanted), fit, at_least), fits


@pytest.mark.parametrize(
    ("scale", "power", "limit"), [(5, 1, 0.5), (60, 1, 2.0), (20, 0.7, 0.5), (20, 1.5, 2.0), (150, 1, 0.5)]
)
def test_the_drop_is_never_more_than_allowed_and_nearly_used_up(scale: float, power: float, limit: float) -> None:
    found, fits = bisect(limit, lambda damage: scale * damage**power)
    assert found.drop <= limit
    assert 1 <= len(fits) <= MOST_FITS
    one = on_paper()
    best = one.timed(one.planned(one.aim_for((limit / scale) ** (1 / power)))).speedup
    assert 0.8 * best <= found.timed.speedup <= 1.02 * best


def test_a_drop_that_falls_far_more_slowly_than_the_damage_is_met() -> None:
    """In steps in proportion to the drop it would take six fits."""
    found, fits = bisect(1.0, lambda damage: 1.7 * damage**0.1)
    assert len(fits) == 4
    assert found.drop <= 1.0


def test_a_drop_that_goes_with_the_root_of_the_damage_takes_few_fits() -> None:
    """As of VGG16 for CIFAR-10, which in steps in proportion to the drop took five: 2.66, 1.64, 1.06, 1.14, 0.86."""
    found, fits = bisect(1.0, lambda damage: 2.66 * (damage / 0.025) ** 0.47)
    assert len(fits) == 2
    assert 0.9 <= found.drop <= 1.0


def test_a_drop_that_nothing_meets_is_refused_with_the_least_that_was_measured() -> None:
    with pytest.raises(BudgetError, match=r"--max-drop 1 cannot be met: the least drop of \d plans was 50"):
        bisect(1.0, lambda _: 50.0)


def test_only_plans_that_were_fitted_are_counted_in_the_refusal() -> None:
    """The first plan is no faster than the original, so it is not fitted."""
    one, fits = on_paper(), list[int]()

    def settle(wanted: float, number: int) -> TimedPlan:
        as_it_is = {name: one.table.kept(name) for name in one.table.in_place}
        return one.fastest(wanted) if number else one.timed(as_it_is)

    def fit(_found: TimedPlan, number: int) -> tuple[float, None]:
        fits.append(number)
        return 50.0, None

    with pytest.raises(BudgetError) as refusal:
        within_drop(one, 1.0, settle, fit)
    assert 0 not in fits
    said = f"the least drop of {len(fits)} plans was 50.00, 2.75 times as fast; plans of less damage are no faster;"
    assert said in str(refusal.value)


def test_where_nothing_is_faster_no_fit_is_made() -> None:
    slow = many()
    slow.candidates = {name: ways[:1] for name, ways in slow.candidates.items()}
    with pytest.raises(BudgetError, match="--max-drop 1 makes nothing faster: no rewrite was measured faster than"):
        bisect(1.0, lambda _: 50.0, known=slow)


def test_a_speedup_beside_the_drop_is_required() -> None:
    speedup = bisect(1.0, lambda damage: 10 * damage)[0].timed.speedup
    assert bisect(1.0, lambda damage: 10 * damage, speedup * 0.99)[0].timed.speedup == pytest.approx(speedup)
    offered = rf"--speedup 9 with --max-drop 1 cannot be reached: the best measured is {speedup:.2f} times as fast"
    with pytest.raises(BudgetError, match=offered):
        bisect(1.0, lambda damage: 10 * damage, 9.0)


def gap() -> LatencyTable:
    """One layer, whose candidates are far apart: damages of 0.01, 0.03 and 0.5."""
    ways = [
        way(100e-6, 0.0),
        *(way(s, e, nd={"rank": s}) for s, e in ((8e-5, 0.1), (6e-5, 0.03**0.5), (4e-5, 0.5**0.5))),
    ]
    return LatencyTable({"a": ways}, 200e-6, {"a": 100e-6})


def test_a_gap_in_what_is_offered_does_not_end_the_search() -> None:
    """A drop of 0.45 at a damage of 0.01 seems to allow 0.021, at which nothing else is offered; 0.03 drops 0.6."""
    found, fits = bisect(1.0, lambda damage: 0.45 if damage < 0.02 else 20 * damage, known=gap())
    assert fits == pytest.approx([0.45, 0.6])
    assert found.drop == pytest.approx(0.6)


def test_where_the_limit_is_used_up_nothing_more_is_fitted() -> None:
    _, fits = bisect(1.0, lambda damage: 1.0 if damage < 0.02 else 20 * damage, known=gap())
    assert fits == [1.0]


def test_far_beyond_what_the_limit_seems_to_allow_nothing_is_fitted() -> None:
    _, fits = bisect(1.0, lambda damage: 45 * damage if damage < 0.02 else 20 * damage, known=gap())
    assert fits == pytest.approx([0.45, 0.6])  # 0.5 would drop 10 points


def test_where_nothing_is_lost_the_fastest_is_found() -> None:
    found, _ = bisect(1.0, lambda _: -0.1)
    assert found.drop == -0.1
    assert found.timed.speedup == pytest.approx(on_paper().table.whole / on_paper().least, rel=0.05)


def test_of_the_plans_that_passed_the_fastest_in_turns_is_taken() -> None:
    """The clock was 5 % kind to each plan that was timed in an even minute; in turns it favours none."""
    one = on_paper()
    speedups: dict[float, float] = {}

    def settle(wanted: float, number: int) -> TimedPlan:
        found = one.fastest(wanted)
        speedups[found.damage] = found.speedup
        return replace(found, speedups=[found.speedup * (1.05 - 0.05 * (number % 2))])

    best = within_drop(one, 1.0, settle, lambda found, _: (10 * found.damage, None))
    assert len(speedups) > 1
    assert best.timed.speedup == max(speedup for damage, speedup in speedups.items() if 10 * damage <= 1)


def test_without_time_parts_of_the_plan_that_lost_too_much_are_tried_which_takes_no_fit() -> None:
    one, asked, settled = on_paper(), list[tuple[float, int]](), list[int]()
    order = list(one.table.candidates)
    last: list[TimedPlan] = []

    def settle(wanted: float, number: int) -> TimedPlan:
        settled.append(number)
        return one.fastest(wanted)

    def fit(found: TimedPlan, _number: int) -> tuple[float, None]:
        last.append(found)
        return 150 * found.damage, None

    def shorten(wanted: float, number: int) -> TimedPlan:
        asked.append((wanted, number))
        return one.timed(one.shortened(last[-1].plan, wanted, order))

    found = within_drop(one, 1.0, settle, fit, enough=lambda: True, shorten=shorten)
    assert settled == [0]
    assert [number for _, number in asked] == [1, 2]  # in front of the first cut there is no layer that is rewritten
    assert len(last) == 2
    assert asked[0][0] <= last[0].damage / 4
    assert asked[0][0] < found.timed.damage <= asked[1][0] < last[0].damage
    assert found.drop <= 1
    assert set(found.timed.rewritten) < set(last[0].rewritten)


def test_without_time_two_parts_are_tried_and_no_more() -> None:
    one, last, fits = on_paper(), list[TimedPlan](), list[int]()
    order = list(one.table.candidates)

    def fit(found: TimedPlan, number: int) -> tuple[float, None]:
        last.append(found)
        fits.append(number)
        return 50.0, None

    def shorten(_wanted: float, _number: int) -> TimedPlan:  # by one layer
        return one.timed(one.shortened(last[-1].plan, last[-1].damage * 0.99, order))

    with pytest.raises(BudgetError, match="the least drop of 3 plans was 50"):
        within_drop(one, 1.0, lambda wanted, _: one.fastest(wanted), fit, enough=lambda: True, shorten=shorten)
    assert fits == [0, 1, 2]


def late_search(drop_of: Callable[[float], float]) -> tuple[list[float], list[float]]:
    """Damages and drops of the plans that are fitted where there is no time for a second one."""
    one = on_paper()
    damages: list[float] = []
    drops: list[float] = []

    def fit(found: TimedPlan, _number: int) -> tuple[float, None]:
        damages.append(found.damage)
        drops.append(drop_of(found.damage))
        return drops[-1], None

    try:
        within_drop(one, 1.0, lambda wanted, _: one.fastest(wanted), fit, enough=lambda: True)
    except BudgetError:
        damages.append(0.0)
    return damages, drops


def test_without_time_the_first_plan_that_meets_the_limit_is_taken() -> None:
    assert len(late_search(lambda damage: 10 * damage)[0]) == 1


def test_without_time_and_a_plan_one_more_is_fitted_that_is_likely_to_meet_the_limit() -> None:
    (first, second), drops = late_search(lambda damage: 60 * damage)
    assert drops[0] > 1 >= drops[1]
    assert 0 < second <= first / 4


def test_without_time_the_search_ends_after_that_whatever_it_lost() -> None:
    """At a quarter of that damage nothing is faster."""
    damages, drops = late_search(lambda _: 50.0)
    assert drops == [50.0]
    assert damages[-1] == 0.0  # refused
