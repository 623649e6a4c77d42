"""sd against the SVD, against least squares on the samples themselves, and at every edge of what it accepts."""

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
from ndpass.passes import SpatialDecomposition, parse
from ndpass.passes.base import Setting, relative_error
from ndpass.passes.spatial_decomposition import ORDERS, assemble
from ndpass.passes.spatial_fit import Fit, full_rank, lost_by_rank

F: TypeAlias = NDArray[np.floating[Any]]
ROUNDING = 1e-12  # squared relative error that float64 leaves where the product is exact

SHAPES = [(4, 5, 3, 3), (5, 3, 2, 4), (12, 1, 3, 3), (1, 4, 3, 3), (3, 2, 2, 2, 3), (3, 2, 1, 3, 2), (3, 2, 3, 1, 2)]
every_order = pytest.mark.parametrize("order", ORDERS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def random_weight(shape: tuple[int, ...], seed: int = 0) -> F:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def columns(conv: Conv, order: str) -> F:
    """The weight as (n_i·k_a, n_o·k_j), entry by entry."""
    n_o, n_i, *kernel = conv.weight.shape
    axis = [k > 1 for k in kernel].index(True)
    k, rest = kernel[axis], conv.kernel_size // kernel[axis]
    size = (n_i * k, n_o * rest) if order == "vh" else (n_i * rest, n_o * k)
    result = np.zeros(size)
    for (o, i, *at), value in np.ndenumerate(conv.weight):
        v = at.pop(axis)
        h = int(np.ravel_multi_index(at, [s for a, s in enumerate(kernel) if a != axis]))
        place = (i * k + v, o * rest + h) if order == "vh" else (i * rest + h, o * k + v)
        result[place] = value
    return result


def planted(rank: int, order: str, shape: tuple[int, ...]) -> Conv:
    """A convolution that is a chain of `rank` channels and of no fewer."""
    rng = np.random.default_rng(rank)
    conv = Conv(np.zeros(shape))
    k = next(k for k in conv.kernel if k > 1)
    k_a, k_j = (k, conv.kernel_size // k) if order == "vh" else (conv.kernel_size // k, k)
    T, S = rng.standard_normal((rank, conv.n_i * k_a)), rng.standard_normal((conv.n_o, rank, k_j))
    return assemble(conv, T, S, order).dense()


def samples(weight: F, drift: float = 0.3, count: int = 500) -> tuple[F, F]:
    """Correlated patches (S, n), drifted from those that the responses (S, n_o) were computed for."""
    rng = np.random.default_rng(7)
    matrix = weight.reshape(len(weight), -1)
    n = matrix.shape[1]
    x = rng.standard_normal((count, n)) @ (np.eye(n) + 0.5 / np.sqrt(n) * rng.standard_normal((n, n))) + 1.0
    y = x @ matrix.T + np.arange(len(weight))
    return x + drift * rng.standard_normal(x.shape), y


def moments_of(weight: F, drift: float = 0.3, strength: float = 1e-6) -> Moments:
    return Moments.of(*samples(weight, drift)).shrunk(weight, strength)


def all_settings(conv: Conv, order: str) -> list[Setting]:
    return [{"rank": d, "order": order} for d in range(1, full_rank(conv, order) + 1)]


@every_order
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 5, 2, 4), (6, 5, 2, 2, 3), (6, 5, 1, 3, 3)])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_planted_rank_is_found_again(rank: int, shape: tuple[int, ...], order: str) -> None:
    conv, rule = planted(rank, order, shape), SpatialDecomposition()
    for moments in (None, moments_of(conv.weight, drift=0)):
        errors = rule.errors(conv, [{"rank": d, "order": order} for d in range(1, rank + 2)], moments)
        exact = ROUNDING if moments is None else 1e-6
        assert errors[rank - 1] < exact
        assert errors[rank] < exact
        assert all(e > 1e-3 for e in errors[: rank - 1])
        block = rule.rewrite(conv, {"rank": rank, "order": order}, moments)
        assert relative_error(conv.weight, block.dense().weight) < exact


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from(ORDERS), st.integers(0, 99), st.data())
def test_kernel_without_data_is_the_truncated_svd(
    shape: tuple[int, ...], order: str, seed: int, data: st.DataObject
) -> None:
    conv = Conv(random_weight(shape, seed))
    d = data.draw(st.integers(1, full_rank(conv, order)))
    setting = {"rank": d, "order": order}
    u, s, vt = np.linalg.svd(columns(conv, order), full_matrices=False)
    dense = SpatialDecomposition().rewrite(conv, setting).dense()
    np.testing.assert_allclose(columns(dense, order), (u[:, :d] * s[:d]) @ vt[:d], atol=1e-9)
    (error,) = SpatialDecomposition().errors(conv, [setting])
    assert error == pytest.approx(relative_error(conv.weight, dense.weight), abs=ROUNDING)


