"""Moments against naive float64 statistics of the samples themselves."""

from __future__ import annotations

from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments

F: TypeAlias = NDArray[np.floating[Any]]
F32 = 1e-5  # relative, of products that are summed in float32


def samples(count: int = 300, offset: float = 0.0, n: int = 12, n_o: int = 5) -> tuple[F, F, F]:
    """Correlated patches (S, n), responses (S, n_o) of a weight (n_o, n) with noise, and that weight."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((n_o, n))
    mix = np.eye(n) + 0.2 * rng.standard_normal((n, n))
    x = rng.standard_normal((count, n)) @ mix
    y = x @ weight.T + 0.5 * rng.standard_normal((count, n_o))
    return x + offset, y + offset, weight


def naive(x: F, y: F) -> tuple[F, F, F]:
    """C, B and g, position by position."""
    x_mean, y_mean = x.astype(float).mean(0), y.astype(float).mean(0)
    C, B, g = np.zeros((x.shape[1],) * 2), np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])
    for patch, response in zip(x.astype(float) - x_mean, y.astype(float) - y_mean, strict=True):
        C += np.outer(patch, patch) / len(x)
        B += np.outer(response, patch) / len(x)
        g += response**2 / len(x)
    return C, B, g


def assert_same(a: Moments, b: Moments, rtol: float) -> None:
    assert a.count == b.count
    for name in ("x_mean", "y_mean", "C", "B", "g"):
        assert_close(getattr(a, name), getattr(b, name), rtol)


def assert_close(got: F, expected: F, rtol: float) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * float(np.abs(expected).max()))


def relative_response_error(x: F, y: F, kernel: F, bias: F) -> float:
    return float(np.sum((y - x @ kernel.T - bias) ** 2) / np.sum((y - y.mean(0)) ** 2))


def blocks(x: F, y: F, size: int) -> list[Moments]:
    return [Moments.of(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize("size", [1, 7, 100, 300])
def test_blocks_of_any_size_give_the_covariance(size: int) -> None:
    x, y, _ = samples()
    got = reduce(Moments.merge, blocks(x, y, size))
    for value, expected in zip((got.C, got.B, got.g), naive(x, y), strict=True):
        assert value.dtype == np.float64
        assert_close(value, expected, F32)
    assert_close(got.x_mean, x.mean(0), 1e-12)
    assert_close(got.y_mean, y.mean(0), 1e-12)


def test_merging_is_commutative_and_associative() -> None:
    x, y, _ = samples()
    a, b, c = Moments.of(x[:50], y[:50]), Moments.of(x[50:60] + 3, y[50:60]), Moments.of(x[60:], y[60:] - 1)
    assert_same(a.merge(b), b.merge(a), 1e-13)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)), 1e-13)


def test_a_large_offset_costs_no_digits() -> None:
    """1e4 times the spread: in float32, E[xx] − E[x]E[x] would have no digit left."""
    x, y, _ = samples(offset=1e4)
    got = reduce(Moments.merge, blocks(x, y, 64))
    for value, expected in zip((got.C, got.B, got.g), naive(x, y), strict=True):
        assert_close(value, expected, F32)


def test_float32_samples_are_centred_in_float64() -> None:
    x, y, _ = samples(offset=1000.0)
    x, y = x.astype(np.float32), y.astype(np.float32)
    got = Moments.of(x, y)
    for value, expected in zip((got.C, got.B, got.g), naive(x, y), strict=True):
        assert_close(value, expected, F32)


def test_many_positions_of_a_narrow_layer_cost_no_digits() -> None:
    """BLAS sums a small product one position after another; what adds up is answered here by the original weight."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((7560, 9)).astype(np.float32), rng.standard_normal((5, 9))
    moments = Moments.of(x, (x @ weight.T).astype(np.float32))
    assert np.abs(moments.B - weight @ moments.C).max() < 1e-6


def test_best_kernel_and_bias_are_least_squares_on_the_samples() -> None:
    x, y, _ = samples(offset=2.0)
    moments = Moments.of(x, y)
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0].T
    assert_close(moments.best, solution[:, :-1], 1e-4)
    assert_close(moments.bias(solution[:, :-1]), solution[:, -1], 1e-4)


def test_error_is_that_of_the_samples() -> None:
    x, y, weight = samples(offset=2.0)
    moments = Moments.of(x, y)
    for kernel in (weight, 0 * weight, moments.best, weight + 0.3):
        expected = relative_response_error(x, y, kernel, moments.bias(kernel))
        assert moments.error(kernel) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert moments.error(0 * weight) == pytest.approx(1)
    assert moments.error(moments.best) <= moments.error(weight)


