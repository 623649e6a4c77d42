"""What the layers of a model could become, computed once for all passes: every pipeline chooses among its own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ndpass.calibration.feeds import Feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Budget, Candidate, Choice, damage
from ndpass.planning.candidates import refused
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.choose import choose
from ndpass.planning.plan import Planner
from ndpass.planning.sensitivity import Slopes, slopes_of, weighed

MEMORY = 1 << 30  # bytes of activations that calibration may keep
STEPS = 200  # resolution of a share of the MACs that is searched: 1 / STEPS


class CandidateCache:
    """The candidates of every site and what their errors cost, on the original's own activations.

    graph: of the original, and stays as it is. sites: those that one of `passes` takes. kept: the file that candidates
    are read from, or written to where it is not there yet.
    """

    def __init__(self, graph: Graph, sites: Sequence[Site], passes: str, calibration: Calibration, kept: Path) -> None:
        self.graph, self.sites, self.passes, self.calibration = graph, sites, passes, calibration
        self._slopes: dict[bool, Slopes] = {}
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(self._computed()), encoding="utf-8")
        known = json.loads(kept.read_text(encoding="utf-8"))
        self.candidates = {name: [Candidate(*c) for c in own] for name, own in known.items()}

    def plan(
        self, graph: Graph, sites: Sequence[Site], pipeline: str, budget: Mapping[str, float], *, alike: bool = False
    ) -> dict[str, Choice]:
        """The pipeline's plan for a budget, which is {"macs": share of the model's MACs left} or {"damage": the most}.

        With `damage` it is the plan of the fewest MACs, to one part in STEPS of the model's. graph, sites: what is
        going to be rewritten. Raises BudgetError for a share of the MACs that no plan reaches.
        """
        own, total = self.of(sites, pipeline, alike=alike), self.graph.macs()
        fronts = Coupling(graph, sites, parse(pipeline)).fronts

        def at(share: float) -> dict[str, Choice]:
            return choose(own, Budget("macs", share), total, fronts)

        if "macs" in budget:
            return at(budget["macs"])
        low, high, best = 0, STEPS, None
        while high - low > 1:
            middle = (low + high) // 2
            try:
                plan = at(middle / STEPS)
                done = damage(plan)
            except BudgetError:
                done = math.inf
            if done <= budget["damage"]:
                high, best = middle, plan
            else:
                low = middle
        return best if best is not None else at(1.0)

    def of(self, sites: Sequence[Site], pipeline: str, *, alike: bool = False) -> dict[str, list[Candidate]]:
        """The candidates of the pipeline's passes, with their damage; alike: an error costs the same in every layer."""
        names = set(pipeline.split(","))
        own = {s.name: [c for c in self.candidates[s.name] if set(c.setting) <= names] for s in sites}
        return own if alike else weighed(own, self._slopes_of(pipeline))

    def _slopes_of(self, pipeline: str) -> Slopes:
        """More is probed where cp is in the pipeline."""
        pruning = "cp" in pipeline.split(",")
        if pruning not in self._slopes:
            self._slopes[pruning] = slopes_of(self.calibration, self.graph, self.sites, parse(pipeline))
        return self._slopes[pruning]

    def _computed(self) -> dict[str, list[list[object]]]:
        start = time.perf_counter()
        planner = Planner(self.graph, parse(self.passes), self.calibration)
        found = planner.candidates(self.sites, lambda stage, i, n: print(f"  {stage} {i}/{n}", flush=True))
        print(f"  candidates in {time.perf_counter() - start:.0f} s", flush=True)
        return {name: [[c.macs, c.error, c.setting] for c in own] for name, own in found.items()}


def sites_of(graph: Graph, passes: str) -> list[Site]:
    """The layers that at least one of the passes takes."""
    rules = parse(passes)
    return [site for site in graph.sites() if isinstance(site, Site) and refused(graph, site, rules, True) is None]


def calibrated(graph: Graph, sites: Sequence[Site], feeds: Feeds, threads: int | None, seed: int = 0) -> Calibration:
    """The original's activations on these data."""
    return Calibration.of(graph, sites, feeds, threads, seed, MEMORY)
