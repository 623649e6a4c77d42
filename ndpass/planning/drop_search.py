"""The fastest plan whose measured drop is within what is allowed, by bisection on the predicted damage.

Each plan is timed before it is fitted (`ndpass.planning.timed_search`). At most MOST_FITS plans are fitted, because a
fit takes minutes. The drop is taken as proportional to the damage where the first fit has passed, and to its root where
it has missed, for it may fall far more slowly: VGG16 for CIFAR-10 lost 2.66 points, and 1.64 at a third of the damage.
From the second fit on it is the power of it that the last two show. While no plan has passed, the second that misses
halves the damage at least, the third quarters it, and so on. Once one has dropped too much, the next lies between the
most damage that passed and the least that did not. A plan that uses up nearly all that is allowed ends the search.
Where the next promises little more, it is the least damage that does, up to REACH times as much: few layers or large
steps leave gaps, and a drop of few samples is a rough guess. Beyond that the search ends. The plans that passed and are
near the fastest were timed minutes apart, so at the end they are timed once more, in turns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from ndpass.errors import BudgetError
from ndpass.planning.latency_table import TimedPlan
from ndpass.planning.timed_search import RIVAL, TimedSearch, reachable

log = logging.getLogger(__name__)

MOST_FITS = 6
FIRST_DAMAGE = 0.025  # predicted divergence, in nats, of the first fit for each point of accuracy that may be lost
STEPS = (0.02, 4.0)  # factors by which the damage may fall and grow from one fit to the next
POWERS = (0.25, 1.0)  # exponents p that are believed where the drop is taken as proportional to damage^p
MISSED = 0.5  # exponent that is taken where the first fit has missed
SATED = 0.9  # share of the drop allowed, from which on a plan that passes ends the search
MOST_SHORTENED = 2  # plans that are tried when time is over and none has passed
WORTH = 0.02  # a further fit has to promise this share of the time
REACH = 1.5  # times the damage that the limit seems to allow, at most, where less than that promises too little

T = TypeVar("T")


@dataclass(frozen=True)
class Fit(Generic[T]):
    """A plan that has been fitted. drop: points of the metric; result: what `within_drop`'s `fit` has made."""

    timed: TimedPlan
    drop: float
    result: T


def within_drop(
    search: TimedSearch,
    limit: float,
    settle: Callable[[float, int], TimedPlan],
    fit: Callable[[TimedPlan, int], tuple[float, T]],
    at_least: float = 1.0,
    wish: str = "",
    enough: Callable[[], bool] = lambda: False,
    shorten: Callable[[float, int], TimedPlan | None] = lambda *_: None,
) -> Fit[T]:
    """The fastest plan whose measured drop is at most `limit` points.

    settle: (damage, number) -> a plan that does as much damage, timed in place; fit: (plan, number) -> its drop and its
    result. at_least: the speedup that is asked for too. wish: the budget as it was typed, by default --max-drop LIMIT.
    enough: whether there is no time for another fit; without a plan that meets the limit, MOST_SHORTENED more are tried
    all the same. shorten: (damage, number) -> the last plan that was fitted, without what does more damage than that,
    which takes no further fit; None where it cannot be had, and one more plan is fitted.
    Raises BudgetError where no plan meets both.
    """
    passing: list[Fit[T]] = []
    tried: list[_Tried] = []
    passed, failed, wanted, late = 0.0, math.inf, FIRST_DAMAGE * limit, 0
    for number in range(MOST_FITS):
        shorter = shorten(wanted, number) if late else None
        if late > 1 and shorter is None:
            break
        timed = shorter or settle(wanted, number)
        if not timed.rewritten or timed.speedup <= 1:
            log.info("at a predicted damage of %.3g nothing is faster", wanted)
            now = _Tried(wanted, 0.0, 1.0, fitted=False)
        else:
            drop, result = fit(timed, number)
            now = _Tried(timed.damage, drop, timed.speedup, fitted=True)
            log.info("fit %d: %.2f times as fast, drop %.2f", number + 1, timed.speedup, drop)
            if drop <= limit:
                passing = _near_the_fastest([*passing, Fit(timed, drop, result)])
        tried.append(now)
        if now.drop <= limit:
            passed = max(passed, now.damage)
        else:
            failed = min(failed, now.damage)
        wanted = _next(limit, tried, passed, failed)
        if not passed:
            wanted = min(wanted, failed / 2 ** (len(tried) - 1))
        if enough():
            late += 1
            if passing or late > MOST_SHORTENED:
                break
            wanted = min(wanted, failed / STEPS[1])
        if SATED * limit <= now.drop <= limit:
            break
        if passed:
            wanted = _worth_a_fit(search, wanted, passed, failed)
            if wanted >= failed:
                log.info("no plan that may keep the limit promises %.0f %% of the time", 100 * WORTH)
                break
    best = _fastest(search, passing) if passing else None
    if best is None or best.timed.speedup < at_least:
        raise BudgetError(_why_not(wish or f"--max-drop {limit:g}", at_least, best, tried, search.more))
    return best


