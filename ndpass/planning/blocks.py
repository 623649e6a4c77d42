"""Residual blocks whose branch a pass can turn into one convolution, or drop, and plain chains: what that costs.

The candidates of a block stand among those of its last layer. Where one is chosen, the other layers of the branch go,
whatever was chosen for them: `ndpass.planning.channel_savings` tells the planner what that saves. What a merged block
becomes is a convolution as any other, so that passes behind may rewrite it: `bm,nd`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Block
from ndpass.graph.branches import Branch, Unmerged
from ndpass.graph.graph import Found, Graph, Site
from ndpass.passes import Decomposition, Merging, Pass, Setting
from ndpass.passes.base import block_error
from ndpass.passes.compose import Settings, compose, outline
from ndpass.planning.candidate import Budget, Candidate, Choice

MOST_REFITTED = 2_304  # elements of a patch of a layer that is only fitted anew: 256 channels of 3x3
# the same of a kernel that saves MACs only with a pass behind, which is dearer than all others, and of a plain chain's
MOST_FITTED = 2_304

NO_DATA = "is fitted to data only: give --calibration"


@dataclass(frozen=True)
class Mergeable:
    """A branch, its outline cut to what the settings that are worth a try need of the data, and the pass that can merge
    it. behind: the passes that may rewrite what that one leaves, in their order."""

    branch: Branch
    rule: Merging
    behind: Sequence[Decomposition] = ()

    def settings(self, unknowns: int | None = None) -> list[Setting]:
        """All that may be tried, cheapest first. unknowns: of each output, that there are data for."""
        found = [s for s in self.rule.settings(self.branch.outline, unknowns) if self.saves(s) or self._leads_on(s)]
        return [s for s in found if self._is_tried(s)] if self.branch.is_plain else found

    def _is_tried(self, setting: Setting) -> bool:
        """Of a plain chain, which is never dropped. In wide ones passes for single layers do more in less time."""
        conv = self.rule.outline(self.branch.outline, setting)
        return not conv.is_constant and conv.unknowns <= MOST_FITTED

    def saves(self, setting: Setting) -> bool:
        """Whether the block takes fewer MACs with this setting than its layers do."""
        return self.cost({self.rule.name: setting}) < self.branch.macs

    def _leads_on(self, setting: Setting) -> bool:
        """Whether it does so with a pass behind at the least, and the fit does not take long."""
        conv = self.rule.outline(self.branch.outline, setting)
        if conv.is_constant or conv.unknowns > MOST_FITTED:
            return False
        least = (rule.outline(conv, rule.settings(conv)[0]) for rule in self.behind if rule.refuse(conv) is None)
        return any(self.branch.cost(block) < self.branch.macs for block in least)

    def cost(self, settings: Settings) -> int:
        """MACs of the block as these settings have it."""
        return self.branch.cost(self.outline(settings))

    def outline(self, settings: Settings) -> Block:
        """What the branch becomes, its weights zeros that take no memory."""
        merged = self.rule.outline(self.branch.outline, settings[self.rule.name])
        return outline(self.behind, merged, settings)

    def merged(self, candidate: Candidate) -> bool:
        """Whether this candidate of the last layer merges the block."""
        return self.rule.name in candidate.setting

    def gone(self, macs: int) -> str:
        """What to say of the other layers of the block where it takes so many MACs, as one convolution or dropped."""
        return f"{'merged into' if macs else 'dropped with'} '{self.branch.last}'"

    def fitted(self, candidate: Candidate, moments: Moments) -> tuple[Block, float]:
        """What the candidate makes of the branch, and the relative error of the branch's response."""
        conv, settings = self.branch.conv, candidate.setting
        setting, others = settings[self.rule.name], {n: s for n, s in settings.items() if n != self.rule.name}
        merged = self.rule.rewrite(conv, setting, moments)
        if not others:
            return merged, self.rule.errors(conv, [setting], moments)[0]
        own = self.rule.part(conv, setting, moments)
        block = compose(self.behind, merged, others, own)
        return block, block_error(merged, block, own)


def merging(passes: Sequence[Pass]) -> Merging | None:
    """The pass that rewrites blocks, if there is one."""
    return next((rule for rule in passes if isinstance(rule, Merging)), None)


