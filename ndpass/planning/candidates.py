"""The ways to write one layer: every setting of every pass and of their compositions, with error and MACs.

Errors of single passes are the passes' own. A composition of A and B is estimated as e_A + (1 − e_A)·r_B, where r_B is
what B adds to the layer, fitted at the least, a middling and the largest setting of A and taken as linear in A's MACs
between them: compositions are many, fits are dear. (From the middling one alone, compositions behind a larger A were
estimated at down to 0.4 of the error that a fit then had, and `auto` fell for them: there B has more to get wrong.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Conv
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.passes import ChannelDecomposition, ChannelPruning, Decomposition, Pass, Setting
from ndpass.passes.base import block_error
from ndpass.passes.channel_pruning import errors_by_size
from ndpass.passes.compose import Settings, compose, finished, leaf_moments, outline, refusal, sketched
from ndpass.planning.candidate import Candidate, pareto

T = TypeVar("T")

MOST_RANKS = 12  # of the first pass of a composition, evenly spread
ANCHORS = 3  # of these, at which the second is fitted


def why_not(site: Site, passes: Sequence[Pass], group: Group | str) -> str | None:
    """Why no pass can act on this site, or None. group: who shares its input channels, or why that is of no use."""
    if site.in_hw is None:
        return "its input size is not known, so its cost is not"
    rules, pruning = split(passes)
    reason = refusal(rules, site.outline) if rules else ""
    if reason is None or pruning is None:
        return reason
    unprunable = _unprunable(site, pruning, group)
    return unprunable and "; ".join(text for text in (reason, f"cp: {unprunable}") if text)


def _unprunable(site: Site, pruning: ChannelPruning, group: Group | str) -> str | None:
    reason = pruning.refuse(site.outline)
    if reason is None and isinstance(group, str):
        return group
    if reason is None and not isinstance(group, str) and len(group.consumers) > 1:
        return f"its input channels feed {len(group.consumers)} layers, which would have to be pruned together"
    return reason


def split(passes: Sequence[Pass]) -> tuple[list[Decomposition], ChannelPruning | None]:
    """The passes that act inside a layer, in order, and channel pruning, which comes before them."""
    rules = [p for p in passes if isinstance(p, Decomposition)]
    return rules, next((p for p in passes if isinstance(p, ChannelPruning)), None)


def ways(
    site: Site, passes: Sequence[Pass], moments: Moments | None = None, group: Group | str = "", most: int = 4
) -> list[Candidate]:
    """The layer as it is, then every single pass that accepts it, then the compositions, all in the passes' order.

    most: how many decompositions are composed at most.
    """
    rules, pruning = split(passes)
    conv = site.conv
    dense = Candidate(_macs(site, rules, {}), block_error(conv, conv, moments))
    inside = _inside(site, conv, rules, dense, moments, most) if rules and refusal(rules, conv) is None else []
    if pruning is None or _unprunable(site, pruning, group) is not None or isinstance(group, str):
        return [dense, *inside]
    pruned = list(_pruned(site, conv, rules, pruning, group, inside, moments))
    return [dense, *pruned] if is_pinned(passes) else [dense, *inside, *pruned]


def _inside(
    site: Site, conv: Conv, passes: Sequence[Decomposition], dense: Candidate, moments: Moments | None, most: int
) -> list[Candidate]:
    """What decompositions alone make of the layer."""
    if is_pinned(passes):
        return list(_pinned(site, conv, passes, moments))
    found = [dense]
    for rule in passes:
        if rule.refuse(conv) is None:
            found += _single(site, conv, rule, dense.macs, moments)
    for size in range(2, min(len(passes), most) + 1):
        for chosen in itertools.combinations(passes, size):
            found += _composed(site, conv, chosen, found, moments)
    return found[1:]


def _pruned(
    site: Site,
    conv: Conv,
    rules: Sequence[Decomposition],
    pruning: ChannelPruning,
    group: Group,
    inside: Sequence[Candidate],
    moments: Moments | None,
) -> Iterator[Candidate]:
    """Each number of channels kept, alone and with what decompositions then make of the smaller layer (estimated)."""
    settings = pruning.settings(conv, size=group.size)
    width = conv.n_i // group.size  # columns of a channel, where a Flatten lies between
    _, errors = errors_by_size(
        conv.weight.reshape(conv.n_o, group.size, -1), moments, [int(s["channels"]) for s in settings]
    )
    thinned = spread(sorted(pareto(inside), key=lambda c: c.macs), MOST_RANKS)
    spare = len(group.filled(np.zeros(0, np.int64))) - 1  # channels that branches of a Concat may add, each its last
    for setting, error in zip(settings, errors, strict=True):
        most = int(setting["channels"]) + spare
        outline = replace(site.outline, weight=site.outline.weight[:, : most * width])
        smaller = replace(site, outline=outline)
        if not (is_pinned([pruning]) and rules and thinned):
            yield Candidate(_macs(smaller, rules, {}), error, {pruning.name: setting})
        for c in thinned:
            macs = _macs(smaller, rules, c.setting)
            yield Candidate(macs, error + (1 - error) * c.error, {pruning.name: setting, **c.setting})


def is_pinned(passes: Sequence[Pass]) -> bool:
    """Whether every pass has its rank or channels given, so that there is nothing to choose but the form."""
    return all("rank" in p.pinned or "channels" in p.pinned for p in passes)


def block_of(site: Site, passes: Sequence[Pass], settings: Settings, group: Group | str = "") -> Block:
    """The shapes that settings give the layer, its weights zeros that take no memory; cp takes channels off its input.

    group: who shares the site's input channels, needed where cp is among the settings.
    """
    rules, pruning = split(passes)
    conv = site.outline
    if pruning is not None and pruning.name in settings and isinstance(group, Group):
        width = conv.n_i // group.size
        conv = replace(conv, weight=conv.weight[:, : int(settings[pruning.name]["channels"]) * width])
    return outline(rules, conv, settings)


def _macs(site: Site, passes: Sequence[Decomposition], settings: Settings) -> int:
    macs = site.macs(outline(passes, site.outline, settings))
    assert macs is not None
    return macs


def _single(site: Site, conv: Conv, rule: Decomposition, dense: int, moments: Moments | None) -> Iterator[Candidate]:
    """Every setting of one pass that saves MACs."""
    costs = [(s, _macs(site, [rule], {rule.name: s})) for s in rule.settings(site.outline)]
    cheaper = [(s, macs) for s, macs in costs if macs < dense]
    errors = rule.errors(conv, [s for s, _ in cheaper], moments)
    for (setting, macs), error in zip(cheaper, errors, strict=True):
        if math.isfinite(error):
            yield Candidate(macs, error, {rule.name: setting})


def _pinned(site: Site, conv: Conv, passes: Sequence[Decomposition], moments: Moments | None) -> Iterator[Candidate]:
    """All passes with the settings given, in each form that is left open; errors are measured.

    Without data only the first form, the paper's: errors of the weights do not compare forms. On a VGG16 with nd:rank=3
    pw-dw everywhere gave 78 %, dw-pw 52 %, whichever had the smaller error 73 %.
    """
    products = list(_products(site, passes))
    full = all(rule.pinned["rank"] == "full" for rule in passes)  # asked for by name, whatever it costs
    dense = _macs(site, passes, {})
    for settings in products[:1] if moments is None else products:
        macs = _macs(site, passes, settings)
        if full or macs < dense:
            block = compose(passes, conv, settings, moments)
            fitted = None if moments is None else block
            yield Candidate(macs, block_error(conv, block, moments), settings, block=fitted)


def _products(site: Site, passes: Sequence[Decomposition]) -> Iterator[Settings]:
    options: list[list[tuple[str, Setting]]] = []
    block = outline([], site.outline, {})
    for rule in passes:
        leaf = next((leaf for leaf in block.leaves() if rule.refuse(leaf) is None), None)
        if leaf is None:
            continue
        settings = rule.settings(leaf)
        options.append([(rule.name, s) for s in settings])
        block = outline([rule], block.leaves()[0] if len(block.leaves()) == 1 else leaf, {rule.name: settings[0]})
    return (dict(choice) for choice in itertools.product(*options))


def _composed(
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
            macs = _macs(site, passes, {**c.setting, last.name: setting}) if at else c.macs
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
    """What the last pass adds to the error of the others at `at`, by the number of each setting that saves MACs."""
    *others, last = passes
    cheaper = [i for i, s in enumerate(settings) if _macs(site, passes, {**at.setting, last.name: s}) < at.macs]
    if moments is not None and [rule.name for rule in others] == [ChannelDecomposition.name]:
        found = _after_cd(conv, passes, at, [settings[i] for i in cheaper], moments)
        return {i: error for i, error in zip(cheaper, found, strict=True) if math.isfinite(error)}
    ahead: Block = conv.with_bias(None)
    for rule in others:
        (ahead,) = sketched(rule, [at.setting[rule.name]], ahead, conv, moments)
    base = block_error(conv, finished(ahead, conv, moments, refitted=len(others) > 1), moments)
    added = {}
    for i, block in zip(cheaper, sketched(last, [settings[i] for i in cheaper], ahead, conv, moments), strict=True):
        error = block_error(conv, finished(block, conv, moments, refitted=True), moments)
        added[i] = max(0.0, error - base) / max(1 - base, 1e-9)
    return added


def _after_cd(
    conv: Conv, passes: Sequence[Decomposition], at: Candidate, settings: Sequence[Setting], moments: Moments
) -> list[float]:
    """What the pass behind cd adds, without fitting the whole: cd's 1×1 has orthonormal columns, so that an error of
    the k×k convolution is the same error of the layer. Infinite where it is not tried."""
    rule, *others = passes
    leaf = rule.rewrite(conv, at.setting[rule.name], moments).leaves()[0]
    return others[-1].errors(leaf, settings, leaf_moments(leaf, None, conv, moments))


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


MOST_UNKNOWNS = 8_192  # elements of a patch; the moments of more would take over half a gigabyte


def refused(graph: Graph, site: Site, passes: Sequence[Pass], calibrated: bool) -> str | None:
    """Why the site is left alone whatever the budget, or None."""
    reason = why_not(site, passes, channel_group(graph, site, passes))
    n = site.outline.n_i * site.outline.kernel_size
    if reason is None and calibrated and n > MOST_UNKNOWNS:
        return f"patches of {n} elements: their moments would take {8 * n * n / 1e9:.1f} GB"
    return reason


def channel_group(graph: Graph, site: Site, passes: Sequence[Pass]) -> Group | str:
    """Who shares the site's input channels, looked for only if cp is among the passes."""
    return graph.channel_group(site) if split(passes)[1] else ""
