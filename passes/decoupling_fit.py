"""nd fitted to data: depthwise separable branches in the metric of the input's second moments.

The layer is M = Σ_t p_t ⊗ d_t. With moments C = E[x̂x̂ᵀ], B = E[yx̂ᵀ] (`ndpass.calibration.moments`) its error is lowered
by block coordinate descent over the input channels i, each with its own block C_ii (K, K):

    R = B − MC                      what the branches do not explain yet, (n_o, n)
    M_i* = M_i + R_i C_ii⁻¹         the best kernels (n_o, K) of channel i while the other channels stay

dw-pw: the pair (P_i, D_i) is the rank-T part of M_i* in the metric C_ii, a K×K eigenproblem, so both factors of a
channel are optimal together. pw-dw: channel i of all pointwise rows is a T×T solve for every output; after the sweep
the T·K depthwise taps of each output are solved together. Then R is updated, R −= ΔM_i C_i: at once for the columns of
the next CHANNELS channels, for those behind after these, by one product. One sweep over the channels costs half a
product of (n_o, n) with (n, n), beside that for R. Last, dw-pw solves for all pointwise weights together: their
features (n_i·T) are the same for every output. Before several sweeps it does so, too; before a single one, which
is an estimate, that takes longer than the sweep and takes off a hundredth of the error.

Wide layers are swept in float32. The residual is computed anew for every sweep, so rounding does not add up.
"""

from __future__ import annotations

import numpy as np
import scipy

from ndpass.calibration.moments import Moments
from ndpass.conv import Array
from ndpass.passes.eigen import right_directions

SWEEPS = 3  # measured on three layers of a VGG16: the third takes off a twentieth of the error
RIDGE = 1e-9  # of the mean diagonal: keeps solves finite where features are dependent
CHANNELS = 16  # whose residual is kept up to date within a sweep
OUTPUTS_AT_ONCE = 32  # of pw-dw's depthwise solve, to bound its memory to OUTPUTS_AT_ONCE·T·K·n numbers


Factors = tuple[Array, Array]  # pointwise (T, n_o, n_i) and depthwise (T, c, K)


def fit(
    weight: Array, moments: Moments, rank: int, form: str, sweeps: int = SWEEPS, start: Factors | None = None
) -> Factors:
    """Factors of rank T for W (n_o, n_i, *kernel), of the shapes of `network_decoupling.factors`; no step errs more.

    start: the factors to begin with. Default: those of the best kernel W* in the metric of each channel's own moments.
    """
    n_o, n_i = weight.shape[:2]
    solver = (_DwPw if form == "dw-pw" else _PwDw)(moments, n_o, n_i, rank)
    if start is not None:
        solver.begin(*start)
    elif sweeps > 1:
        solver.finish()
    for _ in range(sweeps):
        solver.sweep()
    solver.finish()
    return solver.factors()


def fit_error(weight: Array, moments: Moments, rank: int, form: str) -> float:
    """The relative error of `fit` after one sweep, read off the last solve: no kernel is multiplied with C for it."""
    if moments.is_constant:
        return 0.0
    n_o, n_i = weight.shape[:2]
    solver = (_DwPw if form == "dw-pw" else _PwDw)(moments, n_o, n_i, rank)
    solver.sweep()
    solver.finish()
    return moments.error_from(1 - solver.explained / moments.energy, solver.kernel())


def roots(blocks: Array) -> tuple[Array, Array]:
    """Symmetric roots and inverse roots of positive semidefinite blocks (c, K, K)."""
    values, vectors = np.linalg.eigh(blocks)
    values = values.clip(np.maximum(values[:, -1:], np.finfo(float).tiny) * 1e-10)
    turned = vectors.transpose(0, 2, 1)
    return (vectors * np.sqrt(values)[:, None]) @ turned, (vectors / np.sqrt(values)[:, None]) @ turned


def leading(stack: Array, rank: int) -> Array:
    """The first T right singular vectors (c, K, T) of each matrix of a stack (c, m, K)."""
    return right_directions(stack)[1][:, :, :rank]