@every_order
@every_shape
def test_full_rank_is_exact_with_and_without_data(shape: tuple[int, ...], order: str) -> None:
    conv = Conv(random_weight(shape).astype(np.float32))
    (setting,) = SpatialDecomposition(rank="full", order=order).settings(conv)
    moments = moments_of(conv.weight.astype(float))
    for expected, given_moments in ((conv.matrix, None), (moments.best, moments)):
        block = SpatialDecomposition().rewrite(conv, setting, given_moments)
        assert relative_error(expected, block.dense().matrix) < ROUNDING
    (error,) = SpatialDecomposition().errors(conv, [setting], moments)
    assert error == pytest.approx(moments.error(moments.best), abs=ROUNDING)


@every_order
@every_shape
def test_predicted_error_is_an_upper_bound_and_never_above_data_free(shape: tuple[int, ...], order: str) -> None:
    conv, rule = Conv(random_weight(shape)), SpatialDecomposition()
    moments = moments_of(conv.weight)
    choices = all_settings(conv, order)
    predicted = rule.errors(conv, choices, moments)
    measured = [moments.error(rule.rewrite(conv, s, moments).dense().weight) for s in choices]
    plain = [moments.error(rule.rewrite(conv, s).dense().weight) for s in choices]
    for bound, got, without in zip(predicted, measured, plain, strict=True):
        assert got <= min(bound + 1e-9, without + ROUNDING)
        assert bound < 2 * got + 1e-9
    assert (np.diff(predicted) <= 1e-9).all()


@every_order
def test_where_the_moments_are_a_kronecker_product_the_first_steps_are_the_optimum(order: str) -> None:
    """Then predicted, measured and the truncated SVD of the whitened kernel, which is the least of all, are one."""
    rng = np.random.default_rng(3)
    conv, rule = Conv(random_weight((4, 3, 2, 3))), SpatialDecomposition()
    roots = [rng.standard_normal((n, n)) + 2 * np.eye(n) for n in (3, 2, 3)]  # channels, rows, columns
    channels, rows, across = roots
    root = np.kron(channels, np.kron(rows, across))
    C = root @ root.T
    B = conv.matrix @ C
    g = np.einsum("on,on->o", B, conv.matrix)
    moments = Moments(100, np.zeros(18), np.zeros(4), C, B, g)
    white = Conv((conv.matrix @ root).reshape(conv.weight.shape))
    values = np.linalg.svd(columns(white, order), compute_uv=False) ** 2
    choices = all_settings(conv, order)
    least = [values[int(s["rank"]) :].sum() / values.sum() for s in choices]
    measured = [moments.error(rule.rewrite(conv, s, moments).dense().weight) for s in choices]
    np.testing.assert_allclose(rule.errors(conv, choices, moments), least, atol=1e-9)
    np.testing.assert_allclose(measured, least, atol=1e-9)


