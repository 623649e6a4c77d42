"""cd against the SVD, against regression on the samples themselves, and at every edge of what it accepts."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Conv
from ndpass.errors import UsageError
from ndpass.passes import ChannelDecomposition, parse
from ndpass.passes.base import relative_error

F: TypeAlias = NDArray[np.floating[Any]]
ROUNDING = 1e-12  # squared relative error that float64 leaves where the product is exact

shapes = st.sampled_from([(4, 9), (9, 4), (6, 5, 1, 1), (5, 4, 3), (5, 4, 3, 3), (12, 1, 3, 3), (3, 2, 2, 2, 2)])


def random_weight(shape: tuple[int, ...], seed: int = 0) -> F:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def planted(rank: int, shape: tuple[int, ...] = (8, 5, 3, 3)) -> F:
    rng = np.random.default_rng(rank)
    return (rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, int(np.prod(shape[1:]))))).reshape(shape)


def samples(weight: F, drift: float = 0.3, count: int = 400) -> tuple[F, F]:
    """Patches (S, n) that have drifted from those that the responses (S, n_o) were computed for."""
    rng = np.random.default_rng(7)
    matrix = weight.reshape(len(weight), -1)
    n = matrix.shape[1]
    x = rng.standard_normal((count, n)) @ (np.eye(n) + 0.3 * rng.standard_normal((n, n))) + 1.0
    y = x @ matrix.T + np.arange(len(weight))
    return x + drift * rng.standard_normal(x.shape), y


def moments_of(weight: F, drift: float = 0.3, strength: float = 1e-6) -> Moments:
    return Moments.of(*samples(weight, drift)).shrunk(weight, strength)


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (8, 5, 3), (8, 5, 2, 2, 2), (8, 12, 1, 1), (8, 12), (20, 2, 3, 3)])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_planted_rank_is_found_again(rank: int, shape: tuple[int, ...]) -> None:
    conv = Conv(planted(rank, shape))
    for moments in (None, moments_of(conv.weight, drift=0)):
        errors = ChannelDecomposition().errors(conv, [{"rank": d} for d in range(1, rank + 2)], moments)
        exact = ROUNDING if moments is None else 1e-6
        assert errors[rank - 1] < exact
        assert errors[rank] < exact
        assert all(e > 1e-3 for e in errors[: rank - 1])
        block = ChannelDecomposition().rewrite(conv, {"rank": rank}, moments)
        assert relative_error(conv.weight, block.dense().weight) < exact


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 99), st.data())
def test_kernel_without_data_is_the_truncated_svd(shape: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    conv = Conv(random_weight(shape, seed))
    d = data.draw(st.integers(1, min(conv.matrix.shape)))
    u, s, vt = np.linalg.svd(conv.matrix, full_matrices=False)
    expected = (u[:, :d] * s[:d]) @ vt[:d]
    block = ChannelDecomposition().rewrite(conv, {"rank": d})
    np.testing.assert_allclose(block.dense().matrix, expected, atol=1e-9)
    (error,) = ChannelDecomposition().errors(conv, [{"rank": d}])
    assert error == pytest.approx(relative_error(conv.matrix, expected), abs=ROUNDING)


@pytest.mark.parametrize("rank", [1, 2, 4, 7])
def test_kernel_with_data_is_reduced_rank_regression_on_the_samples(rank: int) -> None:
    """Fit by least squares, then project the fitted responses on their first principal directions (Zhang, eq. 6)."""
    weight = random_weight((8, 3, 2, 2))
    x, y = samples(weight)
    xc, yc = x - x.mean(0), y - y.mean(0)
    solution = np.linalg.lstsq(xc, yc, rcond=None)[0].T
    directions = np.linalg.svd(xc @ solution.T, full_matrices=False)[2][:rank]
    expected = directions.T @ directions @ solution
    block = ChannelDecomposition().rewrite(Conv(weight), {"rank": rank}, Moments.of(x, y))
    np.testing.assert_allclose(block.dense().matrix, expected, atol=1e-4)
    residual = y - x @ block.dense().matrix.T - block.dense().bias
    least = yc - xc @ expected.T
    assert np.sum(residual**2) == pytest.approx(np.sum(least**2), rel=1e-4)


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (12, 2, 2, 2), (9, 4), (4, 9), (6, 7, 1, 1), (4, 3, 2, 2, 2)])
def test_predicted_error_is_that_of_the_rewrite_and_never_above_data_free(shape: tuple[int, ...]) -> None:
    conv, rule = Conv(random_weight(shape)), ChannelDecomposition()
    moments = moments_of(conv.weight)
    choices = [{"rank": d} for d in range(1, min(conv.matrix.shape) + 1)]
    predicted = rule.errors(conv, choices, moments)
    measured = [moments.error(rule.rewrite(conv, s, moments).dense().weight) for s in choices]
    plain = [moments.error(rule.rewrite(conv, s).dense().weight) for s in choices]
    np.testing.assert_allclose(predicted, measured, atol=1e-10)
    assert all(m <= p + ROUNDING for m, p in zip(measured, plain, strict=True))
    assert (np.diff(predicted) <= ROUNDING).all()
    assert measured[-1] == pytest.approx(moments.error(moments.best), abs=ROUNDING)


def test_full_rank_is_exact_with_and_without_data() -> None:
    for shape in [(8, 5, 3, 3), (30, 2, 3, 3), (5, 9)]:
        conv = Conv(random_weight(shape).astype(np.float32))
        (setting,) = ChannelDecomposition(rank="full").settings(conv)
        assert setting == {"rank": min(conv.matrix.shape)}
        moments = moments_of(conv.weight.astype(float))
        for expected, given_moments in ((conv.matrix, None), (moments.best, moments)):
            block = ChannelDecomposition().rewrite(conv, setting, given_moments)
            assert relative_error(expected, block.dense().matrix) < ROUNDING


def test_geometry_goes_to_the_first_convolution_and_the_bias_to_the_second() -> None:
    conv = Conv(random_weight((6, 4, 3, 2)), np.arange(6.0), (2, 1), (1, 0, 2, 1), (1, 2))
    first, second = ChannelDecomposition().rewrite(conv, {"rank": 2}).leaves()
    assert (first.weight.shape, second.weight.shape) == ((2, 4, 3, 2), (6, 2, 1, 1))
    assert first.weight.dtype == second.weight.dtype == np.float64
    assert (first.strides, first.pads, first.dilations) == (conv.strides, conv.pads, conv.dilations)
    assert (second.strides, second.pads) == ((1, 1), (0, 0, 0, 0))
    assert first.bias is None
    np.testing.assert_array_equal(second.bias, conv.bias)


def test_a_matrix_product_becomes_two() -> None:
    first, second = ChannelDecomposition().rewrite(Conv(random_weight((6, 9))), {"rank": 2}).leaves()
    assert (first.weight.shape, second.weight.shape) == ((2, 9), (6, 2))
    assert second.bias is None


def test_bias_is_refitted_to_data() -> None:
    weight = random_weight((6, 4, 3, 3))
    moments = moments_of(weight)
    block = ChannelDecomposition().rewrite(Conv(weight, np.zeros(6)), {"rank": 2}, moments)
    dense = block.dense()
    np.testing.assert_allclose(dense.bias, moments.y_mean - dense.matrix @ moments.x_mean, atol=1e-9)


def test_cost_is_that_of_the_method() -> None:
    """Per output position d·n + n_o·d."""
    conv = Conv(random_weight((8, 4, 3, 3)), strides=(2, 2), pads=(1, 1, 1, 1))
    assert ChannelDecomposition().rewrite(conv, {"rank": 3}).macs((8, 8)) == (3 * 36 + 8 * 3) * 4 * 4


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64, 3, 3), [16, 32, 48, 64]),
        ((128, 64, 3, 3), [*range(16, 105, 16), 128]),
        ((32, 16, 3, 3), [8, 16, 24, 32]),
        ((6, 5, 3, 3), [1, 2, 3, 4, 5, 6]),
        ((64, 3, 3, 3), [*range(1, 19), 27]),
        ((10, 512), [*range(1, 10), 10]),
        ((64, 64, 1, 1), [16, 64]),
    ],
)
def test_ranks_offered_are_multiples_that_save_and_full_rank(shape: tuple[int, ...], expected: list[int]) -> None:
    assert [s["rank"] for s in ChannelDecomposition().settings(Conv(np.zeros(shape)))] == expected


def test_a_pinned_rank_is_taken_as_it_is_up_to_full_rank() -> None:
    conv = Conv(np.zeros((64, 64, 3, 3)))
    assert [parse(f"cd:rank={r}")[0].settings(conv) for r in ("37", "60", "900", "full")] == [
        [{"rank": 37}],
        [{"rank": 60}],
        [{"rank": 64}],
        [{"rank": 64}],
    ]


@pytest.mark.parametrize("spec", ["cd:rank=0", "cd:rank=half", "cd:form=dw-pw"])
def test_a_wrong_setting_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="cd"):
        parse(spec)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Conv(random_weight((1, 5, 3, 3))), "weight of one row or column: nothing to split"),
        (Conv(random_weight((5, 1))), "weight of one row or column: nothing to split"),
        (Conv(random_weight((4, 1, 3, 3)), group=4), "depthwise convolution (group=4)"),
        (Conv(random_weight((4, 1, 1, 1)), group=4), "depthwise convolution (group=4)"),
        (Conv(random_weight((8, 1, 3, 3)), group=4), "depthwise convolution (group=4)"),
        (Conv(random_weight((2, 3, 3, 3)), group=2), "in each group: weight of one row or column: nothing to split"),
        (Conv(random_weight((4, 2, 3, 3)), group=2), None),
        (Conv(random_weight((4, 5))), None),
        (Conv(random_weight((4, 5, 1, 1))), None),
        (Conv(random_weight((4, 5, 3))), None),
    ],
)
def test_what_cannot_be_split_is_refused(conv: Conv, reason: str | None) -> None:
    assert ChannelDecomposition().refuse(conv) == reason


def test_zeros_and_dead_channels_stay_finite() -> None:
    rule = ChannelDecomposition()
    conv = Conv(np.zeros((4, 3, 3, 3)))
    assert rule.errors(conv, [{"rank": 1}]) == [0.0]
    assert not rule.rewrite(conv, {"rank": 1}).dense().weight.any()
    weight = random_weight((4, 3, 3, 3))
    x, y = samples(weight)
    x[:, :9] = 2.0  # a channel that never varies
    for responses in (y, 0 * y):
        moments = Moments.of(x, responses).shrunk(weight, 1e-2)
        block = rule.rewrite(Conv(weight), {"rank": 2}, moments)
        assert np.isfinite(block.dense().weight).all()
        assert np.isfinite(rule.errors(Conv(weight), [{"rank": 2}], moments)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_tiny_and_huge_weights_lose_nothing(scale: float) -> None:
    conv = Conv((random_weight((4, 5, 3, 3)) * scale).astype(np.float32))
    block = ChannelDecomposition().rewrite(conv, {"rank": 4})
    assert relative_error(conv.weight, block.dense().weight) < ROUNDING


def test_few_directions_of_many_are_those_of_the_whole_spectrum() -> None:
    """Lanczos, which a linear layer of a thousand outputs takes, against all eigenvectors."""
    rng = np.random.default_rng(3)
    weight = (rng.standard_normal((1024, 40)) * np.linspace(1, 2, 40)) @ rng.standard_normal((40, 48))
    moments = moments_of(weight)
    block = ChannelDecomposition().rewrite(Conv(weight), {"rank": 8}, moments)
    left = moments.answered[1][:, :8]
    np.testing.assert_allclose(block.dense().weight, left @ (left.T @ moments.best), atol=1e-8)
