"""A multiple-choice knapsack, solved exactly by HiGHS (scipy's `milp`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ndpass.conv import Array
from ndpass.errors import BudgetError
from ndpass.planning.c_stdout import c_stdout_silent
from ndpass.planning.candidate import Candidate, Cost, macs_of
from ndpass.planning.shared_savings import Forest, Pair

TOLERANCE = 1e-6  # of HiGHS: the share of the room by which a choice may be over it
TRIES = 20  # choices over the room that are ruled out one by one; after that the room is made smaller


def knapsack(
    fronts: Sequence[Sequence[Candidate]],
    room: float,
    cost: Cost = macs_of,
    pairs: Sequence[Pair] = (),
) -> list[Candidate]:
    """One candidate of each front: the choice of least summed damage whose summed cost is at most `room`.

    pairs: what candidates of two fronts save together, positions of fronts as in `fronts`.
    The cost of what the solver finds is summed anew, MACs in whole numbers, because its tolerance is a share of the
    room, and a small share of billions is many MACs. A choice over the room is ruled out and the rest is solved again,
    after TRIES of them with less room. Raises BudgetError where no choice is within the room.
    """
    if not fronts:
        return []
    forest = Forest([len(front) for front in fronts], pairs)
    damages = [np.array([c.damage for c in front]) for front in fronts]
    costs = [np.array([cost(c) for c in front], float) for front in fronts]
    over: list[list[int]] = []
    allowed = room
    while True:
        picked = _solve(forest, damages, costs, allowed, over)
        if forest.cost(costs, picked) <= room:
            return [front[i] for front, i in zip(fronts, picked, strict=True)]
        over.append(picked)
        if len(over) >= TRIES:
            allowed -= TOLERANCE * room if room > 0 else 1.0


def _solve(
    forest: Forest, damages: Sequence[Array], costs: Sequence[Array], room: float, ruled_out: Sequence[Sequence[int]]
) -> list[int]:
    """Positions in the fronts of the choice of least damage that is within `room`, up to TOLERANCE of it.

    costs, damages: (candidates,) of each front; ruled_out: choices that do not count.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    states = forest.promising(damages, costs, room)
    chosen = list(zip(states.front, states.candidate, strict=True))
    damage_of = np.array([damages[f][i] for f, i in chosen])
    cost_of = np.array([costs[f][i] for f, i in chosen]) - states.saved
    scale = room if room > 0 else 1.0
    one_each = np.arange(len(costs))[:, None] == states.front
    rows = [LinearConstraint(one_each, 1, 1), LinearConstraint(cost_of / scale, -np.inf, room / scale)]
    rows += [LinearConstraint(states.links, 0, 0)] if states.links.shape[0] else []
    for choice in ruled_out:
        taken = np.array(choice)[states.front] == states.candidate
        rows.append(LinearConstraint(taken, -np.inf, len(costs) - 1))
    # scaled so that the solver's absolute tolerances mean little: costs to 1, damages to a largest of 1000
    with c_stdout_silent():
        answer = milp(
            damage_of * (1000 / max(damage_of.max(), 1e-30)),
            integrality=np.ones(len(chosen)),
            bounds=Bounds(0, 1),
            constraints=rows,
            options={"mip_rel_gap": 0.0},
        )
    if answer.x is None:
        raise BudgetError(f"the solver found no choice of layers within the budget: {answer.message}")
    return [int(i) for i in states.candidate[answer.x > 0.5]]
