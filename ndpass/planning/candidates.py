"""The candidates for one layer: every setting of every pass and of their compositions, with error and MACs.

Errors of single passes are the passes' own, those of compositions are estimates (`ndpass.planning.compositions`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Conv
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Decomposition, Pass, Pruning, Setting
from ndpass.passes.base import block_error
from ndpass.passes.compose import Settings, compose, outline, refusal
from ndpass.passes.pruning import Reader
from ndpass.planning.blocks import merging, why_unmerged
from ndpass.planning.candidate import Candidate
from ndpass.planning.compositions import is_tried, site_macs
from ndpass.planning.estimates import Estimates, Known, Thinning
from ndpass.planning.pass_kinds import split
from ndpass.planning.shared_channels import MOST_UNKNOWNS, channel_group


def why_not(site: Site, passes: Sequence[Pass], group: Group | str) -> str | None:
    """Why no pass can act on this site, or None. group: who shares its input channels, or why that is of no use."""
    if site.in_hw is None:
        return "its input size is not known, so its cost is not"
    rules, pruning = split(passes)
    reason = refusal(rules, site.outline) if rules else ""
    if reason is None or pruning is None:
        return reason
    unprunable = _unprunable(site, pruning, group)
    return unprunable and "; ".join(text for text in (reason, f"{pruning.name}: {unprunable}") if text)


def is_fitted(site: Site, passes: Sequence[Pass]) -> bool:
    """Whether data tell these passes anything about the layer: grouped ones are fitted by passes that go by group."""
    grouped = [rule for rule in split(passes)[0] if rule.by_group]
    return site.outline.group == 1 or any(rule.refuse(site.outline) is None for rule in grouped)


def _unprunable(site: Site, pruning: Pruning, group: Group | str) -> str | None:
    reason = pruning.refuse(site.outline)
    return group if reason is None and isinstance(group, str) else reason


def candidates_for(
    site: Site,
    passes: Sequence[Pass],
    moments: Moments | None = None,
    group: Group | str = "",
    most: int = 4,
    others: Sequence[Reader] = (),
) -> list[Candidate]:
    """The layer as it is, then every single pass that accepts it, then the compositions, all in the passes' order.

    moments: of the layer, None plans on the weights alone; group: who shares its input channels, or why they cannot be
    pruned; most: how many decompositions are composed at most; others: the layers that read the same channels, of
    whose errors pruning counts with the largest.
    """
    known = known_of(site, passes, moments, group, others)
    known.pruned = [max(errors) for errors in zip(known.pruned, *known.shared, strict=True)]
    found = estimates_for(site, passes, known, group, most)
    found.settle_all(lambda: moments)
    return found.candidates()


def estimates_for(
    site: Site, passes: Sequence[Pass], known: Known, group: Group | str = "", most: int = 4
) -> Estimates:
    """The same before any composition is fitted. known: what `known_of` tells of the layer."""
    rules, pruning = split(passes)
    composes = bool(rules) and not is_pinned(rules) and refusal(rules, site.outline) is None
    thinning = None
    if pruning and isinstance(group, Group) and _unprunable(site, pruning, group) is None:
        thinning = Thinning(site, rules, pruning, group)
    return Estimates(site, rules if composes else [], known, thinning, most)


def known_of(
    site: Site, passes: Sequence[Pass], moments: Moments | None, group: Group | str, others: Sequence[Reader] = ()
) -> Known:
    """What every single pass does to the layer, or all of them together where their settings are given.

    others: the layers that read the same channels, where this one is the first that does. The errors that pruning makes
    in another one are left out, because the first one knows them.
    """
    rules, pruning = split(passes)
    conv = site.conv
    dense = Candidate(site_macs(site, rules, {}), block_error(conv, conv, moments))
    ways: list[Candidate] = []
    if rules and refusal(rules, conv) is None:
        one_by_one = (c for r in rules if r.refuse(conv) is None for c in _single(site, conv, r, dense.macs, moments))
        ways = list(_pinned(site, conv, rules, moments) if is_pinned(rules) else one_by_one)
    if pruning is None or isinstance(group, str) or _unprunable(site, pruning, group) is not None:
        return Known([dense, *ways])
    if group.readers[0] != site.name:
        return Known([dense, *ways])
    readers = [Reader(conv.weight, moments, group.consumers[0].channels), *others]
    found = pruning.errors(readers, pruning.settings(conv, size=group.size), group.filled)
    own, *shared = ([float(error) for error in errors] for errors in found)
    return Known([dense, *ways], own, shared=shared)


def is_pinned(passes: Sequence[Pass]) -> bool:
    """Whether every pass has all its numbers given, so that there is nothing to choose but words, as the form."""
    return all(rule.pinned_fully for rule in passes)


def block_of(site: Site, passes: Sequence[Pass], settings: Settings, group: Group | str = "") -> Block:
    """The shapes that settings give the layer, its weights zeros that take no memory.

    group: who shares the site's input channels, needed where a pass that prunes them is among the settings.
    """
    rules, pruning = split(passes)
    conv = site.outline
    if pruning is not None and pruning.name in settings and isinstance(group, Group):
        most = group.consumers[0].most_kept(pruning.kept(settings[pruning.name]))
        conv = replace(conv, weight=conv.weight[:, :most])
    return outline(rules, conv, settings)


def _single(site: Site, conv: Conv, rule: Decomposition, dense: int, moments: Moments | None) -> Iterator[Candidate]:
    """Every setting of one pass that saves MACs."""
    costs = [(s, site_macs(site, [rule], {rule.name: s})) for s in rule.settings(site.outline)]
    cheaper = [(s, macs) for s, macs in costs if macs < dense]
    known = moments if conv.group == 1 or rule.by_group else None
    errors = rule.errors(conv, [s for s, _ in cheaper], known)
    for (setting, macs), error in zip(cheaper, errors, strict=True):
        if is_tried(error):
            yield Candidate(macs, error, {rule.name: setting})


def _pinned(site: Site, conv: Conv, passes: Sequence[Decomposition], moments: Moments | None) -> Iterator[Candidate]:
    """All passes with the settings given, in each form that is left open; errors are measured.

    Without data only the first form, the paper's, because errors of the weights do not compare forms. On a VGG16 with
    nd:rank=3 pw-dw everywhere gave an accuracy of 78 %, dw-pw 52 %, the form with the smaller error in each layer 73 %.
    """
    products = list(_products(site, passes))
    full = all(rule.pinned_to_full for rule in passes)
    dense = site_macs(site, passes, {})
    for settings in products[:1] if moments is None else products:
        macs = site_macs(site, passes, settings)
        if full or macs < dense:
            block = compose(passes, conv, settings, moments)
            fitted = None if moments is None else block
            yield Candidate(macs, block_error(conv, block, moments), settings, block=fitted)


def _products(site: Site, passes: Sequence[Decomposition]) -> Iterator[Settings]:
    """The pinned settings of all passes together, those with the words that a pass names first before others."""
    options: list[list[tuple[str, Setting]]] = []
    for i, rule in enumerate(passes):
        before = [outline(passes[:i], site.outline, dict(chosen)) for chosen in itertools.product(*options)]
        leaves = [leaf for block in before for leaf in block.leaves() if rule.refuse(leaf) is None]
        if leaves:
            options.append([(rule.name, s) for s in _largest(rule, leaves)])
    return (dict(choice) for choice in itertools.product(*options))


def _largest(rule: Decomposition, leaves: Sequence[Conv]) -> list[Setting]:
    """The pinned settings for leaves of several sizes, of the leaf that can have the most: the others take their own
    full rank for it. In the order of their words."""
    found: dict[tuple[int, ...], Setting] = {}
    for setting in (s for leaf in leaves for s in rule.settings(leaf)):
        words = tuple(rule.words_first(setting))
        if words not in found or _number(setting) > _number(found[words]):
            found[words] = setting
    return [found[words] for words in sorted(found)]


def _number(setting: Setting) -> int:
    return max((value for value in setting.values() if isinstance(value, int)), default=0)


def refused(graph: Graph, site: Site, passes: Sequence[Pass], calibrated: bool) -> str | None:
    """Why the site is left alone whatever the budget, or None. calibrated: whether it would be fitted to data."""
    reason = why_not(site, passes, channel_group(graph, site, passes))
    if reason is not None and site.in_hw is not None and (rule := merging(passes)):
        unmerged = why_unmerged(graph, passes, site.name, calibrated)
        named = f"{rule.name}: {unmerged}" if reason else unmerged
        reason = unmerged and "; ".join(text for text in (reason, named) if text)
    n = site.outline.unknowns
    if reason is None and calibrated and n > MOST_UNKNOWNS:
        why = f"patches of {n} elements: their moments would take {8 * n * n / 1e9:.1f} GB"
        by_weights = why_not(site, [rule for rule in passes if isinstance(rule, Decomposition)], "") is None
        return f"{why}; another run, without --calibration, takes apart its weights" if by_weights else why
    return reason
