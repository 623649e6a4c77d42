"""The fastest plan within a drop: bisection on drops that are functions of the damage, without a runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_timed_search import search, way

from ndpass.errors import BudgetError
from ndpass.measuring.target import Target
from ndpass.passes import parse
from ndpass.planning.candidate import damage
from ndpass.planning.drop_search import MOST_FITS, within_drop
from ndpass.planning.latency_table import Settled, Table
from ndpass.planning.timed_search import Search


class OnPaper(Search):
    """Nothing is timed: what the table says of a plan stands."""

    def in_turns(self, found: Sequence[Settled]) -> list[Settled]:
        return list(found)


def bisect(limit: float, drop_of: Callable[[float], float], at_least: float = 1.0) -> tuple[float, float, list[float]]:
    """Speedup and drop found, and all drops measured, where the drop is a function of the damage."""
    one = OnPaper(search().fresh, parse("nd"), many(), Target())
    fits: list[float] = []

    def settle(wanted: float, _number: int) -> Settled:
        plan = one._plan(one.aim_for(wanted))
        seconds = one.table.predicted({n: c.candidate for n, c in plan.items()})
        return Settled(plan, [one.table.whole / seconds], seconds, {}, damage(plan))

    def fit(found: Settled, _number: int) -> tuple[float, None]:
        fits.append(drop_of(found.damage))
        return fits[-1], None

    best = within_drop(one, limit, settle, fit, at_least)
    return best.settled.speedup, best.drop, fits


def many(layers: int = 5) -> Table:
    """Layers that can be up to ten times as fast at an error of up to 0.5."""
    ratios = np.linspace(1, 10, 10)
    each = [way(1e-4 / r, 0.5 * (r - 1) / 9, **({"nd": {"rank": i}} if i else {})) for i, r in enumerate(ratios)]
    return Table({f"l{n}": list(each) for n in range(layers)}, layers * 1.1e-4, {f"l{n}": 1e-4 for n in range(layers)})


@pytest.mark.parametrize(("scale", "power"), [(5, 1), (60, 1), (20, 0.7), (20, 1.5), (150, 1)])
@pytest.mark.parametrize("limit", [0.5, 2.0])
def test_the_drop_is_never_more_than_allowed_and_nearly_used_up(scale: float, power: float, limit: float) -> None:
    speedup, drop, fits = bisect(limit, lambda damage: scale * damage**power)
    assert drop <= limit
    assert 1 <= len(fits) <= MOST_FITS
    one = search(many())
    plan = one._plan(one.aim_for((limit / scale) ** (1 / power)))
    best = one.table.whole / one.table.predicted({n: c.candidate for n, c in plan.items()})
    assert 0.8 * best <= speedup <= 1.02 * best


def test_a_drop_that_nothing_meets_is_refused_with_the_least_that_was_measured() -> None:
    with pytest.raises(BudgetError, match=r"--max-drop 1 cannot be met: the least drop of \d plans was 50"):
        bisect(1.0, lambda _: 50.0)


def test_a_speedup_beside_the_drop_is_required() -> None:
    speedup, _, _ = bisect(1.0, lambda damage: 10 * damage)
    assert bisect(1.0, lambda damage: 10 * damage, at_least=speedup * 0.99)[0] == pytest.approx(speedup)
    with pytest.raises(BudgetError, match="--speedup 9 with --max-drop 1"):
        bisect(1.0, lambda damage: 10 * damage, at_least=9.0)


def test_where_nothing_is_lost_the_fastest_is_found() -> None:
    speedup, drop, _ = bisect(1.0, lambda _: -0.1)
    assert drop == -0.1
    assert speedup == pytest.approx(search(many()).table.whole / search(many()).least, rel=0.05)


def test_of_the_plans_that_passed_the_fastest_in_turns_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was 5 % kind to each plan that was timed in an even minute; in turns it favours none."""
    one, speedups = search(many()), {}

    def settle(wanted: float, number: int) -> Settled:
        plan = one._plan(one.aim_for(wanted))
        seconds = one.table.predicted({n: c.candidate for n, c in plan.items()})
        speedups[damage(plan)] = one.table.whole / seconds
        return Settled(plan, [speedups[damage(plan)] * (1.05 - 0.05 * (number % 2))], seconds, {}, damage(plan))

    def in_turns(found: Sequence[Settled]) -> list[Settled]:
        return [replace(s, speedups=[speedups[s.damage]]) for s in found]

    monkeypatch.setattr(one, "in_turns", in_turns)
    best = within_drop(one, 1.0, settle, lambda s, _: (10 * s.damage, None))
    assert len(speedups) > 1
    assert best.settled.speedup == max(s for damage, s in speedups.items() if 10 * damage <= 1)
