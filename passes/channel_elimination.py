"""Which channels to drop, one at a time, by what each costs after the others have been refitted.

With P = C⁻¹ and the best kernel M = BP (n_o, n) of the channels that are left, dropping channel i, a block of columns,
and refitting the rest raises E‖y − Mx̂‖² by exactly (Hassibi & Stork 1993, for blocks)

    tr(M_i P_ii⁻¹ M_iᵀ),  after which  P ← P − LLᵀ,  M ← M − NLᵀ,  L = P_:i R⁻ᵀ,  N = M_i R⁻ᵀ,  P_ii = RRᵀ

so one sweep from all channels to one gives the order, and for every number of channels the error that remains. P is
brought up to date many channels at once, because a matrix product costs far less than as many passes over P. Layers
that read the same channels are eliminated together, each error relative to its own response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Array

Indices: TypeAlias = NDArray[np.int64]

RIDGE = 1e-9  # of the mean diagonal: keeps P finite where channels are dead or equal
AT_ONCE = 16  # channels dropped between two updates of P


@dataclass(frozen=True, eq=False)
class Path:
    """dropped (size - 1,): channels in the order in which they go; errors (readers, size): with 1, 2, … kept."""

    dropped: Indices
    errors: Array

    def kept(self, count: int) -> Indices:
        """The channels that are left when `count` are."""
        gone = self.dropped[: self.errors.shape[1] - count]
        return np.setdiff1d(np.arange(self.errors.shape[1]), gone)


def eliminate(readers: list[tuple[Moments, Indices]], size: int) -> Path:
    """The path of `size` channels; readers: moments and blocks (n,), the channel of each column, -1 for one that stays.

    The joint cost of a channel is the sum over the readers of its cost relative to their energy.
    """
    layers = [_Reader(moments, blocks, size) for moments, blocks in readers]
    left = np.ones(size, bool)
    errors, dropped = [[layer.error for layer in layers]], []
    for _ in range(size - 1):
        cost = np.where(left, sum((layer.costs() for layer in layers), np.zeros(size)), np.inf)
        channel = int(np.argmin(cost))
        left[channel] = False
        dropped.append(channel)
        for layer in layers:
            layer.drop(channel)
        errors.append([layer.error for layer in layers])
    return Path(np.array(dropped, np.int64), np.array(errors).T[:, ::-1])


class _Reader:
    """One layer; columns of a channel that has gone stay in M and in `own` until the next update, ignored."""

    def __init__(self, moments: Moments, blocks: Indices, size: int) -> None:
        self.energy = moments.energy or 1.0
        C = moments.C.copy()
        C.flat[:: len(C) + 1] += RIDGE * (np.trace(C) / len(C) or 1.0)
        factor = scipy.linalg.cholesky(C, lower=True, overwrite_a=True, check_finite=False)
        lower, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        self.P = np.tril(lower) + np.tril(lower, -1).T
        self.MT = self.P @ moments.B.T  # (n, n_o)
        self.error = max(0.0, (moments.energy - float(np.einsum("no,on->", self.MT, moments.B))) / self.energy)
        self.pending = np.empty((len(C), 0))
        self.since = 0
        self._place(blocks, size)

    def _place(self, blocks: Indices, size: int) -> None:
        """Columns of the channels, those with as many columns together: `sets` is [(channels (g,), at (g, m)), ...]."""
        self.blocks, self.size = blocks, size
        order = np.argsort(blocks, kind="stable")
        counts = np.bincount(blocks[blocks >= 0], minlength=size)
        starts = np.cumsum(counts) - counts + np.count_nonzero(blocks < 0)
        self.sets = []
        for m in np.unique(counts[counts > 0]):
            channels = np.flatnonzero(counts == m)
            at = order[starts[channels][:, None] + np.arange(m)]
            self.sets.append((channels, at))
        self.own = [self.P[at[:, :, None], at[:, None, :]] for _, at in self.sets]  # (g, m, m) each

    def costs(self) -> Array:
        """What dropping each channel (size,) adds to the relative error; 0 for one that the layer does not read."""
        costs = np.zeros(self.size)
        for (channels, at), own in zip(self.sets, self.own, strict=True):
            part = self.MT[at]  # (g, m, n_o)
            gram = part @ part.transpose(0, 2, 1)
            costs[channels] = np.trace(np.linalg.solve(own, gram), axis1=1, axis2=2)
        return costs / self.energy

    def drop(self, channel: int) -> None:
        columns = np.flatnonzero(self.blocks == channel)
        if not len(columns):
            return
        T = self.P[:, columns] - self.pending @ self.pending[columns].T
        R = np.linalg.cholesky(T[columns])
        L = scipy.linalg.solve_triangular(R, T.T, lower=True, check_finite=False).T
        N = scipy.linalg.solve_triangular(R, self.MT[columns], lower=True, check_finite=False)  # (m, n_o)
        self.error += float(np.sum(N * N)) / self.energy
        self.MT -= L @ N
        self.pending = np.hstack([self.pending, L])
        self.since += 1
        self._forget(channel) if self.since < AT_ONCE else self._update(channel)

    def _forget(self, channel: int) -> None:
        L = self.pending[:, -np.count_nonzero(self.blocks == channel) :]
        for s, ((channels, at), own) in enumerate(zip(self.sets, self.own, strict=True)):
            stay = channels != channel
            at, own = at[stay], own[stay]
            part = L[at]  # (g, m, columns)
            self.sets[s], self.own[s] = (channels[stay], at), own - part @ part.transpose(0, 2, 1)

    def _update(self, channel: int) -> None:
        """Bring P up to date and take out the columns of the channels that have gone."""
        present = np.concatenate([[-1], *(channels for channels, _ in self.sets)])
        stay = np.flatnonzero(np.isin(self.blocks, present) & (self.blocks != channel))
        rest = self.pending[stay]
        self.P = self.P[np.ix_(stay, stay)] - rest @ rest.T
        self.MT, self.pending, self.since = self.MT[stay], np.empty((len(stay), 0)), 0
        self._place(self.blocks[stay], self.size)
