"""Second moments of a layer's input patches and of the responses that it should give: all that a linear fit needs.

x̂ (n,) is a patch of the network as rewritten so far, n = n_i·K with the channel as the slow index; y (n_o,) is the
response of the original network at the same position. Over S positions, all centred:

    C = E[x̂x̂ᵀ] (n, n)    B = E[yx̂ᵀ] (n_o, n)    g = E[yy] (n_o,), the diagonal of G

A kernel M (n_o, n) with the bias that fits it best, b = ȳ − Mx̄, has the relative error

    E‖y − Mx̂ − b‖² / E‖y − ȳ‖² = (Σg − 2 tr(MBᵀ) + tr(MCMᵀ)) / Σg

Of a grouped convolution each group has moments of its own: C (groups, n, n), n the elements that one group reads.

Blocks are centred, on the mean of the first one, in float32 products that are summed in float64; moments of different
sets are merged by their means (Chan, Golub & LeVeque 1979). So neither a large offset nor many samples cost digits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
T = TypeVar("T")

SHRINKAGES = (1e-3, 1e-2, 1e-1, 1.0)  # strengths of the prior among which held-out samples choose
WIDE = 1024  # unknowns from which on products with C run in float32
SMALL = 10**6  # multiply-adds of a product that BLAS sums one after another, losing digits in float32 for no time
ROUNDING = 1e-10  # share of the responses' square that is lost in float32
JUDGES = 128  # outputs that the strength of the prior is chosen by, evenly spread over those of a wider layer


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments over `count` positions; float64.

    exact: whether the responses are those of the anchor, so that there is nothing to correct. derived: what fits have
    made of C alone, by a key of their own; moments with the same C share it. data_energy: Σg of the
    data alone, where a prior is in them.
    """

    count: int
    x_mean: Array  # (n,), or (groups · n,)
    y_mean: Array  # (n_o,)
    C: Array  # (n, n), or (groups, n, n)
    B: Array  # (n_o, n)
    g: Array  # (n_o,)
    anchor: Array | None = None  # (n_o, n): the original weight, once it is the prior
    exact: bool = False
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)
    data_energy: float | None = None

    @classmethod
    def of(cls, x: Array, y: Array) -> Moments:
        """Moments of patches x (S, n) and responses y (S, n_o), S at least 1."""
        sums = Sums(x.shape[1], y.shape[1])
        sums.add(x, y)
        return sums.moments()

    @classmethod
    def beside(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of a grouped convolution, of those of its groups in their order; of one alone, itself."""
        if len(parts) == 1:
            return parts[0]

        def row(name: str) -> Array:
            joined: Array = np.concatenate([getattr(part, name) for part in parts])
            return joined

        C, anchor = np.stack([part.C for part in parts]), None if parts[0].anchor is None else row("anchor")
        return cls(parts[0].count, row("x_mean"), row("y_mean"), C, row("B"), row("g"), anchor)

    @cached_property
    def parts(self) -> tuple[Moments, ...]:
        """Those of each group of a grouped convolution; of a dense one these alone."""
        if self.C.ndim == 2:
            return (self,)
        groups = len(self.C)
        rows = [
            [None] * groups if array is None else np.split(array, groups)
            for array in (self.x_mean, self.y_mean, self.B, self.g, self.anchor)
        ]
        return tuple(
            Moments(self.count, x_mean, y_mean, C, B, g, anchor)
            for C, x_mean, y_mean, B, g, anchor in zip(self.C, *rows, strict=True)
        )

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

    @property
    def variance(self) -> float:
        """The same of the data alone: without the pseudo-samples of a prior."""
        return self.energy if self.data_energy is None else self.data_energy

    @cached_property
    def best(self) -> Array:
        """W* = BC⁻¹ (n_o, n), the best kernel of all for this input; C must be positive definite, so shrink first.

        Solved as a correction of the prior's weight, W + (B − WC)C⁻¹: what float32 rounds off in a wide layer is then
        a part of the correction in directions where the input hardly varies. There is nothing to correct where the
        responses are those of the weight itself, as an inner leaf's are.
        """
        if self.C.ndim == 3:
            return np.concatenate([part.best for part in self.parts])
        if self.anchor is None:
            return _solved(self.C.copy(), self.B)
        if self.exact or np.abs(self._pull).max() <= 1e-12 * np.abs(self.B).max():
            return self.anchor
        return self.anchor + _solved(self.C.astype(self.kind), self._pull)

    @cached_property
    def _pull(self) -> Array:
        """B − WC (n_o, n) for the prior's weight W: half the negative slope of the error there."""
        if self.exact:
            return np.broadcast_to(0.0, self.B.shape)
        return self.B if self.anchor is None else self.B - self.anchor @ self.C

    @property
    def kind(self) -> type[np.floating[Any]]:
        """float32 in wide layers, where there is a weight that only the distance from is rounded."""
        return np.float32 if len(self.C) >= WIDE and self.anchor is not None else np.float64

    @property
    def rounded(self) -> Array:
        """C in `kind`, for products; not to be written to."""
        rounded: Array = self.derive(("rounded", self.kind), lambda: self.C.astype(self.kind, copy=False))
        return rounded

    def derive(self, key: object, make: Callable[[], T]) -> T:
        """What `make` makes of C alone, made once for all moments with the same C. key: tells it from all others."""
        if key not in self.derived:
            self.derived[key] = make()
        made: T = self.derived[key]
        return made

    def error(self, kernel: Array) -> float:
        """Relative error of a kernel (n_o, n) with its best bias, at least 0; 0 where the responses are constant.

        Taken from the prior's weight W on: with M = W + D it is that of W, less 2 tr(D(B − WC)ᵀ), plus tr(DCDᵀ).
        """
        if self.energy <= 0:
            return 0.0
        kernel = kernel.reshape(self.B.shape)
        if self.C.ndim == 3:
            return sum(part.energy * part.error(M) for part, M in self._by_group(kernel)) / self.energy
        start, change = self.energy, kernel
        if self.anchor is not None:
            start -= float(np.vdot(self.anchor, self.B) + np.vdot(self.anchor, self._pull))
            change = kernel - self.anchor
        narrow = change.astype(self.kind)
        quadratic = float(np.einsum("on,on->", narrow @ self.rounded, change))
        return max(0.0, (start - 2 * float(np.vdot(change, self._pull)) + quadratic) / self.energy)

    def _by_group(self, kernel: Array) -> Iterator[tuple[Moments, Array]]:
        """Every group's moments and part (n_o / groups, n) of a kernel (n_o, n)."""
        return zip(self.parts, np.split(kernel.reshape(self.B.shape), len(self.C)), strict=True)

    @cached_property
    def answered(self) -> tuple[Array, Array]:
        """Variances (n_o,), falling, and directions (n_o, n_o) of what W* answers: eigenvectors of W*CW*ᵀ = W*Bᵀ."""
        H = self.best @ self.B.T
        values, vectors = np.linalg.eigh((H + H.T) / 2)
        return values[::-1].clip(0), vectors[:, ::-1]

    def bias(self, kernel: Array) -> Array:
        """The bias (n_o,) that fits best with a kernel: b = ȳ − Mx̄."""
        if self.C.ndim == 3:
            return np.concatenate([part.bias(M) for part, M in self._by_group(kernel)])
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
        B = self.B + noise * weight
        return Moments(self.count, self.x_mean, self.y_mean, C, B, g, weight, data_energy=self.variance)

    def keep(self, columns: NDArray[np.intp], anchor: Array | None = None) -> Moments:
        """Moments of a part of the patch, columns (m,) ascending; anchor (n_o, m): the weight that the prior is at."""
        C = self.C[np.ix_(columns, columns)]
        B = self.B[:, columns]
        return Moments(
            self.count, self.x_mean[columns], self.y_mean, C, B, self.g, anchor, data_energy=self.data_energy
        )

    def through(self, A: Array) -> Moments:
        """Moments of z = Ax̂ (m,) and y, for A (m, n)."""
        return Moments(self.count, A @ self.x_mean, self.y_mean, A @ self.C @ A.T, self.B @ A.T, self.g)

    def answering(self, M: Array, offset: Array | None = None) -> Moments:
        """Moments of x̂ and of the responses Mx̂ (m,) in the place of y, for M (m, n): the target of an inner leaf."""
        MC = M @ self.C
        y_mean = M @ self.x_mean + (0 if offset is None else offset)
        return replace(
            self, y_mean=y_mean, B=MC, g=np.einsum("mn,mn->m", MC, M), anchor=None, exact=False, data_energy=None
        )

    def of_leaf(self, weight: Array) -> Moments:
        """Moments of x̂ and of the responses of a weight (m, n), which is the anchor: C must be positive definite."""
        return replace(self.answering(weight), anchor=weight, exact=True)


class Sums:
    """What moments are made of, block by block: n elements of a patch, n_o responses."""

    def __init__(self, n: int, n_o: int) -> None:
        self.count = 0
        self.x_shift, self.y_shift = np.zeros(n), np.zeros(n_o)  # near the mean, in the samples' own type
        self.x_sum, self.y_sum, self.g = np.zeros(n), np.zeros(n_o), np.zeros(n_o)
        self.upper, self.B = np.zeros((n, n), order="F"), np.zeros((n_o, n))

    def add(self, x: Array, y: Array) -> None:
        """A block of patches (S, n) and responses (S, n_o), S at least 1."""
        if not self.count:
            self.x_shift, self.y_shift = (a.mean(0, dtype=np.float64).astype(a.dtype) for a in (x, y))
        wide = (a if a.dtype != np.float16 else a.astype(np.float32) for a in (x, y))  # its differences may overflow
        shifts = (self.x_shift, self.y_shift)
        xc, yc = ((a - shift).astype(np.float32, copy=False) for a, shift in zip(wide, shifts, strict=True))
        self.count += len(x)
        self.x_sum += x.sum(0, dtype=np.float64)
        self.y_sum += y.sum(0, dtype=np.float64)
        self.g += np.einsum("so,so->o", yc, yc, dtype=np.float64)
        self.upper += scipy.linalg.blas.ssyrk(1.0, xc.T, lower=False)  # one triangle: half the work
        small = xc.size * len(self.B) <= SMALL
        self.B += np.matmul(yc.T, xc, dtype=np.float64 if small else np.float32)

    def merge(self, other: Sums) -> Sums:
        """Of the blocks of both, which stay as they are.

        About the shift of this one: with t = Σ(x − s') of the other one, d = s' − s its shift less this one's, N' its
        count,  Σ(x − s)(x − s)ᵀ = Σ(x − s')(x − s')ᵀ + dvᵀ + vdᵀ  for  v = t + N'd/2.
        """
        merged = copy.copy(self)
        merged.count = self.count + other.count
        merged.x_sum, merged.y_sum = self.x_sum + other.x_sum, self.y_sum + other.y_sum
        x_shift, y_shift = (np.asarray(shift, np.float64) for shift in (other.x_shift, other.y_shift))
        dx, dy = x_shift - self.x_shift, y_shift - self.y_shift
        tx, ty = other.x_sum - other.count * x_shift, other.y_sum - other.count * y_shift
        merged.g = self.g + other.g + dy * (2 * ty + other.count * dy)
        merged.upper = self.upper + other.upper
        v = tx + other.count / 2 * dx
        merged.upper = scipy.linalg.blas.dsyr2(1.0, dx, v, lower=False, a=merged.upper, overwrite_a=True)
        merged.B = self.B + other.B
        merged.B += np.outer(dy, tx + other.count * dx)
        merged.B += np.outer(ty, dx)
        return merged

    def owned(self) -> Sums:
        """The same in arrays that may be written to: what comes from another process may not."""
        own = copy.copy(self)
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        vars(own).update({name: np.require(value, requirements="W") for name, value in arrays.items()})
        return own

    @property
    def nbytes(self) -> int:
        """Of its largest arrays."""
        return self.upper.nbytes + self.B.nbytes

    def moments(self) -> Moments:
        """The moments of all blocks so far."""
        x_mean, y_mean = self.x_sum / self.count, self.y_sum / self.count
        dx, dy = x_mean - self.x_shift, y_mean - self.y_shift
        C = self.upper / self.count
        C = scipy.linalg.blas.dsyr(-1.0, dx, lower=False, a=C, overwrite_a=True)
        _mirror(C)
        B, g = self.B / self.count - np.outer(dy, dx), self.g / self.count - dy * dy
        return Moments(self.count, x_mean, y_mean, C, B, g)


def _mirror(upper: Array, tile: int = 512) -> None:
    """Fill the lower triangle of a square from the upper one, in place."""
    for start in range(0, len(upper), tile):
        rows = slice(start, start + tile)
        corner = np.triu(upper[rows, rows])
        upper[rows, rows] = corner + np.triu(corner, 1).T
        upper[start + tile :, rows] = upper[rows, start + tile :].T


def _solved(C: Array, left: Array) -> Array:
    """left C⁻¹ (n_o, n) for C (n, n) positive definite, which is used up."""
    factor = scipy.linalg.cho_factor(C.T, lower=True, check_finite=False, overwrite_a=True)  # Cᵀ = C, in LAPACK's order
    right = left.astype(C.dtype).T
    solved: Array = scipy.linalg.cho_solve(factor, right, check_finite=False).T
    return solved


def choose_strength(fit: Moments, weight: Array, x: Array, y: Array) -> float:
    """The strength of the prior whose best kernel errs least on held-out patches x (S, n) and responses y (S, n_o).

    Raises nothing: without held-out samples the middle strength is taken, and where all answer right, as in a network
    that is as it was, the strongest. As the prior grows the error falls and then rises, so of the four strengths one at
    an end need not be tried.
    """
    if len(x) < 2:
        return 1e-2
    judges = slice(None, None, -(-len(fit.B) // JUDGES))
    fit = replace(fit, y_mean=fit.y_mean[judges], B=fit.B[judges], g=fit.g[judges])
    weight, y = weight[judges], y[:, judges]

    n = len(fit.C)
    weight = weight.reshape(fit.B.shape).astype(np.float64)
    left = fit.B - weight @ fit.C  # (B + λW) − W(C + λI), whatever λ
    rounding = ROUNDING * float(np.square(y, dtype=np.float64).sum())  # in which all strengths are alike

    def damage(strength: float) -> float:
        C = fit.C.astype(np.float32 if n >= WIDE else np.float64)
        C.flat[:: n + 1] += strength * (float(np.trace(fit.C)) / n or 1.0)
        kernel = weight + _solved(C, left)
        residual = y - (x @ kernel.T.astype(x.dtype) + fit.bias(kernel))
        return max(float(np.einsum("so,so->", residual, residual)), rounding)

    weakest, weak, strong, strongest = SHRINKAGES
    damages = {strength: damage(strength) for strength in (weak, strong)}
    further = weakest if damages[weak] < damages[strong] else strongest
    damages[further] = damage(further)
    return min(sorted(damages, reverse=True), key=damages.__getitem__)
