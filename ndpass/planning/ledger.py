"""Plans with candidates that are not fitted yet: only what a plan asks for is, and then it is planned anew.

Each candidate's error is exact or a bound, no more than the error can be (`ndpass.planning.compositions`). A plan of
least damage on these figures does no more damage than any plan can. If all that it has chosen is exact, it is the plan
that a table of exact errors would give. If not, what it has chosen is fitted, a step at a time, and the next plan knows
better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Candidate, Choice, damage
from ndpass.planning.compositions import key
from ndpass.planning.estimates import Estimates
from ndpass.planning.sensitivity import Slopes, weighed
from ndpass.planning.shared_channels import SharedChannels

Table = Mapping[str, Sequence[Candidate]]
Plan = dict[str, Choice]

CLOSE = 1.01  # times the least damage that is possible: a plan that does no more is good enough


@dataclass
class Ledger:
    """What is known of the candidates of every layer.

    slopes: what errors do to the outputs, None where that is not known; fit: what candidates of layers wait for;
    together: layers that read the same channels.
    """

    estimates: Mapping[str, Estimates]
    slopes: Callable[[], Slopes | None]
    fit: Callable[[Mapping[str, Candidate]], None]
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)
    together: SharedChannels = field(default_factory=SharedChannels)

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
        slopes, own = self.slopes(), self.estimates[name]
        measured = {way: own.left * damage for way, damage in own.known.damages.items()}
        found = list(candidates) if slopes is None else self._all_at_once(name, candidates, slopes)
        return [replace(c, weighed=measured[key(c.setting)]) if key(c.setting) in measured else c for c in found]

    def _all_at_once(self, name: str, candidates: Sequence[Candidate], slopes: Slopes) -> list[Candidate]:
        """The candidates with their damage; the first of layers that are pruned together bears what all of them do
        beyond the sum of what each does alone.

        What channels that are lost change in one reader goes with what they change in the others. So it is the roots
        of the damages that add up: on a YOLOv8n, cp at 0.85 of the MACs, the sum alone had 15 layers pruned that did
        1.6 times the damage at the scores of 11 others that it thought worse.
        """
        found, more = weighed({name: candidates}, slopes)[name], self._together(name, slopes)
        pruning = self.together.pruning
        return [replace(c, weighed=c.damage + more.get(str(c.setting.get(pruning)), 0.0)) for c in found]

    def _together(self, name: str, slopes: Slopes) -> dict[str, float]:
        """How the channels are pruned -> what that does beyond the sum: (Σ d)² − Σ d², d² the damage in a reader."""
        known, thinning = self.estimates[name].known, self.estimates[name].thinning
        others = self.together.groups.get(name, ())[1:]
        if thinning is None or not others or not known.shared:
            return {}
        found = {}
        for setting, *errors in zip(thinning.settings, known.pruned, *known.shared, strict=True):
            one = {self.together.pruning: setting}
            alone = [
                slopes.damage(reader, Candidate(0, error, one))
                for reader, error in zip((name, *others), errors, strict=True)
            ]
            found[str(setting)] = math.fsum(map(math.sqrt, alone)) ** 2 - math.fsum(alone)
        return found


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
