"""The fastest plan whose measured drop is within what is allowed, by bisection on the predicted damage.

Each plan is timed before it is fitted (`ndpass.planning.timed_search`) and at most MOST_FITS are fitted, for that takes
minutes. The drop is taken as proportional to the damage until one plan has dropped too much; from then on the next is
tried between the most damage that passed and the least that did not. The search ends where the table promises little
more. The plans that passed and are near the fastest were timed minutes apart, so in the end they are timed once more,
in turns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from ndpass.errors import BudgetError
from ndpass.planning.latency_table import Settled
from ndpass.planning.timed_search import RIVAL, Search, reachable

log = logging.getLogger(__name__)

MOST_FITS = 6
FIRST_DAMAGE = 0.025  # predicted divergence, in nats, for each point of accuracy: where the first fit is tried
STEPS = (0.02, 4.0)  # by which the damage may fall and grow from one fit to the next
WORTH = 0.02  # a further fit has to promise this share of the time

T = TypeVar("T")


@dataclass(frozen=True)
class Fit(Generic[T]):
    """A plan that has been fitted: drop in points of the metric; result: what `within_drop`'s `fit` has made."""

    settled: Settled
    drop: float
    result: T


def within_drop(
    search: Search,
    limit: float,
    settle: Callable[[float, int], Settled],
    fit: Callable[[Settled, int], tuple[float, T]],
    at_least: float = 1.0,
) -> Fit[T]:
    """The fastest plan whose measured drop is at most `limit` points.

    settle: (damage, number) -> a plan that does as much, timed in place; fit: (plan, number) -> drop and its result.
    at_least: the speedup that is asked for too. Raises BudgetError.
    """
    passing: list[Fit[T]] = []
    tried: list[tuple[float, float]] = []  # damage, drop
    passed, failed, wanted = 0.0, math.inf, FIRST_DAMAGE * limit
    for number in range(MOST_FITS):
        settled = settle(wanted, number)
        if not any(c.candidate.setting for c in settled.plan.values()) or settled.speedup <= 1:
            log.info("at a predicted damage of %.3g nothing is faster", wanted)
            done, drop = wanted, 0.0
        else:
            done = settled.damage
            drop, result = fit(settled, number)
            log.info("fit %d: %.2f times as fast, drop %.2f", number + 1, settled.speedup, drop)
            if drop <= limit:
                passing = _near_the_fastest([*passing, Fit(settled, drop, result)])
        tried.append((done, drop))
        if drop <= limit:
            passed = max(passed, done)
        else:
            failed = min(failed, done)
        wanted = _next(limit, tried, passed, failed)
        if passed and search.aim_for(wanted) > search.aim_for(passed) * (1 - WORTH):
            break  # hardly anything is faster
    best = _fastest(search, passing) if passing else None
    if best is None or best.settled.speedup < at_least:
        raise BudgetError(_why_not(search, limit, at_least, best, tried))
    return best


def _near_the_fastest(fits: Sequence[Fit[T]]) -> list[Fit[T]]:
    """Those that a second look might show to be the fastest; no others are kept in memory."""
    most = max(one.settled.speedup for one in fits)
    return [one for one in fits if one.settled.speedup * RIVAL >= most]


def _fastest(search: Search, fits: Sequence[Fit[T]]) -> Fit[T]:
    again = search.in_turns([one.settled for one in fits])
    timed = [replace(one, settled=settled) for one, settled in zip(fits, again, strict=True)]
    return max(timed, key=lambda one: one.settled.speedup)


def _next(limit: float, tried: Sequence[tuple[float, float]], passed: float, failed: float) -> float:
    """The damage to try next: where drop, taken as proportional to damage, meets the limit; inside the bracket."""
    damage, drop = tried[-1]
    wanted = damage * float(np.clip(0.95 * limit / drop if drop > 0 else STEPS[1], *STEPS))
    if failed < math.inf and not passed < wanted < failed:
        wanted = math.sqrt(passed * failed) if passed > 0 else failed / STEPS[1]
    return wanted


def _why_not(
    search: Search, limit: float, at_least: float, best: Fit[T] | None, tried: Sequence[tuple[float, float]]
) -> str:
    if best is not None:
        most = math.floor(100 * best.settled.speedup) / 100
        return f"--speedup {at_least:g} with --max-drop {limit:g} cannot be reached: {reachable(most)}"
    if all(drop == 0 for _, drop in tried):
        return f"nothing on this CPU at {search.target.precision} is faster: {reachable(1.0)}"
    least = min(drop for _, drop in tried if drop > 0)
    return f"--max-drop {limit:g} cannot be met: the least drop of {len(tried)} plans was {least:.2f}; ask for that"
