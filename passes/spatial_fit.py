"""sd fitted to data: the factors of a kernel that is split by axis, in the metric of the input's second moments.

With the kernel W (n_o, m, k_j) of `cut`, factors T (d, m) and S (n_o, d, k_j), and moments C = E[x̂x̂ᵀ], B = E[yx̂ᵀ]
(`ndpass.calibration.moments`) the steps are:

1. C is taken for C_a ⊗ C_j, C_a the mean over j of its blocks, C_j = tr(C_a⁻¹ C_jj')/m; with C_a = LLᵀ and C_j = RRᵀ
   the best-fit kernel W* = BC⁻¹ is split by the SVD of Lᵀ W* R, and T = Uᵀ L⁻¹.
2. S is the exact least squares for the features z = (T ⊗ I) x̂ (d·k_j). The features of rank d are the first of those of
   any higher rank, so one Cholesky factor Cz = ΛΛᵀ tells what every rank explains: rows of Λ⁻¹Bzᵀ, squared and summed.
3. T is refitted given S by conjugate gradients, then S again. Measured on VGG16 this takes 3 to 25 % off the error,
   most at low ranks; `error_curve` stops after step 2 and is an upper bound by that much.

What the metric's prior counts of a rank's loss is taken off again for its error: λ'‖W − M‖², M = S(T ⊗ I), from
Λ⁻¹(TTᵀ ⊗ I)Λ⁻ᵀ for every rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Conv
from ndpass.passes.eigen import right_directions

SWEEPS = 2  # of step 3; measured: a third takes off half a per cent
CG_STEPS = 6


def full_rank(conv: Conv, order: str) -> int:
    """The rank d at which the product is exact: min(m, n_o·k_j)."""
    n_o, m, k_j = cut(conv.weight, order).shape
    return int(min(m, n_o * k_j))


def split_axis(kernel: tuple[int, ...]) -> int:
    """The axis that is split from the others: the first of extent above 1."""
    return next(a for a, k in enumerate(kernel) if k > 1)


def cut(weight: Array, order: str) -> Array:
    """(n_o, n_i, *kernel) as (n_o, m, k_j), m = n_i·k_a; the axes before `split_axis` have extent 1."""
    n_o, n_i, *kernel = weight.shape
    k = kernel[split_axis(tuple(kernel))]
    parted = weight.reshape(n_o, n_i, k, -1)
    rows: Array = parted if order == "vh" else parted.transpose(0, 1, 3, 2)  # (n_o, n_i, k_a, k_j)
    return rows.reshape(n_o, n_i * rows.shape[2], rows.shape[3])


def error_curve(conv: Conv, moments: Moments, order: str, wanted: Sequence[int]) -> Array:
    """Relative error of the response at rank 1, 2, … full after step 2; 0 at ranks above all that are wanted.

    All ranks come from one decomposition. Wide layers are handled in float32, which moves the errors by about 1e-5 of
    the response; where that makes Cz indefinite, in float64. Where the prior leaves no digits of the data, each rank is
    fitted and its error computed.
    """
    full = full_rank(conv, order)
    curve: Array = np.zeros(full)
    curve[-1] = moments.unexplained
    below = [d for d in wanted if d < full]
    if moments.is_inflated and not moments.is_constant:
        fit = Fit(conv, moments, order)
        curve[np.subtract(below, 1, dtype=np.intp)] = [moments.error(fit.kernel(d)) for d in below]
    elif below and not moments.is_constant:
        try:
            lost = lost_by_rank(conv, moments, order, max(below), moments.kind)
        except np.linalg.LinAlgError:
            lost = lost_by_rank(conv, moments, order, max(below), np.float64)
        curve[: len(lost)] = (lost / moments.variance).clip(0)
    return curve


def lost_by_rank(conv: Conv, moments: Moments, order: str, rank: int, kind: type[np.floating[Any]]) -> Array:
    """E‖y − Mx̂‖² over the data for the M that step 2 gives with the features of rank 1, 2, …, `rank`: (rank,)."""
    fit = Fit(conv, moments, order, kind)
    T = fit.nested(rank)
    Cz, Bz = fit.features(T)
    factor = scipy.linalg.cholesky(Cz, lower=True, check_finite=False)

    def solved(right: Array) -> Array:
        found: Array = scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)
        return found

    rows = solved(Bz.T)  # (rank·k_j, n_o); M is the sum of their products with the rows of Λ⁻¹(T ⊗ I)
    lost = moments.energy - np.einsum("qo,qo->q", rows, rows, dtype=np.float64).cumsum()
    if moments.data is not None and moments.prior_weight is not None:
        norms = solved(solved(np.kron(T @ T.T, np.eye(fit.k_j, dtype=kind))).T) * (rows @ rows.T)
        own = (2 * np.tril(norms, -1).sum(1, dtype=np.float64) + np.diagonal(norms)).cumsum()  # ‖M‖²
        crossed = np.einsum("qo,qo->q", rows, solved(fit.onto(T, moments.prior_weight).T), dtype=np.float64).cumsum()
        lost -= moments.energy - moments.variance + float(moments.data.noise) * (own - 2 * crossed)
    of_rank: Array = lost[fit.k_j - 1 :: fit.k_j]
    return of_rank


class _Cut:
    """C with its indices cut, (m, k_j, k_j, m) as [a, j, j', a'], and what step 1 makes of it alone.

    place (m, k_j): the position in the patch; L: C_a = LLᵀ; across: R, C_j = RRᵀ.
    """

    def __init__(self, conv: Conv, moments: Moments, order: str, kind: type[np.floating[Any]]) -> None:
        shape = (conv.n_i, *conv.kernel)
        self.place = cut(np.arange(math.prod(shape), dtype=np.float64).reshape(1, *shape), order)[0].astype(np.intp)
        m, k_j = self.place.shape
        k = conv.kernel[split_axis(conv.kernel)]
        split_C = moments.C.reshape(conv.n_i, k, -1, conv.n_i, k, self.place.size // (conv.n_i * k))
        turned = split_C.transpose(*((0, 1, 2, 5, 3, 4) if order == "vh" else (0, 2, 1, 4, 3, 5)))
        self.C = np.ascontiguousarray(turned, kind).reshape(m, k_j, k_j, m)
        self.C_a = np.einsum("ajjb->ab", self.C) / k_j
        self.L = scipy.linalg.cholesky(self.C_a, lower=True, check_finite=False)

    @cached_property
    def across(self) -> Array:
        inverse = scipy.linalg.cho_solve((self.L, True), np.eye(len(self.L), dtype=self.L.dtype), check_finite=False)
        across: Array = np.linalg.cholesky(np.einsum("ajkb,ab->jk", self.C, inverse))
        return across


class Fit:
    """The moments with indices cut: C (m, k_j, k_j, m) as [a, j, j', a'], B and W* (n_o, m, k_j).

    kind: float32 for estimates in wide layers.
    """

    def __init__(self, conv: Conv, moments: Moments, order: str, kind: type[np.floating[Any]] = np.float64) -> None:
        def make() -> _Cut:
            return _Cut(conv, moments, order, kind)

        own = moments.derive(("sd", order), make) if kind is moments.kind else make()
        self.m, self.k_j = own.place.shape
        self.cut, self.C, self.L = own, own.C, own.L
        self.B = moments.B[:, own.place].astype(kind, copy=False)
        self.best = moments.best[:, own.place].astype(kind, copy=False)

    def fit(self, rank: int, sweeps: int = SWEEPS) -> tuple[Array, Array]:
        """T (d, m), S (n_o, d, k_j) by steps 1 to 3, the third `sweeps` times."""
        T = self.start(rank)
        S = self.second(T)
        for _ in range(sweeps):
            T = self.first(T, S)
            S = self.second(T)
        return T, S

    def kernel(self, rank: int) -> Array:
        """M (n_o, n) after step 2."""
        T = self.start(rank)
        M = np.zeros((len(self.B), self.cut.place.size), T.dtype)
        M[:, self.cut.place] = np.einsum("ork,ra->oak", self.second(T), T)
        return M

    def start(self, rank: int) -> Array:
        """T (d, m) of step 1; the rows of a lower rank are the first of a higher one."""
        white, subset = self._white(), (self.m - rank, self.m - 1)
        return self._back(scipy.linalg.eigh(white @ white.T, subset_by_index=subset, check_finite=False)[1][:, ::-1])

    def nested(self, rank: int) -> Array:
        """As `start`, for many ranks: from all directions, of the smaller side where that is the outputs'."""
        return self._back(right_directions(self._white().T[None])[1][0, :, :rank])

    def _white(self) -> Array:
        """Lᵀ W* R (m, n_o·k_j)."""
        white: Array = self.L.T @ (self.best @ self.cut.across).transpose(1, 0, 2).reshape(self.m, -1)
        return white

    def _back(self, U: Array) -> Array:
        """T = Uᵀ L⁻¹ (d, m)."""
        T: Array = scipy.linalg.solve_triangular(self.L, U, trans="T", lower=True, check_finite=False).T
        return T

    def _seen(self, T: Array) -> Array:
        """(T ⊗ I) C as (d, k_j, k_j, m)."""
        seen: Array = T @ self.C.reshape(self.m, -1)
        return seen.reshape(-1, self.k_j, self.k_j, self.m)

    def features(self, T: Array) -> tuple[Array, Array]:
        """E[zzᵀ] (d·k_j, d·k_j) and E[yzᵀ] (n_o, d·k_j) of z = (T ⊗ I) x̂."""
        d, q = len(T), len(T) * self.k_j
        Cz = (self._seen(T).reshape(-1, self.m) @ T.T).reshape(d, self.k_j, self.k_j, d).transpose(0, 1, 3, 2)
        return Cz.reshape(q, q), (T @ self.B).reshape(-1, q)

    def onto(self, T: Array, kernel: Array) -> Array:
        """The products (n_o, d·k_j) of the rows of a kernel (n_o, n) with those of T ⊗ I."""
        product: Array = T @ kernel[:, self.cut.place].astype(T.dtype, copy=False)
        return product.reshape(len(kernel), -1)

    def second(self, T: Array) -> Array:
        """The best S (n_o, d, k_j) for T."""
        Cz, Bz = self.features(T)
        solved: Array = scipy.linalg.solve(Cz, Bz.T, assume_a="pos", check_finite=False).T
        return solved.reshape(len(Bz), len(T), self.k_j)

    def first(self, T: Array, S: Array) -> Array:
        """T (d, m) after CG_STEPS of conjugate gradients for E‖y − (S)(T ⊗ I)x̂‖², preconditioned with C_a."""
        Q = np.tensordot(S, S, (0, 0)).transpose(1, 0, 2, 3).reshape(self.k_j, len(T), -1)  # (k_j, d, d·k_j)

        def normal(T: Array) -> Array:
            seen = self._seen(T)
            bent: Array = np.sum([Q[j] @ seen[:, :, j].reshape(-1, self.m) for j in range(self.k_j)], axis=0)
            return bent

        left = np.tensordot(S, self.B, ((0, 2), (0, 2))) - normal(T)
        step, size = np.zeros_like(T), 1.0
        for _ in range(CG_STEPS):
            eased = scipy.linalg.cho_solve((self.L, True), left.T, check_finite=False).T
            before, size = size, float(np.vdot(left, eased))
            if size <= 0:
                break  # nothing left to gain
            step = eased + size / before * step
            bent = normal(step)
            length = size / float(np.vdot(step, bent))
            T, left = T + length * step, left - length * bent
        return T
