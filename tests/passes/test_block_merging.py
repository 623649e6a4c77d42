"""bm on arrays: kernels, what they read, the fit against least squares on patches, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import patches
from ndpass.conv import Array, Conv
from ndpass.errors import UsageError
from ndpass.passes import BlockMerging, Merging, auto, parse
from ndpass.passes.block_merging import columns, cropped

WIDE = Conv(np.zeros((4, 3, 7, 7)), strides=(2, 2), pads=(3, 3, 3, 3))
FLAT = Conv(np.zeros((4, 3, 1, 4)), pads=(0, 2, 0, 1))


def sizes(conv: Conv, unknowns: int | None = None, **pinned: int | str) -> list[int | str]:
    return [s["kernel"] for s in BlockMerging(**pinned).settings(conv, unknowns)]


def test_kernels_have_the_parity_of_the_field_and_the_data_limit_them() -> None:
    assert sizes(WIDE) == ["none", 1, 3, 5, 7]
    assert sizes(FLAT) == ["none", 2, 4]
    assert sizes(WIDE, 3 * 9) == ["none", 1, 3]
    assert sizes(WIDE, 2) == ["none"]


@pytest.mark.parametrize(
    ("asked", "unknowns", "found"),
    [
        (3, None, [3]),
        (4, None, [3]),
        (9, None, [7]),
        ("full", None, [7]),
        (5, 30, [3]),
        ("none", None, ["none"]),
        ("none", 2, ["none"]),
    ],
)
def test_a_pinned_kernel_is_the_largest_that_there_is(asked: int | str, unknowns: int | None, found: list[int]) -> None:
    assert sizes(WIDE, unknowns, kernel=asked) == found


def test_a_kernel_that_would_cut_the_input_is_none() -> None:
    assert sizes(replace(WIDE, pads=(1, 3, 3, 3))) == ["none", 5, 7]
    assert sizes(replace(WIDE, pads=(0, 0, 0, 0))) == ["none", 7]


@pytest.mark.parametrize(("conv", "k"), [(WIDE, 1), (WIDE, 3), (WIDE, 7), (FLAT, 2), (FLAT, 4)])
def test_a_smaller_kernel_reads_the_middle_of_the_patch(conv: Conv, k: int) -> None:
    smaller = cropped(conv, k)
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    assert smaller.out_hw((9, 8)) == conv.out_hw((9, 8))
    every = np.arange(np.prod(conv.out_hw((9, 8))))
    positions = np.broadcast_to(every, (2, len(every)))
    whole, part = patches(conv, x, positions), patches(smaller, x, positions)
    np.testing.assert_array_equal(whole[:, columns(conv, smaller.kernel)], part)


def data(n: int, n_o: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, n)) @ (np.eye(n) + 0.05 * rng.standard_normal((n, n))) + 0.5
    y = np.maximum(x @ rng.standard_normal((n, n_o)), 0) + 2
    return x, y


@pytest.mark.parametrize("k", [1, 3])
def test_the_fit_is_least_squares_on_the_patches_that_the_kernel_reads(k: int) -> None:
    conv = Conv(np.random.default_rng(2).standard_normal((4, 3, 3, 3)), pads=(1, 1, 1, 1))
    x, y = data(27, 4)
    moments = Moments.of(x, y).shrunk(conv.matrix, 1e-12)
    made = BlockMerging().rewrite(conv, {"kernel": k}, moments)
    at = columns(conv, (k, k))
    wanted = np.linalg.lstsq(np.column_stack([x[:, at], np.ones(len(x))]), y, rcond=None)[0]  # (n + 1, n_o)
    np.testing.assert_allclose(made.matrix, wanted[:-1].T, rtol=1e-4, atol=1e-5)
    assert made.bias is not None
    np.testing.assert_allclose(made.bias, wanted[-1], rtol=1e-4, atol=1e-5)
    residual = y - x[:, at] @ wanted[:-1] - wanted[-1]
    (error,) = BlockMerging().errors(conv, [{"kernel": k}], moments)
    assert error == pytest.approx(np.square(residual).sum() / np.square(y - y.mean(0)).sum(), rel=1e-5)


def test_a_larger_kernel_errs_no_more() -> None:
    conv = Conv(np.zeros((4, 3, 3, 3)), pads=(1, 1, 1, 1))
    errors = BlockMerging().errors(conv, [{"kernel": 1}, {"kernel": 3}], Moments.of(*data(27, 4)))
    assert errors[0] > errors[1] > 0


def moments_of(y: Array) -> Moments:
    """Of responses (400, 4) to a branch with 3x3 kernels, with a prior that changes their energy."""
    return Moments.of(data(27, 4)[0], y).shrunk(np.random.default_rng(3).standard_normal((4, 27)), 1e-2)


@pytest.mark.parametrize("conv", [WIDE, FLAT])
def test_without_a_kernel_it_gives_the_mean_takes_no_macs_and_has_the_same_size(conv: Conv) -> None:
    y = np.random.default_rng(4).standard_normal((400, 4)) + 3
    made = BlockMerging().rewrite(conv, {"kernel": "none"}, moments_of(y))
    assert made.is_constant
    assert made.bias is not None
    np.testing.assert_allclose(made.bias, y.mean(0), rtol=1e-6)
    assert made.macs((9, 8)) == 0
    assert made.out_hw((9, 8)) == conv.out_hw((9, 8))
    assert BlockMerging().outline(conv, {"kernel": "none"}).params() == made.params() == 4


def test_without_a_kernel_all_variance_is_lost_and_none_where_there_is_none() -> None:
    conv, none = Conv(np.zeros((4, 3, 3, 3)), pads=(1, 1, 1, 1)), [{"kernel": "none"}]
    varying, constant = data(27, 4)[1], np.full((400, 4), 0.3) + 1e-7 * np.random.default_rng(5).random((400, 4))
    assert BlockMerging().errors(conv, none, moments_of(varying)) == [1.0]
    assert BlockMerging().errors(conv, none, moments_of(constant)) == [0.0]
    assert BlockMerging().errors(conv, none, moments_of(np.zeros((400, 4)))) == [0.0]


def test_the_data_are_asked_for_the_largest_kernel_or_the_smallest_that_there_is() -> None:
    rule = BlockMerging()
    assert rule.field(WIDE, [{"kernel": "none"}, {"kernel": 3}]).kernel == (3, 3)
    assert rule.field(WIDE, [{"kernel": "none"}]).kernel == (1, 1)
    assert rule.field(replace(WIDE, pads=(0, 0, 0, 0)), [{"kernel": "none"}]).kernel == (7, 7)


def test_a_branch_too_wide_for_the_smallest_kernel_is_refused() -> None:
    wide = Conv(np.broadcast_to(np.float32(0), (4, 3000, 2, 2)), pads=(1, 1, 0, 0))
    assert "unknowns" in str(BlockMerging().refuse(wide))
    assert BlockMerging().refuse(WIDE) is None


def test_its_place_among_the_passes() -> None:
    (rule,) = parse("bm:kernel=3")
    assert isinstance(rule, Merging)
    assert rule.pinned_fully
    assert rule.needs_data
    assert all(one.name != "bm" for one in auto(calibrated=False))
    with pytest.raises(UsageError, match="bm:kernel=wide: give a whole number or full or none"):
        parse("bm:kernel=wide")