@every_order
def test_features_are_those_of_the_samples_and_the_second_factor_their_least_squares(order: str) -> None:
    weight = random_weight((4, 3, 2, 3))
    x, y = samples(weight)
    conv, moments = Conv(weight), Moments.of(x, y)
    fit = Fit(conv, moments, order)
    T = fit.start(2)
    grid = (x - x.mean(0)).reshape(-1, 3, 2, 3)
    if order == "hv":
        grid = grid.transpose(0, 1, 3, 2)
    k_a, k_j = grid.shape[2:]
    z = np.zeros((len(x), 2, k_j))
    for r in range(2):
        for i in range(3):
            for a in range(k_a):
                for j in range(k_j):
                    z[:, r, j] += T.reshape(2, 3, k_a)[r, i, a] * grid[:, i, a, j]
    z = z.reshape(len(x), -1)
    Cz, Bz = fit.features(T)
    yc = y - y.mean(0)
    np.testing.assert_allclose(Cz, z.T @ z / len(x), atol=1e-5 * np.abs(Cz).max())
    np.testing.assert_allclose(Bz, yc.T @ z / len(x), atol=1e-5 * np.abs(Bz).max())
    solution = np.linalg.lstsq(z, yc, rcond=None)[0].T
    np.testing.assert_allclose(fit.second(T).reshape(4, -1), solution, atol=1e-4 * np.abs(solution).max())
    left = float(np.sum((yc - z @ solution.T) ** 2) / np.sum(yc**2))
    (bound,) = SpatialDecomposition().errors(conv, [{"rank": 2, "order": order}], moments)
    assert bound == pytest.approx(left, rel=1e-4)


@every_order
def test_refitting_the_first_factor_ends_at_its_least_squares(order: str) -> None:
    """Enough conjugate gradients reach what a solve for all n_i·k_a·d unknowns gives."""
    weight = random_weight((4, 2, 3, 2))
    conv, moments = Conv(weight), moments_of(weight, strength=1e-3)
    fit = Fit(conv, moments, order)
    T = fit.start(2)
    S = fit.second(T)
    unit = np.eye(T.size).reshape(T.size, *T.shape)
    kernels = np.stack([assemble(conv, u, S, order).dense().matrix for u in unit])  # linear in T
    square = np.einsum("uon,nm,vom->uv", kernels, moments.C, kernels)
    right = np.einsum("uon,on->u", kernels, moments.B)
    best = np.linalg.solve(square, right).reshape(T.shape)
    for _ in range(20):
        T = fit.first(T, S)
    np.testing.assert_allclose(T, best, atol=1e-6 * np.abs(best).max())


@pytest.mark.parametrize(("order", "first_axes"), [("vh", (0,)), ("hv", (1,))])
def test_geometry_goes_to_its_axis_and_the_bias_to_the_second(order: str, first_axes: tuple[int]) -> None:
    conv = Conv(random_weight((6, 4, 3, 2)), np.arange(6.0), (2, 3), (1, 0, 2, 1), (1, 2))
    block = SpatialDecomposition().rewrite(conv, {"rank": 5, "order": order})
    first, second = block.leaves()
    vertical, horizontal = (first, second) if first_axes == (0,) else (second, first)
    assert (vertical.kernel, vertical.strides, vertical.pads, vertical.dilations) == (
        (3, 1),
        (2, 1),
        (1, 0, 2, 0),
        (1, 1),
    )
    assert (horizontal.kernel, horizontal.strides, horizontal.pads, horizontal.dilations) == (
        (1, 2),
        (1, 3),
        (0, 0, 0, 1),
        (1, 2),
    )
    assert (first.n_i, first.n_o, second.n_o) == (4, 5, 6)
    assert first.weight.dtype == second.weight.dtype == np.float64
    assert first.bias is None
    np.testing.assert_array_equal(second.bias, conv.bias)
    dense = block.dense()
    assert (dense.strides, dense.pads, dense.dilations) == (conv.strides, conv.pads, conv.dilations)


def test_three_axes_are_parted_after_the_first_of_extent_above_one() -> None:
    for shape, kernels in (
        ((4, 3, 3, 2, 3), ((3, 1, 1), (1, 2, 3))),
        ((4, 3, 1, 2, 3), ((1, 2, 1), (1, 1, 3))),
    ):
        conv = Conv(random_weight(shape), strides=(2, 1, 3), pads=(1, 0, 1, 0, 1, 0))
        for order in ORDERS:
            leaves = SpatialDecomposition().rewrite(conv, {"rank": 2, "order": order}).leaves()
            assert tuple(leaf.kernel for leaf in leaves) == (kernels if order == "vh" else kernels[::-1])
            assert tuple(np.prod([leaf.strides for leaf in leaves], axis=0)) == conv.strides


