"""Second moments of a layer's input patches and of the responses that it should give: all that a linear fit needs.

x̂ (n,) is a patch of the network as rewritten so far, n = n_i·K with the channel as the slow index; y (n_o,) is the
response of the original network at the same position. Over S positions, all centred:

    C = E[x̂x̂ᵀ] (n, n)    B = E[yx̂ᵀ] (n_o, n)    g = E[yy] (n_o,), the diagonal of G

A kernel M (n_o, n) with the bias that fits it best, b = ȳ − Mx̄, has the relative error

    E‖y − Mx̂ − b‖² / E‖y − ȳ‖² = (Σg − 2 tr(MBᵀ) + tr(MCMᵀ)) / Σg

Blocks are centred on their own mean in float32 products and merged in float64 (Chan, Golub & LeVeque 1979), so that
neither a large offset nor the number of samples costs digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

SHRINKAGES = (1e-3, 1e-2, 1e-1, 1.0)  # strengths of the prior among which held-out samples choose
WIDE = 1024  # unknowns from which on the best kernel is solved for in float32


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments over `count` positions; float64."""

    count: int
    x_mean: Array  # (n,)
    y_mean: Array  # (n_o,)
    C: Array  # (n, n)
    B: Array  # (n_o, n)
    g: Array  # (n_o,)
    anchor: Array | None = None  # (n_o, n): the original weight, once it is the prior

    @classmethod
    def of(cls, x: Array, y: Array) -> Moments:
        """Moments of patches x (S, n) and responses y (S, n_o), S at least 1."""
        x_mean, y_mean = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        xc, yc = (x - x_mean).astype(np.float32), (y - y_mean).astype(np.float32)
        count = len(x)
        g = np.einsum("so,so->o", yc, yc, dtype=np.float64) / count
        return cls(count, x_mean, y_mean, _wide(_gram(xc), count), _wide(yc.T @ xc, count), g)

    def merge(self, other: Moments) -> Moments:
        """Moments over both sets of positions; associative and commutative up to rounding."""
        count = self.count + other.count
        a, b = self.count / count, other.count / count
        dx, dy = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        cross = a * b
        C = a * self.C
        C += b * other.C
        C += cross * np.outer(dx, dx)
        B = a * self.B + b * other.B + cross * np.outer(dy, dx)
        g = a * self.g + b * other.g + cross * dy * dy
        return Moments(count, self.x_mean + b * dx, self.y_mean + b * dy, C, B, g)

    @property
    def energy(self) -> float:
        """Σg, the variance of the responses, which errors are relative to."""
        return float(self.g.sum())

    @cached_property
    def best(self) -> Array:
        """W* = BC⁻¹ (n_o, n), the best kernel of all for this input; C must be positive definite, so shrink first.

        Solved as a correction of the prior's weight, W + (B − WC)C⁻¹: what float32 rounds off in a wide layer is then
        a part of the correction in directions where the input hardly varies.
        """
        anchor = np.zeros_like(self.B) if self.anchor is None else self.anchor
        kind = np.float32 if len(self.C) >= WIDE and self.anchor is not None else np.float64
        factor = scipy.linalg.cho_factor(self.C.astype(kind), lower=True, check_finite=False, overwrite_a=True)
        left = (self.B - anchor @ self.C).astype(kind)
        solved: Array = anchor + scipy.linalg.cho_solve(factor, left.T, check_finite=False).T
        return solved

    def error(self, kernel: Array) -> float:
        """Relative error of a kernel (n_o, n) with its best bias; 0 where the responses are constant."""
        if self.energy <= 0:
            return 0.0
        kernel = kernel.reshape(self.B.shape)
        quadratic = float(np.einsum("on,on->", kernel @ self.C, kernel))
        return max(0.0, (self.energy - 2 * float(np.einsum("on,on->", kernel, self.B)) + quadratic) / self.energy)

    def bias(self, kernel: Array) -> Array:
        """The bias (n_o,) that fits best with a kernel: b = ȳ − Mx̄."""
        bias: Array = self.y_mean - kernel.reshape(self.B.shape) @ self.x_mean
        return bias

    def shrunk(self, weight: Array, strength: float) -> Moments:
        """With a prior towards the original weight W̃ (n_o, n): λ' of white noise answered by it, λ' = strength·tr C/n.

        A layer whose input never varies gets λ' = strength.
        """
        n = len(self.C)
        noise = strength * (float(np.trace(self.C)) / n or 1.0)
        weight = weight.reshape(self.B.shape).astype(np.float64)
        C = self.C.copy()
        C.flat[:: n + 1] += noise
        g = self.g + noise * np.einsum("on,on->o", weight, weight)
        return Moments(self.count, self.x_mean, self.y_mean, C, self.B + noise * weight, g, weight)

    def keep(self, columns: NDArray[np.intp], anchor: Array) -> Moments:
        """Moments of a part of the patch, columns (m,) ascending; anchor (n_o, m): the weight that the prior is at."""
        C = self.C[np.ix_(columns, columns)]
        return Moments(self.count, self.x_mean[columns], self.y_mean, C, self.B[:, columns], self.g, anchor)

    def through(self, A: Array) -> Moments:
        """Moments of z = Ax̂ (m,) and y, for A (m, n)."""
        return Moments(self.count, A @ self.x_mean, self.y_mean, A @ self.C @ A.T, self.B @ A.T, self.g)

    def answering(self, M: Array, offset: Array | None = None) -> Moments:
        """Moments of x̂ and of the responses Mx̂ (m,) in the place of y, for M (m, n): the target of an inner leaf."""
        MC = M @ self.C
        y_mean = M @ self.x_mean + (0 if offset is None else offset)
        return Moments(self.count, self.x_mean, y_mean, self.C, MC, np.einsum("mn,mn->m", MC, M))


def _gram(x: Array) -> Array:
    """xᵀx for x (S, n) in float32, by the product that computes one triangle only."""
    upper: Array = scipy.linalg.blas.ssyrk(1.0, x.T, lower=False)
    both: Array = np.triu(upper) + np.triu(upper, 1).T
    return both


def _wide(product: Array, count: int) -> Array:
    wide = product.astype(np.float64)
    wide /= count
    return wide


def choose_strength(fit: Moments, weight: Array, x: Array, y: Array) -> float:
    """The strength of the prior whose best kernel errs least on held-out patches x (S, n) and responses y (S, n_o).

    Raises nothing: without held-out samples the middle strength is taken.
    """
    if len(x) < 2:
        return 1e-2

    def damage(strength: float) -> float:
        prior = fit.shrunk(weight, strength)
        kernel = prior.best
        residual = y - (x @ kernel.T + prior.bias(kernel))
        return float(np.einsum("so,so->", residual, residual))

    return min(SHRINKAGES, key=damage)
