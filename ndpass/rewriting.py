"""Rewrite layer after layer, each fitted to the network as rewritten so far; the rows of the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from ndpass.calibration.collect import Data, Frontier, collect, references, samples
from ndpass.calibration.feeds import Feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample
from ndpass.candidates import ways, why_not
from ndpass.conv import Array, Block
from ndpass.errors import VerificationError
from ndpass.graph import Found, Graph, Site, Skipped
from ndpass.passes import Decomposition
from ndpass.passes.base import block_error
from ndpass.passes.compose import compose
from ndpass.planner import Budget, Candidate, Choice, choose, choose_local
from ndpass.report import Layer
from ndpass.runtime import static_batch

log = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]  # stage, steps done, steps in all

MOST_UNKNOWNS = 8_192  # elements of a patch; the moments of more would take over half a gigabyte


@dataclass
class Calibration:
    """The data and the original's responses at the sampled positions of every site that can be fitted."""

    data: Data
    memory: int
    chosen: Mapping[str, Sample]
    responses: Mapping[str, Array]

    @classmethod
    def of(
        cls, graph: Graph, sites: Sequence[Site], feeds: Feeds, threads: int | None, seed: int, memory: int
    ) -> Calibration:
        batch = static_batch(graph.inputs())
        data = Data.of(feeds, batch.size if batch else None, threads, seed)
        chosen = samples(graph, sites, data)
        return cls(data, memory, chosen, references(graph, sites, chosen, data))

    def frontier(self, graph: Graph) -> Frontier:
        return Frontier(graph, self.data, self.memory)

    def moments(self, site: Site, frontier: Frontier) -> Moments:
        return collect(site, frontier, self.chosen[site.name], self.responses[site.name])


def refused(site: Site, passes: Sequence[Decomposition], calibrated: bool) -> str | None:
    """Why the site is left alone whatever the budget, or None."""
    reason = why_not(site, passes)
    n = site.outline.n_i * site.outline.kernel_size
    if reason is None and calibrated and n > MOST_UNKNOWNS:
        return f"patches of {n} elements: their moments would take {8 * n * n / 1e9:.1f} GB"
    return reason


class Rewriter:
    """Chooses and rewrites the sites of a graph; `plan` looks at all layers first where the budget needs it."""

    def __init__(
        self, graph: Graph, passes: Sequence[Decomposition], budget: Budget, calibration: Calibration | None
    ) -> None:
        self.graph, self.passes, self.budget, self.calibration = graph, passes, budget, calibration
        self.total = graph.macs()

    def plan(self, sites: Sequence[Site], listen: Listener) -> dict[str, Choice] | None:
        """The choice for every site where the budget is shared between layers or no data are needed, else None."""
        if self.calibration is not None and self.budget.kind != "macs":
            return None
        frontier = self.calibration.frontier(self.graph) if self.calibration else None
        found: dict[str, list[Candidate]] = {}
        for i, site in enumerate(sites):
            listen("planning", i, len(sites))
            found[site.name] = ways(site, self.passes, self._moments(site, frontier))
        return choose(found, self.budget, self.total)

    def _moments(self, site: Site, frontier: Frontier | None) -> Moments | None:
        return None if frontier is None or self.calibration is None else self.calibration.moments(site, frontier)

    def rewrite(
        self, found: Sequence[Found], sites: Sequence[Site], plan: Mapping[str, Choice] | None, listen: Listener
    ) -> list[Layer]:
        """Rewrite the graph in place and give a row for everything in `found`; only `sites` are rewritten."""
        frontier = self.calibration.frontier(self.graph) if self.calibration else None
        names = {site.name for site in sites}
        rows = []
        for i, one in enumerate(found):
            listen("rewriting", i, len(found))
            if not isinstance(one, Site) or one.name not in names:
                reason = one.reason if isinstance(one, Skipped) else refused(one, self.passes, frontier is not None)
                rows.append(left_alone(one, "skipped", reason or ""))
            else:
                rows.append(self._one(one, plan[one.name] if plan is not None else None, frontier))
        return rows

    def _one(self, site: Site, choice: Choice | None, frontier: Frontier | None) -> Layer:
        """One layer: kept without a look at the data where the plan says so."""
        if choice is not None and not choice.candidate.setting:
            return left_alone(site, "kept", choice.reason)
        moments = self._moments(site, frontier)
        if choice is None:
            choice = choose_local(ways(site, self.passes, moments), self.budget)
            if not choice.candidate.setting:
                return left_alone(site, "kept", choice.reason)
        conv = site.conv
        block = compose(self.passes, conv, choice.candidate.setting, moments)
        self.graph.splice(site, block)
        return _done(site, choice.candidate, block, block_error(conv, block, moments))


def _done(site: Site, candidate: Candidate, block: Block, error: float) -> Layer:
    before, after = site.macs(site.outline), site.macs(block)
    if before is None or after != candidate.macs:
        raise VerificationError(f"layer '{site.name}' takes {after} MACs, {candidate.macs} were promised")
    setting: dict[str, dict[str, JsonValue]] = {n: dict(options) for n, options in candidate.setting.items()}
    log.info("%s: %s, %d of %d MACs, error %.4f", site.name, setting, after, before, error)
    return Layer(
        name=site.name,
        op=site.op,
        shape=_shape_text(site.outline.weight.shape),
        status="done",
        setting=setting,
        macs=(before, after),
        error_predicted=candidate.error,
        error_measured=error,
    )


def left_alone(found: Found, status: str, reason: str) -> Layer:
    """The row of a layer that stays as it is."""
    site = found.skipped(reason) if isinstance(found, Site) else found
    return Layer(
        name=site.name,
        op=site.op,
        shape=_shape_text(site.shape),
        status="kept" if status == "kept" else "skipped",
        reason=reason,
        macs=None if site.macs is None else (site.macs, site.macs),
    )


def _shape_text(shape: Sequence[int] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape))
