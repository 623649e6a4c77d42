"""Second moments of a layer's input patches and of the responses that it should give: all that a linear fit needs.

x̂ (n,) is a patch of the network as rewritten so far, n = n_i·K with the channel as the slow index; y (n_o,) is the
response of the original network at the same position. Over S positions, all centred:

    C = E[x̂x̂ᵀ] (n, n)    B = E[yx̂ᵀ] (n_o, n)    g = E[yy] (n_o,), the diagonal of G

A kernel M (n_o, n) with the bias that fits it best, b = ȳ − Mx̄, has the relative error

    E‖y − Mx̂ − b‖² / E‖y − ȳ‖² = (Σg − 2 tr(MBᵀ) + tr(MCMᵀ)) / Σg

Fits need a prior (`ndpass.calibration.priors`), whose pseudo-samples are in C, B and g. A fit minimises its `loss`,
which counts them; its `error` is that of the data alone. They differ most where channels have unlike scales: the
pseudo-samples of all channels have the mean variance, and may have 10,000 times the responses of the data.

Of a grouped convolution each group has moments of its own: C (groups, n, n), n the elements that one group reads.

They are made of sums over blocks (`ndpass.calibration.sums`); those of different sets are merged by their means (Chan,
Golub & LeVeque 1979).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
T = TypeVar("T")

WIDE = 1024  # unknowns from which on products with C run in float32
TILE = 512  # rows of C that are taken from it at once
CONSTANT = 1e-12  # variance, relative to the mean's square, of responses in float32 that differ by rounding alone
RIGHT = 1e-6  # relative error, from sums of products in float32, up to which a kernel answers right
INFLATED = 1e3  # times the data's variance, from which on it cannot be told from that of a prior without losing digits


@dataclass(frozen=True, eq=False)
class Data:
    """What moments with a prior are without it. Off its diagonal C is that of the data.

    diagonal (n,) of C, or (groups, n); B (n_o, n); g (n_o,); noise: λ' of the prior, one number or (groups,).
    """

    diagonal: Array
    B: Array
    g: Array
    noise: Array


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments over `count` positions; float64.

    exact: whether the responses are those of the anchor, so that there is nothing to correct. derived: what fits have
    made of C alone, by a key of their own; moments with the same C share it. data: None where no prior is in them.
    aimed: whether B and g are of the answers of a kernel, and those in `data` of the responses.
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
    data: Data | None = None
    aimed: bool = False

    @classmethod
    def of(cls, x: Array, y: Array) -> Moments:
        """Moments of patches x (S, n) and responses y (S, n_o), S at least 1."""
        from ndpass.calibration.sums import Sums  # which is written in terms of this class

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
        alone = [part.alone for part in parts]
        diagonal, noise = (np.stack([getattr(own, name) for own in alone]) for name in ("diagonal", "noise"))
        B, g = (np.concatenate([getattr(own, name) for own in alone]) for name in ("B", "g"))
        data, aimed = Data(diagonal, B, g, noise), any(part.aimed for part in parts)
        return cls(parts[0].count, row("x_mean"), row("y_mean"), C, row("B"), row("g"), anchor, data=data, aimed=aimed)

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
        alone = self.alone
        B_alone, g_alone = np.split(alone.B, groups), np.split(alone.g, groups)
        data = itertools.starmap(Data, zip(alone.diagonal, B_alone, g_alone, alone.noise, strict=True))
        return tuple(
            Moments(self.count, x_mean, y_mean, C, B, g, anchor, data=own, aimed=self.aimed)
            for C, own, x_mean, y_mean, B, g, anchor in zip(self.C, data, *rows, strict=True)
        )

    def merge(self, other: Moments) -> Moments:
        """Moments over both sets of positions; associative and commutative up to rounding.

        A prior that is in both is the mean of theirs.
        """
        count = self.count + other.count
        a, b = self.count / count, other.count / count
        dx, dy = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        cross = a * b
        C = a * self.C
        C += b * other.C
        C += cross * np.outer(dx, dx)
        B = a * self.B + b * other.B + cross * np.outer(dy, dx)
        g = a * self.g + b * other.g + cross * dy * dy
        data = None
        if self.data is not None or other.data is not None:
            one, two = self.alone, other.alone
            data = Data(
                a * one.diagonal + b * two.diagonal + cross * dx * dx,
                a * one.B + b * two.B + cross * np.outer(dy, dx),
                a * one.g + b * two.g + cross * dy * dy,
                a * one.noise + b * two.noise,
            )
        return Moments(count, self.x_mean + b * dx, self.y_mean + b * dy, C, B, g, data=data)

    @property
    def energy(self) -> float:
        """Σg, the variance of the responses with those of a prior, which losses are relative to."""
        return float(self.g.sum())

    @property
    def alone(self) -> Data:
        """What these moments are of the data alone."""
        if self.data is not None:
            return self.data
        return Data(np.einsum("...ii->...i", self.C), self.B, self.g, np.zeros(self.C.shape[:-2]))

    @property
    def variance(self) -> float:
        """Of the responses of the data alone, which errors are relative to."""
        return float(self.alone.g.sum())

    @property
    def is_constant(self) -> bool:
        """Whether the responses of the data do not vary, but for rounding."""
        return self.variance <= CONSTANT * float(self.y_mean @ self.y_mean)

    @property
    def is_undrifted(self) -> bool:
        """Whether the prior's weight answers right: the network before the layer is as it was."""
        if self.anchor is None:
            return False
        left = self.variance - float(np.vdot(self.anchor, self.alone.B) + np.vdot(self.anchor, self._pull))
        return left <= RIGHT * self.variance

    @property
    def is_inflated(self) -> bool:
        """Whether the prior's part is so large that what is left of a loss without it has no digits."""
        return self.energy > INFLATED * self.variance

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
            return solved(self.C.copy(), self.B)
        if self.exact:
            return self.anchor
        pull = self.B - self.anchor @ self.C if self.aimed else self._pull
        if np.abs(pull).max() <= 1e-12 * np.abs(self.B).max():
            return self.anchor
        return self.anchor + solved(self.C.astype(self.kind), pull)

    @cached_property
    def _pull(self) -> Array:
        """B − WC (n_o, n) of the data for the anchor W: half the negative slope of the error there. Where nothing was
        aimed at it is the same with the prior. Without an anchor, at 0."""
        if self.exact and not self.aimed:
            return np.broadcast_to(0.0, self.B.shape)
        return self.alone.B if self.anchor is None else self.alone.B - self.on_data(self.anchor)

    def on_data(self, kernel: Array, kind: type[np.floating[Any]] = np.float64) -> Array:
        """MC (m, n) of a kernel M (m, n) with the C of the data alone; products are of the type `kind`."""
        narrow = kernel.astype(kind, copy=False)
        if self.data is None:
            return narrow @ self.C.astype(kind, copy=False)
        product = np.empty(kernel.shape, kind)
        for start in range(0, len(self.C), TILE):
            rows = slice(start, start + TILE)
            block = self.C[rows].astype(kind)
            np.fill_diagonal(block[:, start:], self.data.diagonal[rows])
            product[:, rows] = narrow @ block.T
        return product

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
        """Relative error of a kernel (n_o, n) with its best bias on the data, at least 0; 0 if responses are constant.

        Taken from the prior's weight W on: with M = W + D it is that of W, less 2 tr(D(B − WC)ᵀ), plus tr(DCDᵀ).
        """
        if self.C.ndim == 3:
            return sum(part.variance * part.error(M) for part, M in self._by_group(kernel)) / (self.variance or 1.0)
        return 0.0 if self.is_constant else max(0.0, self._lost(kernel)) / self.variance

    def loss(self, kernel: Array) -> float:
        """The same with the pseudo-samples of the prior: what fits minimise. 0 where nothing varies."""
        if self.C.ndim == 3:
            return sum(part.energy * part.loss(M) for part, M in self._by_group(kernel)) / (self.energy or 1.0)
        return max(0.0, self._lost(kernel) + self.of_prior(kernel)) / (self.energy or 1.0)

    def error_from(self, loss: float, kernel: Array) -> float:
        """The error of a kernel (n_o, n) whose loss is known: no product with C is needed but where digits are lost."""
        if self.data is None:
            return loss
        if self.is_constant or self.is_inflated:
            return self.error(kernel)
        return max(0.0, loss * self.energy - self.of_prior(kernel)) / self.variance

    def _lost(self, kernel: Array) -> float:
        """E‖y − Mx̂‖² over the data, but for rounding."""
        start, change = self.variance, kernel.reshape(self.B.shape)
        if self.anchor is not None:
            start -= float(np.vdot(self.anchor, self.alone.B) + np.vdot(self.anchor, self._pull))
            change = change - self.anchor
        quadratic = float(np.einsum("on,on->", self.on_data(change, self.kind), change))
        return start - 2 * float(np.vdot(change, self._pull)) + quadratic

    def of_prior(self, kernel: Array) -> float:
        """The same over the pseudo-samples: λ'‖W − M‖², and what the part of W that is left out of M answered."""
        M = kernel.reshape(self.B.shape)
        if self.data is None or self.prior_weight is None:
            return 0.0
        noise = float(self.data.noise)
        return self.energy - self.variance + noise * float(np.vdot(M, M) - 2 * np.vdot(M, self.prior_weight))

    @cached_property
    def prior_weight(self) -> Array | None:
        """W (n_o, n) with B = B of the data + λ'W: the anchor, where nothing was aimed at."""
        if not self.aimed or self.data is None:
            return self.anchor
        weight: Array = (self.B - self.data.B) / float(self.data.noise)
        return weight

    def _by_group(self, kernel: Array) -> Iterator[tuple[Moments, Array]]:
        """Every group's moments and part (n_o / groups, n) of a kernel (n_o, n)."""
        return zip(self.parts, np.split(kernel.reshape(self.B.shape), len(self.C)), strict=True)

    @cached_property
    def unexplained(self) -> float:
        """The error of W*."""
        return self.error(self.best)

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
        n, noise = len(self.C), self.noise_of(strength)
        weight = weight.reshape(self.B.shape).astype(np.float64)
        C = self.C.copy()
        C.flat[:: n + 1] += noise
        g = self.g + noise * np.einsum("on,on->o", weight, weight)
        B = self.B + noise * weight
        alone = self.alone
        data = replace(alone, diagonal=alone.diagonal.copy(), noise=alone.noise + noise)
        return Moments(self.count, self.x_mean, self.y_mean, C, B, g, weight, data=data)

    def noise_of(self, strength: float) -> float:
        """λ' of a prior of this strength."""
        return strength * (float(np.trace(self.C)) / len(self.C) or 1.0)

    def keep(self, columns: NDArray[np.intp], anchor: Array | None = None) -> Moments:
        """Moments of a part of the patch, columns (m,) ascending; anchor (n_o, m): the weight that the prior is at."""
        C = self.C[np.ix_(columns, columns)]
        B = self.B[:, columns]
        data = self.data
        if data is not None:
            data = replace(data, diagonal=data.diagonal[columns], B=data.B[:, columns])
        return Moments(self.count, self.x_mean[columns], self.y_mean, C, B, self.g, anchor, data=data, aimed=self.aimed)

    def through(self, A: Array) -> Moments:
        """Moments of z = Ax̂ (m,) and y, for A (m, n). A prior becomes a part of the data: it is no longer white."""
        return Moments(self.count, A @ self.x_mean, self.y_mean, A @ self.C @ A.T, self.B @ A.T, self.g)

    def answering(self, M: Array, offset: Array | None = None) -> Moments:
        """Moments of x̂ and of the responses Mx̂ (m,) in the place of y, for M (m, n): the target of an inner leaf."""
        MC = M @ self.C
        y_mean = M @ self.x_mean + (0 if offset is None else offset)
        data = self.data
        if data is not None:
            own = self.on_data(M)
            data = replace(data, B=own, g=np.einsum("mn,mn->m", own, M))
        fresh = replace(self, y_mean=y_mean, B=MC, g=np.einsum("mn,mn->m", MC, M), data=data)
        return replace(fresh, anchor=None, exact=False, aimed=False)

    def of_leaf(self, weight: Array) -> Moments:
        """Moments of x̂ and of the responses of a weight (m, n), which is the anchor: C must be positive definite."""
        return replace(self.answering(weight), anchor=weight, exact=True)


def solved(C: Array, left: Array) -> Array:
    """left C⁻¹ (n_o, n) for C (n, n) positive definite, which is used up."""
    factor = scipy.linalg.cho_factor(C.T, lower=True, check_finite=False, overwrite_a=True)  # Cᵀ = C, in LAPACK's order
    right = left.astype(C.dtype).T
    found: Array = scipy.linalg.cho_solve(factor, right, check_finite=False).T
    return found
