"""The choice of a candidate for every layer within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Budget, Candidate, Choice, Cost, macs_of, pareto
from ndpass.planning.knapsack import knapsack
from ndpass.planning.shared_channels import SharedChannels
from ndpass.planning.shared_savings import Forest, Pair

ROUNDING = 1e-12  # of an error: a layer of full rank is exact but for this

# site -> the candidates that can be best, cheapest first; what candidates of two sites save together
Coupled = tuple[Mapping[str, Sequence[Candidate]], Sequence[Pair]]
# one such problem, or several that together have every plan: the best plan of all of them is wanted
Fronts = Callable[[Mapping[str, Sequence[Candidate]], Cost], Sequence[Coupled]]


def choose(
    candidates: Mapping[str, Sequence[Candidate]],
    budget: Budget,
    total: int,
    fronts: Fronts | None = None,
    together: SharedChannels | None = None,
) -> dict[str, Choice]:
    """A choice for every site; candidates: of each site, the first as the layer is.

    total: MACs of the whole model. fronts: of layers that depend on each other (`ndpass.planning.channel_savings`);
    together: layers that read the same channels.
    Raises BudgetError where no choice meets the budget; the message says what can be reached.
    """
    if budget.kind == "macs":
        assert budget.value is not None
        return _within_macs(candidates, budget.value, total, fronts or separate)
    return _each(candidates, budget, together or SharedChannels())


def _each(candidates: Mapping[str, Sequence[Candidate]], budget: Budget, together: SharedChannels) -> dict[str, Choice]:
    """The choice for every layer by itself, but that layers which read the same channels are pruned alike."""
    chosen = {name: choose_local(ways, budget) for name, ways in {**candidates, **together.worst(candidates)}.items()}
    alike = {name: choose_local(ways, budget).candidate for name, ways in together.follow(candidates, chosen)}
    return {**chosen, **{name: Choice(c, "" if c.setting else chosen[name].reason) for name, c in alike.items()}}


def choose_local(ways: Sequence[Candidate], budget: Budget) -> Choice:
    """The choice for one layer by itself; ways[0] is the layer as it is.

    Pinned settings: the least error of those that save MACs, else an exact one; of errors that are equal but for
    rounding, the fewest MACs. Energy: the cheapest that keeps it.
    """
    energy = budget.value if budget.kind == "energy" else None
    dense = ways[0]
    cheaper = [c for c in ways[1:] if c.macs < dense.macs]
    if energy is None:
        exact = [c for c in ways[1:] if c.error <= dense.error + ROUNDING]
        best = _least_error(cheaper or exact)
        return (
            Choice(best) if best else Choice(dense, "with the settings given it would take more MACs than it does now")
        )
    enough = [c for c in cheaper if 1 - c.error >= energy]
    if enough:
        return Choice(min(enough, key=lambda c: (c.macs, c.error)))
    return Choice(dense, f"nothing cheaper keeps {energy:.4g} of the energy")


def _least_error(ways: Sequence[Candidate]) -> Candidate | None:
    """Of those whose error is the least, but for rounding, the one with the fewest MACs; None of none.

    An error that is no number is none that another is more than: verification finds it in what is written.
    """
    least = min((c.error for c in ways), default=0.0)
    return min((c for c in ways if not c.error > least + ROUNDING), key=lambda c: (c.macs, c.error), default=None)


def _within_macs(
    candidates: Mapping[str, Sequence[Candidate]],
    fraction: float,
    total: int,
    fronts: Fronts,
) -> dict[str, Choice]:
    """The choice of least damage at no more than `fraction` of the model's MACs."""
    coupled = fronts(candidates, macs_of)
    room = room_within(candidates, fraction, total, coupled)
    return least_damage(candidates, room, fronts=lambda *_: coupled)


def room_within(
    candidates: Mapping[str, Sequence[Candidate]],
    fraction: float,
    total: int,
    coupled: Sequence[Coupled],
) -> int:
    """MACs that the layers with candidates may have together. coupled: their fronts.

    Raises BudgetError where the cheapest candidates have more.
    """
    fixed = total - sum(ways[0].macs for ways in candidates.values())
    room = math.floor(Fraction(str(fraction)) * total) - fixed  # of the decimal as written, not of a float near it
    lowest = int(least_cost(coupled, macs_of))
    if lowest > room:
        reachable = math.ceil(Fraction(1000 * (fixed + lowest), total)) / 1000  # upwards: asked for, it must be met
        others = fixed - max(sum(int(p.saved.max()) for p in pairs if p.first is None) for _, pairs in coupled)
        raise BudgetError(
            f"--macs {fraction:g} cannot be reached: with these passes the least is {reachable:.3f} "
            f"(the other layers alone are {others / total:.3f}); ask for that, or allow more passes"
        )
    return room


def least_cost(coupled: Sequence[Coupled], cost: Cost) -> float:
    """The least cost of all layers together that any choice has."""

    def least(kept: Mapping[str, Sequence[Candidate]], pairs: Sequence[Pair]) -> float:
        costs = [np.array([cost(c) for c in front]) for front in kept.values()]
        return Forest([len(own) for own in costs], pairs).least(costs)

    return min(least(kept, pairs) for kept, pairs in coupled)


def least_damage(
    candidates: Mapping[str, Sequence[Candidate]],
    room: float,
    cost: Cost = macs_of,
    fronts: Fronts | None = None,
) -> dict[str, Choice]:
    """The choice of least summed damage whose summed cost is at most `room`, as `knapsack` finds it.

    Raises BudgetError where there is none.
    """
    coupled = (fronts or separate)(candidates, cost)
    within = [one for one in coupled if len(coupled) == 1 or least_cost([one], cost) <= room] or coupled[:1]
    found = [dict(zip(kept, knapsack(list(kept.values()), room, cost, pairs), strict=True)) for kept, pairs in within]
    best = min(found, key=lambda picked: sum(c.damage for c in picked.values()))
    return {n: Choice(c, "" if c.setting else "the budget is met with less damage elsewhere") for n, c in best.items()}


def separate(candidates: Mapping[str, Sequence[Candidate]], cost: Cost) -> Sequence[Coupled]:
    """The fronts of layers that do not depend on each other."""
    return [({name: pareto(ways, cost) for name, ways in candidates.items()}, ())]
