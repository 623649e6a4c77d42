"""nd's fit to data against a loop over channels with NumPy's own solvers; planted ranks; degenerate moments."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from models import SHARED
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.preprocess import Preprocess
from ndpass.calibration.reference import Calibration
from ndpass.conv import Conv
from ndpass.graph.graph import Graph, Site
from ndpass.passes.base import block_error
from ndpass.passes.decoupling_fit import fit, fit_error, leading, roots
from ndpass.passes.network_decoupling import FORMS, NetworkDecoupling, assemble, factors

F = NDArray[np.floating[Any]]

forms = pytest.mark.parametrize("form", FORMS)
N_O, N_I, KERNEL = 6, 20, (2, 2)  # more input channels than are kept up to date at once (16)
K = 4
F32 = 1e-6  # what errors are off by: moments are sums of products in float32
NAIVE = 1e-8  # of the largest entry: the same float64 formulas in another order, with a ridge of 1e-9


def correlated(count: int, n: int, seed: int = 0) -> F:
    """Patches (count, n) whose elements vary by two decades and depend on each other."""
    rng = np.random.default_rng(seed)
    mix = np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)
    return rng.standard_normal((count, n)) * np.logspace(0, -1, n) @ mix


def moments_of(weight: F, drift: float = 0.0, noise: float = 0.0, count: int = 2_000, seed: int = 0) -> Moments:
    """Of responses of `weight` to patches that have drifted since."""
    rng = np.random.default_rng([seed, 1])
    n = weight[0].size
    x = correlated(count, n, seed)
    seen = x + drift * rng.standard_normal((count, n)) @ (rng.standard_normal((n, n)) / np.sqrt(n))
    y = x @ weight.reshape(len(weight), n).T + noise * rng.standard_normal((count, len(weight)))
    return Moments.of(seen, y)


def weights(seed: int = 0, n_o: int = N_O, n_i: int = N_I, kernel: tuple[int, ...] = KERNEL) -> F:
    return np.random.default_rng([seed, 2]).standard_normal((n_o, n_i, *kernel))


def kernel_of(weight: F, point: F, depth: F, form: str) -> F:
    """The one kernel that the branches are equal to."""
    return assemble(Conv(weight), point, depth, form).dense().weight


def planted(rank: int, form: str) -> F:
    """Σ_t p_t d_tᵀ of random factors, the paper's equation 4."""
    rng = np.random.default_rng(rank)
    point = rng.standard_normal((rank, N_O, N_I))
    depth = rng.standard_normal((rank, N_O if form == "pw-dw" else N_I, K))
    kernel = sum(
        p[:, :, None] * (d[:, None, :] if form == "pw-dw" else d[None, :, :]) for p, d in zip(point, depth, strict=True)
    )
    return np.asarray(kernel).reshape(N_O, N_I, *KERNEL)


def branches(P: F, D: F, form: str) -> F:
    """M (n_o, n_i, K) of P (n_o, n_i, T) and D, (n_o, T, K) for pw-dw or (n_i, T, K) for dw-pw."""
    return np.einsum("oit,otk->oik" if form == "pw-dw" else "oit,itk->oik", P, D)


def root(square: F) -> F:
    values, vectors = np.linalg.eigh(square)
    return (vectors * np.sqrt(values)) @ vectors.T


def left_over(P: F, D: F, form: str, moments: Moments, i: int) -> F:
    """R_i = B_i − Σ_j M_j C_ji (n_o, K), with all of M."""
    residual = moments.B - branches(P, D, form).reshape(N_O, -1) @ moments.C
    return residual.reshape(N_O, N_I, K)[:, i]


def naive_dw_pw(moments: Moments, rank: int, sweeps: int) -> F:
    """Every channel's pair from a singular value decomposition, the residual computed anew each time."""
    C, best = moments.C.reshape(N_I, K, N_I, K), moments.best.reshape(N_O, N_I, K)
    P, D = np.zeros((N_O, N_I, rank)), np.zeros((N_I, rank, K))

    def put(i: int, target: F) -> None:
        half = root(C[i, :, i])
        U, s, Vt = np.linalg.svd(target @ half, full_matrices=False)
        P[:, i], D[i] = U[:, :rank] * s[:rank], Vt[:rank] @ np.linalg.inv(half)

    def pointwise() -> None:
        features = np.zeros((N_I * rank, N_I * K))  # z = features @ x̂
        for i in range(N_I):
            features[i * rank : (i + 1) * rank, i * K : (i + 1) * K] = D[i]
        z = features @ moments.C @ features.T
        P[:] = np.linalg.solve(z, features @ moments.B.T).T.reshape(N_O, N_I, rank)

    for i in range(N_I):
        put(i, best[:, i])
    if sweeps > 1:
        pointwise()
    for _ in range(sweeps):
        for i in range(N_I):
            own = branches(P, D, "dw-pw")[:, i]
            put(i, own + left_over(P, D, "dw-pw", moments, i) @ np.linalg.inv(C[i, :, i]))
    pointwise()
    return branches(P, D, "dw-pw")


