"""Reduced-rank regression of responses that a ReLU follows (Zhang et al. 2015, arXiv 1505.06798, section 3.2).

What a ReLU cuts off need not be right. With û = W*x̂ (S, n_o), the best linear answer to the inputs as they are now,

    min over M, b of Σ ‖relu(y) − relu(Mû + b)‖²,    M (n_o, n_o) of rank d

is relaxed by an auxiliary z (S, n_o) in the place of the responses, and solved in turns for a rising λ:

    Σ ‖relu(y) − relu(z)‖² + λ ‖z − Mû − b‖²

    z given M, b    element by element, the better of the two sides of zero
    M, b given z    regression on û, whose first d principal directions stay (generalised SVD)

A sample cannot determine n_o² unknowns. So each row is joined by ρ pseudo-rows with z = û, of covariance E[ûûᵀ] and a
little white noise (not in the paper). They pull M towards the identity, whose best part of rank d is the linear
solution. A fifth of the rows is held out; they decide on ρ, on the stage, and on whether the fit is taken. The turns
end near their start, which is the linear solution or, where it errs less, the solution in which a channel counts as
often as it is above zero.

Measured on VGG16 for CIFAR-10 (1,500 images, one layer rewritten): share of E‖relu(y) − relu(y')‖² of the linear
solution that is saved on the held-out rows, which also chose among four fits; in per cent, at d = n_o/8, n_o/4, n_o/2.

              rows    with all rows        with 3,000
    conv1_2   6,000    8.8  15.0  21.5      9.0  14.3  17.6
    conv2_2   6,000    9.9   7.8   5.3      9.0   4.5   2.5
    conv3_2  10,500    6.1   3.6   2.6      3.6   2.1   0.9
    conv4_1  10,500    2.3   1.7   2.5      1.2   0.0   0.3
    conv4_3  19,500   14.0   8.9  11.7     10.2   3.8   4.7

The whole network did not gain (all layers by cd at 0.5 of the MACs, ranks by their spectra, 10,000 rows a layer, 5,000
validation images), so `linear` is the default:

              accuracy   KL divergence   relative error of the outputs
    before     89.20 %
    linear     88.92 %      0.0041                 0.0526
    relu       88.96 %      0.0045                 0.0521
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from ndpass.conv import Array

STAGES = ((0.01, 10), (1.0, 10))  # λ and how many turns; 25 of each changed a gain by 0.5 points at most
PRIORS = (0.03, 0.3)  # ρ
HELD_OUT = 0.2  # share of the rows, the last ones: other images than those that are fitted to
FEWEST = 100  # rows that a fit needs
RARE = 1e-3  # a channel counts for no less than this share of the rows
BLOCK = 2_048  # rows that are worked on at once
NOISE = 1e-3  # of the mean variance, in every direction of a pseudo-row: channels may be dead or depend on others


@dataclass(frozen=True, eq=False)
class Affine:
    """The map û -> L(Rû) + b: left (n_o, d), right (d, n_o), bias (n_o,)."""

    left: Array
    right: Array
    bias: Array

    def __call__(self, u: Array) -> Array:
        """The answers (S, n_o) to rows u (S, n_o), in float32."""
        left, right, bias = (a.astype(np.float32) for a in (self.left, self.right, self.bias))
        out: Array = (u @ right.T) @ left.T
        out += bias
        return out


def fit(u: Array, y: Array, H: Array, linear: Affine) -> tuple[Affine, float]:
    """The map of the same rank as `linear` that errs least after the ReLU on held-out rows, and its gain there.

    u, y: (S, n_o) float32, the best linear answers and the responses wanted; H (n_o, n_o): E[ûûᵀ], centred. The gain
    is 1 − E‖relu(y) − relu(y')‖² / that of `linear`; it is at least 0, and 0 where `linear` itself is returned.
    """
    kept = len(u) - round(HELD_OUT * len(u))
    if len(u) < FEWEST:
        return linear, 0.0
    before = least = damage(linear, u[kept:], y[kept:])
    best = linear
    starts = (linear, weighted(u[:kept], y[:kept], H, linear.left.shape[1]))
    start = min(starts, key=lambda found: damage(found, u[:kept], y[:kept]))
    for rho in PRIORS:
        for found in alternate(u[:kept], y[:kept], H, start, rho):
            now = damage(found, u[kept:], y[kept:])
            if now < least:
                best, least = found, now
    return best, 1 - least / before if before > 0 else 0.0


def weighted(u: Array, y: Array, H: Array, rank: int) -> Affine:
    """The linear solution in which a channel counts by the share of rows (S, n_o) where it is above zero."""
    scale = np.sqrt(np.maximum((y > 0).mean(0), RARE))
    n_o = len(H)
    axes = scipy.linalg.eigh(scale[:, None] * H * scale, subset_by_index=[n_o - rank, n_o - 1], check_finite=False)[1]
    left, right = axes / scale[:, None], axes.T * scale
    return Affine(left, right, y.mean(0, dtype=np.float64) - left @ (right @ u.mean(0, dtype=np.float64)))


def damage(found: Affine, u: Array, y: Array) -> float:
    """Σ ‖relu(y) − relu(y')‖² over rows u (S, n_o) whose wanted responses are y (S, n_o)."""
    total = 0.0
    for rows in _blocks(len(u)):
        residual = np.maximum(y[rows], 0) - np.maximum(found(u[rows]), 0)
        total += float(np.einsum("so,so->", residual, residual, dtype=np.float64))
    return total


def auxiliary(r: Array, y: Array, strength: float) -> Array:
    """The z that minimises (r − relu(z))² + λ(z − y')², element by element; r = relu(y) and y' of one shape.

    Below zero that is min(0, y'), above max(0, (λy' + r) / (λ + 1)).
    """
    low, high = np.minimum(y, 0), np.maximum((strength * y + r) / (strength + 1), 0)
    below = r * r + strength * np.square(low - y)
    above = np.square(r - high) + strength * np.square(high - y)
    z: Array = np.where(below < above, low, high)
    return z


def alternate(u: Array, y: Array, H: Array, start: Affine, rho: float) -> Iterator[Affine]:
    """The map after each stage; u, y (S, n_o), H (n_o, n_o), ρ the weight of the prior."""
    rank, count = start.left.shape[1], len(u)
    u_mean = u.mean(0, dtype=np.float64)
    prior = rho * (H + (NOISE * float(np.trace(H)) / len(H) or 1.0) * np.eye(len(H)))
    C = prior.copy()
    for rows in _blocks(count):
        centred = u[rows] - u_mean  # float64: C must stay positive definite
        C += centred.T @ centred / count
    root = scipy.linalg.cholesky(C, lower=True, check_finite=False)
    found = start
    for strength, turns in STAGES:
        for _ in range(turns):
            z_mean, B = _cross(u, y, u_mean, found, strength)
            left, right = _reduced(B + prior, root, rank)
            found = Affine(left, right, z_mean - left @ (right @ u_mean))
        yield found


def _cross(u: Array, y: Array, u_mean: Array, found: Affine, strength: float) -> tuple[Array, Array]:
    """Mean of z (n_o,) and E[zûᵀ] (n_o, n_o), û centred, for the best z given the map."""
    count, narrow = len(u), u_mean.astype(np.float32)
    z_mean, B = np.zeros(y.shape[1]), np.zeros((y.shape[1], u.shape[1]))
    for rows in _blocks(count):
        z = auxiliary(np.maximum(y[rows], 0), found(u[rows]), strength)
        z_mean += z.sum(0, dtype=np.float64) / count
        B += (z.T @ (u[rows] - narrow)).astype(np.float64) / count
    return z_mean, B


def _reduced(B: Array, root: Array, rank: int) -> tuple[Array, Array]:
    """L (n_o, d) and R (d, n), the best product of rank d for B = E[zûᵀ] (n_o, n) and C = root rootᵀ (n, n)."""
    n_o = len(B)
    white = scipy.linalg.solve_triangular(root, B.T, lower=True, check_finite=False).T  # B C^(-T/2)
    left: Array = scipy.linalg.eigh(white @ white.T, subset_by_index=[n_o - rank, n_o - 1], check_finite=False)[1]
    right: Array = scipy.linalg.solve_triangular(root, white.T @ left, lower=True, trans=1, check_finite=False).T
    return left, right


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))
