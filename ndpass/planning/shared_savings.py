"""The choice of one candidate from each front, where pairs of candidates of two fronts save cost together.

A state of a front is a candidate i and a class k of the front that it saves with; candidates of that front with equal
savings are one class. With x_ik ∈ {0, 1} for the states the savings are linear,

    Σ_ik s_ik x_ik    with Σ_ik x_ik = 1 in each front and Σ_i x_ik = Σ_{j in k} x_j for each class

Fronts form trees. So for any price λ of cost the least damage + λ·cost of all choices, and of all choices through each
state, is found in one way up from the leaves and one back down. The least − λ·room is a lower bound for the damage of
every choice within the room. A state whose own bound is above the damage of a known choice is in no better choice, and
is left out (Lagrangian fixing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    """What candidates of two fronts save together; fronts by number.

    saved (candidates of `first`, candidates of `second`): the cost that is saved where both are chosen; less than 0
    where they do not go together. With first=None it has a single row: what those of `second` save elsewhere. A
    front is the first of one pair at most.
    """

    first: int | None
    second: int
    saved: Array


def as_forest(fronts: int, savings: Sequence[Pair], bonds: Sequence[Pair]) -> list[Pair]:
    """Pairs in which every front is the first of one at most, and no two are of the same fronts.

    bonds: pairs with less than nothing saved, without a circle among them; all of them are kept. Of savings that would
    close a circle the smallest are left out, so that no plan is promised more than it saves.
    """
    if not bonds:  # then each front leads to a later one
        return list(savings)
    alone = [p for p in savings if p.first is None]
    edges: dict[tuple[int, int], Array] = {}
    linked = list(range(fronts))  # each front -> one that it is joined to, itself where it speaks for all of them
    found = sorted((p for p in savings if p.first is not None), key=lambda p: -float(p.saved.max()))
    for p in (*bonds, *found):
        assert p.first is not None
        ends = (min(p.first, p.second), max(p.first, p.second))
        saved = p.saved if p.first == ends[0] else p.saved.T
        one, other = _spoken_for(linked, ends[0]), _spoken_for(linked, ends[1])
        if ends in edges:
            edges[ends] = edges[ends] + saved
        elif one != other:
            edges[ends], linked[one] = saved, other
    return [*alone, *_rooted(fronts, edges)]


def _spoken_for(linked: Sequence[int], front: int) -> int:
    while linked[front] != front:
        front = linked[front]
    return front


def _rooted(fronts: int, edges: Mapping[tuple[int, int], Array]) -> Iterator[Pair]:
    """The edges of trees as pairs, each from a front to the one nearer the root."""
    beside: list[list[int]] = [[] for _ in range(fronts)]
    for a, b in edges:
        beside[a].append(b)
        beside[b].append(a)
    seen: set[int] = set()
    for root in reversed(range(fronts)):
        todo = [] if root in seen else [root]
        seen.add(root)
        while todo:
            second = todo.pop()
            for first in beside[second]:
                if first not in seen:
                    seen.add(first)
                    todo.append(first)
                    yield Pair(first, second, edges[first, second] if first < second else edges[second, first].T)


class Forest:
    """The fronts and what they save together. sizes: the number of candidates of each front.

    By front: saved (candidates, classes); second: the front that it saves with, -1 for none; kinds: the class of each
    candidate of that front; firsts: the fronts that save with it.
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
        """(candidates, classes) of each front: the least weight of each state with all that lead to it."""
        up = list(weights)
        for f in self.order:
            for first in self.firsts[f]:
                up[f] = up[f] + up[first].min(axis=0)[self.kinds[first], None]
        return up

    def through(self, weights: Sequence[Array]) -> list[Array]:
        """(candidates, classes) of each front: the least weight of all choices that have the state."""
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
        """The choice of least weight: a candidate of each front."""
        up, picked = self._up(weights), [0] * len(weights)
        for f in reversed(self.order):
            picked[f] = int(up[f][:, self._kind(f, picked)].argmin())
        return picked

    def _kind(self, front: int, picked: Sequence[int]) -> int:
        return int(self.kinds[front][picked[self.second[front]]]) if self.second[front] >= 0 else 0

    def cost(self, costs: Sequence[Array], picked: Sequence[int]) -> float:
        return sum(float(costs[f][i] - self.saved[f][i, self._kind(f, picked)]) for f, i in enumerate(picked))

    def least(self, costs: Sequence[Array]) -> float:
        """The least cost of any choice; costs: (candidates,) of each front, with nothing saved."""
        states = [c[:, None] - s for c, s in zip(costs, self.saved, strict=True)]
        return self.cost(costs, self.best(states))

    def promising(self, damages: Sequence[Array], costs: Sequence[Array], room: float) -> States:
        """The states that a choice of least damage within the room can have.

        damages, costs: (candidates,) of each front; room: what the choice may cost in all.
        """
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
        """A choice within the room improved by single changes that fit, until none lowers the damage."""
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
        """(classes, states): 1 at the states of a class, −1 at those of the candidates that make it up."""
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
    """States, front after front: (states,) each for the front, the candidate's position in it and what is saved.

    links (classes, states): each row times the chosen states is 0.
    """

    front: Positions
    candidate: Positions
    saved: Array
    links: coo_array