def naive_pw_dw(moments: Moments, rank: int, sweeps: int) -> F:
    """Every output and channel by itself."""
    C, best = moments.C.reshape(N_I, K, N_I, K), moments.best.reshape(N_O, N_I, K)
    half = root(np.mean([C[i, :, i] for i in range(N_I)], axis=0))
    P, D = np.zeros((N_O, N_I, rank)), np.zeros((N_O, rank, K))
    for o in range(N_O):
        U, s, Vt = np.linalg.svd(best[o] @ half, full_matrices=False)
        P[o], D[o] = U[:, :rank] * s[:rank], Vt[:rank] @ np.linalg.inv(half)
    for _ in range(sweeps):
        for i in range(N_I):
            residual = left_over(P, D, "pw-dw", moments, i)
            for o in range(N_O):
                P[o, i] += np.linalg.solve(D[o] @ C[i, :, i] @ D[o].T, D[o] @ residual[o])
        for o in range(N_O):
            features = np.einsum("it,kl->tkil", P[o], np.eye(K)).reshape(rank * K, N_I * K)
            z = features @ moments.C @ features.T
            D[o] = np.linalg.solve(z, features @ moments.B[o]).reshape(rank, K)
    return branches(P, D, "pw-dw")


@forms
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("sweeps", [1, 2])
def test_sweeps_are_those_of_the_loop(form: str, rank: int, sweeps: int) -> None:
    weight = weights()
    moments = moments_of(weight, drift=0.3, noise=0.1)
    naive = (naive_pw_dw if form == "pw-dw" else naive_dw_pw)(moments, rank, sweeps)
    got = kernel_of(weight, *fit(weight, moments, rank, form, sweeps), form).reshape(naive.shape)
    np.testing.assert_allclose(got, naive, rtol=0, atol=NAIVE * np.abs(naive).max())


@forms
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_planted_rank_is_found(form: str, rank: int) -> None:
    """From rank T on nothing is lost; below it something is."""
    weight = planted(rank, form)
    moments = moments_of(weight)
    for t in range(1, 4):
        error = moments.error(kernel_of(weight, *fit(weight, moments, t, form), form))
        assert error < F32 if t >= rank else error > 1e-3


@forms
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("drift", "noise"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.5)])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_never_worse_than_the_weights_factors(
    form: str, rank: int, drift: float, noise: float, strength: float
) -> None:
    for seed in range(3):
        weight = weights(seed)
        moments = moments_of(weight, drift, noise, 300, seed).shrunk(weight, strength)
        free = moments.error(kernel_of(weight, *factors(weight, rank, form), form))
        fitted = moments.error(kernel_of(weight, *fit(weight, moments, rank, form), form))
        assert moments.error(moments.best) - 1e-12 <= fitted <= free + 1e-12


@forms
def test_more_sweeps_and_a_higher_rank_never_err_more(form: str) -> None:
    weight = weights()
    moments = moments_of(weight, drift=0.3)

    def error(rank: int, sweeps: int) -> float:
        return moments.error(kernel_of(weight, *fit(weight, moments, rank, form, sweeps), form))

    for rank in (1, 2):
        errors = [error(rank, sweeps) for sweeps in range(5)]
        assert all(b <= a + 1e-12 for a, b in pairwise(errors))
    assert error(1, 3) > error(2, 3) > error(3, 3)


@forms
@pytest.mark.parametrize("kernel", [(5,), (2, 3), (1, 2, 2)], ids=str)
def test_factors_have_the_shapes_that_are_assembled(form: str, kernel: tuple[int, ...]) -> None:
    weight = weights(n_o=4, n_i=3, kernel=kernel)
    point, depth = fit(weight, moments_of(weight, drift=0.1), 2, form)
    assert point.shape == (2, 4, 3)
    assert depth.shape == (2, 4 if form == "pw-dw" else 3, int(np.prod(kernel)))


