"""The algebra against loops: what a block computes, its one dense kernel, and what it costs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndpass.conv import Block, Chain, Conv, Sum

F64: TypeAlias = NDArray[np.floating[Any]]
TIGHT = 1e-12  # everything here is computed in float64


def convolve(conv: Conv, x: F64) -> tuple[F64, int]:
    """The convolution of x (n_i, *in) as the definition reads, and the multiplications that it took."""
    axes = len(conv.kernel)
    padded = np.pad(x, [(0, 0), *((conv.pads[a], conv.pads[a + axes]) for a in range(axes))])
    starts = []
    for a in range(axes):
        reach = conv.dilations[a] * (conv.kernel[a] - 1)
        starts.append(range(0, padded.shape[1 + a] - reach, conv.strides[a]))
    y = np.zeros((conv.n_o, *map(len, starts)))
    outs, ins = conv.n_o // conv.group, conv.n_i // conv.group
    multiplications = 0
    for position in itertools.product(*map(range, map(len, starts))):
        for o in range(conv.n_o):
            for tap in itertools.product(*map(range, conv.kernel)):
                at = tuple(starts[a][position[a]] + conv.dilations[a] * tap[a] for a in range(axes))
                for i in range(ins):
                    y[(o, *position)] += conv.weight[(o, i, *tap)] * padded[(o // outs * ins + i, *at)]
                    multiplications += 1
    if conv.bias is not None:
        y += conv.bias.reshape(-1, *(1,) * axes)
    return y, multiplications


def apply(block: Block, x: F64) -> tuple[F64, int]:
    """The block on x, leaf after leaf, and its multiplications."""
    if isinstance(block, Conv):
        return convolve(block, x)
    total = 0
    if isinstance(block, Chain):
        for inner in block.blocks:
            x, count = apply(inner, x)
            total += count
        return x, total
    results = [apply(inner, x) for inner in block.blocks]
    return np.sum([y for y, _ in results], axis=0), sum(count for _, count in results)


def random_conv(shape: tuple[int, ...], seed: int = 0, bias: bool = False, **geometry: Any) -> Conv:
    rng = np.random.default_rng([seed, *shape])
    return Conv(rng.standard_normal(shape), rng.standard_normal(shape[0]) if bias else None, **geometry)


def error(a: F64, b: F64) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@st.composite
def convs(draw: st.DrawFn) -> tuple[Conv, F64]:
    """Any convolution in 1 to 3 dimensions whose kernel fits, and an input for it."""
    axes = draw(st.integers(1, 3))

    def each(low: int, high: int, n: int = axes) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    group = draw(st.integers(1, 3))
    shape = (group * draw(st.integers(1, 2)), draw(st.integers(1, 2)), *each(1, 3))
    geometry = {"strides": each(1, 3), "pads": each(0, 2, 2 * axes), "dilations": each(1, 2)}
    conv = random_conv(shape, draw(st.integers(0, 9)), draw(st.booleans()), group=group, **geometry)
    in_hw = each(1, 6 if axes < 3 else 4)
    lengths = [n + conv.pads[a] + conv.pads[a + axes] for a, n in enumerate(in_hw)]
    assume(all(n > d * (k - 1) for n, k, d in zip(lengths, conv.kernel, conv.dilations, strict=True)))
    return conv, np.random.default_rng(1).standard_normal((conv.n_i, *in_hw))


@settings(max_examples=40, deadline=None)
@given(convs())
def test_size_and_cost_are_what_a_loop_counts(case: tuple[Conv, F64]) -> None:
    conv, x = case
    y, multiplications = convolve(conv, x)
    assert conv.out_hw(x.shape[1:]) == y.shape[1:]
    assert conv.macs(x.shape[1:]) == multiplications
    assert conv.params() == sum(a.size for a in (conv.weight, conv.bias) if a is not None)


@settings(max_examples=40, deadline=None)
@given(convs())
def test_group_one_form_computes_the_same(case: tuple[Conv, F64]) -> None:
    conv, x = case
    dense = conv.dense()
    assert dense.group == 1
    assert dense.weight.shape == (conv.n_o, conv.n_i, *conv.kernel)
    np.testing.assert_allclose(convolve(dense, x)[0], convolve(conv, x)[0], rtol=TIGHT, atol=TIGHT)


@settings(max_examples=40, deadline=None)
@given(convs(), st.booleans(), st.integers(1, 3))
def test_chain_with_a_pointwise_convolution_is_one_kernel(case: tuple[Conv, F64], first: bool, n: int) -> None:
    """Pointwise before or after anything; a bias may stand before it, and before a padded one it may not."""
    conv, x = case
    ones = (1,) * len(conv.kernel)
    point = random_conv((conv.n_i, conv.n_i, *ones) if first else (n, conv.n_o, *ones), n, bias=not first)
    block = Chain(point, conv) if first else Chain(conv, point)
    y, multiplications = apply(block, x)
    np.testing.assert_allclose(convolve(block.dense(), x)[0], y, rtol=1e-10, atol=1e-10)
    assert block.macs(x.shape[1:]) == multiplications
    assert block.out_hw(x.shape[1:]) == y.shape[1:]


def pair(seed: int, n: int = 4) -> Chain:
    """A pointwise and a depthwise convolution, stride 2, as one branch of nd has them."""
    dw = random_conv((n, 1, 3, 2), seed, strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 2), group=n)
    return Chain(random_conv((n, 3, 1, 1), seed), dw)


def swapped(seed: int) -> Chain:
    dw = random_conv((3, 1, 3, 2), seed, strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 2), group=3)
    return Chain(dw, random_conv((4, 3, 1, 1), seed, bias=True))


def split(seed: int) -> Chain:
    """A kernel by axis, as sd has it, between two pointwise convolutions."""
    down = random_conv((2, 5, 3, 1), seed, strides=(2, 1), pads=(1, 0, 1, 0))
    across = random_conv((3, 2, 1, 2), seed, strides=(1, 1), pads=(0, 0, 0, 2), dilations=(1, 2))
    ends = random_conv((5, 3, 1, 1), seed), random_conv((4, 3, 1, 1), seed, bias=True)
    return Chain(Chain(ends[0], down), Chain(across, ends[1]))


strided_point = Chain(random_conv((2, 3, 1, 1), 7, strides=(2, 1)), random_conv((4, 2, 1, 2), 7, dilations=(1, 2)))

NESTED = {
    "sum of pairs": Sum(pair(1), pair(2), swapped(3)),
    "split by axis": split(1),
    "sum of chains of sums": Sum(Chain(Sum(pair(1), pair(2)), random_conv((4, 4, 1, 1), 5)), swapped(4)),
    "chain of sums": Chain(Sum(pair(1, 2), pair(2, 2)), Sum(random_conv((4, 2, 1, 1)), random_conv((4, 2, 1, 1), 2))),
    "one branch": Sum(Chain(pair(3))),
    "a stride before a kernel of another axis": strided_point,
}


@pytest.mark.parametrize("block", NESTED.values(), ids=NESTED.keys())
def test_nested_block_equals_its_dense_kernel(block: Block) -> None:
    x = np.random.default_rng(2).standard_normal((3, 7, 8))
    y, multiplications = apply(block, x)
    dense = block.dense()
    assert error(y, convolve(dense, x)[0]) < TIGHT
    assert dense.out_hw((7, 8)) == block.out_hw((7, 8)) == y.shape[1:]
    assert block.macs((7, 8)) == multiplications
    assert block.params() == sum(leaf.params() for leaf in block.leaves())


def test_a_stride_before_a_kernel_spreads_it() -> None:
    """Stride 2 and then a kernel on the same axis touches both: there is a dense kernel, but not in this algebra."""
    first, second = random_conv((2, 2, 1, 1), strides=(2, 2)), random_conv((2, 2, 3, 3))
    with pytest.raises(ValueError, match="both convolutions of a chain act on axis 0"):
        Chain(first, second).dense()


def test_two_kernels_on_one_axis_have_no_dense_kernel_here() -> None:
    with pytest.raises(ValueError, match="act on axis 1"):
        Chain(random_conv((2, 2, 1, 3)), random_conv((2, 2, 3, 3))).dense()


def test_a_bias_before_padding_has_no_dense_kernel() -> None:
    padded = random_conv((2, 2, 3), pads=(1, 1))
    with pytest.raises(ValueError, match="bias before a padded convolution"):
        Chain(random_conv((2, 2, 1), bias=True), padded).dense()


def test_a_bias_before_an_unpadded_convolution_goes_through() -> None:
    chain = Chain(random_conv((3, 2, 1), bias=True), random_conv((2, 3, 3), bias=True))
    x = np.random.default_rng(3).standard_normal((2, 6))
    assert error(apply(chain, x)[0], convolve(chain.dense(), x)[0]) < TIGHT


@pytest.mark.parametrize("other", [{"strides": (2, 2)}, {"pads": (1, 1, 1, 1)}, {"dilations": (2, 2)}])
def test_branches_of_a_sum_must_agree(other: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="branches of a sum must agree"):
        Sum(random_conv((2, 2, 3, 3)), random_conv((2, 2, 3, 3), **other)).dense()


@pytest.mark.parametrize("wrong", [{"strides": (1,)}, {"pads": (1, 1)}, {"dilations": (1, 1, 1)}])
def test_geometry_must_fit_the_weight(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"has 2 spatial axes; got strides"):
        random_conv((2, 2, 3, 3), **wrong)


@pytest.mark.parametrize(("size", "fits"), [(4, False), (5, True)])
def test_an_input_smaller_than_the_kernel_is_an_error(size: int, fits: bool) -> None:
    conv = random_conv((1, 1, 4), dilations=(2,), pads=(1, 1))
    if fits:
        assert conv.out_hw((size,)) == (1,)
    else:
        with pytest.raises(ValueError, match=r"an input of \(4,\) .* smaller than the kernel \(4,\)"):
            conv.macs((size,))


def test_a_matrix_product_is_a_convolution_without_axes() -> None:
    chain = Chain(random_conv((2, 5)), random_conv((4, 2), bias=True))
    dense = chain.dense()
    np.testing.assert_allclose(dense.weight, chain.blocks[1].weight @ chain.blocks[0].weight, rtol=TIGHT)
    assert (dense.kernel, dense.kernel_size, dense.out_hw(())) == ((), 1, ())
    assert (chain.macs(()), dense.macs(())) == (2 * 5 + 4 * 2, 4 * 5)


@pytest.mark.parametrize("block", [pair(1), Sum(pair(1), pair(2)), Chain(Sum(pair(1), swapped(2)))])
def test_with_bias_adds_that_bias_once(block: Block) -> None:
    bias = np.arange(1.0, 5.0)
    x = np.random.default_rng(4).standard_normal((3, 5, 6))
    plain = apply(block.with_bias(None), x)[0]
    biased = apply(block.with_bias(bias), x)[0]
    np.testing.assert_allclose(biased - plain, np.broadcast_to(bias[:, None, None], plain.shape), rtol=1e-9)
    assert sum(leaf.bias is not None for leaf in block.with_bias(bias).leaves()) == 1


def test_leaves_come_in_order_and_can_be_replaced() -> None:
    block = Sum(pair(1), Chain(swapped(2)))
    assert [leaf.weight.shape for leaf in block.leaves()] == [(4, 3, 1, 1), (4, 1, 3, 2), (3, 1, 3, 2), (4, 3, 1, 1)]
    doubled = block.map_leaves(lambda leaf: replace(leaf, weight=2 * leaf.weight))
    assert isinstance(doubled, Sum)
    assert [type(b) for b in doubled.blocks] == [Chain, Chain]
    expected = [2 * leaf.weight for leaf in block.leaves()]
    for leaf, weight in zip(doubled.leaves(), expected, strict=True):
        np.testing.assert_array_equal(leaf.weight, weight)


@pytest.mark.parametrize(
    ("shape", "group", "depthwise"), [((4, 1, 3), 4, True), ((4, 2, 3), 2, False), ((8, 1, 3), 4, False)]
)
def test_depthwise_means_one_channel_in_and_out_a_group(shape: tuple[int, ...], group: int, depthwise: bool) -> None:
    assert random_conv(shape, group=group).depthwise is depthwise