@every_order
def test_bias_is_refitted_to_data_and_none_is_invented_without(order: str) -> None:
    weight, setting = random_weight((6, 4, 3, 3)), {"rank": 2, "order": order}
    moments = moments_of(weight)
    dense = SpatialDecomposition().rewrite(Conv(weight), setting, moments).dense()
    np.testing.assert_allclose(dense.bias, moments.y_mean - dense.matrix @ moments.x_mean, atol=1e-9)
    assert SpatialDecomposition().rewrite(Conv(weight), setting).dense().bias is None


def test_cost_is_that_of_the_method() -> None:
    """vh: d·n_i·k per position of the half-strided map, d·n_o·k per output position."""
    conv = Conv(random_weight((8, 4, 3, 3)), strides=(2, 2), pads=(1, 1, 1, 1))
    block = SpatialDecomposition().rewrite(conv, {"rank": 5, "order": "vh"})
    assert block.macs((8, 8)) == 5 * 4 * 3 * (4 * 8) + 5 * 8 * 3 * (4 * 4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64, 3, 3), [*range(16, 96, 16), 192]),
        ((32, 32, 3, 3), [*range(8, 48, 8), 96]),
        ((4, 3, 3, 3), [1, 2, 3, 4, 5, 9]),
    ],
)
def test_ranks_offered_are_multiples_that_save_and_full_rank(shape: tuple[int, ...], expected: list[int]) -> None:
    got = SpatialDecomposition().settings(Conv(np.zeros(shape)))
    assert got == [{"rank": d, "order": order} for d in expected for order in ORDERS]  # both cost the same


def test_pinned_settings_are_taken_as_they_are_up_to_full_rank() -> None:
    conv = Conv(np.zeros((64, 64, 3, 3)))
    assert parse("sd:rank=37:order=hv")[0].settings(conv) == [{"rank": 37, "order": "hv"}]
    assert parse("sd:rank=900")[0].settings(conv) == [{"rank": 192, "order": order} for order in ORDERS]


@pytest.mark.parametrize("spec", ["sd:rank=0", "sd:order=diagonal", "sd:order=full", "sd:form=vh"])
def test_a_wrong_setting_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="sd"):
        parse(spec)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Conv(random_weight((4, 5))), "matrix product: no kernel to split"),
        (Conv(random_weight((4, 5, 1, 1))), "kernel of one element: nothing to split"),
        (Conv(random_weight((4, 5, 3))), "kernel acts on one axis: nothing to split"),
        (Conv(random_weight((4, 5, 1, 3))), "kernel acts on one axis: nothing to split"),
        (Conv(random_weight((4, 5, 1, 3, 1))), "kernel acts on one axis: nothing to split"),
        (Conv(random_weight((4, 1, 3, 3)), group=4), "depthwise convolution (group=4)"),
        (Conv(random_weight((8, 1, 3, 3)), group=4), "depthwise convolution (group=4)"),
        (Conv(random_weight((4, 2, 1, 1)), group=2), "in each group: kernel of one element: nothing to split"),
        (Conv(random_weight((4, 2, 3, 3)), group=2), None),
        (Conv(random_weight((4, 5, 3, 3))), None),
        (Conv(random_weight((4, 5, 3, 1, 3))), None),
    ],
)
def test_what_cannot_be_split_is_refused(conv: Conv, reason: str | None) -> None:
    assert SpatialDecomposition().refuse(conv) == reason