@forms
def test_wide_layers_in_float32_are_close_to_float64(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """n = 1152 is swept in float32: its error is that of float64 to a thousandth, and its kernel to a hundredth."""
    weight = weights(n_o=8, n_i=128, kernel=(3, 3))
    moments = moments_of(weight, drift=0.2, noise=0.2).shrunk(weight, 1e-2)
    assert moments.rounded.dtype == np.float32
    narrow = kernel_of(weight, *fit(weight, moments, 2, form, sweeps=2), form)
    monkeypatch.setattr("ndpass.calibration.moments.WIDE", 10**6)
    exact = kernel_of(weight, *fit(weight, replace(moments), 2, form, sweeps=2), form)
    assert moments.error(narrow) == pytest.approx(moments.error(exact), rel=1e-3)
    assert np.linalg.norm(narrow - exact) < 1e-2 * np.linalg.norm(exact)


# ----------------------------------------------------------------------------------------------------- bad input


@forms
def test_dead_channels_stay_finite(form: str) -> None:
    """Channels that never vary: their blocks of C are zero but for the prior, or without one."""
    weight = weights()
    x = correlated(500, N_I * K)
    x[:, : 3 * K] = 1.0
    plain = Moments.of(x, x @ weight.reshape(N_O, -1).T)
    moments = plain.shrunk(weight, 1e-3)
    kernel = kernel_of(weight, *fit(weight, moments, 2, form), form)
    assert np.isfinite(kernel).all()
    assert moments.error(kernel) <= moments.error(kernel_of(weight, *factors(weight, 2, form), form))


@forms
def test_outputs_that_are_never_anything_stay_so(form: str) -> None:
    weight = weights()
    weight[1] = 0
    moments = moments_of(weight, drift=0.2)
    kernel = kernel_of(weight, *fit(weight, moments, 2, form), form)
    assert np.isfinite(kernel).all()
    np.testing.assert_allclose(kernel[1], 0, atol=1e-12)


@forms
def test_fewer_samples_than_unknowns_stay_finite(form: str) -> None:
    weight = weights()
    moments = moments_of(weight, count=10).shrunk(weight, 1e-3)
    kernel = kernel_of(weight, *fit(weight, moments, 2, form), form)
    assert np.isfinite(kernel).all()
    assert moments.error(kernel) < 1


def test_roots_of_a_singular_block_are_finite_and_square_to_it() -> None:
    half = np.random.default_rng(0).standard_normal((2, 5, 3))
    blocks = half @ half.transpose(0, 2, 1)
    blocks = np.concatenate([blocks, np.zeros((1, 5, 5))])
    found, inverse = roots(blocks)
    np.testing.assert_allclose(found @ found, blocks, atol=1e-8)
    assert np.isfinite(inverse).all()
    np.testing.assert_allclose((found @ inverse)[:2], np.broadcast_to(np.eye(5), (2, 5, 5)), atol=1e-8)


def test_leading_vectors_are_those_of_the_singular_value_decomposition() -> None:
    stack = np.random.default_rng(0).standard_normal((3, 6, 4))
    found = leading(stack, 2)
    expected = np.linalg.svd(stack)[2][:, :2].transpose(0, 2, 1)
    np.testing.assert_allclose(np.abs(np.einsum("ckt,cks->cts", found, expected)), [np.eye(2)] * 3, atol=1e-10)


@forms
@pytest.mark.parametrize("rank", [1, 2])
def test_a_fit_that_begins_with_factors_is_never_worse_than_they_are(form: str, rank: int) -> None:
    for seed in range(5):
        weight = weights(seed, 16, 3, (3, 3))
        moments, plain = moments_of(weight, drift=0.3, seed=seed), factors(weight, rank, form)
        fitted = fit(weight, moments, rank, form, sweeps=1, start=plain)
        assert moments.error(kernel_of(weight, *fitted, form)) < moments.error(kernel_of(weight, *plain, form))


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/models and ../shared/data")
def test_a_stem_is_never_worse_than_its_weights_factors() -> None:
    """ResNet-20's: begun with the data pw-dw of T = 1 descends to 0.150, its weights' own factors have 0.129."""
    graph = Graph(onnx.load(SHARED / "models/resnet20_cifar10.onnx"))
    site = next(s for s in graph.sites() if isinstance(s, Site))
    feeds = open_feeds(
        SHARED / "data/cifar10_calibration.npz", graph.inputs(), Preprocess.parse("cifar10"), samples=500
    )
    calibration = Calibration.of(graph, [site], feeds, 1, 0, 1 << 28)
    moments = calibration.walk(graph).moments(site)
    plain, fitted = (NetworkDecoupling().rewrite(site.conv, {"rank": 1, "form": "pw-dw"}, m) for m in (None, moments))
    assert block_error(site.conv, fitted, moments) <= block_error(site.conv, plain, moments)


@forms
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_error_read_off_the_last_solve_is_that_of_the_kernel(form: str, rank: int) -> None:
    weight = weights()
    moments = moments_of(weight, drift=0.2, noise=0.2).shrunk(weight, 1e-2)
    kernel = kernel_of(weight, *fit(weight, moments, rank, form, sweeps=1), form)
    assert fit_error(weight, moments, rank, form) == pytest.approx(moments.error(kernel), abs=1e-8)


@forms
def test_the_error_read_off_is_that_of_the_kernel_in_a_wide_layer_too(form: str) -> None:
    """Float32 moves it by 1e-6 of the response at most."""
    weight = weights(n_o=8, n_i=128, kernel=(3, 3))
    moments = moments_of(weight, drift=0.2, noise=0.2).shrunk(weight, 1e-2)
    assert moments.kind is np.float32
    kernel = kernel_of(weight, *fit(weight, moments, 2, form, sweeps=1), form)
    assert fit_error(weight, moments, 2, form) == pytest.approx(moments.error(kernel), abs=2e-6)


@forms
def test_a_layer_whose_responses_never_vary_has_no_error(form: str) -> None:
    weight = weights()
    moments = Moments.of(np.ones((30, N_I * K)), np.ones((30, N_O))).shrunk(np.zeros_like(weight), 1e-2)
    assert fit_error(weight, moments, 1, form) == 0
