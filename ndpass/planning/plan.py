"""From sites to a plan: the candidates of every layer, what their errors cost at the outputs, and the choice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.listener import Listener, Step, shares, tell
from ndpass.passes import Pass
from ndpass.planning.candidate import Budget, Candidate, CandidateStore, Choice
from ndpass.planning.candidates import candidates_for, channel_group
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.choose import choose, choose_local
from ndpass.planning.sensitivity import slopes_of, weighed
from ndpass.planning.threads import blas_threads, side_by_side
from ndpass.planning.work import planning_work


@dataclass(frozen=True)
class Planner:
    """Plans for one graph, which stays as it is.

    calibration: None plans on the weights alone. most: passes that are composed in a layer, at most; None: all.
    jobs: layers that are planned side by side. store: where the candidates of each layer are kept as they come.
    """

    graph: Graph
    passes: Sequence[Pass]
    calibration: Calibration | None
    most: int | None = None
    jobs: int = 1
    store: CandidateStore | None = None

    def plan(self, sites: Sequence[Site], budget: Budget, listen: Listener) -> dict[str, Choice]:
        """A choice for every site. Raises BudgetError where none meets the budget."""
        fronts = Coupling(self.graph, sites, self.passes).fronts
        return choose(self.weighed(sites, self.candidates(sites, listen), listen), budget, self.graph.macs(), fronts)

    def candidates(self, sites: Sequence[Site], listen: Listener) -> dict[str, list[Candidate]]:
        """Site name -> its candidates, with data on the activations of the network as it is now."""
        frontier = self.calibration.frontier(self.graph) if self.calibration else None

        def tasks() -> Iterator[tuple[str, Callable[[], list[Candidate]]]]:
            behind: list[Site] = []  # layers that are known and that the frontier has not gone through
            done = shares([planning_work(site) for site in sites])
            for i, site in enumerate(sites):
                tell(listen, Step("planning", i, len(sites), site.name, done[i]))
                known = self.store.load_candidates(site.name) if self.store else None
                if known is not None:
                    behind.append(site)
                    yield site.name, partial(list, known)
                    continue
                while frontier is not None and behind:  # the same segments as without a break, so the same bits
                    deque(frontier.advance(behind.pop(0)), maxlen=0)
                moments = self.calibration.moments(site, frontier) if self.calibration and frontier else None
                group = channel_group(self.graph, site, self.passes)
                yield site.name, partial(self._candidates, site, moments, group)

        return side_by_side(tasks(), self.jobs)

    def _candidates(self, site: Site, moments: Moments | None, group: Group | str) -> list[Candidate]:
        most = len(self.passes) if self.most is None else self.most
        with blas_threads(site) if self.jobs == 1 else nullcontext():
            fitted = candidates_for(site, self.passes, moments, group, most)
        found = [replace(c, block=None) for c in fitted]  # layers before it change before it is written
        if self.store:
            self.store.save_candidates(site.name, found)
        return found

    def weighed(
        self, sites: Sequence[Site], found: Mapping[str, Sequence[Candidate]], listen: Listener
    ) -> dict[str, list[Candidate]]:
        """The candidates with what their errors do to the outputs, where there are data to tell."""
        if self.calibration is None:
            return {name: list(ways) for name, ways in found.items()}
        return weighed(found, slopes_of(self.calibration, self.graph, sites, self.passes, listen))


def local_choices(
    site: Site, passes: Sequence[Pass], moments: Moments | None, group: Group | str, budget: Budget
) -> Iterator[Choice]:
    """What the budget makes of one layer by itself, best first: the next one is for when a fit misses its estimate.

    budget: energy or pinned settings. The last choice is the layer as it is.
    """
    with blas_threads(site):
        found = candidates_for(site, passes, moments, group)
    while True:
        choice = choose_local(found, budget)
        yield choice
        if not choice.candidate.setting:
            return
        found = [c for c in found if c is not choice.candidate]
