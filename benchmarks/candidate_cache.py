"""What the layers of a model could become, computed once for all passes: every pipeline chooses among its own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ndpass.calibration.reference import Calibration
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate
from ndpass.planning.plan import Planner
from ndpass.planning.sensitivity import Slopes, slopes_of, weighed


class Ways:
    """The candidates of every site and what their errors cost, on the original's own activations.

    graph: of the original, and stays as it is. kept: the file that candidates are read from, or written to where it is
    not there yet.
    """

    def __init__(self, graph: Graph, sites: Sequence[Site], passes: str, calibration: Calibration, kept: Path) -> None:
        self.graph, self.sites, self.passes, self.calibration = graph, sites, passes, calibration
        self._slopes: dict[bool, Slopes] = {}
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(self._computed()), encoding="utf-8")
        known = json.loads(kept.read_text(encoding="utf-8"))
        self.candidates = {name: [Candidate(*c) for c in ways] for name, ways in known.items()}

    def of(self, sites: Sequence[Site], pipeline: str, *, alike: bool = False) -> dict[str, list[Candidate]]:
        """Those of the pipeline's passes, with their damage; alike: an error costs the same in every layer."""
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
        return {name: [[c.macs, c.error, c.setting] for c in ways] for name, ways in found.items()}
