"""Residual blocks that become one convolution while the layers around them are rewritten one after the other."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndpass.calibration.checks import ENOUGH
from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.calibration.walk import Walk
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Pass
from ndpass.planning.block_candidates import candidates_of
from ndpass.planning.blocks import Mergeable, mergeable
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.planning.choose import choose_local
from ndpass.planning.threads import blas_threads
from ndpass.report import Layer
from ndpass.rewriting.checkpoint import Record
from ndpass.rewriting.rows import done, left_alone

REFITTED = "refitted behind merged blocks"
SHIFTED = "its bias refitted behind what was rewritten"
FITTED = "refitted behind what was rewritten"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a graph that is being rewritten.

    by_first: name of a block's first layer -> the block; sites: all layers as they were before; rows: of the layers of
    the blocks that have been merged, by name.
    """

    calibration: Calibration | None
    by_first: Mapping[str, Mergeable]
    sites: Mapping[str, Site]
    rows: dict[str, Layer] = field(default_factory=dict)

    @classmethod
    def of(
        cls, graph: Graph, passes: Sequence[Pass], names: Collection[str], calibration: Calibration | None
    ) -> Blocks:
        every = mergeable(graph, passes, names, calibration is not None).values()
        found = [one for one in every if calibration and one.branch.name in calibration.responses]
        sites = {site.name: site for site in graph.sites() if isinstance(site, Site)} if found else {}
        return cls(calibration, {block.branch.first: block for block in found}, sites)

    def decide(self, block: Mergeable, plan: Mapping[str, Choice] | Budget, walk: Walk) -> Record | None:
        """The block as one convolution, where the plan or the budget of each block by itself says so."""
        first, last = self.sites[block.branch.first], block.branch.last
        if not isinstance(plan, Budget) and not block.merged(plan[last].candidate):
            return None
        assert self.calibration is not None
        moments = walk.block_moments(block.branch, first)
        with blas_threads(first):
            chosen = plan[last].candidate if not isinstance(plan, Budget) else _local(block, moments, plan)
            return self._fitted(block, chosen, moments) if block.merged(chosen) else None

    def touching(self, group: Group) -> str | None:
        """A layer that makes or reads these channels in a block that may be merged, None where there is none."""
        inside = {layer for block in self.by_first.values() for layer in block.branch.layers}
        names = (*group.readers, *(str(member.node.name) for member in group.producers))
        return next((name for name in names if name in inside), None)

    def refitted(self, site: Site, row: Layer, walk: Walk) -> Record | None:
        """A layer that stays as it is, fitted anew to the original behind what has been changed before it.

        It costs nothing. The last layer of a block that is not merged makes up for the shortcut, as a merged one does.
        Where nothing has changed before it, it stays as it is; where no block has been merged and the data are few,
        its weights do, and the bias alone gives it back the original's mean.
        """
        assert self.calibration is not None
        if site.name not in self.calibration.responses:
            return None
        block = next((b.branch for b in self.by_first.values() if b.branch.last == site.name), None)
        if block is None:
            moments = walk.moments(site)
        else:
            alone = replace(block, outline=site.outline, load=site.load)
            moments = walk.block_moments(alone, site)
        if moments.is_undrifted:
            return Record(row, True)
        whole = bool(self.rows) or moments.count >= ENOUGH * site.outline.unknowns
        with blas_threads(site):
            conv = site.conv
            kernel = moments.best if whole else conv.matrix
            conv = replace(conv, weight=kernel.reshape(conv.weight.shape), bias=moments.bias(kernel))
        told = REFITTED if self.rows else FITTED if whole else SHIFTED
        note = row.model_copy(update={"reason": "; ".join(filter(None, (row.reason, told)))})
        return Record(note, True, conv)

    def _fitted(self, block: Mergeable, candidate: Candidate, moments: Moments) -> Record:
        """The row is that of the last layer, in whose name the block goes on."""
        made, error = block.fitted(candidate, moments)
        row = done(self.sites[block.branch.last], candidate, block.branch.cost(made), error)
        return Record(row, True, made)

    def note(self, block: Mergeable, row: Layer) -> None:
        """The block has been merged; row: of its last layer."""
        macs = row.macs[1] if row.macs else 0
        for layer in block.branch.layers[:-1]:
            self.rows[layer] = left_alone(self.sites[layer], "done", block.gone(macs))
        layers = ", ".join(block.branch.layers)
        text = f"stands for {layers}" if macs else f"the branch of {layers} is dropped, its mean stays"
        self.rows[block.branch.last] = row.model_copy(update={"reason": text})


def _local(block: Mergeable, moments: Moments, budget: Budget) -> Candidate:
    """What the budget makes of the block by itself."""
    return choose_local([Candidate(block.branch.macs), *candidates_of(block, moments)], budget).candidate
