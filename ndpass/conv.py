"""The algebra: what may stand in a convolution's place.

    Block = Conv | Chain(Block, ...) | Sum(Block, ...)

A matrix product (Gemm, MatMul) is a convolution without spatial axes: its kernel is `()`. Every block answers
`macs`, `params`, `out_hw`, `dense` and `leaves`; "hw" stands for the spatial axes whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Block: TypeAlias = "Conv | Chain | Sum"


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution, with zero padding.

    weight: (n_o, n_i / group, *kernel); bias: (n_o,) or None; strides and dilations: one number an axis;
    pads: the begins of all axes, then the ends. What is left empty means 1, or no padding. With a kernel of no elements
    it reads nothing and gives its bias.

    >>> conv = Conv(np.zeros((32, 16, 3, 3)), pads=(1, 1, 1, 1))
    >>> conv.out_hw((8, 8)), conv.macs((8, 8)), conv.params()
    ((8, 8), 294912, 4608)
    """

    weight: Array
    bias: Array | None = None
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1

    def __post_init__(self) -> None:
        axes = self.weight.ndim - 2
        ones = (1,) * axes
        object.__setattr__(self, "strides", tuple(self.strides) or ones)
        object.__setattr__(self, "dilations", tuple(self.dilations) or ones)
        object.__setattr__(self, "pads", tuple(self.pads) or (0,) * (2 * axes))
        if (len(self.strides), len(self.dilations), len(self.pads)) != (axes, axes, 2 * axes):
            raise ValueError(
                f"a weight of shape {self.weight.shape} has {axes} spatial axes; "
                f"got strides {self.strides}, dilations {self.dilations}, pads {self.pads}"
            )

    @property
    def n_o(self) -> int:
        return int(self.weight.shape[0])

    @property
    def n_i(self) -> int:
        return int(self.weight.shape[1]) * self.group

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    @property
    def kernel_size(self) -> int:
        """K, the number of elements of the kernel."""
        return math.prod(self.kernel)

    @property
    def unknowns(self) -> int:
        """n_i / group * K, the elements of a patch that each output reads."""
        return int(self.weight[0].size)

    @property
    def matrix(self) -> Array:
        """The weight as (n_o, n_i / group * K)."""
        return self.weight.reshape(self.n_o, -1)

    @property
    def is_constant(self) -> bool:
        """Whether its kernel has no elements, so that it gives its bias (n_o,) everywhere."""
        return self.weight.size == 0

    @property
    def depthwise(self) -> bool:
        return self.group > 1 and self.group == self.n_i == self.n_o

    def out_hw(self, in_hw: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial output size. Raises ValueError where the padded input is smaller than the kernel."""
        axes = len(self.kernel)
        out = tuple(
            (n + self.pads[a] + self.pads[a + axes] - self.dilations[a] * (self.kernel[a] - 1) - 1) // self.strides[a]
            + 1
            for a, n in enumerate(in_hw)
        )
        if min(out, default=1) < 1:
            raise ValueError(f"an input of {in_hw} with pads {self.pads} is smaller than the kernel {self.kernel}")
        return out

    def macs(self, in_hw: tuple[int, ...]) -> int:
        return math.prod(self.out_hw(in_hw)) * int(self.weight.size)

    def params(self) -> int:
        return int(self.weight.size) + (0 if self.bias is None else int(self.bias.size))

    def dense(self) -> Conv:
        """The same convolution with group 1."""
        if self.group == 1:
            return self
        n_o, n_i = self.n_o, self.n_i
        weight = np.zeros((n_o, n_i, *self.kernel), self.weight.dtype)
        outs, ins = n_o // self.group, n_i // self.group
        for g in range(self.group):
            o = slice(g * outs, (g + 1) * outs)
            weight[o, g * ins : (g + 1) * ins] = self.weight[o]
        return replace(self, weight=weight, group=1)

    def leaves(self) -> tuple[Conv, ...]:
        return (self,)

    def map_leaves(self, change: Callable[[Conv], Block]) -> Block:
        return change(self)

    def with_bias(self, bias: Array | None) -> Conv:
        return replace(self, bias=bias)


@dataclass(frozen=True, eq=False)
class Chain:
    """One block after the other.

    >>> chain = Chain(Conv(np.zeros((4, 16, 3, 1))), Conv(np.zeros((32, 4, 1, 3))))
    >>> chain.out_hw((8, 8)), chain.dense().kernel
    ((6, 6), (3, 3))
    """

    blocks: tuple[Block, ...]

    def __init__(self, *blocks: Block) -> None:
        object.__setattr__(self, "blocks", blocks)

    def out_hw(self, in_hw: tuple[int, ...]) -> tuple[int, ...]:
        for block in self.blocks:
            in_hw = block.out_hw(in_hw)
        return in_hw

    def macs(self, in_hw: tuple[int, ...]) -> int:
        total = 0
        for block in self.blocks:
            total += block.macs(in_hw)
            in_hw = block.out_hw(in_hw)
        return total

    def params(self) -> int:
        return sum(block.params() for block in self.blocks)

    def dense(self) -> Conv:
        """The one convolution that the chain is equal to. Raises ValueError where `_compose` does."""
        result = self.blocks[0].dense()
        for block in self.blocks[1:]:
            result = _compose(result, block.dense())
        return result

    def leaves(self) -> tuple[Conv, ...]:
        return tuple(leaf for block in self.blocks for leaf in block.leaves())

    def map_leaves(self, change: Callable[[Conv], Block]) -> Block:
        return Chain(*(block.map_leaves(change) for block in self.blocks))

    def with_bias(self, bias: Array | None) -> Chain:
        """The chain with this bias on its last leaf."""
        return Chain(*self.blocks[:-1], self.blocks[-1].with_bias(bias))


@dataclass(frozen=True, eq=False)
class Sum:
    """Blocks side by side on the same input, their outputs added.

    >>> narrow = Conv(np.zeros((4, 16, 1, 1)))
    >>> branch = Chain(narrow, Conv(np.zeros((32, 4, 3, 3)), pads=(1, 1, 1, 1)))
    >>> block = Sum(branch, branch)
    >>> block.macs((8, 8)), block.out_hw((8, 8)), block.dense().weight.shape
    (155648, (8, 8), (32, 16, 3, 3))
    """

    blocks: tuple[Block, ...]

    def __init__(self, *blocks: Block) -> None:
        object.__setattr__(self, "blocks", blocks)

    def out_hw(self, in_hw: tuple[int, ...]) -> tuple[int, ...]:
        return self.blocks[0].out_hw(in_hw)

    def macs(self, in_hw: tuple[int, ...]) -> int:
        return sum(block.macs(in_hw) for block in self.blocks)

    def params(self) -> int:
        return sum(block.params() for block in self.blocks)

    def dense(self) -> Conv:
        """The one convolution that the sum is equal to. Raises ValueError for branches of different geometry."""
        parts = [block.dense() for block in self.blocks]
        if len({(p.weight.shape, p.strides, p.pads, p.dilations) for p in parts}) > 1:
            raise ValueError("branches of a sum must agree in shape, strides, pads and dilations")
        biases = [p.bias for p in parts if p.bias is not None]
        bias = np.sum(biases, axis=0) if biases else None
        return replace(parts[0], weight=np.sum([p.weight for p in parts], axis=0), bias=bias)

    def leaves(self) -> tuple[Conv, ...]:
        return tuple(leaf for block in self.blocks for leaf in block.leaves())

    def map_leaves(self, change: Callable[[Conv], Block]) -> Block:
        return Sum(*(block.map_leaves(change) for block in self.blocks))

    def with_bias(self, bias: Array | None) -> Sum:
        """The sum with this bias, once: on its first branch."""
        return Sum(self.blocks[0].with_bias(bias), *(block.with_bias(None) for block in self.blocks[1:]))


def _compose(first: Conv, second: Conv) -> Conv:
    """The kernel of `second` after `first`, both with group 1.

    Exact where, axis by axis, one of the two does nothing (kernel 1, stride 1, no padding); the output index p2 then
    reads x[s1 s2 p2 - s1 pad2 - pad1 + s1 d2 k2 + d1 k1]. A bias before a padded convolution has no dense equal.
    """
    axes = len(first.kernel)
    strides, dilations, begins, ends = [], [], [], []
    for a in range(axes):
        own = [_axis(c, a, axes) for c in (first, second)]
        if own[0] != _IDLE and own[1] != _IDLE:
            raise ValueError(f"both convolutions of a chain act on axis {a}: no single kernel is equal to them")
        s1 = own[0][1]
        strides.append(s1 * own[1][1])
        dilations.append(s1 * own[1][4] if own[0] == _IDLE else own[0][4])
        begins.append(own[0][2] + s1 * own[1][2])
        ends.append(own[0][3] + s1 * own[1][3])
    n_o, n_i = second.n_o, first.n_i
    outer = second.weight.reshape(n_o, second.n_i, -1).transpose(2, 0, 1) @ first.weight.reshape(first.n_o, -1)
    # outer: (K2, n_o, n_i * K1); one of the two kernel extents is 1 on every axis, so the axes multiply out
    outer = outer.reshape(*second.kernel, n_o, n_i, *first.kernel)
    order = [axes, axes + 1] + [i for a in range(axes) for i in (a, axes + 2 + a)]
    kernel = tuple(k2 * k1 for k2, k1 in zip(second.kernel, first.kernel, strict=True))
    weight = outer.transpose(order).reshape(n_o, n_i, *kernel)
    return Conv(weight, _compose_bias(first, second), tuple(strides), (*begins, *ends), tuple(dilations))


_IDLE = (1, 1, 0, 0, 1)


def _axis(conv: Conv, a: int, axes: int) -> tuple[int, int, int, int, int]:
    """(kernel, stride, pad at the begin, at the end, dilation) of one axis; a dilated kernel of 1 is not dilated."""
    kernel = conv.kernel[a]
    return kernel, conv.strides[a], conv.pads[a], conv.pads[a + axes], conv.dilations[a] if kernel > 1 else 1


def _compose_bias(first: Conv, second: Conv) -> Array | None:
    if first.bias is None:
        return second.bias
    if any(second.pads):
        raise ValueError("a bias before a padded convolution has no single kernel that is equal to it")
    through: Array = second.weight.reshape(second.n_o, second.n_i, -1).sum(-1) @ first.bias
    return through if second.bias is None else through + second.bias