@dataclass(frozen=True)
class _Tried:
    """damage: predicted; drop: measured, 0 of a plan that was not fitted because it was not faster."""

    damage: float
    drop: float
    speedup: float
    fitted: bool


def _near_the_fastest(fits: Sequence[Fit[T]]) -> list[Fit[T]]:
    """The fits that a second look might show to be the fastest; no others are kept in memory."""
    most = max(one.timed.speedup for one in fits)
    return [one for one in fits if one.timed.speedup * RIVAL >= most]


def _fastest(search: TimedSearch, fits: Sequence[Fit[T]]) -> Fit[T]:
    """The fastest fit, in turns."""
    again = search.in_turns([one.timed for one in fits])
    timed = [replace(one, timed=own) for one, own in zip(fits, again, strict=True)]
    return max(timed, key=lambda one: one.timed.speedup)


def _next(limit: float, tried: Sequence[_Tried], passed: float, failed: float) -> float:
    """The damage to try next: where the drop, a power of the damage, would meet the limit, inside the bracket."""
    now = tried[-1]
    by = (0.95 * limit / now.drop) ** (1 / _power(limit, tried)) if now.drop > 0 else STEPS[1]
    wanted = now.damage * float(np.clip(by, *STEPS))
    if failed < math.inf and not passed < wanted < failed:
        wanted = math.sqrt(passed * failed) if passed > 0 else failed / STEPS[1]
    return wanted


def _power(limit: float, tried: Sequence[_Tried]) -> float:
    """The exponent of damage that the last two fits show, within POWERS; the careful one where fewer show any."""
    last = [one for one in tried if one.drop > 0][-2:]
    if len(last) < 2 or last[0].damage == last[1].damage:
        return MISSED if tried[-1].drop > limit else POWERS[1]
    drops, damages = math.log(last[0].drop / last[1].drop), math.log(last[0].damage / last[1].damage)
    return float(np.clip(drops / damages, *POWERS))


def _worth_a_fit(search: TimedSearch, wanted: float, passed: float, failed: float) -> float:
    """The damage wanted if it promises WORTH of the time, else the least that does; infinite where that is too much, or
    nothing more is wanted."""
    if wanted <= passed:
        return math.inf
    aim = search.aim_for(passed) * (1 - WORTH)
    if search.aim_for(wanted) <= aim:
        return wanted
    least = search.damage_for(aim) * (1 + 1e-9)  # a sum in another order may be more
    return least if least < min(failed, REACH * wanted) else math.inf


def _why_not(wish: str, at_least: float, best: Fit[T] | None, tried: Sequence[_Tried], more: Sequence[str]) -> str:
    """wish: the budget as it was typed; more: what could be allowed besides a larger one."""
    fits = [one for one in tried if one.fitted]
    if best is not None:
        return f"--speedup {at_least:g} with {wish} cannot be reached: {reachable(best.timed.speedup, more)}"
    loss, unit = ("drop", "drop") if "drop" in wish else ("error", "error, in per cent,")
    more = [f"a larger {loss}", *more]
    if not fits:
        return f"{wish} makes nothing faster: {reachable(1.0, more)}"
    instead = "ask for that"
    if len(fits) < len(tried):
        instead = f"plans of less damage are no faster; allow {' or '.join(more)}"
    least = min(fits, key=lambda one: one.drop)
    found = f"{least.drop:.2f}, {least.speedup:.2f} times as fast"
    return f"{wish} cannot be met: the least {unit} of {len(fits)} plans was {found}; {instead}"
