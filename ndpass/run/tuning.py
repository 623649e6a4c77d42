"""Budgets in milliseconds or in the metric: candidates are timed, plans searched, fitted and measured.

`candidate_times` makes the table of what candidates take, `timed_search` chooses plans and has them timed in place,
`drop_search` asks for more or less damage, `rewriting` fits. Here they come together, and here is kept what a run that
is cut off needs to go on: the table, each plan as it was timed, and the measured drop of each fit.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph
from ndpass.listener import Listener, Renamed, Step, tell
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import in_auto
from ndpass.planning.blocks import without_merged
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.planning.candidate_times import timed_table
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.deadline import Deadline
from ndpass.planning.drop_search import MOST_FITS, within_drop
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.ledger import Ledger
from ndpass.planning.shared_channels import SharedChannels
from ndpass.planning.stand_in import StandIns
from ndpass.planning.timed_search import MORE_DIGITS, MORE_PASSES, TimedSearch
from ndpass.report import Layer, TriedPlan
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.rewriting.packing import pack_candidate, pack_plan, unpack_plan
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run.clock import Clock
from ndpass.run.job import Opened
from ndpass.run.planner import Network, planner_for

log = logging.getLogger(__name__)


PARTS = 100  # from which number on plans are parts of others: a run that goes on may not be as late as it was
MOST_COMPOSED = 2  # passes in a layer: three are seldom chosen, and each candidate has to be timed

Rewritten = tuple[Graph, list[Layer]]


@dataclass(frozen=True)
class Tuned:
    """The rewritten graph and its rows, with the latencies that were measured in place; plans: all that were fitted.

    damage: predicted, of its plan; speedup: times as fast, timed in place. more: (damage, number) -> the fastest plan
    that does so much, fitted, None where it is no faster than the original; for a budget of a loss.
    """

    graph: Graph
    layers: list[Layer]
    warnings: Sequence[str]
    plans: Sequence[TriedPlan] = ()
    damage: float = 0.0
    speedup: float = 1.0
    more: Callable[[float, int], Tuned | None] | None = None


@dataclass(frozen=True)
class Tuner:
    """latencies: what blocks take on the machine; loss: what the budget counts of the rewritten graph on the validation
    data, in points; jobs: layers that are planned side by side; clock: what counts the seconds of fits; deadline: what
    leaves out layers and fits for want of time."""

    network: Network
    latencies: Latencies
    loss: Callable[[Graph], float]
    checkpoint: Checkpoint | None
    listen: Listener
    jobs: int | None = None
    clock: Clock = field(default_factory=Clock)
    deadline: Deadline | None = None

    def run(self, budget: Budget) -> Tuned:
        """The graph within the budget, which is in milliseconds. Raises BudgetError where there is none."""
        try:
            return self._tuned(budget)
        except BudgetError as e:
            if not self.latencies.noisy:
                raise
            raise BudgetError(f"{e}; {self._noise()}: try again when it does less") from e

    def _tuned(self, budget: Budget) -> Tuned:
        search, plans = self._search(), list[TriedPlan]()
        if budget.kind == "speedup":
            assert budget.value is not None
            wanted = budget.value
            timed = self._timed(search, 0, lambda: search.for_speedup(wanted))
            rewritten = self._build(timed.plan, 0, "rewriting")
        else:
            timed, rewritten, plans = self._within_loss(search, budget)
        found = replace(self._of(timed, rewritten, search), warnings=self._warnings(), plans=plans)
        if budget.loss_limit is None:
            return found
        return replace(found, more=lambda damage, number: self._further(search, damage, number))

    def _of(self, timed: TimedPlan, rewritten: Rewritten, search: TimedSearch) -> Tuned:
        graph, layers = rewritten
        rows = with_latencies(layers, timed, search.table)
        return Tuned(graph, rows, (), damage=timed.damage, speedup=timed.speedup)

    def _further(self, search: TimedSearch, damage: float, number: int) -> Tuned | None:
        """The fastest plan of this predicted damage, the number-th after those of the search."""
        place = MOST_FITS + number
        timed = self._timed(search, place, lambda: search.fastest(damage))
        if not timed.rewritten or timed.speedup <= 1:
            return None
        return self._of(timed, self._build(timed.plan, place, "rewriting"), search)

    def _within_loss(self, search: TimedSearch, budget: Budget) -> tuple[TimedPlan, Rewritten, list[TriedPlan]]:
        """The fastest plan that was fitted and lost no more than the budget allows, its graph, and all plans fitted."""

        fitted: list[tuple[TimedPlan, float, int]] = []
        parts: dict[int, TimedPlan] = {}
        begun = self.clock.passed

        def enough() -> bool:
            each = (self.clock.passed - begun) / max(len(fitted), 1)
            return self.deadline is not None and self.deadline.is_near(1.0, each)

        def settle(damage: float, number: int) -> TimedPlan:
            return self._timed(search, number, lambda: search.fastest(damage))

        def fit(timed: TimedPlan, number: int) -> tuple[float, Callable[[], Rewritten]]:
            place = number + PARTS if number in parts else number
            loss, build = self._fit(timed, place, f"fit {number + 1} of at most {MOST_FITS}")
            fitted.append((timed, loss, place))
            return loss, build

        def shorten(damage: float, number: int) -> TimedPlan | None:
            timed, _, before = fitted[-1] if fitted else (None, 0.0, 0)
            found = self._shortened(search, damage, timed, before, number + PARTS) if timed else None
            if found is not None:
                parts[number] = found
            return found

        wish = f"--{budget.kind.replace('_', '-')} {budget.value:g}"
        best = within_drop(search, budget.loss_limit or 0.0, settle, fit, budget.speedup or 1.0, wish, enough, shorten)
        plans = [
            TriedPlan(speedup=one.speedup, loss=loss, chosen=one.plan is best.timed.plan) for one, loss, _ in fitted
        ]
        if self.deadline:
            self.deadline.fitted_once = any(best.timed.plan is one.plan for one in parts.values())
        return best.timed, best.result(), plans

    def _shortened(
        self, search: TimedSearch, damage: float, timed: TimedPlan, before: int, number: int
    ) -> TimedPlan | None:
        """The plan that was fitted as no. `before` without what does more than this damage, as no. `number`: with the
        fits that it has been given; None where nothing is kept of them."""
        part, fits = self._part(number), self._part(before)
        if part is None or fits is None:
            return None
        opened = self.network.open()
        plan = search.shortened(timed.plan, damage, [site.name for site in opened.sites])
        again = self._timed(search, number, lambda: search.timed(plan))
        if not _differing(again.plan, plan):  # as it is, unless times were others before the run was cut off
            different = _differing(timed.plan, plan)
            part.take(fits, sum(1 for _ in itertools.takewhile(lambda one: one.name not in different, opened.found)))
        return again

    def _search(self) -> TimedSearch:
        """The candidates' errors, slopes and seconds; as the checkpoint has them if it does."""
        opened, passes = self.network.open(), self.network.passes
        planner = planner_for(opened.graph, self.network, self.checkpoint, self.jobs, MOST_COMPOSED, self.deadline)
        ledger = planner.ledger(opened.sites, self.listen)
        packed = self.checkpoint.read("table.json") if self.checkpoint else None
        table = self._table(opened, ledger) if packed is None else unpack_table(packed)
        if self.checkpoint and packed is None and not table.left_out:  # else --resume goes on with them
            self.checkpoint.write("table.json", pack_table(table))
        timer = StandIns(lambda: self.network.open().graph, passes, self.latencies.machine)
        blocks = planner.blocks(opened.sites)
        fronts = Coupling(opened.graph, opened.sites, passes, blocks).fronts
        settle = partial(without_merged, blocks=blocks)
        used = {name for ways in table.candidates.values() for c in ways for name in c.setting}
        names = [p.name for p in passes if p.name in used]  # a plan of a pass that nothing is offered by is no rival
        hurry = self.deadline.is_settled if self.deadline else (lambda: False)
        late = self.deadline.is_over if self.deadline else (lambda: False)
        return TimedSearch(table, timer, names, fronts, ledger, settle, more=self._more(), hurry=hurry, late=late)

    def _more(self) -> list[str]:
        """What the run has not been allowed and may help."""
        given = {p.name for p in self.network.passes}
        every = {p.name for p in in_auto(self.network.calibration is not None)}
        narrow = self.latencies.machine.target.precision != "f32"
        return [MORE_PASSES] * (not every <= given) + [MORE_DIGITS] * narrow

    def _table(self, opened: Opened, ledger: Ledger) -> LatencyTable:
        kept, passes = self._kept("timed"), self.network.passes
        return timed_table(
            opened.graph, opened.sites, ledger.table(), passes, self.latencies, self.listen, kept, self.deadline
        )

    def _warnings(self) -> list[str]:
        if not self.latencies.noisy:
            return []
        log.warning(self._noise())
        return [self._noise()]

    def _noise(self) -> str:
        return f"the machine is too noisy to tell latencies 6 % apart (spread {self.latencies.spread:.1%})"

    def _part(self, number: int) -> Checkpoint | None:
        """Where the plan with this number and its fit are kept."""
        return self._kept(f"fit{number}")

    def _kept(self, name: str) -> Checkpoint | None:
        return self.checkpoint.part(name) if self.checkpoint else None

    def _timed(self, search: TimedSearch, number: int, settle: Callable[[], TimedPlan]) -> TimedPlan:
        """A plan as timed in place, now or before the run was cut off; the search gets the table as it was then."""
        part = self._part(number)
        known = part.read("timed_plan.json") if part else None
        if known is not None:
            search.table, asked = unpack_table(known.pop("table")), known.pop("asked")
            if search.ledger:
                search.ledger.recall(asked)
            return TimedPlan(**{**known, "plan": unpack_plan(known["plan"])})
        tell(self.listen, Step("timing plans", 0, 1))
        count = itertools.count(1)

        def one_more() -> None:
            """Also says that fits of candidates, which come in between, are over."""
            tell(self.listen, Step("timing plans", 0, 1, f"no. {next(count)}"))

        search.before_timing = one_more
        timed = settle()
        if self.deadline:
            self.deadline.hurried |= search.hurry()
        if part:
            asked = search.ledger.asked if search.ledger else {}
            kept = {**vars(timed), "plan": pack_plan(timed.plan), "table": pack_table(search.table), "asked": asked}
            part.write("timed_plan.json", kept)
        return timed

    def _fit(self, timed: TimedPlan, number: int, stage: str) -> tuple[float, Callable[[], Rewritten]]:
        """The plan fitted: its drop in points, and what rebuilds the graph."""
        part = self._part(number)
        known = part.read("drop.json") if part else None
        if known is not None:
            return float(known), lambda: self._build(timed.plan, number, stage)
        graph, layers = self._build(timed.plan, number, stage)
        with self.clock("verify"):
            drop = self.loss(graph)
        if part:
            part.write("drop.json", drop)
        return drop, lambda: (graph, layers)

    def _build(self, plan: Mapping[str, Choice], number: int, stage: str) -> Rewritten:
        with self.clock("rewrite"):
            opened = self.network.open()
            rewriter = Rewriter(opened.graph, self.network.passes, self.network.calibration, self._part(number))
            layers = rewriter.rewrite(opened.found, opened.sites, plan, Renamed(self.listen, stage))
            opened.graph.tidy()
            return opened.graph, layers


