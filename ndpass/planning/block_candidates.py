"""The candidates of a residual block: as one convolution, and what passes behind make of that.

Errors are of the branch's response, whatever the passes, for each is fitted to what the branch should give. What that
does to the outputs is measured for the first kind (`ndpass.planning.trials`). For the others it is read off these: with
e the error and d the damage, √d is taken as linear in e between the block's own measured points, from (0, 0) on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Conv
from ndpass.graph.sites import Site
from ndpass.passes import Decomposition, Setting
from ndpass.passes.options import setting_text
from ndpass.planning.blocks import Mergeable
from ndpass.planning.candidate import Candidate
from ndpass.planning.candidates import candidates_for, is_pinned
from ndpass.planning.compositions import MOST_RANKS, is_tried, key, spread

log = logging.getLogger(__name__)


def candidates_of(block: Mergeable, moments: Moments) -> list[Candidate]:
    """The block with each setting that there are data for, alone and with each pass behind; fewest MACs first."""
    rule, settings, conv = block.rule, _settings(block, moments.count), block.branch.conv
    errors = rule.errors(conv, settings, moments)
    found: list[Candidate] = []
    for setting, error in zip(settings, errors, strict=True):
        alone = Candidate(block.cost({rule.name: setting}), error, {rule.name: setting})
        further = list(_further(block, conv, alone, moments)) if block.behind and alone.macs else []
        if block.saves(setting) and not (further and is_pinned(block.behind)):
            found.append(alone)
        found += further
    return sorted(found, key=lambda c: c.macs)


def _settings(block: Mergeable, count: int) -> list[Setting]:
    """Those that so many positions tell enough about; what is left out for want of them is told."""
    settings, wanted = block.settings(count), block.settings()
    if wanted and settings[-1:] != wanted[-1:]:
        tried = f"up to {setting_text(settings[-1])} is tried" if settings else "none is tried"
        text = "the data are too few for a larger kernel"
        log.warning("block '%s': %s: %s, %s", block.branch.name, block.rule.name, text, tried)
    return settings


def _further(block: Mergeable, conv: Conv, alone: Candidate, moments: Moments) -> Iterator[Candidate]:
    """What the passes behind make of the one convolution: all of them where their settings are given, else each."""
    setting = alone.setting[block.rule.name]
    merged, own = block.rule.rewrite(conv, setting, moments), block.rule.part(conv, setting, moments)
    outline = block.rule.outline(block.branch.outline, setting)
    site = Site(block.branch.last, "Conv", outline, block.branch.in_hw, block.branch.rows, lambda: merged)
    most = min(alone.macs, block.branch.macs)
    if is_pinned(block.behind):
        ways = [(c.setting, c.error) for c in candidates_for(site, block.behind, own)[1:]]
    else:
        ways = [way for rule in block.behind for way in _tried(rule, merged, own)]
    for inner, error in ways:
        settings = {**alone.setting, **inner}
        if (macs := block.cost(settings)) < most:
            yield Candidate(macs, error, settings)


def _tried(rule: Decomposition, conv: Conv, moments: Moments) -> Iterator[tuple[Mapping[str, Setting], float]]:
    """Some settings of a pass, many where they come at once, and their errors."""
    if rule.refuse(conv) is not None:
        return
    settings = spread(rule.settings(conv), MOST_RANKS) if rule.errors_at_once else rule.inner(conv)
    for setting, error in zip(settings, rule.errors(conv, settings, moments), strict=True):
        if is_tried(error):
            yield {rule.name: setting}, error


def damages(ways: Sequence[Candidate], measured: Mapping[str, float]) -> dict[str, float]:
    """Key of the settings -> the damage of every candidate. measured: of those without a pass behind."""
    if not measured:
        return {}
    known = [(c.error, math.sqrt(max(measured[key(c.setting)], 0.0))) for c in ways if key(c.setting) in measured]
    errors, roots = np.array(sorted([(0.0, 0.0), *known])).T
    roots = np.maximum.accumulate(roots)
    steepest = float(np.max(roots[1:] / np.maximum(errors[1:], 1e-12)))

    def read_off(error: float) -> float:
        beyond = max(0.0, error - float(errors[-1]))
        return (float(np.interp(error, errors, roots)) + beyond * steepest) ** 2

    return {key(c.setting): measured.get(key(c.setting), read_off(c.error)) for c in ways}