class _Solver:
    """What both forms share: the moments cut by input channel, and the sweep over channels.

    explained: variance of the responses that the factors explain, after the last solve.
    """

    explained = 0.0

    def __init__(self, moments: Moments, n_o: int, n_i: int, rank: int) -> None:
        self.n_o, self.n_i, self.rank = n_o, n_i, rank
        self.K = len(moments.C) // n_i
        self.C = moments.rounded
        self.B = moments.B.astype(self.C.dtype, copy=False)
        cut = moments.C.reshape(n_i, self.K, n_i, self.K)
        self.own = cut[np.arange(n_i), :, np.arange(n_i), :]  # (n_i, K, K)
        self.best = moments.best.reshape(n_o, n_i, self.K)

    def begin(self, point: Array, depth: Array) -> None:
        """Take these factors as the start."""
        raise NotImplementedError

    def kernel(self) -> Array:
        """The kernel M (n_o, n_i, K) of the factors as they are."""
        raise NotImplementedError

    def improve(self, i: int, kernel: Array, residual: Array) -> Array:
        """Make the factors of channel i optimal, given its kernels and residuals (n_o, K); returns their change."""
        raise NotImplementedError

    def residual(self, kernel: Array) -> Array:
        """R = B − MC (n_o, n) for the kernel M (n_o, n) of the factors as they are."""
        return self.B - kernel.astype(self.C.dtype) @ self.C

    def sweep(self) -> None:
        kernel = self.kernel().reshape(self.n_o, -1)
        residual = self.residual(kernel)
        width = CHANNELS * self.K
        for start in range(0, len(self.C), width):
            block = slice(start, start + width)
            near, own = residual[:, block].copy(), self.C[block, block]
            changes = np.zeros_like(near)
            for a in range(0, near.shape[1], self.K):
                mine = slice(a, a + self.K)
                change = self.improve((start + a) // self.K, kernel[:, start + a : start + a + self.K], near[:, mine])
                changes[:, mine] = change
                near -= change.astype(near.dtype) @ own[mine]
            behind = slice(block.stop, None)  # what is before has had its turn
            residual[:, behind] -= changes @ self.C[block, behind]


class _DwPw(_Solver):
    """P (n_i, n_o, T) and D (n_i, T, K)."""

    def __init__(self, moments: Moments, n_o: int, n_i: int, rank: int) -> None:
        super().__init__(moments, n_o, n_i, rank)
        self.root, self.inverse_root = roots(self.own)
        self.inverse = self.inverse_root @ self.inverse_root
        scaled = self.best.transpose(1, 0, 2) @ self.root
        first = leading(scaled, rank)
        self.P, self.D = scaled @ first, (self.inverse_root @ first).transpose(0, 2, 1)

    def begin(self, point: Array, depth: Array) -> None:
        self.P, self.D = point.transpose(2, 1, 0).copy(), depth.transpose(1, 0, 2).copy()

    def kernel(self) -> Array:
        kernel: Array = (self.P @ self.D).transpose(1, 0, 2)
        return kernel

    def residual(self, kernel: Array) -> Array:
        """By the features, which are fewer than elements of a patch: MC = P(DC)."""
        if self.rank >= self.K:
            return super().residual(kernel)
        D, n = self.D.astype(self.C.dtype), len(self.C)
        features = (D @ self.C.reshape(self.n_i, self.K, n)).reshape(-1, n)  # (n_i·T, n)
        left: Array = self.B - self.P.transpose(1, 0, 2).reshape(self.n_o, -1).astype(self.C.dtype) @ features
        return left

    def improve(self, i: int, kernel: Array, residual: Array) -> Array:
        scaled = (kernel + residual @ self.inverse[i]) @ self.root[i]
        first = leading(scaled[None], self.rank)[0]
        self.P[i], self.D[i] = scaled @ first, (self.inverse_root[i] @ first).T
        change: Array = self.P[i] @ self.D[i] - kernel
        return change

    def finish(self) -> None:
        """Solve for all pointwise weights together, from the features z = Dx̂ (n_i·T)."""
        m, D = self.n_i * self.rank, self.D.astype(self.C.dtype)  # C is rounded, so that more digits of D tell nothing
        half = (D @ self.C.reshape(self.n_i, self.K, -1)).reshape(m, self.n_i, self.K).transpose(1, 0, 2)
        taps = D.transpose(0, 2, 1)
        square = (half @ taps).transpose(1, 0, 2).reshape(m, m).astype(np.float64)
        right = (self.B.reshape(self.n_o, self.n_i, self.K).transpose(1, 0, 2) @ taps).transpose(1, 0, 2)
        solved = solve(square, right.reshape(self.n_o, m).T).T
        self.explained = float(np.einsum("om,om->", solved, right.reshape(self.n_o, m), dtype=np.float64))
        self.P = np.ascontiguousarray(solved.reshape(self.n_o, self.n_i, self.rank).transpose(1, 0, 2))

    def factors(self) -> Factors:
        return self.P.transpose(2, 1, 0), self.D.transpose(1, 0, 2)


class _PwDw(_Solver):
    """P (n_o, n_i, T) and D (n_o, T, K)."""

    def __init__(self, moments: Moments, n_o: int, n_i: int, rank: int) -> None:
        super().__init__(moments, n_o, n_i, rank)
        root, inverse_root = (r[0] for r in roots(self.own.mean(axis=0)[None]))
        first = leading(self.best @ root, rank)
        self.P, self.D = (self.best @ root) @ first, (inverse_root @ first).transpose(0, 2, 1)

    def begin(self, point: Array, depth: Array) -> None:
        self.P, self.D = point.transpose(1, 2, 0).copy(), depth.transpose(1, 0, 2).copy()

    def kernel(self) -> Array:
        kernel: Array = self.P @ self.D
        return kernel

    def sweep(self) -> None:
        super().sweep()
        self._taps()

    def improve(self, i: int, _kernel: Array, residual: Array) -> Array:
        square = _ridged(self.D @ self.own[i] @ self.D.transpose(0, 2, 1))
        step = np.linalg.solve(square, self.D @ residual[:, :, None])[:, :, 0]  # (n_o, T)
        self.P[:, i] += step
        change: Array = (step[:, None] @ self.D)[:, 0]
        return change

    def _taps(self) -> None:
        """Solve for the T·K depthwise taps of each output, from the features z = (P_oᵀ ⊗ I_K) x̂."""
        n, m = len(self.C), self.rank * self.K
        cut, self.explained = self.C.reshape(self.n_i, self.K * n), 0.0
        for start in range(0, self.n_o, OUTPUTS_AT_ONCE):
            P = self.P[start : start + OUTPUTS_AT_ONCE]  # (q, n_i, T)
            half = (P.transpose(0, 2, 1).reshape(-1, self.n_i) @ cut).reshape(len(P), m, self.n_i, self.K)
            square = (half.transpose(0, 1, 3, 2) @ P[:, None]).transpose(0, 1, 3, 2).reshape(len(P), m, m)
            B = self.B[start : start + len(P)].reshape(len(P), self.n_i, self.K)
            right = (P.transpose(0, 2, 1) @ B).reshape(len(P), m, 1)
            solved = np.linalg.solve(_ridged(square), right)
            self.explained += float(np.einsum("omk,omk->", solved, right, dtype=np.float64))
            self.D[start : start + len(P)] = solved.reshape(len(P), self.rank, self.K)

    def finish(self) -> None:
        """Nothing is left to do: the last sweep has solved for the taps."""

    def factors(self) -> Factors:
        return self.P.transpose(2, 0, 1), self.D.transpose(1, 0, 2)


def solve(square: Array, right: Array) -> Array:
    """Solution of a positive semidefinite system, with the smallest of three ridges that makes it solvable.

    square: (m, m); right: (m, k). Raises LinAlgError where none does.
    """
    for ridge in (RIDGE, 1e3 * RIDGE, 1e6 * RIDGE):
        try:
            ridged = _ridged(square[None], ridge)[0]
            solved: Array = scipy.linalg.solve(ridged, right, assume_a="pos", check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return solved
    raise np.linalg.LinAlgError("not positive semidefinite")


def _ridged(stack: Array, ridge: float = RIDGE) -> Array:
    """The stack (c, m, m) with `ridge` times the mean diagonal added to each diagonal; `ridge` where all are 0."""
    m = stack.shape[-1]
    added = ridge * np.trace(stack, axis1=1, axis2=2) / m
    ridged: Array = stack + np.where(added > np.finfo(float).tiny, added, ridge)[:, None, None] * np.eye(m)
    return ridged
