"""Rewrite layer after layer, each fitted to the network as rewritten so far; the rows of the report."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.calibration.walk import Edit, Walk
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
from ndpass.planning.blocks import changed, is_refittable, last_kept
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.planning.candidates import is_fitted, refused
from ndpass.planning.channel_savings import with_outputs
from ndpass.planning.pass_kinds import split
from ndpass.planning.plan import local_choices
from ndpass.planning.shared_channels import INSIDE, LEFT, fitted_together
from ndpass.planning.threads import blas_threads
from ndpass.planning.work import fitting_work
from ndpass.report import Layer
from ndpass.rewriting.blocks import Blocks
from ndpass.rewriting.checkpoint import Checkpoint, Record
from ndpass.rewriting.lost_channels import LostChannels, columns, on_inputs, readers_after
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
        self._names: set[str] = set()
        self._last: set[str] = set()
        self._lost = LostChannels(graph)

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
        walk = self.calibration.walk(activations or self.graph) if self.calibration else None
        names = self._names = {site.name for site in sites}
        self._blocks = Blocks.of(self.graph, self.passes, names, self.calibration)
        self._last = last_kept(self.graph, found, changed(plan, names))
        rows = []
        behind = shares([self._work(one, names, plan) for one in found])
        for i, one in enumerate(found):
            tell(listen, Step("rewriting", i, len(found), one.name, behind[i]))
            if not isinstance(one, Site) or one.name not in names:
                rows.append(self._kept(i, one, left_alone(one, "skipped", self._why_skipped(one)), walk))
            elif (row := self._merged(i, one, plan, walk)) is not None:
                rows.append(row)
            else:
                rows.append(self._one(i, one, plan if isinstance(plan, Budget) else plan[one.name], walk))
            self._lost.behind.add(one.name)
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

    def _merged(self, number: int, site: Site, plan: Mapping[str, Choice] | Budget, walk: Walk | None) -> Layer | None:
        """The row of a layer whose block becomes one convolution, which it does at its first layer; None of others."""
        block = self._blocks.by_first.get(site.name)
        if block is not None and walk is not None:
            record = self.checkpoint.load(number) if self.checkpoint else None
            if record is None:
                record = self._blocks.decide(block, plan, walk)
                if record is not None and self.checkpoint:
                    self.checkpoint.save(number, record)
            elif record.row.name == block.branch.last:
                walk.past(site)  # through the same segments as in the run that was cut off
            if record is not None and record.block is not None and record.row.name == block.branch.last:
                self.graph.merge(block.branch, record.block)
                walk.edited(Edit(block.branch.last, record.block, merges=block.branch))
                self._blocks.note(block, record.row)
        return self._blocks.rows.get(site.name)

    def _one(self, number: int, site: Site, plan: Choice | Budget, walk: Walk | None) -> Layer:
        """One layer: as the checkpoint has it if it was done before, else decided now and noted there."""
        record = self.checkpoint.load(number) if self.checkpoint else None
        if record is None:
            record = self._decide(site, plan, walk)
            if self.checkpoint:
                self.checkpoint.save(number, record)
        elif record.looked and walk is not None:
            walk.past(site)  # through the same segments as in the run that was cut off
        self._apply(site, record, walk)
        return record.row

    def _decide(self, site: Site, plan: Choice | Budget, walk: Walk | None) -> Record:
        """What becomes of the layer; without a look at the data where the plan keeps it."""
        thinned = self._lost.thinned.get(site.name, {})
        if isinstance(plan, Choice) and not plan.candidate.setting and not thinned:
            row = left_alone(site, plan.status, plan.reason)
            return self._refitted(site, row, walk) or Record(row, looked=False)
        now = self._lost.now(site)
        moments = self._moments(now, walk)
        if isinstance(plan, Choice):
            candidate = replace(plan.candidate, setting={**thinned, **plan.candidate.setting})
            return self._for_relu(now, self._build(site, candidate, moments, walk), moments, walk)
        for choice in self._local(now, moments, walk, plan):
            inside = choice.candidate.setting
            if not inside and not thinned:
                break
            candidate = replace(choice.candidate, setting={**thinned, **inside})
            record = self._build(site, candidate, moments, walk)
            # what was chosen by may be an estimate, and too low
            if not inside or plan.allows(record.row.error_measured or 0.0):
                return self._for_relu(now, record, moments, walk)
        return Record(left_alone(site, "kept", choice.reason), looked=True)

    def _local(self, now: Site, moments: Moments | None, walk: Walk | None, budget: Budget) -> Iterator[Choice]:
        """What the budget makes of one layer by itself, best first; of one that has been thinned by decompositions."""
        group: Group | str = ""
        if split(self.passes)[1] is not None and now.name not in self._lost.thinned:
            group = fitted_together(self.graph, self.graph.channel_group(now), self.passes)
        if isinstance(group, Group) and not (self._names - self._lost.thinned.keys()).issuperset(group.readers):
            group = LEFT
        if isinstance(group, Group) and len(group.readers) > 1 and (other := self._blocks.touching(group)):
            group = f"its input channels are those of '{other}', in {INSIDE}"
        others = self._readers_after(now, group, walk) if isinstance(group, Group) else []
        return local_choices(now, self.passes, moments, group, budget, others)

    def _kept(self, number: int, found: Found, row: Layer, walk: Walk | None) -> Layer:
        """The row of a layer that no pass rewrites."""
        record = self.checkpoint.load(number) if self.checkpoint else None
        if isinstance(found, Site) and record is None:
            record = self._refitted(found, row, walk)
            if record is not None and self.checkpoint:
                self.checkpoint.save(number, record)
        elif isinstance(found, Site) and walk is not None:
            walk.past(found)
        if not isinstance(found, Site) or record is None:
            return row
        self._apply(found, record, walk)
        return record.row

    def _refitted(self, site: Site, row: Layer, walk: Walk | None) -> Record | None:
        """A layer that stays as it is, fitted anew where blocks before it have been merged, and where it is the last
        behind layers that are rewritten: what these change of its mean nothing else would take back."""
        drifted = self._blocks.rows or site.name in self._last
        if walk is None or not drifted or not is_refittable(site):
            return None
        return self._blocks.refitted(site, row, walk)

    def _moments(self, site: Site, walk: Walk | None) -> Moments | None:
        """None without data, and of layers that they tell nothing about, which are here as a part of a block."""
        if walk is None or not is_fitted(site, self.passes):
            return None
        return walk.moments(site)

    def _build(self, site: Site, candidate: Candidate, moments: Moments | None, walk: Walk | None) -> Record:
        """The layer written as the candidate says, fitted. moments: of the layer as it is now."""
        rules, pruning = split(self.passes)
        now, settings, channels = self._lost.now(site), candidate.setting, None
        conv = now.conv
        if candidate.block is not None:
            return Record(done(site, candidate, _macs(site, candidate.block), candidate.error), True, candidate.block)
        with blas_threads(site):
            if pruning is not None and pruning.name in settings:
                inputs = np.arange(conv.n_i)
                if site.name not in self._lost.thinned:
                    inputs, channels = self._chosen(now, conv, pruning, settings[pruning.name], moments, walk)
                conv, moments = on_inputs(conv, inputs, pruning, moments)
            block = compose(rules, conv, settings, moments)
        row = done(site, candidate, _macs(site, block), block_error(conv, block, moments))
        return Record(row, True, block, channels)

    def _chosen(
        self,
        site: Site,
        conv: Conv,
        pruning: Pruning,
        setting: Setting,
        moments: Moments | None,
        walk: Walk | None,
    ) -> tuple[Labels, Labels]:
        """The inputs of the layer that stay, and the channels of its group that they are."""
        consumer, group = self._consumer(site)
        first = Reader(conv.weight, moments, consumer.channels)
        channels = group.filled(pruning.select([first, *self._readers_after(site, group, walk)], setting))
        return consumer.kept(channels), channels

    def _readers_after(self, site: Site, group: Group, walk: Walk | None) -> list[Reader]:
        return readers_after(site, group, self.graph, walk)

    def _for_relu(self, site: Site, record: Record, moments: Moments | None, walk: Walk | None) -> Record:
        """The layer fitted for the ReLU behind it where a pass asks for that, or with the reason why not."""
        rule = asking(self.passes, record.row.setting)
        if rule is None:
            return record
        why = unsuited(rule, self.passes, self.graph.behind(site), record, moments is not None)
        if why is not None or moments is None or walk is None:
            return linear(record, rule, why or "")
        conv, own, at = site.conv, moments, None
        pruning, inputs = split(self.passes)[1], self._inputs(site, record)
        with blas_threads(site):
            if pruning is not None and inputs is not None:
                at = columns(conv, inputs)
                conv, fitted = on_inputs(conv, inputs, pruning, moments)
                own = fitted or moments
            return refitted(record, rule, conv, own, lambda: walk.rows(site, own.best, at))

    def _inputs(self, site: Site, record: Record) -> Labels | None:
        """The inputs, of those that the layer reads now, that stay where it is pruned."""
        if site.name in self._lost.thinned:
            return np.arange(site.outline.n_i)
        return None if record.channels is None else self._consumer(site)[0].kept(record.channels)

    def _consumer(self, site: Site) -> tuple[Member, Group]:
        group = self.graph.channel_group(site)
        if isinstance(group, str):
            raise VerificationError(f"layer '{site.name}' could be pruned when it was planned, now: {group}")
        if group.readers[0] != site.name:
            raise VerificationError(f"layer '{site.name}' is pruned with '{group.readers[0]}' or not at all")
        return group.consumers[0], group

    def _apply(self, site: Site, record: Record, walk: Walk | None) -> None:
        """Put the decision into the graph; channels go first, where they are made and from what is stored of them."""
        block = record.block
        if record.channels is not None:
            group = self._consumer(site)[1]
            made = next((m.kept(record.channels) for m in group.producers if m.node.name == site.name), None)
            if made is not None and block is not None:  # what it makes is added to what it reads
                block = with_outputs(block, made)
            self.graph.keep_channels(group, record.channels)
            outputs = self._note(group, record.channels, record.row)
            if walk is not None:
                walk.edited(Edit(site.name, channels=record.channels))
                walk.narrow(outputs)
                walk.prune(group.left(record.channels), group.counted)
        if block is not None:
            self.graph.splice(site, block)
            if walk is not None:
                walk.edited(Edit(site.name, block))

    def _note(self, group: Group, channels: Labels, row: Layer) -> dict[str, Labels]:
        """What the layers that come have lost with the one of this row: of the outputs of some, what they have left."""
        pruning = split(self.passes)[1]
        assert pruning is not None
        setting = cast(Setting, row.setting[pruning.name])  # a report's row may hold any JSON, a pass's holds these
        return self._lost.note(group, channels, {pruning.name: setting})


def _macs(site: Site, block: Block) -> int:
    macs = site.macs(block)
    assert macs is not None
    return macs
