"""What each candidate takes in milliseconds, and what is learnt when plans are timed in place.

The seconds of a table begin as those of small models (`ndpass.planning.candidate_times`). Where a layer takes another
time inside the whole network, because of other layouts around it or other caches, the whole network is right: `learn`
corrects the table by each plan that was timed in place, and takes back what is no faster there than the layer was.

The runtime's counters are cut to whole microseconds, and a layer that was fused into another one has none. So a layer
is judged by its own counters only where they show it, before and after. All others are judged together, by what is left
of the whole model's time: a counter of 0 µs never counts as no time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ndpass.planning.candidate import Candidate, Choice, damage, pareto, seconds_of
from ndpass.planning.deadline import REASON
from ndpass.planning.shared_channels import SharedChannels

CORRECTION = (0.25, 4.0)  # limits; beyond them counters and clock do not speak of the same nodes
COUNTABLE = 10e-6  # seconds; a shorter layer is not judged by its own counters
VISIBLE = 1e-6  # seconds; less than that the counters do not show


@dataclass(frozen=True)
class TimedPlan:
    """A plan as timed in place.

    speedups: time of the original over that of the stand-in, by round; seconds: of the whole, on the scale of the
    table's `whole`; in_place: layer -> seconds.
    """

    plan: dict[str, Choice]
    speedups: list[float]
    seconds: float
    in_place: dict[str, float]

    @property
    def speedup(self) -> float:
        """The median of the paired rounds."""
        return float(np.median(self.speedups))

    @property
    def damage(self) -> float:
        """Predicted divergence of the outputs."""
        return damage(self.plan)

    @property
    def rewritten(self) -> list[str]:
        """The layers that do not stay as they are."""
        return [name for name, choice in self.plan.items() if choice.candidate.setting]


@dataclass
class LatencyTable:
    """Layer -> candidates with seconds, the first as the layer is.

    whole: seconds of the original by the clock; in_place: layer -> its seconds inside the original, by the counters;
    reverted: layer -> why what was tried there was taken back; scale: the table's seconds now over those at first;
    blocks: last layer of a block -> the others, which go where the block is merged; left_out: layers that
    there was no time for; together: layers that read the same channels.
    """

    candidates: dict[str, list[Candidate]]
    whole: float
    in_place: dict[str, float]
    reverted: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0
    blocks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    together: SharedChannels = field(default_factory=SharedChannels)

    @property
    def rest(self) -> float:
        """Seconds of what is in none of the layers."""
        return max(0.0, self.whole - sum(seconds_of(ways[0]) for ways in self.candidates.values()))

    def predicted(self, chosen: Mapping[str, Candidate]) -> float:
        """Seconds of the whole model with these candidates."""
        return self.rest + sum(map(seconds_of, chosen.values()))

    def kept(self, name: str) -> Choice:
        """The layer as it is, with the reason."""
        ways = self.candidates[name]
        if name in self.left_out:
            return Choice(ways[0], REASON)
        if name in self.reverted:
            return Choice(ways[0], self.reverted[name], "reverted")
        if len(pareto(ways, seconds_of)) == 1:
            return Choice(ways[0], "nothing that was timed is faster than it is")
        return Choice(ways[0], "the budget is met with less damage elsewhere")

    def current(self, name: str, candidate: Candidate) -> Candidate:
        """The candidate with its seconds as they are now; as it is given where it was taken back, or the layer went."""
        if candidate.is_gone:
            return candidate
        return next((c for c in self.candidates[name] if c.setting == candidate.setting), candidate)

    def without(self, plan: Mapping[str, Choice], names: Collection[str]) -> dict[str, Choice]:
        """The plan with these layers as they are, and the other candidates with their seconds as they are now.

        The layers of a block that is not merged after all are kept, too, and those that are pruned with one of these.
        """
        names = {*names, *self.together.pruned_with(plan, names)}
        names = {*names, *(layer for name in names for layer in self._gone(name, plan))}
        return {
            name: self.kept(name) if name in names else replace(choice, candidate=self.current(name, choice.candidate))
            for name, choice in plan.items()
        }

    def _gone(self, name: str, plan: Mapping[str, Choice]) -> list[str]:
        """The layers that have been merged into this one."""
        return [layer for layer in self.blocks.get(name, ()) if layer in plan and plan[layer].candidate.is_gone]

    def before(self, name: str, timed: TimedPlan) -> float:
        """Seconds in the original of the layer and of those that have been merged into it."""
        return self.in_place[name] + sum(self.in_place[layer] for layer in self._gone(name, timed.plan))

    def sees(self, name: str, timed: TimedPlan) -> bool:
        """Whether counters show the layer in the original and in the plan, so that the two can be compared."""
        return self.in_place[name] >= COUNTABLE and timed.in_place[name] >= VISIBLE

    def seconds_in_place(self, name: str, timed: TimedPlan, changed: bool) -> tuple[float, float] | None:
        """A layer's seconds before and after; None where counters do not show them.

        changed: whether the layer was rewritten or pruned. One that was not takes what it took: its counters differ
        only by noise and by what the runtime puts around it.
        """
        before = self.before(name, timed)
        if changed:
            return (before, timed.in_place[name]) if self.sees(name, timed) else None
        return (before, before) if before >= VISIBLE else None

    def learn(self, timed: TimedPlan) -> list[str]:
        """Correct the table by a timed plan and take back what is no faster than before; returns those layers."""
        self._correct(timed)
        return [*self._take_back_alone(timed), *self._take_back_together(timed)]

    def _correct(self, timed: TimedPlan) -> None:
        """Scale candidates of each kind that was timed by how far its time was from what the table says now.

        All others are scaled by how far the times of those were together, with layers left as they are counted as
        predicted right: what lies between a small model and the whole one is much the same for all candidates, and
        without it what was timed and what was not could not be compared. What is then taken back counts as well, or
        what is left of its kind would be tried next with the same optimism.
        """
        ratios, after, predicted = {}, 0.0, 0.0
        for name, choice in timed.plan.items():
            own, table = timed.in_place[name], self.current(name, choice.candidate).seconds or 0.0
            if not choice.candidate.setting or own < COUNTABLE or not table:
                own = table
            else:
                ratios[name, kind(choice.candidate)] = float(np.clip(own / table, *CORRECTION))
            after, predicted = after + own, predicted + table
        if not ratios:
            return
        together = float(np.clip(after / predicted, *CORRECTION))
        self.candidates = {
            name: ways[:1]
            + [replace(c, seconds=seconds_of(c) * ratios.get((name, kind(c)), together)) for c in ways[1:]]
            for name, ways in self.candidates.items()
        }
        self.scale *= together

    def _take_back_alone(self, timed: TimedPlan) -> list[str]:
        """Rule out what its own counters show to be no faster, and all of its kind with as many MACs or more."""
        slower = []
        for name in timed.rewritten:
            before, after = self.before(name, timed), timed.in_place[name]
            if not self.sees(name, timed) or after < before:
                continue
            slower.append(name)
            self.reverted[name] = f"in place it took {1e6 * after:.0f} µs, as it is {1e6 * before:.0f} µs"
            tried, (dense, *others) = timed.plan[name].candidate, self.candidates[name]
            left = [c for c in others if kind(c) != kind(tried) or c.macs < tried.macs]
            self.candidates[name] = [dense, *left]
        return slower

    def _take_back_together(self, timed: TimedPlan) -> list[str]:
        """Leave the layers that counters do not show as they are, where the rest of the model is no faster with them.

        The rest is the whole model without the rewritten layers that counters show.
        """
        hidden = [name for name in timed.rewritten if not self.sees(name, timed)]
        shown = [name for name in timed.rewritten if self.sees(name, timed)]
        before = self.whole - sum(self.before(name, timed) for name in shown)
        after = timed.seconds - sum(timed.in_place[name] for name in shown)
        if after < before:
            return []
        for name in hidden:
            self.candidates[name] = self.candidates[name][:1]
            self.reverted[name] = (
                "counters do not show it, and with it the rest of the model took "
                f"{1e6 * after:.0f} µs, as it is {1e6 * before:.0f} µs"
            )
        return hidden


def kind(candidate: Candidate) -> tuple[str, ...]:
    """What passes a candidate is of and in what form: all of its setting but the numbers."""
    words = [(name, *sorted(str(v) for v in s.values() if isinstance(v, str))) for name, s in candidate.setting.items()]
    return tuple(":".join(word) for word in words)
