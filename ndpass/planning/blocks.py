"""Residual blocks whose branch a pass can turn into one convolution, or drop: which, what that costs and spoils.

The candidates of a block stand among those of its last layer. Where one is chosen, the other layers of the branch go,
whatever was chosen for them: `ndpass.planning.channel_savings` tells the planner what that saves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ndpass.calibration.moments import Moments
from ndpass.conv import Conv
from ndpass.graph.branches import Branch, Unmerged
from ndpass.graph.graph import Found, Graph, Site
from ndpass.passes import Merging, Pass, Setting
from ndpass.passes.options import setting_text
from ndpass.planning.candidate import Candidate, Choice

MOST_REFITTED = 2_304  # elements of a patch of a layer that is only fitted anew: 256 channels of 3x3

log = logging.getLogger(__name__)

NO_DATA = "is fitted to data only: give --calibration"


@dataclass(frozen=True)
class Mergeable:
    """A branch, its outline cut to what the settings that are worth a try need of the data, and the pass that can merge
    it."""

    branch: Branch
    rule: Merging

    def settings(self) -> list[Setting]:
        """All that may be tried, cheapest first."""
        return self._cheaper(self.rule.settings(self.branch.outline))

    def _cheaper(self, settings: Sequence[Setting]) -> list[Setting]:
        return [setting for setting in settings if self.cost(setting) < self.branch.macs]

    def candidates(self, moments: Moments) -> list[Candidate]:
        """The block with each setting that there are data for; MACs are those of the one convolution."""
        outline, rule = self.branch.outline, self.rule
        settings = self._cheaper(rule.settings(outline, moments.count))
        wanted = self.settings()
        if wanted and settings[-1:] != wanted[-1:]:
            tried = f"up to {setting_text(settings[-1])} is tried" if settings else "none is tried"
            text = "the data are too few for a larger kernel"
            log.warning("block '%s': %s: %s, %s", self.branch.name, rule.name, text, tried)
        conv = self.branch.conv
        errors = rule.errors(conv, settings, moments)
        return [
            Candidate(self.cost(setting), error, {rule.name: setting})
            for setting, error in zip(settings, errors, strict=True)
        ]

    def cost(self, setting: Setting) -> int:
        """MACs of the block as this setting has it."""
        return self.branch.cost(self.rule.outline(self.branch.outline, setting))

    def merged(self, candidate: Candidate) -> bool:
        """Whether this candidate of the last layer merges the block."""
        return self.rule.name in candidate.setting

    def gone(self, macs: int) -> str:
        """What to say of the other layers of the block where it takes so many MACs, as one convolution or dropped."""
        return f"{'merged into' if macs else 'dropped with'} '{self.branch.last}'"

    def fitted(self, candidate: Candidate, moments: Moments) -> tuple[Conv, float]:
        """The one convolution that the candidate asks for, and the relative error of the branch's response."""
        conv, setting = self.branch.conv, candidate.setting[self.rule.name]
        return self.rule.rewrite(conv, setting, moments), self.rule.errors(conv, [setting], moments)[0]

    def shape(self, candidate: Candidate) -> Conv:
        """The same with weights of zeros that take no memory."""
        return self.rule.outline(self.branch.outline, candidate.setting[self.rule.name])


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
    found = [_within(one, rule) for one in graph.blocks() if isinstance(one, Branch) and set(one.layers) <= set(names)]
    return {one.branch.last: one for one in found if isinstance(one, Mergeable)}


def why_unmerged(graph: Graph, passes: Sequence[Pass], name: str, calibrated: bool) -> str | None:
    """Why the layer's block cannot be merged, or None where it can or no pass merges blocks."""
    rule = merging(passes)
    if rule is None:
        return None
    block = next((one for one in graph.blocks() if name in one.layers), None)
    if block is None:
        return "it is in no residual branch"
    found = block.reason if isinstance(block, Unmerged) else _within(block, rule)
    if isinstance(found, str):
        return found
    return None if calibrated or not rule.needs_data else f"{rule.name} {NO_DATA}"


def _within(branch: Branch, rule: Merging) -> Mergeable | str:
    """The block with its outline cut to what the pass may want of it; or why the pass leaves it alone."""
    reason = rule.refuse(branch.outline)
    if reason is not None:
        return reason
    settings = Mergeable(branch, rule).settings()
    if not settings:
        return "as one convolution it would take more MACs than its layers do"
    load = branch.load
    outline = rule.field(branch.outline, settings)
    return Mergeable(replace(branch, outline=outline, load=lambda: rule.field(load(), settings)), rule)


def refittable(found: Sequence[Found], names: Collection[str]) -> list[Site]:
    """The layers besides those with these names that could be fitted anew behind a merged block."""
    return [one for one in found if isinstance(one, Site) and one.name not in names and is_refittable(one)]


def is_refittable(site: Site) -> bool:
    """Whether fitting the layer anew is possible and takes little time."""
    plain = site.outline.group == 1 and site.transposed is None
    return plain and site.outline.unknowns <= MOST_REFITTED


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
