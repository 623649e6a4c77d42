"""Which plan is tried next, for a budget in milliseconds or in the metric.

A plan is chosen by the table of what candidates take and timed in place on a stand-in, whole and layer by layer. The
times correct the table: a layer that is no faster than it was goes back to what it was, and the rest is planned anew.
Only a plan that has passed is fitted, which takes minutes (`ndpass.planning.drop_search` looks for the fastest one
whose metric falls by no more than is allowed).

The best plan by a table of measured times is often one that was measured too short by chance, and the more so the more
there is to choose from. So where a drop is searched for, the plan of all passes has to be the fastest, in turns, beside
the plans of one pass alone.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Candidate, Choice, damage, seconds_of
from ndpass.planning.choose import Fronts, least_cost, least_damage, separate
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.ledger import Ledger, decided
from ndpass.planning.stand_in import PlanTimer

log = logging.getLogger(__name__)

SETTLE = 5  # plans that are made for one wish; after that layers that are slower only go back
AGAIN = 2  # the same for a wish near one that was timed: the table has learned from that
CLOSE = 0.03  # a wish for a speedup is met within this
RIVAL = 1.1  # plans within this of the fastest are timed beside it
SURE = 0.98  # share of a measured speedup that another run can be asked for
SHORTENED = "with it the plan lost too much, and the time limit left no time to fit another"
MORE_PASSES, MORE_DIGITS = "more passes (--passes auto tries all)", "--precision f32"


@dataclass
class TimedSearch:
    """table: what candidates take, corrected as plans are timed; timer: what times the plans; passes: their names;
    fronts: of layers that depend on each other (`ndpass.planning.channel_savings`); ledger: makes errors of candidates
    exact where they are bounds; without_merged: leaves out layers that a plan merges into others; before_timing: called
    before a plan is timed; more: what the run could be allowed besides, in words; hurry: whether the time is short, so
    that layers that are slower only go back, and no rivals are timed; late: whether it is over, so that the first plan
    that was timed has to do."""

    table: LatencyTable
    timer: PlanTimer
    passes: Sequence[str]
    fronts: Fronts = separate
    ledger: Ledger | None = None
    without_merged: Callable[[Mapping[str, Choice]], dict[str, Choice]] = dict
    before_timing: Callable[[], None] = lambda: None
    more: Sequence[str] = (MORE_PASSES, MORE_DIGITS)
    hurry: Callable[[], bool] = lambda: False
    late: Callable[[], bool] = lambda: False

    @property
    def least(self) -> float:
        """Seconds of the whole model at its fastest, as predicted."""
        return self._least(None)

    def _least(self, alone: str | None) -> float:
        return self.table.rest + least_cost(self.fronts(self._candidates(alone), seconds_of), seconds_of)

    def for_speedup(self, wanted: float) -> TimedPlan:
        """The plan of least damage that makes the whole model `wanted` times as fast, measured.

        Raises BudgetError where none was measured that fast; the message gives the fastest that was.
        """
        aim, found = self.table.whole / wanted, _Bracket(wanted)
        for number in range(SETTLE):
            if aim < self.least * (1 - 1e-9):
                if found.tried:
                    break
                aim = self.least  # timed all the same: what is offered instead has to be measured
            before, timed = self.table.scale, self.settled(aim, plans=AGAIN if number else SETTLE)
            found.scale(self.table.scale / before)
            aim = found.next(aim * self.table.scale / before, timed)
            if wanted <= timed.speedup and (timed.speedup <= wanted * (1 + CLOSE) or self.hurry()):
                break
            if self.late():
                break
        rewritten = [timed for timed in found.tried if timed.rewritten]  # the others differ from the original by noise
        enough = [timed for timed in rewritten if timed.speedup >= wanted]
        if not enough:
            fastest = max((timed.speedup for timed in rewritten), default=1.0)
            raise BudgetError(f"--speedup {wanted:g} cannot be reached: {reachable(fastest, self.more)}")
        return min(enough, key=lambda timed: timed.damage)

    def fastest(self, wanted: float) -> TimedPlan:
        """The fastest of the plans that are predicted to do `wanted` damage: of all passes, and of each alone."""
        aim = self.aim_for(wanted)
        names = self.passes if len(self.passes) > 1 and not self.hurry() else ()
        rivals = [name for name in names if self.aim_for(wanted, name) <= aim * RIVAL]
        found = [self.settled(aim)]
        for name in rivals:
            rival = self.settled(self.aim_for(wanted, name), name, AGAIN)
            if all(_settings(rival.plan) != _settings(one.plan) for one in found):
                found.append(rival)
        return max(self.in_turns(found), key=lambda timed: timed.speedup)

    def in_turns(self, found: Sequence[TimedPlan]) -> list[TimedPlan]:
        """The plans with speedups that were measured in the same rounds."""
        if len(found) < 2:
            return list(found)
        self.before_timing()
        speedups = self.timer.compare([one.plan for one in found])
        log.info("in turns: %s", ", ".join(f"{np.median(s):.2f}" for s in speedups))
        return [
            replace(one, speedups=own, seconds=self.table.whole / float(np.median(own)))
            for one, own in zip(found, speedups, strict=True)
        ]

    def settled(self, aim: float, alone: str | None = None, plans: int = SETTLE) -> TimedPlan:
        """The plan of least damage predicted to take `aim` seconds, none of its layers slower in place than it was.

        alone: the only pass that it may have; plans: that are made for it.
        """
        plan = self.planned(aim, alone)
        for tried in itertools.count(1):
            timed = self.timed(plan)
            slower = self.table.learn(timed)
            if not slower or self.late():
                break
            log.info("taken back: %s", ", ".join(slower))
            # after these plans whatever the aim: fewer layers are rewritten each time, so this ends
            plan = self.planned(aim, alone) if tried < plans and not self.hurry() else self.table.without(plan, slower)
        return timed

    def timed(self, plan: dict[str, Choice]) -> TimedPlan:
        """The plan in place, in turns with the original, and layer by layer."""
        self.before_timing()
        times = self.timer.time(plan)
        seconds = self.table.whole / float(np.median(times.speedups))
        return TimedPlan(plan, times.speedups, seconds, {name: seconds * times.shares[name] for name in plan})

    def aim_for(self, wanted: float, alone: str | None = None) -> float:
        """The seconds at which the plan of least damage does as much damage as `wanted`, by bisection."""
        while True:
            low, high = self._least(alone), self.table.whole
            for _ in range(12):
                middle = math.sqrt(low * high)
                low, high = (low, middle) if damage(self._optimistic(middle, alone)) <= wanted else (middle, high)
            if self._decided(high, alone) is not None:
                return high

    def damage_for(self, aim: float) -> float:
        """The least damage that is known to be possible at `aim` seconds; infinite where nothing is as fast."""
        return math.inf if aim < self.least else damage(self._optimistic(aim, None))

    def shortened(self, plan: Mapping[str, Choice], wanted: float, order: Sequence[str]) -> dict[str, Choice]:
        """The plan with all layers kept from the one on at which it does more than `wanted` damage, in this order.

        Layers in front of it are fitted as they were in the whole plan, so that no fit is needed.
        """
        done = np.cumsum([plan[name].candidate.damage for name in order])
        behind = [name for name, own in zip(order, done, strict=True) if own > wanted]
        fewer = self.table.without(plan, behind)
        changed = {name for name, choice in plan.items() if not choice.candidate.is_like(fewer[name].candidate)}
        return {n: replace(own, reason=SHORTENED) if n in changed else own for n, own in fewer.items()}

    def planned(self, aim: float, alone: str | None = None) -> dict[str, Choice]:
        """The plan of least damage that is predicted to take `aim` seconds, or as few as it can."""
        plan = None
        while plan is None:
            plan = self._decided(aim, alone)
        return self.without_merged(
            {name: choice if choice.candidate.setting else self.table.kept(name) for name, choice in plan.items()}
        )

    def _decided(self, aim: float, alone: str | None) -> dict[str, Choice] | None:
        """The plan for `aim`, or None where something in it had to be fitted before, which has been done."""
        table, room = self._candidates(alone), self._room(aim, alone)
        plan = least_damage(table, room, seconds_of, self.fronts)
        found = decided(plan, table, lambda exact: least_damage(exact, room, seconds_of, self.fronts))
        if found is None:
            assert self.ledger
            for name in self.ledger.settle(plan):
                self.table.candidates[name] = self.ledger.current(name, self.table.candidates[name])
        return found

    def _optimistic(self, aim: float, alone: str | None) -> dict[str, Choice]:
        """The plan for `aim` with errors as they are known, bounds among them."""
        return least_damage(self._candidates(alone), self._room(aim, alone), seconds_of, self.fronts)

    def _room(self, aim: float, alone: str | None) -> float:
        """Seconds of all layers together in a plan for `aim`, or as few as it can take."""
        return max(aim, self._least(alone) * (1 + 1e-9)) - self.table.rest

    def _candidates(self, alone: str | None) -> dict[str, list[Candidate]]:
        """The candidates of all passes, or of one alone."""
        every = self.table.candidates
        if alone is None:
            return every
        return {name: [c for c in ways if set(c.setting) <= {alone}] for name, ways in every.items()}


class _Bracket:
    """What was timed for a wish, and between which aims, in seconds, the next one lies."""

    def __init__(self, wanted: float) -> None:
        self.wanted, self.tried = wanted, list[TimedPlan]()
        self._enough, self._too_slow = 0.0, math.inf  # the slowest aim that was fast enough, the fastest that was not

    def scale(self, by: float) -> None:
        """The table's seconds have been scaled, and so are the aims."""
        self._enough, self._too_slow = self._enough * by, self._too_slow * by

    def next(self, aim: float, timed: TimedPlan) -> float:
        """The next aim after `aim` gave `timed`: a little more than is wanted, between what was fast enough and not."""
        self.tried.append(timed)
        if timed.speedup >= self.wanted:
            self._enough = max(self._enough, aim)
        else:
            self._too_slow = min(self._too_slow, aim)
        aim *= timed.speedup / (self.wanted * (1 + CLOSE / 2))
        if 0 < self._enough < self._too_slow < math.inf and not self._enough < aim < self._too_slow:
            aim = math.sqrt(self._enough * self._too_slow)
        return aim


def _settings(plan: dict[str, Choice]) -> dict[str, object]:
    """What tells two plans apart: not the seconds that the table gave when they were made."""
    return {name: choice.candidate.setting for name, choice in plan.items()}


def reachable(measured: float, more: Sequence[str]) -> str:
    """What to ask for instead. measured: the best speedup that was measured; more: what could be allowed besides."""
    sure = math.floor(100 * SURE * measured) / 100
    if sure > 1:
        besides = f", or allow {' or '.join(more)}" if more else ""
        return f"the best measured is {measured:.2f} times as fast; ask for --speedup {sure:.2f}{besides}"
    besides = f"; allow {' or '.join(more)}" if more else ""
    if measured > 1:
        return f"the best measured is {measured:.2f} times as fast{besides}"
    return f"no rewrite was measured faster than the original{besides}"