def _differing(one: Mapping[str, Choice], other: Mapping[str, Choice]) -> set[str]:
    """The layers that two plans do different things with."""
    return {name for name, choice in one.items() if not choice.candidate.is_like(other[name].candidate)}


def with_latencies(layers: Sequence[Layer], timed: TimedPlan, table: LatencyTable) -> list[Layer]:
    """The rows with microseconds in place, before and after, where counters show them."""
    rows = []
    for layer in layers:
        if layer.name in table.in_place:
            changed = layer.status == "done" or (layer.macs is not None and layer.macs[0] != layer.macs[1])
            seconds = table.seconds_in_place(layer.name, timed, changed)
            predicted = timed.plan[layer.name].candidate.seconds if layer.status == "done" else None
            micros = {
                "latency_us": seconds and (1e6 * seconds[0], 1e6 * seconds[1]),
                "latency_predicted_us": None if predicted is None else 1e6 * predicted,
            }
            layer = layer.model_copy(update=micros)
        rows.append(layer)
    return rows


def pack_table(table: LatencyTable) -> dict[str, Any]:
    """The table for JSON."""
    candidates = {name: [pack_candidate(c) for c in ways] for name, ways in table.candidates.items()}
    together = {"pruning": table.together.pruning, "groups": dict(table.together.groups)}
    return {**vars(table), "candidates": candidates, "together": together}


def unpack_table(packed: Mapping[str, Any]) -> LatencyTable:
    """What `pack_table` has packed."""
    candidates = {name: [Candidate(*fields) for fields in ways] for name, ways in packed["candidates"].items()}
    groups = {first: tuple(names) for first, names in packed["together"]["groups"].items()}
    together = SharedChannels(packed["together"]["pruning"], groups)
    return LatencyTable(**{**packed, "candidates": candidates, "together": together})
