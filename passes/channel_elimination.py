"""Which channels to drop, one at a time: the one whose loss costs least after the others have been refitted.

Let P = C⁻¹, and M = BP (n_o, n) the best kernel of the channels that are left. Dropping channel i, a block of columns,
and refitting the rest raises E‖y − Mx̂‖² by exactly (Hassibi & Stork 1993, for blocks)

    tr(M_i P_ii⁻¹ M_iᵀ),  after which  P ← P − LLᵀ,  M ← M − NLᵀ,  L = P_:i R⁻ᵀ,  N = M_i R⁻ᵀ,  P_ii = RRᵀ

So one sweep from all channels down to one gives the order, and the error at every number of channels. P is updated for
AT_ONCE channels together, because one matrix product costs far less than as many passes over P. Layers that read the
same channels are eliminated together; what each loses counts relative to its own response.

The prior that is in the moments counts λ'‖W − M‖² of it. It is followed along the path, and taken off for the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from ndpass.calibration.moments import Moments
from ndpass.calibration.sums import mirror
from ndpass.conv import Array
from ndpass.passes.pruning import Indices

RIDGE = 1e-9  # of the mean diagonal: keeps P finite where channels are dead or equal
AT_ONCE = 16  # channels dropped between two updates of P


@dataclass(frozen=True, eq=False)
class Path:
    """dropped (size - least,): the channels in the order in which they go.

    errors (readers, size - least + 1): the relative error of each reader with least, least + 1, …, size channels kept.
    """

    dropped: Indices
    errors: Array
    size: int

    def kept(self, count: int) -> Indices:
        """The `count` channels that are left, ascending."""
        return np.setdiff1d(np.arange(self.size), self.dropped[: self.size - count])


def eliminate(readers: list[tuple[Moments, Indices]], size: int, least: int = 1) -> Path:
    """The path of `size` channels down to `least`, at least 1.

    readers: moments and blocks (n,), the channel of each column, -1 for one that stays.

    The joint cost of a channel is the sum over the readers of its cost relative to their energy.
    """
    layers = [_Reader(moments, blocks, size) for moments, blocks in readers]
    left = np.ones(size, bool)
    errors, dropped = [[layer.error for layer in layers]], []
    for _ in range(size - least):
        cost = np.where(left, sum((layer.costs() for layer in layers), np.zeros(size)), np.inf)
        channel = int(np.argmin(cost))
        left[channel] = False
        dropped.append(channel)
        for layer in layers:
            layer.drop(channel)
        errors.append([layer.error for layer in layers])
    return Path(np.array(dropped, np.int64), np.array(errors).T[:, ::-1], size)


class _Reader:
    """One layer: P and M as of the last update; with what was dropped since they are P − LLᵀ and M − NLᵀ.

    lost: E‖y − Mx̂‖² with the prior's pseudo-samples; prior: what these have of it.

    Of what is current only the blocks on the diagonals are kept, P_ii and M_iᵀM_i: all that `costs` asks for.
    """

    def __init__(self, moments: Moments, blocks: Indices, size: int) -> None:
        self.energy, self.size = moments.energy or 1.0, size
        C = moments.C.copy()
        C.flat[:: len(C) + 1] += RIDGE * (np.trace(C) / len(C) or 1.0)
        factor = scipy.linalg.cholesky(C, lower=True, overwrite_a=True, check_finite=False)
        lower, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        self.P = lower.T
        mirror(self.P)
        self.MT = self.P @ moments.B.T  # (n, n_o)
        self.lost = moments.energy - float(np.einsum("no,on->", self.MT, moments.B))
        self.moments, self.prior = moments, moments.of_prior(self.MT.T)
        self.noise = 0.0 if moments.data is None else float(moments.data.noise)
        self.WT = np.zeros_like(self.MT) if moments.prior_weight is None else moments.prior_weight.T
        self._start(blocks)

    @property
    def error(self) -> float:
        """Of the data alone, with the channels that are left."""
        return 0.0 if self.moments.is_constant else max(0.0, self.lost - self.prior) / self.moments.variance

    def _start(self, blocks: Indices) -> None:
        """Begin with no channel pending. Channels of equally many columns form a set: `at` (g, m), columns of each."""
        self.blocks = blocks
        self.gone: list[int] = []
        self.L, self.N = np.empty((len(blocks), 0)), np.empty((0, self.MT.shape[1]))
        order = np.argsort(blocks, kind="stable")
        counts = np.bincount(blocks[blocks >= 0], minlength=self.size)
        starts = np.cumsum(counts) - counts + np.count_nonzero(blocks < 0)
        self.sets = []
        for m in np.unique(counts[counts > 0]):
            channels = np.flatnonzero(counts == m)
            at = order[starts[channels][:, None] + np.arange(m)]
            part = self.MT[at]  # (g, m, n_o)
            self.sets.append((channels, at, self.P[at[:, :, None], at[:, None, :]], part @ part.transpose(0, 2, 1)))

    def costs(self) -> Array:
        """What dropping each channel (size,) adds to the relative error; 0 for one that the layer does not read."""
        costs = np.zeros(self.size)
        for channels, _, own, gram in self.sets:
            costs[channels] = np.trace(np.linalg.solve(own, gram), axis1=1, axis2=2)
        return costs / self.energy

    def drop(self, channel: int) -> None:
        columns = np.flatnonzero(self.blocks == channel)
        if not len(columns):
            return
        T = self.P[:, columns] - self.L @ self.L[columns].T
        inverse_R = np.linalg.inv(np.linalg.cholesky(T[columns]))
        L = T @ inverse_R.T  # (n, m)
        N = inverse_R @ (self.MT[columns] - self.L[columns] @ self.N)  # (m, n_o)
        square = N @ N.T
        self.lost += float(np.trace(square))
        MN = self.MT @ N.T - self.L @ (self.N @ N.T)  # (n, m)
        if self.noise:
            self.prior += self.noise * float(np.vdot(L.T @ L, square) - 2 * np.vdot(L, MN - self.WT @ N.T))
        self.L, self.N = np.hstack([self.L, L]), np.vstack([self.N, N])
        self.gone.append(channel)
        if len(self.gone) < AT_ONCE:
            self._bring_up_blocks(L, MN - L @ square / 2)
        else:
            self._update()

    def _bring_up_blocks(self, L: Array, half: Array) -> None:
        """Update M_iᵀM_i, which loses L_i half_iᵀ and its transpose; blocks of dropped channels become identities."""
        for channels, at, own, gram in self.sets:
            part, cross = L[at], L[at] @ half[at].transpose(0, 2, 1)  # (g, m, columns), (g, m, m)
            own -= part @ part.transpose(0, 2, 1)
            gram -= cross + cross.transpose(0, 2, 1)
            own[channels == self.gone[-1]] = np.eye(at.shape[1])

    def _update(self) -> None:
        """Update P and M, and take the columns of the dropped channels out."""
        stay = np.flatnonzero(~np.isin(self.blocks, self.gone))
        L = self.L[stay]
        self.P = self.P[np.ix_(stay, stay)]
        self.P -= L @ L.T
        self.MT = self.MT[stay] - L @ self.N
        self.WT = self.WT[stay]
        self._start(self.blocks[stay])
