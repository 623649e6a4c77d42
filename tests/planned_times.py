"""Tables and plans whose times are given, and a timer that says of a plan what is planned for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ndpass.planning.candidate import Candidate, Choice, seconds_of
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.stand_in import PlanTimes


def way(seconds: float, error: float, **setting: dict[str, int | str]) -> Candidate:
    """A candidate whose MACs are as its seconds and whose damage is the square of its error."""
    return Candidate(int(1e12 * seconds), error, setting, seconds, weighed=error**2)


def table() -> LatencyTable:
    """Two layers of 100 µs each in a model of 300."""
    layers = {
        "a": [way(100e-6, 0.0), way(50e-6, 0.1, nd={"rank": 2}), way(20e-6, 0.3, nd={"rank": 1})],
        "b": [way(100e-6, 0.0), way(60e-6, 0.2, nd={"rank": 2}), way(30e-6, 0.5, nd={"rank": 1})],
    }
    return LatencyTable(layers, 300e-6, {"a": 100e-6, "b": 100e-6})


def timed(
    of: LatencyTable, chosen: Mapping[str, int], in_place: dict[str, float], whole: float | None = None
) -> TimedPlan:
    """The plan of these candidates, by number; whole: seconds, by default as layers differ."""
    plan = {name: Choice(of.candidates[name][i]) for name, i in chosen.items()}
    seconds = of.whole - sum(of.in_place[n] - s for n, s in in_place.items()) if whole is None else whole
    return TimedPlan(plan, [of.whole / seconds], seconds, in_place)


@dataclass
class PlannedTimes:
    """Times plans as planned.

    of: the table as it was at first; takes: (layer, candidate, seconds in the table) -> seconds in place, for layers
    that are rewritten; noise: what the speedup of each round is multiplied by, not what layers take; plans: those that
    were timed; compared: those that were timed side by side.
    """

    of: LatencyTable
    takes: Callable[[str, Candidate, float], float] = lambda _name, _candidate, seconds: seconds
    noise: Callable[[], float] = lambda: 1.0
    plans: list[Mapping[str, Choice]] = field(default_factory=list)
    compared: list[Mapping[str, Choice]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rest, self.whole, self.in_place = self.of.rest, self.of.whole, dict(self.of.in_place)
        self.first = {n: {str(c.setting): seconds_of(c) for c in ways} for n, ways in self.of.candidates.items()}

    def time(self, plan: Mapping[str, Choice]) -> PlanTimes:
        self.plans.append(plan)
        layers = {name: self._seconds(name, choice.candidate) for name, choice in plan.items()}
        speedup = self.whole / (self.rest + sum(layers.values())) * self.noise()
        return PlanTimes([speedup], {name: s * speedup / self.whole for name, s in layers.items()})

    def compare(self, plans: Sequence[Mapping[str, Choice]]) -> list[list[float]]:
        self.compared.extend(plans)
        layers = [sum(self._seconds(name, choice.candidate) for name, choice in plan.items()) for plan in plans]
        return [[self.whole / (self.rest + seconds)] for seconds in layers]

    def _seconds(self, name: str, candidate: Candidate) -> float:
        at_first = self.first[name][str(candidate.setting)]
        return self.takes(name, candidate, at_first) if candidate.setting else self.in_place[name]
