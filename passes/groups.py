"""Grouped convolutions, group by group: each group is a dense convolution of its own inputs to its own outputs.

A pass makes the same of every group, a setting being the same for all: blocks of one shape with other weights. Side by
side they are that block of grouped convolutions. Errors of the groups add up to that of the whole,

    error = Σ_g E_g error_g / Σ_g E_g    E_g the energy of the group's response, or ‖W_g‖² of its weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Conv


def refuse_groups(conv: Conv, refuse: Callable[[Conv], str | None]) -> str | None:
    """Why a pass that acts group by group leaves a grouped convolution alone, or None.

    refuse: what says it of the convolution of one group.
    """
    if conv.weight.shape[1] == 1:
        return f"depthwise convolution (group={conv.group})"
    reason = refuse(one_of(conv))
    return reason and f"in each group: {reason}"


def one_of(conv: Conv) -> Conv:
    """The first group, which has the geometry of all; the convolution itself where it is dense."""
    return next(_cut(conv, conv.group))


def apart(conv: Conv, moments: Moments | None = None) -> Iterator[tuple[Conv, Moments | None]]:
    """Every group with its moments."""
    parts = [None] * conv.group if moments is None else moments.parts
    return zip(_cut(conv, conv.group), parts, strict=True)


def beside(blocks: Sequence[Block]) -> Block:
    """Blocks of one shape, each on its own inputs to its own outputs, as one block of grouped convolutions."""
    first = blocks[0]
    if not isinstance(first, Conv):
        inner = zip(*(block.blocks for block in blocks if not isinstance(block, Conv)), strict=True)
        return type(first)(*(beside(each) for each in inner))
    convs = [block for block in blocks if isinstance(block, Conv)]
    bias = None if first.bias is None else np.concatenate([conv.bias for conv in convs if conv.bias is not None])
    weight = np.concatenate([conv.weight for conv in convs])
    return replace(first, weight=weight, bias=bias, group=first.group * len(convs))


def repeated(block: Block, groups: int) -> Block:
    """The shapes of `groups` times the block side by side, with weights of zeros that take no memory."""
    return block.map_leaves(lambda leaf: times(leaf, groups))


def times(conv: Conv, groups: int) -> Conv:
    """The same of one convolution, which stays as it is where groups is 1."""
    if groups == 1:
        return conv
    n_o = groups * conv.n_o
    weight = np.broadcast_to(np.float32(0), (n_o, *conv.weight.shape[1:]))
    bias = None if conv.bias is None else np.zeros(n_o, np.float32)
    return replace(conv, weight=weight, bias=bias, group=groups * conv.group)


def kernel_of(block: Block, groups: int) -> Array:
    """The kernel (n_o, n_i / groups, *kernel) of the grouped convolution that the block is equal to.

    Raises ValueError where it mixes groups, or is equal to no single convolution.
    """
    return np.concatenate([part.dense().weight for part in _split(block, groups)])


def mixes(block: Block, groups: int) -> bool:
    """Whether some output reads other inputs than those of its own group."""
    return any(leaf.group % groups for leaf in block.leaves())


def energies(conv: Conv, moments: Moments | None) -> list[float]:
    """What the errors of each group are relative to."""
    return [_energy(part, own) for part, own in apart(conv, moments)]


def _energy(conv: Conv, moments: Moments | None) -> float:
    return float(np.square(conv.weight.astype(np.float64)).sum()) if moments is None else moments.variance


def together(errors: Sequence[Sequence[float | None]], weights: Sequence[float]) -> list[float | None]:
    """Errors [group][setting] as errors of the whole; None where a setting is not tried in some group."""
    total = sum(weights) or 1.0
    return [
        None if None in each else sum(w * e for w, e in zip(weights, each, strict=True) if e is not None) / total
        for each in zip(*errors, strict=True)
    ]


def _split(block: Block, groups: int) -> list[Block]:
    """What `beside` would make the block of."""
    if isinstance(block, Conv):
        return list(_cut(block, groups))
    kind = type(block)
    return [kind(*inner) for inner in zip(*(_split(b, groups) for b in block.blocks), strict=True)]


def _cut(conv: Conv, groups: int) -> Iterator[Conv]:
    if groups == 1:
        yield conv
        return
    if conv.group % groups:
        raise ValueError(f"a convolution of {conv.group} groups cannot be split into {groups}")
    outs = conv.n_o // groups
    for start in range(0, conv.n_o, outs):
        own = slice(start, start + outs)
        bias = None if conv.bias is None else conv.bias[own]
        yield replace(conv, weight=conv.weight[own], bias=bias, group=conv.group // groups)
