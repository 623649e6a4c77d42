"""Singular directions of stacks of matrices: NumPy's SVD, and few rows handled by their rows."""

from __future__ import annotations

import numpy as np
import pytest
from models import normal
from numpy.typing import NDArray

from ndpass.conv import Conv
from ndpass.passes import NetworkDecoupling
from ndpass.passes.base import block_error
from ndpass.passes.eigen import FEW, few_rows, right_directions, squared_singular_values
from ndpass.passes.network_decoupling import FORMS, blueprint_share, energy, factors, full_rank, kernel_of

SHAPES = [(3, 7, 5), (3, 5, 9), (2, 4, FEW), (5, 1, 256), (2, 80, FEW), (1, FEW, FEW)]


def stack(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return normal(*shape, dtype=np.float64)


def assert_orthonormal(vectors: NDArray[np.float64]) -> None:
    square = vectors.transpose(0, 2, 1) @ vectors
    np.testing.assert_allclose(square, np.broadcast_to(np.eye(vectors.shape[2]), square.shape), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_directions_are_those_of_the_svd(shape: tuple[int, ...]) -> None:
    W = stack(shape)
    expected = np.linalg.svd(W, compute_uv=False) ** 2
    rows = min(shape[1:])
    values, vectors = right_directions(W)
    np.testing.assert_allclose(values[:, :rows], expected, atol=1e-12)
    np.testing.assert_allclose(
        vectors.transpose(0, 2, 1) @ vectors, np.eye(vectors.shape[2])[None].repeat(len(W), 0), atol=1e-12
    )
    for d in range(1, rows + 1):
        kept = W @ vectors[:, :, :d]
        np.testing.assert_allclose(np.square(kept).sum((1, 2)), expected[:, :d].sum(1), rtol=1e-9)
    np.testing.assert_allclose(W @ vectors @ vectors.transpose(0, 2, 1), W, atol=1e-12)
    every = squared_singular_values(W)
    assert every.shape == (shape[0], shape[2])
    np.testing.assert_allclose(every[:, :rows], expected, atol=1e-12)
    np.testing.assert_allclose(every[:, rows:], 0, atol=1e-12)


def test_few_rows_are_those_of_long_kernels() -> None:
    assert [few_rows(stack(shape)) for shape in SHAPES] == [False, False, True, True, False, False]


def test_directions_of_zeros_are_orthonormal() -> None:
    values, vectors = right_directions(np.zeros((2, 3, 100)))
    assert not values.any()
    assert_orthonormal(vectors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(12, 1, 256), (1, 6, 8, 10), (6, 3, 9, 9)])
def test_long_kernels_are_decoupled_at_full_rank_exactly(shape: tuple[int, ...], form: str) -> None:
    conv = Conv(normal(*shape))
    rank = full_rank(conv, form)
    kernel = kernel_of(*factors(conv.weight, rank, form), form)
    np.testing.assert_allclose(kernel, conv.weight.reshape(kernel.shape), atol=1e-12)
    kept = energy(conv.weight, form)
    assert kept.shape == (conv.kernel_size,)
    np.testing.assert_allclose(kept[rank - 1 :], 1)
    rule = NetworkDecoupling(form=form)
    for setting, error in zip(rule.settings(conv), rule.errors(conv, rule.settings(conv)), strict=True):
        assert error == pytest.approx(block_error(conv, rule.rewrite(conv, setting)), abs=1e-9)


def test_one_input_channel_takes_no_large_eigenproblem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an audio model's 256 filters of 256 taps: 256 eigenproblems of that size took a minute."""
    sizes = []
    eigh, eigvalsh = np.linalg.eigh, np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigh", lambda a: (sizes.append(a.shape[-1]), eigh(a))[1])
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda a: (sizes.append(a.shape[-1]), eigvalsh(a))[1])
    weight = normal(256, 1, 256)
    assert energy(weight, "pw-dw")[0] == pytest.approx(1)
    assert blueprint_share(weight) == pytest.approx(1)
    point, depth = factors(weight, 1, "pw-dw")
    np.testing.assert_allclose(kernel_of(point, depth, "pw-dw"), weight, atol=1e-6)
    assert sizes == [1, 1, 1]
