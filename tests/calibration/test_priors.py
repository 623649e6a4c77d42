"""How strong a prior is, and what fits see of it, against least squares on the samples themselves."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.calibration.priors import METRIC, SHRINKAGES, choose_strength, regularised

F: TypeAlias = NDArray[np.floating[Any]]


def samples(count: int = 300, n: int = 12, n_o: int = 5) -> tuple[F, F, F]:
    """Correlated patches (S, n), responses (S, n_o) of a weight (n_o, n) with noise, and that weight."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((n_o, n))
    x = rng.standard_normal((count, n)) @ (np.eye(n) + 0.2 * rng.standard_normal((n, n)))
    return x, x @ weight.T + 0.5 * rng.standard_normal((count, n_o)), weight


def test_few_samples_get_a_strong_prior_and_many_a_weak_one() -> None:
    """The responses are those of the weight with noise, so few samples can only lead away from it."""
    x, y, weight = samples(count=4500)
    held = x[4000:], y[4000:]
    drifted = weight + 0.3  # what many samples can tell and the prior does not know
    few = choose_strength(Moments.of(x[:10], y[:10]), weight, *held)
    many = choose_strength(Moments.of(x[:4000], y[:4000]), drifted, *held)
    assert few >= SHRINKAGES[-2]
    assert many == SHRINKAGES[0]


def test_without_held_out_samples_a_middle_strength_is_taken() -> None:
    x, y, weight = samples()
    strength = choose_strength(Moments.of(x, y), weight, x[:1], y[:1])
    assert SHRINKAGES[0] < strength < SHRINKAGES[-1]


def test_a_strong_prior_finds_the_kernel_that_fits_with_a_weak_one_are_aimed_at() -> None:
    """The loss is the distance of the answers from those of that kernel; the error is that of the data."""
    x, y, weight = samples(count=30)
    y = y + np.random.default_rng(5).standard_normal(y.shape)
    given = Moments.of(x, y)
    aim, got = given.shrunk(weight, 1.0).best, regularised(given, weight, 1.0)
    np.testing.assert_array_equal(got.best, aim)
    assert regularised(given, weight, METRIC).loss(weight) == given.shrunk(weight, METRIC).loss(weight)
    far = aim + 0.1 * np.random.default_rng(6).standard_normal(aim.shape)
    centred = x - x.mean(0)
    noise = METRIC * np.trace(given.C) / len(given.C)
    further = np.mean(np.sum((centred @ (far - aim).T) ** 2, 1)) + noise * np.sum((far - aim) ** 2)
    assert (got.loss(far) - got.loss(aim)) * got.energy == pytest.approx(further, rel=1e-6)
    for kernel in (aim, far, weight):
        assert got.error(kernel) == pytest.approx(given.error(kernel), rel=1e-9)


def test_the_rest_of_what_is_aimed_at_is_what_its_channels_answer() -> None:
    """A part of the patch is fitted to the answers of the whole, not to the responses."""
    x, y, weight = samples(count=30)
    given = Moments.of(x, y + np.random.default_rng(5).standard_normal(y.shape))
    got, at = regularised(given, weight, 1.0), np.array([0, 1, 5, 7])
    kept = got.keep(at, got.best[:, at])
    wanted = np.linalg.solve(got.C[np.ix_(at, at)], got.B[:, at].T).T
    np.testing.assert_allclose(kept.best, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
    assert kept.error(wanted) == pytest.approx(given.keep(at).error(wanted), rel=1e-9)


def test_where_the_weight_answers_right_the_strong_prior_stays() -> None:
    x, _, weight = samples(count=30)
    given = Moments.of(x.astype(np.float32), (x @ weight.T + 1).astype(np.float32))
    got, strong = regularised(given, weight, 1.0), given.shrunk(weight, 1.0)
    assert got.is_undrifted
    np.testing.assert_array_equal(got.C, strong.C)
    np.testing.assert_array_equal(got.B, strong.B)
    off = given.shrunk(weight + 0.01, 1.0)
    assert not off.is_undrifted
