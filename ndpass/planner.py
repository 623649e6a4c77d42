"""Which setting at which site: candidates with their error and cost, and the exact choice among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from ndpass.conv import Array
from ndpass.errors import BudgetError
from ndpass.passes import Setting

TOLERANCE = 1e-6  # of HiGHS: the share of the room by which a choice may be over it
TRIES = 20  # choices over the room that are ruled out one by one before there is less room


@dataclass(frozen=True)
class Budget:
    """pinned: the settings as given; energy: the share that every layer keeps; macs: share of the model's MACs left."""

    kind: Literal["pinned", "energy", "macs"]
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {self.kind: "as given" if self.value is None else self.value}


@dataclass(frozen=True)
class Candidate:
    """One way to write a layer: setting by pass name (empty: left as it is), relative error, MACs."""

    macs: int
    error: float = 0.0
    setting: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What a site becomes, and, where it is left as it is, why."""

    candidate: Candidate
    reason: str = ""


def choose(candidates: Mapping[str, Sequence[Candidate]], budget: Budget, total: int) -> dict[str, Choice]:
    """Pick a candidate for every site; the first of each site is the layer as it is.

    total: MACs of the whole model. Raises BudgetError where no choice meets the budget, saying what can be reached.
    """
    if budget.kind == "macs":
        assert budget.value is not None
        return _cheapest_damage(candidates, budget.value, total)
    return {name: choose_local(ways, budget) for name, ways in candidates.items()}


def choose_local(ways: Sequence[Candidate], budget: Budget) -> Choice:
    """Pinned: the least error of those that save MACs, else an exact one. Energy: the cheapest that keeps it."""
    energy = budget.value if budget.kind == "energy" else None
    dense = ways[0]
    cheaper = [c for c in ways[1:] if c.macs < dense.macs]
    if energy is None:
        exact = [c for c in ways[1:] if c.error <= dense.error + 1e-12]
        best = min(cheaper or exact, key=lambda c: (c.error, c.macs), default=None)
        return (
            Choice(best) if best else Choice(dense, "with the settings given it would take more MACs than it does now")
        )
    enough = [c for c in cheaper if 1 - c.error >= energy]
    if enough:
        return Choice(min(enough, key=lambda c: (c.macs, c.error)))
    return Choice(dense, f"nothing cheaper keeps {energy:.4g} of the energy")


def _cheapest_damage(candidates: Mapping[str, Sequence[Candidate]], fraction: float, total: int) -> dict[str, Choice]:
    """Least summed error at no more than `fraction` of the MACs: a multiple-choice knapsack, solved exactly."""
    fronts = {name: pareto(ways) for name, ways in candidates.items()}
    fixed = total - sum(ways[0].macs for ways in candidates.values())
    room = math.floor(Fraction(str(fraction)) * total) - fixed  # of the decimal as written, not of a float near it
    least = sum(front[0].macs for front in fronts.values())
    if least > room:
        reachable = math.ceil(Fraction(1000 * (fixed + least), total)) / 1000  # upwards: asked for, it must be met
        raise BudgetError(
            f"--macs {fraction:g} cannot be reached: with these passes the least is {reachable:.3f} "
            f"(the other layers alone are {fixed / total:.3f}); ask for that, or allow more passes"
        )
    picked = knapsack(list(fronts.values()), room)
    return {
        name: Choice(c, "" if c.setting else "the budget is met with less damage elsewhere")
        for name, c in zip(fronts, picked, strict=True)
    }


def pareto(ways: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in both MACs and error, cheapest first."""
    front: list[Candidate] = []
    for c in sorted(ways, key=lambda c: (c.macs, c.error)):
        if not front or c.error < front[-1].error:
            front.append(c)
    return front


def knapsack(fronts: Sequence[Sequence[Candidate]], room: float) -> list[Candidate]:
    """One candidate of each front, the summed error least, the summed MACs at most `room` (HiGHS, to optimality).

    What the solver finds is summed up anew in whole numbers: its tolerance is a share of the room, and of billions that
    are many MACs. A choice over the room is ruled out and the rest solved again, in the end with less room.
    """
    if not fronts:
        return []
    over: list[list[Candidate]] = []
    allowed = room
    while True:
        picked = _solve(fronts, allowed, over)
        if sum(c.macs for c in picked) <= room:
            return picked
        over.append(picked)
        if len(over) >= TRIES:
            allowed -= max(TOLERANCE * room, 1.0)


def _solve(
    fronts: Sequence[Sequence[Candidate]], room: float, ruled_out: Sequence[Sequence[Candidate]]
) -> list[Candidate]:
    """The choice of least error within `room`, up to TOLERANCE of it, that is none of `ruled_out`."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [c for front in fronts for c in front]
    errors = np.array([c.error for c in flat])
    macs = np.array([c.macs for c in flat], float)
    scale = max(room, 1.0)
    rows = [LinearConstraint(_one_each(fronts), 1, 1), LinearConstraint(macs / scale, -np.inf, room / scale)]
    for choice in ruled_out:
        taken = {id(c) for c in choice}
        rows.append(LinearConstraint(np.array([float(id(c) in taken) for c in flat]), -np.inf, len(fronts) - 1))
    # scaled so that the solver's absolute tolerances mean little: macs to 1, errors to a largest of 1000
    answer = milp(
        errors * (1000 / max(errors.max(), 1e-30)),
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=rows,
        options={"mip_rel_gap": 0.0},
    )
    if answer.x is None:
        raise BudgetError(f"the solver found no choice of layers within the budget: {answer.message}")
    return [flat[i] for i in np.flatnonzero(answer.x > 0.5)]


def _one_each(fronts: Sequence[Sequence[Candidate]]) -> Array:
    """(fronts, candidates): 1 where the candidate is of the front."""
    sizes = [len(front) for front in fronts]
    member = np.zeros((len(fronts), sum(sizes)))
    member[np.repeat(np.arange(len(fronts)), sizes), np.arange(sum(sizes))] = 1
    return member
