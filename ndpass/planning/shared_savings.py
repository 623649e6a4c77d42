"""One candidate of each front where some save more together: what pairs save, and a bound of all that can be reached.

A state of a front is a candidate i and the class k of what the front that it saves with becomes: candidates of that
front with equal savings are one class. With x_ik ∈ {0, 1} for the states what is saved is linear,

    Σ_ik s_ik x_ik    with Σ_ik x_ik = 1 in each front and Σ_i x_ik = Σ_{j in k} x_j for each class

Fronts form trees, so that for any price λ of cost the least damage + λ·cost of all choices, and of those through each
state, is found from the leaves up and back down. Least − λ·room is below the damage of every choice within the room;
a state whose own bound is above the damage of one that is known is in no better one (Lagrangian fixing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from ndpass.conv import Array

Positions = NDArray[np.intp]

PRICES = 40  # that are tried
ROUNDING = 1e-12  # of sums, relative


@dataclass(frozen=True, eq=False)
class Pair:
    """saved (candidates of front `first`, of front `second`), never below zero: less cost where both are chosen.

    A front is the first of one pair at most. first None: a single row, what those of `second` save elsewhere.
    """

    first: int | None
    second: int
    saved: Array


class Forest:
    """saved (candidates, classes) by front; second: the front that it saves with, -1 for none; kinds: the class of each
    candidate of that; firsts: the fronts that save with it. sizes: candidates of each front.
    """

    def __init__(self, sizes: Sequence[int], pairs: Sequence[Pair]) -> None:
        self.saved: list[Array] = [np.zeros((n, 1)) for n in sizes]
        self.second = [-1] * len(sizes)
        self.kinds = [np.zeros(0, np.intp)] * len(sizes)
        for p in pairs:
            if p.first is not None:
                table, kinds = np.unique(p.saved, axis=1, return_inverse=True)
                self.saved[p.first], self.second[p.first], self.kinds[p.first] = table, p.second, kinds.reshape(-1)
        for p in pairs:
            if p.first is None:
                self.saved[p.second] = self.saved[p.second] + p.saved.T
        self.firsts = [[f for f, second in enumerate(self.second) if second == s] for s in range(len(sizes))]
        self.order: list[int] = []  # every front after those that save with it
        for root in (f for f, second in enumerate(self.second) if second < 0):
            self._enter(root)

    def _enter(self, front: int) -> None:
        for first in self.firsts[front]:
            self._enter(first)
        self.order.append(front)

    def _up(self, weights: Sequence[Array]) -> list[Array]:
        """(candidates, classes) of each front: the least weight of the state and all that leads to it."""
        up = list(weights)
        for f in self.order:
            for first in self.firsts[f]:
                up[f] = up[f] + up[first].min(axis=0)[self.kinds[first], None]
        return up

    def through(self, weights: Sequence[Array]) -> list[Array]:
        """(candidates, classes) of each front: the least weight of all choices with that state."""
        up = self._up(weights)
        whole = sum(float(up[f].min()) for f, second in enumerate(self.second) if second < 0)
        total = list(up)
        for f in reversed(self.order):
            rest = np.full(up[f].shape[1], whole - up[f].min() if self.second[f] < 0 else np.inf)
            if self.second[f] >= 0:
                np.minimum.at(rest, self.kinds[f], total[self.second[f]].min(axis=1))
                rest = rest - up[f].min(axis=0)
            total[f] = up[f] + rest
        return total

    def best(self, weights: Sequence[Array]) -> list[int]:
        """The choice of least weight."""
        up, picked = self._up(weights), [0] * len(weights)
        for f in reversed(self.order):
            picked[f] = int(up[f][:, self._kind(f, picked)].argmin())
        return picked

    def _kind(self, front: int, picked: Sequence[int]) -> int:
        return int(self.kinds[front][picked[self.second[front]]]) if self.second[front] >= 0 else 0

    def cost(self, costs: Sequence[Array], picked: Sequence[int]) -> float:
        return sum(float(costs[f][i] - self.saved[f][i, self._kind(f, picked)]) for f, i in enumerate(picked))

    def least(self, costs: Sequence[Array]) -> float:
        """The least cost of any choice; costs: of the candidates of each front, with nothing saved."""
        states = [c[:, None] - s for c, s in zip(costs, self.saved, strict=True)]
        return self.cost(costs, self.best(states))

    def promising(self, damages: Sequence[Array], costs: Sequence[Array], room: float) -> States:
        """The states that a choice of least damage within the room can have; (candidates,) of each front."""
        bounds, known = [np.full(s.shape, -np.inf) for s in self.saved], np.inf
        most = sum(float(d.max()) for d in damages), sum(float(np.abs(c).max()) for c in costs)
        low, high = 0.0, np.inf
        price = 0.0
        for _ in range(PRICES):
            weights = [
                d[:, None] + price * (c[:, None] - s) for d, c, s in zip(damages, costs, self.saved, strict=True)
            ]
            less = price * room + ROUNDING * (most[0] + price * most[1])
            bounds = [np.maximum(b, t - less) for b, t in zip(bounds, self.through(weights), strict=True)]
            picked = self.best(weights)
            if self.cost(costs, picked) > room:
                low = price
            else:
                high = price
                better = self.improved(damages, costs, picked, room)
                known = min(known, sum(float(d[i]) for d, i in zip(damages, better, strict=True)))
            if high == 0:
                break
            price = (low + high) / 2 if high < np.inf else max(2 * price, most[0] / (most[1] or 1.0) or 1.0)
        return self._states([b <= known for b in bounds])

    def improved(
        self, damages: Sequence[Array], costs: Sequence[Array], picked: Sequence[int], room: float
    ) -> list[int]:
        """From a choice within the room by single changes that fit, until none takes off damage."""
        now, free, f, settled = list(picked), room - self.cost(costs, picked), 0, 0
        while settled < len(now):
            own = costs[f] - self.saved[f][:, self._kind(f, now)]
            for first in self.firsts[f]:
                own = own - self.saved[first][now[first], self.kinds[first]]
            i = int(np.where(own - own[now[f]] <= free, damages[f], np.inf).argmin())
            settled += 1
            if damages[f][i] < damages[f][now[f]]:
                free, now[f], settled = free - float(own[i] - own[now[f]]), i, 0
            f = (f + 1) % len(now)
        return now

    def _states(self, kept: Sequence[NDArray[np.bool_]]) -> States:
        front = np.concatenate([np.full(k.sum(), f) for f, k in enumerate(kept)])
        candidate, kind = np.concatenate([np.nonzero(k) for k in kept], axis=1)
        saved = np.concatenate([s[k] for s, k in zip(self.saved, kept, strict=True)])
        return States(front, candidate, saved, self._links(front, candidate, kind))

    def _links(self, front: Positions, candidate: Positions, kind: Positions) -> coo_array:
        """1 at the states of a class, −1 at those of the candidates that make it up."""
        rows, columns, values, done = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)], 0
        for f, second in enumerate(self.second):
            if second >= 0:
                ours, theirs = np.flatnonzero(front == f), np.flatnonzero(front == second)
                rows += [done + kind[ours], done + self.kinds[f][candidate[theirs]]]
                columns += [ours, theirs]
                values += [np.ones(len(ours)), -np.ones(len(theirs))]
                done += self.saved[f].shape[1]
        return coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (done, len(front)))


@dataclass(frozen=True, eq=False)
class States:
    """front, candidate (its position in the front), saved: (states,), front after front.

    links (classes, states): each row times the states chosen is 0.
    """

    front: Positions
    candidate: Positions
    saved: Array
    links: coo_array
