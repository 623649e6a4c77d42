"""Budgets in milliseconds or in the metric: candidates are priced, plans searched, fitted and measured.

`pricing` times the candidates, `search` chooses and times in place, `bisection` asks for more or less, `rewriting`
fits; here they come together, and what a run that is cut off needs to go on is kept: the table, each plan as it was
timed, and each fit's measured drop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ndpass.calibration.reference import Calibration
from ndpass.graph.graph import Found, Graph, Site
from ndpass.listener import Listener
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.evaluate import Evaluation
from ndpass.measuring.target import Target
from ndpass.passes import Pass
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.planning.candidates import block_of, channel_group
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.drop_search import MOST_FITS, Fit, within_drop
from ndpass.planning.latency_table import Settled, Table, priced
from ndpass.planning.plan import Planner
from ndpass.planning.timed_search import Search
from ndpass.report import Layer
from ndpass.rewriting.checkpoint import Checkpoint, pack_candidate, pack_plan, unpack_plan
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run.judge import drop_of

log = logging.getLogger(__name__)


MOST_COMPOSED = 2  # passes in a layer: three are seldom chosen, and each candidate has to be timed

Rewritten = tuple[Graph, list[Layer]]


@dataclass
class Tuner:
    """What is known when planning begins.

    fresh: the graph before any rewriting and all that was found in it; names: the sites that may be rewritten;
    measure: the rewritten graph beside the original, on the validation data; cache: folder of remembered latencies.
    """

    fresh: Callable[[], tuple[Graph, Sequence[Found]]]
    names: Sequence[str]
    passes: Sequence[Pass]
    budget: Budget
    target: Target
    cache: Path | None
    calibration: Calibration | None
    checkpoint: Checkpoint | None
    measure: Callable[[Graph], Evaluation]
    listen: Listener
    jobs: int = 1
    warnings: list[str] = field(default_factory=list)

    def run(self) -> Rewritten:
        """The graph within the budget, its latency measured in place. Raises BudgetError where there is none."""
        search = self._search()
        if self.budget.kind == "speedup":
            assert self.budget.value is not None
            wanted = self.budget.value
            settled = self._kept(search, 0, lambda: search.for_speedup(wanted))
            return self._with_latencies(self._build(settled.plan, 0, "rewriting"), settled, search)
        limit, start = self.budget.value or 0.0, time.perf_counter()

        def settle(damage: float, number: int) -> Settled:
            return self._kept(search, number, lambda: search.fastest(damage))

        def fit(settled: Settled, number: int) -> tuple[float, Callable[[], Rewritten]]:
            left = (time.perf_counter() - start) / number * (MOST_FITS - number) if number else 0.0
            stage = f"fit {number + 1} of at most {MOST_FITS}" + (f", at most {_minutes(left)} left" if left else "")
            return self._fit(settled, number, stage)

        best: Fit[Callable[[], Rewritten]] = within_drop(search, limit, settle, fit, self.budget.speedup or 1.0)
        return self._with_latencies(best.result(), best.settled, search)

    def _search(self) -> Search:
        """The candidates' errors, slopes and seconds; as the checkpoint has them if it does."""
        known = self.checkpoint.read("table.json") if self.checkpoint else None
        graph, _, sites = self._opened()
        coupling = Coupling(graph, sites, self.passes)
        if known is None:
            planner = Planner(graph, self.passes, self.calibration, MOST_COMPOSED, self.jobs)
            found = planner.weighed(sites, planner.candidates(sites, self.listen))
            groups = {site.name: channel_group(graph, site, self.passes) for site in sites}
            latencies = Latencies(self.target, self.cache)
            table = priced(
                graph,
                sites,
                found,
                lambda s, c: block_of(s, self.passes, c.setting, groups[s.name]),
                self.target,
                latencies,
                lambda i, n: self.listen("timing", i, n),
            )
            if latencies.noisy:
                self._warn(f"the machine is too noisy to tell latencies 3 % apart (spread {latencies.spread:.1%})")
            known = _packed(table)
            if self.checkpoint:
                self.checkpoint.write("table.json", known)
        table = _table(known)
        return Search(lambda: self.fresh()[0], self.passes, table, self.target, fronts=coupling.fronts)

    def _warn(self, text: str) -> None:
        log.warning(text)
        self.warnings.append(text)

    def _opened(self) -> tuple[Graph, Sequence[Found], list[Site]]:
        """The graph before any rewriting, all that was found in it, and what of that may be rewritten."""
        graph, found = self.fresh()
        return graph, found, [f for f in found if isinstance(f, Site) and f.name in self.names]

    def _part(self, number: int) -> Checkpoint | None:
        """Where the plan with this number and its fit are kept."""
        return self.checkpoint.part(f"fit{number}") if self.checkpoint else None

    def _kept(self, search: Search, number: int, settle: Callable[[], Settled]) -> Settled:
        """A plan as timed in place, now or before the run was cut off; the table with what was learnt from it."""
        part = self._part(number)
        known = part.read("settled.json") if part else None
        if known is None:
            self.listen("timing plans", number, MOST_FITS)
            settled = settle()
            if part:
                part.write(
                    "settled.json",
                    {
                        **asdict(settled),
                        "plan": pack_plan(settled.plan),
                        "table": _packed(search.table),
                        "reverted": search.reverted,
                    },
                )
            return settled
        search.table, search.reverted = _table(known["table"]), known["reverted"]
        return Settled(
            unpack_plan(known["plan"]), known["speedups"], known["seconds"], known["in_place"], known["damage"]
        )

    def _fit(self, settled: Settled, number: int, stage: str) -> tuple[float, Callable[[], Rewritten]]:
        """The plan fitted, its drop in points, and how to come by the graph again."""
        part = self._part(number)
        known = part.read("drop.json") if part else None
        if known is not None:
            return float(known), lambda: self._build(settled.plan, number, stage)
        graph, layers = self._build(settled.plan, number, stage)
        drop = drop_of(self.measure(graph))
        if part:
            part.write("drop.json", drop)
        return drop, lambda: (graph, layers)

    def _build(self, plan: Mapping[str, Choice], number: int, stage: str) -> Rewritten:
        graph, found, sites = self._opened()
        rewriter = Rewriter(graph, self.passes, self.calibration, self._part(number))
        layers = rewriter.rewrite(found, sites, plan, lambda _, i, n: self.listen(stage, i, n))
        graph.tidy()
        return graph, layers

    def _with_latencies(self, rewritten: Rewritten, settled: Settled, search: Search) -> Rewritten:
        """The rows with microseconds in place, before and after."""
        graph, layers = rewritten
        before = search.table.in_place
        return graph, [
            layer.model_copy(update={"latency_us": (1e6 * before[layer.name], 1e6 * settled.in_place[layer.name])})
            if layer.name in before
            else layer
            for layer in layers
        ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _packed(table: Table) -> dict[str, Any]:
    candidates = {name: [pack_candidate(c) for c in ways] for name, ways in table.candidates.items()}
    return {"candidates": candidates, "whole": table.whole, "in_place": table.in_place}


def _table(packed: Mapping[str, Any]) -> Table:
    candidates = {name: [Candidate(*fields) for fields in ways] for name, ways in packed["candidates"].items()}
    return Table(candidates, packed["whole"], packed["in_place"])