@every_order
def test_zeros_and_dead_channels_stay_finite(order: str) -> None:
    rule, setting = SpatialDecomposition(), {"rank": 2, "order": order}
    zeros = Conv(np.zeros((4, 3, 3, 3)))
    assert rule.errors(zeros, [setting]) == [0.0]
    assert not rule.rewrite(zeros, setting).dense().weight.any()
    weight = random_weight((4, 3, 3, 3))
    x, y = samples(weight)
    x[:, :9] = 2.0  # a channel that never varies
    for conv, responses in ((Conv(weight), y), (Conv(weight), 0 * y), (zeros, 0 * y)):
        moments = Moments.of(x, responses).shrunk(conv.weight, 1e-2)
        assert np.isfinite(rule.rewrite(conv, setting, moments).dense().weight).all()
        assert np.isfinite(rule.errors(conv, [setting], moments)).all()


@every_order
@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_tiny_and_huge_weights_lose_nothing(scale: float, order: str) -> None:
    conv = Conv((random_weight((4, 5, 3, 3)) * scale).astype(np.float32))
    (setting,) = SpatialDecomposition(rank="full", order=order).settings(conv)
    block = SpatialDecomposition().rewrite(conv, setting)
    assert relative_error(conv.weight, block.dense().weight) < ROUNDING


@pytest.mark.parametrize("n_o", [4, 90])  # fewer rows n_o·k_j than n_i·k_a, and more
@every_order
def test_one_decomposition_gives_the_directions_of_every_rank(order: str, n_o: int) -> None:
    weight = random_weight((n_o, 30, 3, 3))
    conv, moments = Conv(weight), moments_of(weight, strength=1e-2)
    fit = Fit(conv, moments, order)
    for rank in (1, 5, 12):
        one, many = fit.start(rank), fit.nested(12)[:rank]
        metric = fit.cut.C_a
        aligned = np.abs(np.einsum("dm,mk,dk->d", one, metric, many))
        np.testing.assert_allclose(aligned, np.ones(rank), atol=1e-6)  # up to their signs


@every_order
def test_wide_layers_are_estimated_in_float32_within_a_thousandth_of_the_error(order: str) -> None:
    weight = random_weight((24, 128, 3, 3))  # 1,152 unknowns
    conv, moments = Conv(weight), Moments.of(*samples(weight, count=2_000)).shrunk(weight, 1e-2)
    assert moments.kind is np.float32
    choices: list[Setting] = [{"rank": d, "order": order} for d in (1, 8, 24, 48)]
    found = SpatialDecomposition().errors(conv, choices, moments)
    plain = lost_by_rank(conv, moments, order, 48, np.float64)
    wanted = [plain[int(s["rank"]) - 1] / moments.variance for s in choices]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    sketch, fitted = SpatialDecomposition().sketch(conv, choices[1], moments), Fit(conv, moments, order).fit(8, 0)
    error = moments.error(assemble(conv, *fitted, order).dense().weight)
    assert moments.error(sketch.dense().weight) == pytest.approx(error, rel=1e-3)


@every_order
def test_what_float32_makes_indefinite_is_estimated_in_float64(order: str) -> None:
    """Patches of hardly any variance but in one direction, with a prior too weak for float32."""
    weight = random_weight((4, 128, 3, 3))
    n = weight[0].size
    C = 1e-9 * np.eye(n) + np.ones((n, n))
    B = weight.reshape(4, -1) @ C
    g = np.einsum("on,on->o", B, weight.reshape(4, -1))
    moments = Moments(100, np.zeros(n), np.zeros(4), C, B, g, weight.reshape(4, -1))
    (error,) = SpatialDecomposition().errors(Conv(weight), [{"rank": 2, "order": order}], moments)
    assert 0 <= error < 1e-6


def test_moments_with_the_same_inputs_share_what_is_derived_from_them() -> None:
    weight = random_weight((4, 3, 3, 3))
    moments = moments_of(weight)
    leaf = moments.of_leaf(weight[:2].reshape(2, -1))
    assert Fit(Conv(weight), moments, "vh").cut is Fit(Conv(weight[:2]), leaf, "vh").cut
    other = moments.shrunk(weight, 1.0)
    assert Fit(Conv(weight), moments, "vh").cut is not Fit(Conv(weight), other, "vh").cut