def mergeable(graph: Graph, passes: Sequence[Pass], names: Collection[str], calibrated: bool) -> dict[str, Mergeable]:
    """Last layer -> block that can be merged.

    names: the layers that may be rewritten; calibrated: whether there are data to fit to.
    """
    rule = merging(passes)
    if rule is None or (rule.needs_data and not calibrated):
        return {}
    behind, known = passes_behind(passes, rule), set(names)
    branches = [one for one in graph.blocks() if isinstance(one, Branch) and set(one.layers) <= known]
    found = [_within(Mergeable(one, rule, behind)) for one in branches]
    return {one.branch.last: one for one in found if isinstance(one, Mergeable)}


def why_unmerged(graph: Graph, passes: Sequence[Pass], name: str, calibrated: bool) -> str | None:
    """Why the layer's block cannot be merged, or None where it can or no pass merges blocks."""
    rule = merging(passes)
    if rule is None:
        return None
    block = next((one for one in graph.blocks() if name in one.layers), None)
    if block is None:
        return "it is in no residual branch, nor in a chain that one convolution would save enough of"
    found = (
        block.reason if isinstance(block, Unmerged) else _within(Mergeable(block, rule, passes_behind(passes, rule)))
    )
    if isinstance(found, str):
        return found
    return None if calibrated or not rule.needs_data else f"{rule.name} {NO_DATA}"


def passes_behind(passes: Sequence[Pass], rule: Merging) -> list[Decomposition]:
    """Those that may rewrite what the pass leaves of a block."""
    following = passes[list(passes).index(rule) + 1 :]
    return [one for one in following if isinstance(one, Decomposition) and one.may_follow]


def _within(whole: Mergeable) -> Mergeable | str:
    """The block with its outline cut to what the pass may want of it; or why the pass leaves it alone."""
    branch, rule = whole.branch, whole.rule
    reason = rule.refuse(branch.outline)
    if reason is not None:
        return reason
    settings = whole.settings()
    if not settings:
        return "as one convolution it would take more MACs than its layers do"
    outline = rule.field(branch.outline, settings)
    return replace(whole, branch=replace(branch, outline=outline, load=lambda: rule.field(branch.conv, settings)))


def refittable(graph: Graph, found: Sequence[Found], names: Collection[str], merges: bool) -> list[Site]:
    """The layers besides those with these names that could be fitted anew: the last ones behind them.

    merges: whether blocks may be merged, behind which all could be.
    """
    last = last_kept(graph, found, names)
    others = (one for one in found if isinstance(one, Site) and one.name not in names)
    return [one for one in others if (merges or one.name in last) and is_refittable(one)]


def last_kept(graph: Graph, found: Sequence[Found], names: Collection[str]) -> set[str]:
    """The layers that stay as they are with some of these, which are changed, before them, and none behind them."""
    before = graph.depends_on(names)
    ends = [one.name for one in found if isinstance(one, Site) and one.name not in before and one.name not in names]
    return {name for name in ends if not graph.depends_on([name]).isdisjoint(names)}


def changed(plan: Mapping[str, Choice] | Budget, names: Collection[str]) -> set[str]:
    """The layers that the plan changes; all that it may change, where that is found out layer by layer."""
    return set(names) if isinstance(plan, Budget) else {n for n, choice in plan.items() if choice.candidate.setting}


def is_refittable(site: Site) -> bool:
    """Whether fitting the layer anew is possible, takes little time, and leaves what it is for: weights that are whole
    numbers, as the 0 to 15 that a YOLO's box distributions are weighed by, were written and not trained."""
    plain = site.outline.group == 1 and site.transposed is None
    if not plain or site.outline.unknowns > MOST_REFITTED:
        return False
    weight = site.conv.weight
    return not np.array_equal(weight, np.round(weight))


def without_merged(plan: Mapping[str, Choice], blocks: Mapping[str, Mergeable]) -> dict[str, Choice]:
    """The plan with the layers that go where it merges their block, whatever was chosen for them, taking nothing."""
    gone = {
        layer: Choice(Candidate(0, seconds=0.0), block.gone(plan[last].candidate.macs))
        for last, block in _merged(plan, blocks)
        for layer in block.branch.layers
        if layer != last
    }
    return {**plan, **gone}


def _merged(plan: Mapping[str, Choice], blocks: Mapping[str, Mergeable]) -> Iterator[tuple[str, Mergeable]]:
    return ((last, one) for last, one in blocks.items() if last in plan and one.merged(plan[last].candidate))
