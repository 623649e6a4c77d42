"""Plans with candidates that are not fitted yet: only what a plan asks for is, and then it is planned anew.

Each candidate's error is exact or a bound, no more than the error can be (`ndpass.planning.compositions`). A plan of
least damage on these figures does no more damage than any plan can. If all that it has chosen is exact, it is the plan
that a table of exact errors would give. If not, what it has chosen is fitted, a step at a time, and the next plan knows
better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Candidate, Choice, damage
from ndpass.planning.compositions import key
from ndpass.planning.estimates import Estimates
from ndpass.planning.sensitivity import Slopes, weighed

Table = Mapping[str, Sequence[Candidate]]
Plan = dict[str, Choice]

CLOSE = 1.01  # times the least damage that is possible: a plan that does no more is good enough


@dataclass
class Ledger:
    """What is known of the candidates of every layer.

    slopes: what errors do to the outputs, None where that is not known; fit: what candidates of layers wait for.
    """

    estimates: Mapping[str, Estimates]
    slopes: Callable[[], Slopes | None]
    fit: Callable[[Mapping[str, Candidate]], None]
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)

    def table(self) -> dict[str, list[Candidate]]:
        """Layer -> its candidates with their damage, the first as the layer is."""
        for name, own in self.estimates.items():
            if name not in self.candidates:
                self.candidates[name] = self._weighed(name, own.candidates())
        return dict(self.candidates)

    def settle(self, plan: Mapping[str, Choice]) -> list[str]:
        """Make what the plan has chosen exact, or take a step there; returns the layers where it was not."""
        wanted = {name: choice.candidate for name, choice in plan.items() if choice.candidate.bound}
        if wanted:
            self.fit(wanted)
            for name in wanted:
                self.candidates.pop(name, None)
        return list(wanted)

    @property
    def asked(self) -> dict[str, list[str]]:
        """Layer -> the fits that were asked for, for JSON."""
        return {name: estimates.asked for name, estimates in self.estimates.items()}

    def recall(self, asked: Mapping[str, Sequence[str]]) -> None:
        """Know what was known when these fits had been asked for."""
        for name, fits in asked.items():
            self.estimates[name].recall(fits)
        self.candidates.clear()

    def current(self, name: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of a layer as they are known now, without those that turned out to be no use."""
        return self._weighed(name, self.estimates[name].current(candidates))

    def _weighed(self, name: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        slopes, measured = self.slopes(), self.estimates[name].known.damages
        found = list(candidates) if slopes is None else weighed({name: candidates}, slopes)[name]
        return [replace(c, weighed=measured[key(c.setting)]) if key(c.setting) in measured else c for c in found]


def decided(plan: Plan, table: Table, choose: Callable[[Table], Plan]) -> Plan | None:
    """The plan if all in it is exact, or else one of exact candidates alone if it is as good, or None.

    plan: what `choose` makes of the table.
    """
    if not any(choice.candidate.bound for choice in plan.values()):
        return plan
    try:
        exact = choose({name: [c for c in ways if not c.bound] for name, ways in table.items()})
    except BudgetError:
        return None
    return exact if damage(exact) <= CLOSE * damage(plan) else None
