"""Plans for a budget in milliseconds or in the metric: what is chosen is timed in place before anything is fitted.

How long a network takes does not depend on its numbers. So a plan is first tried on a stand-in, the network with blocks
of the planned shapes and random weights: whole and layer by layer. A layer that is not faster there than it was goes
back to what it was, the times of the others correct the table, and the rest is planned anew. Only what has passed is
fitted, which takes minutes (`bisection` looks for the fastest whose metric falls by no more than is allowed).

The best by a table of measured times is often one that was measured too short by chance, and the more so the more there
is to choose from. So where a drop is searched for, the plan of all passes has to be the fastest, in turns, beside those
that have one pass alone.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ndpass.errors import BudgetError
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_model import filled
from ndpass.measuring.layer_profile import inference, layer_seconds, loaded
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.runtime import Feed, Runnable
from ndpass.measuring.target import Target
from ndpass.measuring.turns import time_anew
from ndpass.passes import Pass
from ndpass.planning.candidate import Candidate, Choice, damage, pareto, seconds_of
from ndpass.planning.candidates import block_of, channel_group
from ndpass.planning.choose import Fronts, least_damage, separate
from ndpass.planning.latency_table import CORRECTION, COUNTABLE, ROUNDS, SECONDS, Settled, Table, kind
from ndpass.planning.shared_savings import Forest

log = logging.getLogger(__name__)

SETTLE = 5  # plans that are made anew for one wish; after that layers that are slower only go back
CLOSE = 0.03  # a wish for a latency is met within this
RIVAL = 1.1  # plans within this of the fastest are timed beside it
REPEATS = 2  # comparisons of the length of one, to tell rivals apart


@dataclass
class Search:
    """fresh: the graph before any rewriting, new at each call; fronts: of layers that depend on each other
    (`ndpass.planning.channel_savings`); scale: of the table's seconds now, over what they were at first."""

    fresh: Callable[[], Graph]
    passes: Sequence[Pass]
    table: Table
    target: Target
    reverted: dict[str, str] = field(default_factory=dict)  # site -> why what was tried there was taken back
    fronts: Fronts = separate
    scale: float = 1.0

    @property
    def least(self) -> float:
        """Seconds of the whole model at its fastest, as predicted."""
        return self._least(None)

    def _least(self, alone: str | None) -> float:
        kept, pairs = self.fronts(self._ways(alone), seconds_of)
        costs = [np.array([seconds_of(c) for c in front]) for front in kept.values()]
        return self.table.rest + float(Forest([len(c) for c in costs], pairs).least(costs))

    def for_speedup(self, wanted: float) -> Settled:
        """The plan of least damage that makes the whole model `wanted` times as fast, measured. Raises BudgetError."""
        aim, best, fastest = self.table.whole / wanted, None, 0.0
        enough, too_slow = 0.0, math.inf  # the slowest aim that was fast enough, the fastest that was not
        for _ in range(SETTLE):
            if aim < self.least * (1 - 1e-9):
                fastest = max(fastest, self.table.whole / self.least)
                break
            before, found = self.scale, self.settled(aim)
            aim, enough, too_slow = (x * self.scale / before for x in (aim, enough, too_slow))
            fastest = max(fastest, found.speedup)
            if found.speedup >= wanted and (best is None or found.damage < best.damage):
                best = found
            if wanted <= found.speedup <= wanted * (1 + CLOSE):
                break
            if found.speedup >= wanted:
                enough = max(enough, aim)
            else:
                too_slow = min(too_slow, aim)
            aim *= found.speedup / (wanted * (1 + CLOSE / 2))
            if 0 < enough < too_slow < math.inf and not enough < aim < too_slow:
                aim = math.sqrt(enough * too_slow)
        if best is None:
            most = math.floor(100 * 0.98 * fastest) / 100
            raise BudgetError(f"--speedup {wanted:g} cannot be reached: {reachable(most)}")
        return best

    def fastest(self, wanted: float) -> Settled:
        """The fastest of the plans that are predicted to do `wanted` damage: of all passes, and of each alone."""
        near = self.aim_for(wanted) * RIVAL
        names = [p.name for p in self.passes] if len(self.passes) > 1 else []
        rivals = [name for name in names if self.aim_for(wanted, name) <= near]
        found = [self.settled(self.aim_for(wanted))]
        for name in rivals:
            rival = self.settled(self.aim_for(wanted, name), name)
            if all(rival.plan != one.plan for one in found):
                found.append(rival)
        return max(self.in_turns(found), key=lambda settled: settled.speedup)

    def in_turns(self, found: Sequence[Settled]) -> list[Settled]:
        """The plans with speedups that were measured side by side."""
        if len(found) < 2:
            return list(found)
        graph = self.fresh()
        feed = feed_of(graph.inputs(), graph.sizes, self.target)
        models = [graph.runnable(), *(self.stand_in(self.fresh(), one.plan).runnable() for one in found)]
        speedups = self._speedups(models, feed, REPEATS)
        log.info("in turns: %s", ", ".join(f"{np.median(s):.2f}" for s in speedups))
        return [
            replace(one, speedups=own, seconds=self.table.whole / float(np.median(own)))
            for one, own in zip(found, speedups, strict=True)
        ]

    def settled(self, aim: float, alone: str | None = None) -> Settled:
        """The plan of least damage predicted to take `aim` seconds, none of its layers slower in place than it was.

        alone: the only pass that it may have.
        """
        plan = self._plan(aim, alone)
        for tried in itertools.count(1):
            found = self.timed(plan)
            slower = self._take_back(found)
            self._correct(found)
            if not slower:
                break
            log.info("taken back: %s", ", ".join(slower))
            if tried < SETTLE:
                plan = self._plan(aim, alone)
            else:  # whatever the aim: fewer layers are rewritten each time, so this ends
                plan = {name: self._kept(name) if name in slower else c for name, c in plan.items()}
        return found

    def aim_for(self, wanted: float, alone: str | None = None) -> float:
        """The seconds at which the plan of least damage does as much damage as `wanted`, by bisection."""
        low, high = self._least(alone), self.table.whole
        for _ in range(12):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if damage(self._plan(middle, alone)) <= wanted else (middle, high)
        return high

    def _ways(self, alone: str | None) -> dict[str, list[Candidate]]:
        """The candidates of all passes, or of one alone."""
        every = self.table.candidates
        if alone is None:
            return every
        return {name: [c for c in ways if set(c.setting) <= {alone}] for name, ways in every.items()}

    def _plan(self, aim: float, alone: str | None = None) -> dict[str, Choice]:
        room = max(aim, self._least(alone) * (1 + 1e-9)) - self.table.rest
        plan = least_damage(self._ways(alone), room, seconds_of, self.fronts)
        return {name: choice if choice.candidate.setting else self._kept(name) for name, choice in plan.items()}

    def _kept(self, name: str) -> Choice:
        ways = self.table.candidates[name]
        if name in self.reverted:
            return Choice(ways[0], self.reverted[name], "reverted")
        if len(pareto(ways, seconds_of)) == 1:
            return Choice(ways[0], "nothing that was timed is faster than it is")
        return Choice(ways[0], "the budget is met with less damage elsewhere")

    def timed(self, plan: dict[str, Choice]) -> Settled:
        """The plan on a stand-in, in turns with the original, and layer by layer."""
        graph = self.fresh()
        feed = feed_of(graph.inputs(), graph.sizes, self.target)
        original = graph.runnable()
        model = self.stand_in(graph, plan).runnable()
        (speedups,) = self._speedups([original, model], feed)
        seconds = self.table.whole / float(np.median(speedups))
        in_place = layer_seconds(model, self.target, feed, list(plan), seconds)
        return Settled(plan, speedups, seconds, in_place, damage(plan))

    def _speedups(self, models: Sequence[Runnable], feed: Feed, repeats: int = 1) -> list[list[float]]:
        """The first model's time over that of each other, by round; timed in turns `repeats` times over."""
        read = [loaded(m, self.target, feed) for m in models]  # once; they are compiled more often
        found: list[list[float]] = [[] for _ in models[1:]]
        for _ in range(repeats):
            original, *others = time_anew(
                lambda: [inference(m, self.target, feed) for m in read],
                seconds=SECONDS * len(models) / 2,
                min_rounds=ROUNDS,
            )
            for speedups, own in zip(found, others, strict=True):
                speedups += [a / b for a, b in zip(original, own, strict=True)]
        return found

    def stand_in(self, graph: Graph, plan: Mapping[str, Choice]) -> Graph:
        """The graph rewritten as planned, with random weights; channels that cp would choose are the first ones."""
        rng = np.random.default_rng(0)
        for site in [s for s in graph.sites() if isinstance(s, Site) and s.name in plan]:
            setting = plan[site.name].candidate.setting
            if not setting:
                continue
            group = channel_group(graph, site, self.passes)
            if "cp" in setting and isinstance(group, Group):
                kept = group.filled(np.arange(int(setting["cp"]["channels"])))
                graph.keep_channels(group, kept)
            now = next(s for s in graph.sites() if s.name == site.name)
            assert isinstance(now, Site)
            inner = {name: s for name, s in setting.items() if name != "cp"}
            graph.splice(now, block_of(now, self.passes, inner).map_leaves(lambda leaf: filled(leaf, rng)))
        graph.tidy()
        return graph

    def _take_back(self, found: Settled) -> list[str]:
        """Rule out what is not faster in place than the layer was; the names of those layers."""
        slower = []
        for name, choice in found.plan.items():
            before, after = self.table.in_place[name], found.in_place[name]
            if not choice.candidate.setting or before < COUNTABLE or after < before:
                continue
            slower.append(name)
            self.reverted[name] = f"in place it took {1e6 * after:.0f} µs, as it is {1e6 * before:.0f} µs"
            same = kind(choice.candidate)
            self.table.candidates[name] = [
                c
                for i, c in enumerate(self.table.candidates[name])
                if i == 0 or kind(c) != same or c.macs < choice.candidate.macs
            ]
        return slower

    def _correct(self, found: Settled) -> None:
        """Scale the candidates of each kind that was timed in place by how far its time was from what was predicted.

        All others by how far the times of those were together, layers left as they are counted as predicted right:
        what lies between a small model and the whole one is much the same for all candidates, and without it what was
        timed and what was not could not be compared. What was just taken back counts as well: what is left of its kind
        would be tried next at the same optimism.
        """
        ratios, after, predicted = {}, 0.0, 0.0
        for name, choice in found.plan.items():
            own, table = found.in_place[name], choice.candidate.seconds or 0.0
            if not choice.candidate.setting or own < COUNTABLE or not table:
                own = table
            else:
                ratios[name, kind(choice.candidate)] = float(np.clip(own / table, *CORRECTION))
            after, predicted = after + own, predicted + table
        if not ratios:
            return
        together = float(np.clip(after / predicted, *CORRECTION))
        self.table.candidates = {
            name: ways[:1]
            + [replace(c, seconds=seconds_of(c) * ratios.get((name, kind(c)), together)) for c in ways[1:]]
            for name, ways in self.table.candidates.items()
        }
        self.scale *= together


def reachable(speedup: float) -> str:
    """What to ask for instead."""
    if speedup <= 1:
        return "no rewrite was measured faster than the original; allow more passes (--passes auto) or --precision f32"
    return f"the best measured is {speedup:.2f} times as fast; ask for --speedup {speedup:.2f}, or allow more passes"
