"""Compositions of passes inside one layer, `cd,nd` say: their MACs, and estimates of their errors.

A composition of A and B is estimated as e_A + (1 − e_A)·r_B, where r_B is what B adds to the layer, fitted at the
least, a middling and the largest setting of A and taken as linear in A's MACs between them: compositions are many, fits
are dear. (From the middling one alone, compositions behind a larger A were estimated at down to 0.4 of the error that a
fit then had, and `auto` fell for them: there B has more to get wrong.)

Until B is fitted at the settings that an estimate lies between, the estimate is a bound that costs nothing:

    e_A                the error of A alone: r_B is not negative
    MARGIN·e_B         where B acts on the layer's own kernel, the error of B alone: what A and B write, B could write
    MARGIN·(1 − e_A)·r_B   what B adds behind a lesser setting of A at which it has been fitted: behind A it adds more

MARGIN is there because fits take turns and estimates take few of them, so that none is the least error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Conv
from ndpass.graph.graph import Site
from ndpass.passes import Decomposition, Setting
from ndpass.passes.base import block_error
from ndpass.passes.compose import Settings, finished, first_leaf_moments, is_by_group, outline, sketched
from ndpass.passes.groups import apart, energies, together
from ndpass.planning.candidate import Candidate

T = TypeVar("T")
Added = Mapping[str, float | None]  # key of the settings -> what the last pass adds; None: not worth a try
Fit = tuple[int, int]  # positions: of the setting of the passes ahead, and of that of the last

MOST_RANKS = 12  # of the first pass of a composition, evenly spread
ANCHORS = 3  # of these, at which the second is fitted
MARGIN = 0.7  # of a bound that another fit could go below


def key(settings: Settings) -> str:
    """A text that tells settings apart, for dicts and JSON."""
    return json.dumps(settings)


def site_macs(site: Site, passes: Sequence[Decomposition], settings: Settings) -> int:
    """MACs of the site, whose input size is known, as these settings write it."""
    macs = site.macs(outline(passes, site.outline, settings))
    assert macs is not None
    return macs


def is_tried(error: float | None) -> TypeGuard[float]:
    """Whether a pass gives an error for a setting: None says that it is not worth a try, NaN says nothing."""
    return error is not None and math.isfinite(error)


@dataclass(frozen=True)
class _Knot:
    """What a setting of the last pass adds behind one setting of the others, or at least. at: position of these."""

    at: int
    added: float
    fitted: bool


class Composition:
    """The last of `passes` behind the others in one layer.

    first: what the others make of the layer, a few of that, fewest MACs first; anchors: positions in it at which the
    last pass is fitted; settings: of the last pass; macs: [position in first][position in settings].
    """

    def __init__(self, site: Site, passes: Sequence[Decomposition], known: Sequence[Candidate]) -> None:
        """known: what is known of the layer without this composition, bounds among it."""
        *self.ahead, self.last = passes
        self.site, self.passes = site, passes
        names = {rule.name for rule in self.ahead}
        first = [c for c in known if set(c.setting) == names]
        self.first = spread(sorted(first, key=lambda c: c.macs), MOST_RANKS)
        self.anchors = spread(range(len(self.first)), ANCHORS)
        leaf = self._leaf()
        self.settings = [] if leaf is None else self.last.inner(leaf)
        self.macs = [[site_macs(site, passes, self.setting(c, s)) for s in self.settings] for c in self.first]
        same = leaf is not None and leaf.kernel == site.outline.kernel
        self._alone = [MARGIN * _alone(self.last, s, known) if same else 0.0 for s in self.settings]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.passes)

    def key_of(self, fit: Fit) -> str:
        """The key of the candidate that a fit is of."""
        at, position = fit
        return key(self.setting(self.first[at], self.settings[position]))

    def setting(self, first: Candidate, setting: Setting) -> Settings:
        """Of all passes."""
        return {**first.setting, self.last.name: setting}

    def _leaf(self) -> Conv | None:
        """The largest leaf of what the largest setting of the others leaves that the last pass accepts."""
        if not self.first:
            return None
        leaves = outline(self.ahead, self.site.outline, self.first[-1].setting).leaves()
        accepted = [leaf for leaf in leaves if self.last.refuse(leaf) is None]
        return max(accepted, key=lambda leaf: leaf.weight.size, default=None)

    def _saves(self, at: int, position: int) -> bool:
        return self.macs[at][position] < self.first[at].macs

    def candidates(self, now: Mapping[str, Candidate], added: Added) -> list[Candidate]:
        """Those that save MACs against the passes ahead alone; now: candidates of these by key, as they are known."""
        known = [now.get(key(c.setting)) for c in self.first]
        knots = [self._knots(i, known, added) for i in range(len(self.settings))]
        return [
            self._candidate(c, at, i, knots[i])
            for at, c in enumerate(known)
            if c is not None
            for i in range(len(self.settings))
            if knots[i] and self._saves(at, i)
        ]

    def _candidate(self, first: Candidate, at: int, position: int, knots: Mapping[int, _Knot]) -> Candidate:
        share = float(np.interp(first.macs, list(knots), [knot.added for knot in knots.values()]))
        error = first.error + (1 - first.error) * share
        bound = first.bound or bool(self._open(at, knots))
        if bound:
            error = max(error, self._alone[position])
        setting = self.setting(first, self.settings[position])
        return Candidate(self.macs[at][position], error, setting, bound=bound)

    def _knots(self, position: int, first: Sequence[Candidate | None], added: Added) -> dict[int, _Knot]:
        """By MACs of the passes ahead, rising."""
        knots: dict[int, _Knot] = {}
        least = 0.0  # of the layer's response, that the last pass adds
        for at in self.anchors:
            ahead = first[at]
            if ahead is None or not self._saves(at, position):
                continue
            left = max(1 - ahead.error, 1e-9)
            name = key(self.setting(ahead, self.settings[position]))
            if name not in added:
                bound = max(least, self._alone[position] - ahead.error) / left
                knots[ahead.macs] = _Knot(at, bound, False)
                continue
            share = added[name]
            if is_tried(share):
                knots[ahead.macs] = _Knot(at, share, True)
                least = max(least, MARGIN * left * share)
        return knots

    def _open(self, at: int, knots: Mapping[int, _Knot]) -> list[int]:
        """Positions of the anchors that the estimate at `at` waits for: its neighbours that are not fitted."""
        macs, places = self.first[at].macs, list(knots)
        if macs in knots:
            near = [macs]
        else:
            near = [*[m for m in places if m < macs][-1:], *[m for m in places if m > macs][:1]]
        return [knots[m].at for m in near if not knots[m].fitted]

    def next_fit(self, settings: Settings, now: Mapping[str, Candidate], added: Added) -> Fit | None:
        """A fit on the way to an exact candidate of these settings; None where the candidate waits for none.

        The least anchors come first, though the candidate may lie between others: they are the cheapest, and what they
        tell is often that the rest is not worth a fit.
        """
        ahead = {rule.name: settings[rule.name] for rule in self.ahead}
        at = next(i for i, c in enumerate(self.first) if c.setting == ahead)
        position = self.settings.index(settings[self.last.name])
        knots = self._knots(position, [now.get(key(c.setting)) for c in self.first], added)
        if not self._open(at, knots):
            return None
        return next(knot.at for knot in knots.values() if not knot.fitted), position

    def fit(self, fit: Fit, conv: Conv, moments: Moments | None) -> dict[str, float | None]:
        """What the last pass adds, by key: at one setting, and at all others that take no further fit."""
        at, position = fit
        ahead = self.first[at]
        positions = [i for i in self._together(position, moments) if self._saves(at, i)]
        settings = [self.settings[i] for i in positions]
        added = self._added(conv, ahead, settings, moments)
        return {
            key(self.setting(ahead, s)): float(a) if is_tried(a) else None for s, a in zip(settings, added, strict=True)
        }

    def _through_first_leaf(self, moments: Moments | None) -> bool:
        return moments is not None and len(self.ahead) == 1 and self.ahead[0].isometric

    def _together(self, position: int, moments: Moments | None) -> list[int]:
        """Positions of the settings whose errors come together."""
        if not self._through_first_leaf(moments):
            return list(range(len(self.settings)))  # the moments of the leaves take longer than the fits
        if not self.last.errors_at_once:
            return [position]
        words = self.last.words_first(self.settings[position])
        return [i for i, s in enumerate(self.settings) if self.last.words_first(s) == words]

    def _added(
        self, conv: Conv, at: Candidate, settings: Sequence[Setting], moments: Moments | None
    ) -> Sequence[float | None]:
        """What the last pass adds to the error of the others at `at`, relative to what these leave of the response."""
        if not is_by_group(self.passes, conv):
            return self._added_to(conv, at, settings, moments if conv.group == 1 else None)[0]
        found = [self._added_to(one, at, settings, own, conv.group) for one, own in apart(conv, moments)]
        left = [energy * share for energy, (_, share) in zip(energies(conv, moments), found, strict=True)]
        return together([added for added, _ in found], left)

    def _added_to(
        self, conv: Conv, at: Candidate, settings: Sequence[Setting], moments: Moments | None, groups: int = 1
    ) -> tuple[Sequence[float | None], float]:
        """The same of one of `groups` convolutions side by side, and what the others leave of its response."""
        if moments is not None and self._through_first_leaf(moments):
            return _errors_of_first_leaf(conv, self.ahead[0], self.last, at.setting, settings, moments)
        ahead: Block = conv.with_bias(None)
        for rule in self.ahead:
            (ahead,) = sketched(rule, [at.setting[rule.name]], ahead, conv, moments, groups)
        base = block_error(conv, finished(ahead, conv, moments, refitted=len(self.ahead) > 1), moments)
        left = max(1 - base, 1e-9)
        tried = sketched(self.last, settings, ahead, conv, moments, groups)
        blocks = [finished(b, conv, moments, refitted=True) for b in tried]
        return [max(0.0, block_error(conv, b, moments) - base) / left for b in blocks], left


def _alone(rule: Decomposition, setting: Setting, known: Sequence[Candidate]) -> float:
    """The error of a pass alone at this setting or a larger one of the same words; 0 where it is not known."""
    own = [(c.setting[rule.name], c.error) for c in known if set(c.setting) == {rule.name}]
    return max((error for other, error in own if _is_within(setting, other)), default=0.0)


def _is_within(setting: Setting, other: Setting) -> bool:
    """Whether two settings have the same words, and the second no smaller number."""
    return setting.keys() == other.keys() and all(
        value <= other[name] if isinstance(value, int) and isinstance(other[name], int) else value == other[name]  # type: ignore[operator]
        for name, value in setting.items()
    )


def _errors_of_first_leaf(
    conv: Conv,
    first: Decomposition,
    last: Decomposition,
    at: Mapping[str, Setting],
    settings: Sequence[Setting],
    moments: Moments,
) -> tuple[Sequence[float | None], float]:
    """The errors of `last` on the first leaf that `first` leaves; errors of the layer, because `first` is isometric.

    So nothing but the first pass is fitted as a whole. With them the share of the layer's response that the leaf gives.
    """
    leaf = first.rewrite(conv, at[first.name], moments).leaves()[0]
    own = first_leaf_moments(leaf, conv, moments)
    return last.errors(leaf, settings, own), own.variance / (moments.variance or 1.0)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