def test_the_loss_with_a_prior_is_that_of_the_formula_in_wide_layers_too() -> None:
    """Products in float32 are of the distance from the prior's weight, so that small errors keep their digits."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 1024)).astype(np.float32)
    weight = rng.standard_normal((4, 1024))
    moments = Moments.of(x, (x @ weight.T).astype(np.float32)).shrunk(weight, 1e-2)
    for kernel in (weight + 1e-3 * rng.standard_normal(weight.shape), 0 * weight, moments.best):
        lost = moments.g.sum() - 2 * np.trace(kernel @ moments.B.T) + np.trace(kernel @ moments.C @ kernel.T)
        expected = max(0.0, lost / moments.g.sum())  # sums in float32 may leave less than nothing, by the BLAS and CPU
        assert moments.loss(kernel) == pytest.approx(expected, rel=1e-4, abs=1e-11)


def test_error_takes_a_kernel_in_the_shape_of_a_weight() -> None:
    x, y, weight = samples()
    moments = Moments.of(x, y)
    assert moments.error(weight.reshape(5, 3, 2, 2)) == moments.error(weight)


def test_the_prior_is_white_pseudo_samples_answered_by_the_weight() -> None:
    """As many as there are positions, orthogonal and of mean zero, so that their moments are exactly white."""
    x, y, weight = samples(count=48, n=12)
    n, strength = 12, 0.1
    C, B, g = naive(x, y)
    noise = strength * np.trace(C) / n
    pseudo = np.r_[np.eye(n), -np.eye(n)] * np.sqrt(noise * n)  # E[ppᵀ] = noise·I over 2n samples
    expected = naive(pseudo, pseudo @ weight.T)
    got = Moments.of(x, y).shrunk(weight, strength)
    for value, data, prior in zip((got.C, got.B, got.g), (C, B, g), expected, strict=True):
        assert_close(value, data + prior, F32)
    assert got.count == 48


def test_a_stronger_prior_ends_at_the_original_weight() -> None:
    x, y, weight = samples(count=8)  # fewer positions than unknowns: only the prior makes it solvable
    priors = [Moments.of(x, y).shrunk(weight, s) for s in (1e-2, 1.0, 1e4)]
    distances = [float(np.linalg.norm(prior.best - weight)) for prior in priors]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-2
    assert all(prior.loss(prior.best) < prior.loss(weight) for prior in priors)


def test_through_a_map_gives_the_moments_of_the_mapped_samples() -> None:
    x, y, _ = samples(offset=1.0)
    A = np.random.default_rng(5).standard_normal((4, 12))
    assert_same(Moments.of(x, y).through(A), Moments.of(x @ A.T, y), F32)


def test_answering_gives_the_moments_of_the_answers() -> None:
    x, y, _ = samples(offset=1.0)
    M, offset = np.random.default_rng(6).standard_normal((3, 12)), np.arange(3.0)
    assert_same(Moments.of(x, y).answering(M, offset), Moments.of(x, x @ M.T + offset), F32)
    assert_same(Moments.of(x, y).answering(M), Moments.of(x, x @ M.T), F32)


def test_channels_that_never_vary_leave_everything_finite() -> None:
    x, y, weight = samples()
    x[:, :3], y[:, 0] = 7.0, -2.0
    moments = Moments.of(x, y).shrunk(weight, 1e-3)
    assert np.isfinite(moments.best).all()
    assert np.isfinite(moments.bias(moments.best)).all()
    assert 0 <= moments.error(moments.best) < 1


def test_a_layer_whose_input_never_varies_keeps_its_weight() -> None:
    _, y, weight = samples()
    moments = Moments.of(np.ones((300, 12)), np.ones_like(y)).shrunk(weight, 1e-2)
    np.testing.assert_allclose(moments.best, weight, atol=1e-9)
    np.testing.assert_allclose(moments.bias(weight), 1 - weight.sum(1), atol=1e-9)


def test_constant_responses_are_met_without_error() -> None:
    x, y, weight = samples()
    assert Moments.of(x, 0 * y).error(weight) == 0.0


def test_one_sample_has_moments() -> None:
    x, y, _ = samples(count=1)
    moments = Moments.of(x, y)
    assert moments.count == 1
    assert not moments.C.any()
