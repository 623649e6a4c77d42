"""Which setting at which site: candidates with their error and cost, and the exact choice among them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from ndpass.conv import Array, Block
from ndpass.errors import BudgetError
from ndpass.pairs import Forest, Pair
from ndpass.passes import Setting

TOLERANCE = 1e-6  # of HiGHS: the share of the room by which a choice may be over it
TRIES = 20  # choices over the room that are ruled out one by one before there is less room


BudgetKind = Literal["pinned", "energy", "macs", "speedup", "max_drop"]


@dataclass(frozen=True)
class Budget:
    """pinned: the settings as given; energy: the share that every layer keeps; macs: share of the model's MACs left.

    speedup: how many times as fast, measured; max_drop: points that the metric may fall; speedup beside it: at least.
    """

    kind: BudgetKind
    value: float | None = None
    speedup: float | None = None

    @property
    def in_milliseconds(self) -> bool:
        """Whether candidates have to be timed."""
        return self.kind in ("speedup", "max_drop")

    def to_json(self) -> dict[str, Any]:
        both = {} if self.speedup is None else {"speedup": self.speedup}
        return {self.kind: "as given" if self.value is None else self.value, **both}


@dataclass(frozen=True)
class Candidate:
    """One way to write a layer: setting by pass name (empty: left as it is), relative error, MACs, seconds if timed.

    weighed: what the error does to the outputs, once that is known (`ndpass.sensitivity`); block: where it had to be
    fitted to know its error.
    """

    macs: int
    error: float = 0.0
    setting: Mapping[str, Setting] = field(default_factory=dict)
    seconds: float | None = None
    weighed: float | None = None
    block: Block | None = field(default=None, compare=False, repr=False)

    @property
    def damage(self) -> float:
        """What is summed over the layers and made least."""
        return self.error if self.weighed is None else self.weighed


Cost = Callable[[Candidate], float]
Fronts = Callable[
    [Mapping[str, Sequence[Candidate]], Cost], tuple[dict[str, list[Candidate]], Sequence[Pair]]
]  # the candidates of each site that can be best, and what those of two sites save together


def macs_of(candidate: Candidate) -> float:
    return candidate.macs


def seconds_of(candidate: Candidate) -> float:
    """Of a candidate that has been timed."""
    assert candidate.seconds is not None
    return candidate.seconds


def damage(plan: Mapping[str, Choice]) -> float:
    """Of all layers together: the predicted divergence of the outputs."""
    return sum(choice.candidate.damage for choice in plan.values())


@dataclass(frozen=True)
class Choice:
    """What a site becomes, and, where it is left as it is, why; reverted: something faster was tried and was not."""

    candidate: Candidate
    reason: str = ""
    status: Literal["kept", "reverted"] = "kept"


def choose(
    candidates: Mapping[str, Sequence[Candidate]],
    budget: Budget,
    total: int,
    fronts: Fronts | None = None,
) -> dict[str, Choice]:
    """Pick a candidate for every site; the first of each site is the layer as it is.

    total: MACs of the whole model. fronts: of layers that depend on each other (`ndpass.coupling`). Raises BudgetError
    where no choice meets the budget, saying what can be reached.
    """
    if budget.kind == "macs":
        assert budget.value is not None
        return _within_macs(candidates, budget.value, total, fronts or separate)
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


def _within_macs(
    candidates: Mapping[str, Sequence[Candidate]],
    fraction: float,
    total: int,
    fronts: Fronts,
) -> dict[str, Choice]:
    """The choice of least damage at no more than `fraction` of the MACs."""
    fixed = total - sum(ways[0].macs for ways in candidates.values())
    room = math.floor(Fraction(str(fraction)) * total) - fixed  # of the decimal as written, not of a float near it
    kept, pairs = fronts(candidates, macs_of)
    sizes = [len(front) for front in kept.values()]
    lowest = int(Forest(sizes, pairs).least([np.array([c.macs for c in front]) for front in kept.values()]))
    if lowest > room:
        reachable = math.ceil(Fraction(1000 * (fixed + lowest), total)) / 1000  # upwards: asked for, it must be met
        others = fixed - sum(int(p.saved.max()) for p in pairs if p.first is None)
        raise BudgetError(
            f"--macs {fraction:g} cannot be reached: with these passes the least is {reachable:.3f} "
            f"(the other layers alone are {others / total:.3f}); ask for that, or allow more passes"
        )
    return least_damage(candidates, room, fronts=lambda *_: (kept, pairs))


def least_damage(
    candidates: Mapping[str, Sequence[Candidate]],
    room: float,
    cost: Cost = macs_of,
    fronts: Fronts | None = None,
) -> dict[str, Choice]:
    """Least summed damage at no more than `room` of cost: a multiple-choice knapsack, solved exactly."""
    kept, pairs = (fronts or separate)(candidates, cost)
    picked = knapsack(list(kept.values()), room, cost, pairs)
    return {
        name: Choice(c, "" if c.setting else "the budget is met with less damage elsewhere")
        for name, c in zip(kept, picked, strict=True)
    }


def separate(
    candidates: Mapping[str, Sequence[Candidate]], cost: Cost
) -> tuple[dict[str, list[Candidate]], Sequence[Pair]]:
    """The fronts of layers none of which depends on another."""
    return {name: pareto(ways, cost) for name, ways in candidates.items()}, ()


def pareto(ways: Sequence[Candidate], cost: Cost = macs_of) -> list[Candidate]:
    """The candidates that no other beats in both cost and damage, cheapest first."""
    front: list[Candidate] = []
    for c in sorted(ways, key=lambda c: (cost(c), c.damage)):
        if not front or c.damage < front[-1].damage:
            front.append(c)
    return front


def knapsack(
    fronts: Sequence[Sequence[Candidate]],
    room: float,
    cost: Cost = macs_of,
    pairs: Sequence[Pair] = (),
) -> list[Candidate]:
    """One candidate of each front, summed damage least, summed cost at most `room` (HiGHS, to optimality).

    pairs: what candidates of two fronts save together, positions of fronts as in `fronts`.

    What the solver finds is summed up anew, MACs in whole numbers: its tolerance is a share of the room, and of
    billions that are many MACs. A choice over the room is ruled out and the rest solved again, in the end with less.
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
    """Positions in the fronts of the least damage within `room`, up to TOLERANCE of it, that is none of `ruled_out`."""
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
    with _silent():
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


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches stdout meanwhile: HiGHS prints a line of its own there now and then, whatever its options say."""
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)
