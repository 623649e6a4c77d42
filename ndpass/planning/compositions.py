"""Compositions of passes inside one layer, `cd,nd` say: their MACs, and estimates of their errors.

A composition of A and B is estimated as e_A + (1 − e_A)·r_B, where r_B is what B adds to the layer, fitted at the
least, a middling and the largest setting of A and taken as linear in A's MACs between them: compositions are many, fits
are dear. (From the middling one alone, compositions behind a larger A were estimated at down to 0.4 of the error that a
fit then had, and `auto` fell for them: there B has more to get wrong.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard, TypeVar

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Conv
from ndpass.graph.graph import Site
from ndpass.passes import Decomposition, Setting
from ndpass.passes.base import block_error
from ndpass.passes.compose import Settings, finished, first_leaf_moments, outline, sketched
from ndpass.planning.candidate import Candidate

T = TypeVar("T")

MOST_RANKS = 12  # of the first pass of a composition, evenly spread
ANCHORS = 3  # of these, at which the second is fitted


def site_macs(site: Site, passes: Sequence[Decomposition], settings: Settings) -> int:
    """MACs of the site, whose input size is known, as these settings write it."""
    macs = site.macs(outline(passes, site.outline, settings))
    assert macs is not None
    return macs


def is_tried(error: float | None) -> TypeGuard[float]:
    """Whether a pass gives an error for a setting: None says that it is not worth a try, NaN says nothing."""
    return error is not None and math.isfinite(error)


def composed(
    site: Site,
    conv: Conv,
    passes: Sequence[Decomposition],
    known: Sequence[Candidate],
    moments: Moments | None,
) -> list[Candidate]:
    """Compositions of the passes, from what is known of all but the last, that save MACs against it."""
    *ahead, last = passes
    names = {rule.name for rule in ahead}
    first = [c for c in known if set(c.setting) == names]
    first = spread(sorted(first, key=lambda c: c.macs), MOST_RANKS)
    if not first:
        return []
    anchors = spread(first, ANCHORS)
    leaf = _leaf_for(last, outline(ahead, site.outline, anchors[-1].setting).leaves())
    if leaf is None:
        return []
    settings = last.inner(leaf)
    added = [(a.macs, _added_errors(site, conv, passes, a, settings, moments)) for a in anchors]
    made = []
    for c in first:
        for i, setting in enumerate(settings):
            at = {macs: errors[i] for macs, errors in added if i in errors}
            macs = site_macs(site, passes, {**c.setting, last.name: setting}) if at else c.macs
            if macs < c.macs:
                error = float(np.interp(c.macs, list(at), list(at.values())))
                made.append(Candidate(macs, c.error + (1 - c.error) * error, {**c.setting, last.name: setting}))
    return made


def _leaf_for(rule: Decomposition, leaves: Sequence[Conv]) -> Conv | None:
    """The largest leaf that the pass accepts."""
    accepted = [leaf for leaf in leaves if rule.refuse(leaf) is None]
    return max(accepted, key=lambda leaf: leaf.weight.size, default=None)


def _added_errors(
    site: Site,
    conv: Conv,
    passes: Sequence[Decomposition],
    at: Candidate,
    settings: Sequence[Setting],
    moments: Moments | None,
) -> dict[int, float]:
    """What the last pass adds to the error of the others at `at`, by the position of each setting that saves MACs."""
    *others, last = passes
    positions = [i for i, s in enumerate(settings) if site_macs(site, passes, {**at.setting, last.name: s}) < at.macs]
    cheaper = [settings[i] for i in positions]
    if moments is not None and len(others) == 1 and others[0].isometric:
        found = _errors_of_first_leaf(conv, others[0], last, at.setting, cheaper, moments)
        return {i: error for i, error in zip(positions, found, strict=True) if is_tried(error)}
    ahead: Block = conv.with_bias(None)
    for rule in others:
        (ahead,) = sketched(rule, [at.setting[rule.name]], ahead, conv, moments)
    base = block_error(conv, finished(ahead, conv, moments, refitted=len(others) > 1), moments)
    added = {}
    for i, block in zip(positions, sketched(last, cheaper, ahead, conv, moments), strict=True):
        error = block_error(conv, finished(block, conv, moments, refitted=True), moments)
        added[i] = max(0.0, error - base) / max(1 - base, 1e-9)
    return added


def _errors_of_first_leaf(
    conv: Conv,
    first: Decomposition,
    last: Decomposition,
    at: Mapping[str, Setting],
    settings: Sequence[Setting],
    moments: Moments,
) -> Sequence[float | None]:
    """The errors of `last` on the first leaf that `first` leaves; errors of the layer, because `first` is isometric.

    So nothing but the first pass is fitted as a whole.
    """
    leaf = first.rewrite(conv, at[first.name], moments).leaves()[0]
    return last.errors(leaf, settings, first_leaf_moments(leaf, conv, moments))


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
