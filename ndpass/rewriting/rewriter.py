"""Rewrite layer after layer, each fitted to the network as rewritten so far; the rows of the report."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.collect import Frontier
from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.conv import Block, Conv
from ndpass.errors import VerificationError
from ndpass.graph.channel_groups import Group, Member
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Found, Graph, Site, Skipped
from ndpass.listener import Listener, Step, shares, tell
from ndpass.passes import Pass, Pruning, Setting
from ndpass.passes.base import block_error
from ndpass.passes.compose import compose
from ndpass.passes.pruning import Reader
from ndpass.planning.blocks import is_refittable
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.planning.candidates import channel_group, refused, split
from ndpass.planning.plan import local_choices
from ndpass.planning.threads import blas_threads
from ndpass.planning.work import fitting_work
from ndpass.report import Layer
from ndpass.rewriting.blocks import Blocks
from ndpass.rewriting.checkpoint import Checkpoint, Record
from ndpass.rewriting.relu_refit import asking, linear, refitted, unsuited
from ndpass.rewriting.rows import done, left_alone

log = logging.getLogger(__name__)


class Rewriter:
    """Rewrites the sites of a graph as a plan says.

    calibration: the data that layers are fitted to; None fits to the weights alone. checkpoint: where finished layers
    are kept.
    """

    def __init__(
        self,
        graph: Graph,
        passes: Sequence[Pass],
        calibration: Calibration | None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.graph, self.passes, self.calibration, self.checkpoint = graph, passes, calibration, checkpoint
        self._blocks = Blocks(calibration, {}, {})

    def rewrite(
        self,
        found: Sequence[Found],
        sites: Sequence[Site],
        plan: Mapping[str, Choice] | Budget,
        listen: Listener,
        activations: Graph | None = None,
    ) -> list[Layer]:
        """Rewrite the graph in place and give a row for everything in `found`; only `sites` are rewritten.

        plan: the choice for every site, or a budget of each layer by itself (energy, pinned), which chooses for a layer
        when its turn comes, on the network as rewritten so far. activations: the network whose activations layers are
        fitted to; left out, the one that is being rewritten.
        """
        frontier = self.calibration.frontier(activations or self.graph) if self.calibration else None
        names = {site.name for site in sites}
        self._blocks = Blocks.of(self.graph, self.passes, names, self.calibration)
        rows = []
        behind = shares([self._work(one, names, plan) for one in found])
        for i, one in enumerate(found):
            tell(listen, Step("rewriting", i, len(found), one.name, behind[i]))
            if not isinstance(one, Site) or one.name not in names:
                rows.append(self._kept(i, one, left_alone(one, "skipped", self._why_skipped(one)), frontier))
            elif (row := self._merged(i, one, plan, frontier)) is not None:
                rows.append(row)
            else:
                rows.append(self._one(i, one, plan if isinstance(plan, Budget) else plan[one.name], frontier))
        return self._recount(rows)

    def _work(self, found: Found, names: Collection[str], plan: Mapping[str, Choice] | Budget) -> float:
        if not isinstance(found, Site) or found.name not in names:
            return 0.0
        return fitting_work(found, isinstance(plan, Budget) or bool(plan[found.name].candidate.setting))

    def _why_skipped(self, found: Found) -> str:
        if isinstance(found, Skipped):
            return found.reason
        return refused(self.graph, found, self.passes, self.calibration is not None) or ""

    def _recount(self, rows: list[Layer]) -> list[Layer]:
        """The rows with the MACs of the graph as it is: a pruned layer also makes those before it cheaper."""
        now = self.graph.macs_by([row.name for row in rows if row.macs])
        return [row.model_copy(update={"macs": (row.macs[0], now[row.name])}) if row.macs else row for row in rows]

    def _merged(
        self, number: int, site: Site, plan: Mapping[str, Choice] | Budget, frontier: Frontier | None
    ) -> Layer | None:
        """The row of a layer whose block becomes one convolution, which it does at its first layer; None of others."""
        block = self._blocks.by_first.get(site.name)
        if block is not None and frontier is not None:
            record = self.checkpoint.load(number) if self.checkpoint else None
            if record is None:
                record = self._blocks.decide(block, plan, frontier)
                if record is not None and self.checkpoint:
                    self.checkpoint.save(number, record)
            elif record.row.name == block.branch.last:
                deque(frontier.advance(site), maxlen=0)  # through the same segments as in the run that was cut off
            if record is not None and record.block is not None and record.row.name == block.branch.last:
                self.graph.merge(block.branch, record.block)
                self._blocks.note(block, record.row)
        return self._blocks.rows.get(site.name)

    def _one(self, number: int, site: Site, plan: Choice | Budget, frontier: Frontier | None) -> Layer:
        """One layer: as the checkpoint has it if it was done before, else decided now and noted there."""
        record = self.checkpoint.load(number) if self.checkpoint else None
        if record is None:
            record = self._decide(site, plan, frontier)
            if self.checkpoint:
                self.checkpoint.save(number, record)
        elif record.looked and frontier is not None:
            for _ in frontier.advance(site):  # through the same segments as in the run that was cut off
                pass
        self._apply(site, record, frontier)
        return record.row

    def _decide(self, site: Site, plan: Choice | Budget, frontier: Frontier | None) -> Record:
        """What becomes of the layer; without a look at the data where the plan keeps it."""
        if isinstance(plan, Choice) and not plan.candidate.setting:
            row = left_alone(site, plan.status, plan.reason)
            return self._refitted(site, row, frontier) or Record(row, looked=False)
        moments = self._moments(site, frontier)
        if isinstance(plan, Choice):
            return self._for_relu(site, self._build(site, plan.candidate, moments), moments, frontier)
        for choice in local_choices(site, self.passes, moments, channel_group(self.graph, site, self.passes), plan):
            if not choice.candidate.setting:
                break
            record = self._build(site, choice.candidate, moments)
            if plan.allows(record.row.error_measured or 0.0):  # what was chosen by may be an estimate, and too low
                return self._for_relu(site, record, moments, frontier)
        return Record(left_alone(site, "kept", choice.reason), looked=True)

    def _kept(self, number: int, found: Found, row: Layer, frontier: Frontier | None) -> Layer:
        """The row of a layer that no pass rewrites."""
        record = self.checkpoint.load(number) if self.checkpoint else None
        if isinstance(found, Site) and record is None:
            record = self._refitted(found, row, frontier)
            if record is not None and self.checkpoint:
                self.checkpoint.save(number, record)
        elif isinstance(found, Site) and frontier is not None:
            deque(frontier.advance(found), maxlen=0)
        if not isinstance(found, Site) or record is None:
            return row
        self._apply(found, record, frontier)
        return record.row

    def _refitted(self, site: Site, row: Layer, frontier: Frontier | None) -> Record | None:
        """A layer that stays as it is, fitted anew where blocks before it have been merged."""
        if frontier is None or not self._blocks.rows or not is_refittable(site):
            return None
        return self._blocks.refitted(site, row, frontier)

    def _moments(self, site: Site, frontier: Frontier | None) -> Moments | None:
        """None without data, and of grouped layers, which are here only as a part of a block."""
        if frontier is None or self.calibration is None or site.outline.group > 1:
            return None
        return self.calibration.moments(site, frontier)

    def _build(self, site: Site, candidate: Candidate, moments: Moments | None) -> Record:
        """The layer written as the candidate says, fitted."""
        rules, pruning = split(self.passes)
        conv, settings, channels = site.conv, candidate.setting, None
        if candidate.block is not None:
            return Record(done(site, candidate, _macs(site, candidate.block), candidate.error), True, candidate.block)
        with blas_threads(site):
            if pruning is not None and pruning.name in settings:
                conv, moments, channels = self._prune(site, conv, pruning, settings[pruning.name], moments)
            block = compose(rules, conv, settings, moments)
        row = done(site, candidate, _macs(site, block), block_error(conv, block, moments))
        return Record(row, True, block, channels)

    def _prune(
        self, site: Site, conv: Conv, pruning: Pruning, setting: Setting, moments: Moments | None
    ) -> tuple[Conv, Moments | None, Labels]:
        """The layer on the channels that stay, refitted, its moments, and those channels of its group."""
        consumer, group = self._consumer(site)
        channels = group.filled(pruning.select([Reader(conv.weight, moments, consumer.channels)], setting))
        inputs = consumer.kept(channels)
        smaller = pruning.refit(conv, inputs, moments)
        left = None if moments is None else moments.keep(_columns(conv, inputs), smaller.matrix.astype(np.float64))
        return smaller, left, channels

    def _for_relu(self, site: Site, record: Record, moments: Moments | None, frontier: Frontier | None) -> Record:
        """The layer fitted for the ReLU behind it where a pass asks for that, or with the reason why not."""
        rule, calibration = asking(self.passes, record.row.setting), self.calibration
        if rule is None:
            return record
        why = unsuited(rule, self.passes, self.graph.behind(site), record, moments is not None)
        if why is not None or moments is None or frontier is None or calibration is None:
            return linear(record, rule, why or "")
        conv, own, columns, pruning = site.conv, moments, None, split(self.passes)[1]
        with blas_threads(site):
            if record.channels is not None and pruning is not None:
                inputs = self._consumer(site)[0].kept(record.channels)
                conv, columns = pruning.refit(conv, inputs, moments), _columns(conv, inputs)
                own = moments.keep(columns, conv.matrix.astype(np.float64))
            return refitted(record, rule, conv, own, lambda: calibration.rows(site, frontier, own.best, columns))

    def _consumer(self, site: Site) -> tuple[Member, Group]:
        group = self.graph.channel_group(site)
        if isinstance(group, str):
            raise VerificationError(f"layer '{site.name}' could be pruned when it was planned, now: {group}")
        return group.consumers[0], group

    def _apply(self, site: Site, record: Record, frontier: Frontier | None) -> None:
        """Put the decision into the graph; channels go first, where they are made and from what is stored of them."""
        if record.channels is not None:
            consumer, group = self._consumer(site)
            x, axis = self.graph.input_of(site), 1 if site.outline.kernel else -1
            self.graph.keep_channels(group, record.channels)
            if frontier is not None:
                frontier.prune(x, axis, consumer.kept(record.channels), [span.tensor.name for span in group.spans])
        if record.block is not None:
            self.graph.splice(site, record.block)


def _columns(conv: Conv, inputs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which elements of a patch belong to these input channels."""
    return (inputs[:, None] * conv.kernel_size + np.arange(conv.kernel_size)).reshape(-1)


def _macs(site: Site, block: Block) -> int:
    macs = site.macs(block)
    assert macs is not None
    return macs
