"""Passes one after the other inside a layer: `cd,nd` decouples the k×k convolution that cd leaves.

Each pass acts on every leaf that it accepts. The moments of an inner leaf follow from the layer's: the patch of the
leaf is a linear map T of the layer's patch, one map for each place that the leaf can take in the layer's kernel. The
leaf's moments are the mean of T C Tᵀ over these places, its target is its own response. The error of an earlier leaf is
in the maps of the later ones. At the end the last linear factor is solved for again, on the response of the original.

A grouped convolution is composed group by group, by passes that act so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.passes.base import Decomposition, Setting
from ndpass.passes.decoupling_fit import RIDGE, solve
from ndpass.passes.groups import apart, beside, times

Settings = Mapping[str, Setting]  # pass name -> setting; a pass that is not named is left out


def refusal(passes: Sequence[Decomposition], conv: Conv) -> str | None:
    """Why no pass can act on this convolution itself, with the reason of each; None where one can."""
    reasons = {rule.name: rule.refuse(conv) for rule in passes}
    if None in reasons.values():
        return None
    texts = list(dict.fromkeys(str(r) for r in reasons.values()))
    return texts[0] if len(texts) == 1 else "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def compose(passes: Sequence[Decomposition], conv: Conv, settings: Settings, moments: Moments | None = None) -> Block:
    """The block that the passes with a setting make of `conv`, one after the other.

    With moments each pass is fitted to data, then the last factor and the bias are fitted again. For example
    `compose(parse("cd,nd"), conv, {"cd": {"rank": 32}, "nd": {"rank": 2, "form": "dw-pw"}})`.
    """
    chosen = [rule for rule in passes if rule.name in settings]
    if is_by_group(chosen, conv):
        return beside([_composed(chosen, one, settings, own, conv.group) for one, own in apart(conv, moments)])
    return _composed(chosen, conv, settings, moments if conv.group == 1 else None)


def is_by_group(passes: Sequence[Decomposition], conv: Conv) -> bool:
    """Whether these passes rewrite the convolution group by group."""
    return conv.group > 1 and all(rule.by_group for rule in passes)


def _composed(
    chosen: Sequence[Decomposition], conv: Conv, settings: Settings, moments: Moments | None, groups: int = 1
) -> Block:
    """groups: how many such convolutions stand side by side."""
    block: Block = conv.with_bias(None)
    for rule in chosen:
        block = applied(rule, settings[rule.name], block, conv, moments, groups)
    return finished(block, conv, moments, refitted=len(chosen) > 1)


def applied(
    rule: Decomposition, setting: Setting, block: Block, conv: Conv, moments: Moments | None, groups: int = 1
) -> Block:
    """What one pass makes of `block`, which the passes before it have made of `conv`; without bias.

    groups: how many such blocks stand side by side.
    """

    def rewritten(leaf: Conv, before: Conv | None) -> Block:
        if rule.refuse(times(leaf, groups)) is not None:
            return leaf
        if moments is None:
            return rule.rewrite(leaf, setting)
        return rule.rewrite(leaf, setting, _own_moments(leaf, before, conv, moments)).with_bias(None)

    return _leaf_by_leaf(block, None, rewritten)


def sketched(
    rule: Decomposition,
    settings: Sequence[Setting],
    block: Block,
    conv: Conv,
    moments: Moments | None,
    groups: int = 1,
) -> list[Block]:
    """Roughly what `applied` gives for each setting, to estimate errors.

    A leaf does not make up for the error of those before it, so that its moments, which take longer than its fit, are
    computed once for all settings.
    """
    if moments is None:
        return [applied(rule, setting, block, conv, None, groups) for setting in settings]
    known: dict[Conv, Moments] = {}

    def remember(leaf: Conv, before: Conv | None) -> Block:
        if rule.refuse(times(leaf, groups)) is None:
            known[leaf] = _own_moments(leaf, before, conv, moments)
        return leaf

    def sketch(setting: Setting, leaf: Conv) -> Block:
        return rule.sketch(leaf, setting, known[leaf]).with_bias(None) if leaf in known else leaf

    _leaf_by_leaf(block, None, remember)
    return [block.map_leaves(partial(sketch, setting)) for setting in settings]


def _own_moments(leaf: Conv, before: Conv | None, conv: Conv, moments: Moments) -> Moments:
    outermost = before is None and leaf.weight.shape == conv.weight.shape
    return moments if outermost else leaf_moments(leaf, before, conv, moments)


def finished(block: Block, conv: Conv, moments: Moments | None, *, refitted: bool) -> Block:
    """The block with its bias; with moments and `refitted` the last factor is solved for again."""
    if moments is None:
        return block.with_bias(conv.bias)
    if refitted:
        block = refit(block, conv, moments)
    return block.with_bias(moments.bias(block.dense().matrix))


def outline(passes: Sequence[Decomposition], conv: Conv, settings: Settings) -> Block:
    """The shapes of what `compose` gives, with weights of zeros that take no memory."""
    block: Block = conv
    for rule in passes:
        if rule.name in settings:
            setting = settings[rule.name]
            block = block.map_leaves(lambda leaf, r=rule, s=setting: leaf if r.refuse(leaf) else r.outline(leaf, s))  # type: ignore[misc]
    return block


def _leaf_by_leaf(block: Block, before: Conv | None, rewritten: Callable[[Conv, Conv | None], Block]) -> Block:
    """The block with each leaf rewritten; `rewritten` gets the leaf and the one convolution equal to all before it."""
    if isinstance(block, Sum):
        return Sum(*(_leaf_by_leaf(b, before, rewritten) for b in block.blocks))
    if isinstance(block, Conv):
        return rewritten(block, before)
    done: list[Block] = []
    for inner in block.blocks:
        done.append(_leaf_by_leaf(inner, before, rewritten))
        before = done[-1].dense() if before is None else Chain(before, done[-1]).dense()
    return Chain(*done)


def leaf_moments(leaf: Conv, before: Conv | None, site: Conv, moments: Moments) -> Moments:
    """Moments of an inner leaf's patches and of its own responses, as the module says.

    before: the one convolution equal to all that comes before the leaf, or None; moments: of the layer `site`.
    """
    if before is None and leaf.kernel == site.kernel:
        inner = moments
    elif before is None:  # the leaf sees a part of the patch: nothing to multiply
        inner = _mean([moments.keep(np.argmax(T, axis=1)) for T in placements(leaf, None, site)])
    else:
        inner = _mean([moments.through(T) for T in placements(leaf, before, site)])
    weight = leaf.dense().matrix
    ridged = inner.answering(weight).shrunk(weight, RIDGE)  # features that depend on each other make C singular
    return replace(ridged, exact=True)


def first_leaf_moments(leaf: Conv, site: Conv, moments: Moments) -> Moments:
    """As `leaf_moments` of a leaf that comes first, for estimates.

    A leaf that sees the whole patch keeps the layer's C as it is, which its prior makes definite. So what has been
    derived from C is shared by all leaves of all settings.
    """
    if leaf.kernel != site.kernel or moments.anchor is None:
        return leaf_moments(leaf, None, site, moments)
    return moments.of_leaf(leaf.dense().matrix.astype(np.float64))


def placements(leaf: Conv, before: Conv | None, site: Conv) -> Iterator[Array]:
    """The map T (n_l·K_l, n) for each place that the leaf, behind `before`, can take in the layer's kernel."""
    kernel = site.kernel
    ahead = before or Conv(np.eye(site.n_i).reshape(site.n_i, site.n_i, *(1,) * len(kernel)))
    spans = [f * s for f, s in zip(ahead.kernel, leaf.kernel, strict=True)]
    free = [range(k) if span == 1 else range(1) for k, span in zip(kernel, spans, strict=True)]
    first = ahead.weight.reshape(ahead.n_o, site.n_i, *ahead.kernel)
    for offset in itertools.product(*free):
        T = np.zeros((ahead.n_o, *leaf.kernel, site.n_i, *kernel))
        for tap in np.ndindex(*leaf.kernel):
            for own in np.ndindex(*ahead.kernel):
                place = tuple(o + t + f for o, t, f in zip(offset, tap, own, strict=True))
                to: tuple[Any, ...] = (slice(None), *tap, slice(None), *place)
                taken: tuple[Any, ...] = (slice(None), slice(None), *own)
                T[to] = first[taken]
        yield T.reshape(ahead.n_o * leaf.kernel_size, -1)


def _mean(parts: Sequence[Moments]) -> Moments:
    """The mean over all placements."""
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def refit(block: Block, site: Conv, moments: Moments) -> Block:
    """The block with its last convolution fitted again to the responses, where it is dense and the loss falls."""
    if not isinstance(block, Chain) or not isinstance(block.blocks[-1], Conv) or block.blocks[-1].group > 1:
        return block
    last, ahead = block.blocks[-1], Chain(*block.blocks[:-1]).dense()
    (T,) = list(placements(last, ahead, site))[:1]
    through = moments.through(T)
    weight = solve(through.C, through.B.T).T.reshape(last.weight.shape)
    better = Chain(*block.blocks[:-1], replace(last, weight=weight))
    return min((block, better), key=lambda b: moments.loss(b.dense().weight))
