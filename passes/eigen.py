"""Eigenvalues and singular directions of small matrices, largest first."""

from __future__ import annotations

import numpy as np

from ndpass.conv import Array

FEW = 64  # columns from which on a matrix of fewer rows is handled by its rows


def eigen(square: Array) -> tuple[Array, Array]:
    """Eigenvalues (..., K), largest first and none below zero, and eigenvectors (..., K, K) of symmetric matrices."""
    values, vectors = np.linalg.eigh(square)
    return values[..., ::-1].clip(0), vectors[..., ::-1]


def eigenvalues(square: Array) -> Array:
    """Those of `eigen` alone (..., K), in a quarter of its time."""
    return np.linalg.eigvalsh(square)[..., ::-1].clip(0)


def right_directions(stack: Array) -> tuple[Array, Array]:
    """Squared singular values (c, r), largest first, and right singular vectors (c, K, r) of matrices (c, m, K).

    From the Gram matrices (K, K), r = K. The kernels of a layer with few input channels are matrices of few rows: where
    these are fewer than the columns and the columns are many, r = m and the Gram matrices are of size m: with the QR
    decomposition Wᵀ = QR and RRᵀ = ZΛZᵀ the directions are QZ, orthonormal even where singular values are zero.
    """
    if not few_rows(stack):
        return eigen(stack.transpose(0, 2, 1) @ stack)
    Q, R = np.linalg.qr(stack.transpose(0, 2, 1))  # (c, K, m), (c, m, m)
    values, vectors = eigen(R @ R.transpose(0, 2, 1))
    return values, Q @ vectors


def squared_singular_values(stack: Array) -> Array:
    """Of matrices (c, m, K): (c, K), largest first; zeros behind the m-th where m is below K."""
    across = stack.transpose(0, 2, 1)
    values = eigenvalues(stack @ across if few_rows(stack) else across @ stack)
    return np.pad(values, ((0, 0), (0, stack.shape[2] - values.shape[1])))


def few_rows(stack: Array) -> bool:
    """Whether matrices (c, m, K) are handled by their rows; narrow ones take no time either way."""
    rows, columns = stack.shape[1:]
    return bool(rows < columns and columns >= FEW)
