"""Stand-ins: networks of the planned shapes with random weights, timed whole and by layer.

How long a network takes does not depend on its numbers. So a plan can be timed in place before anything is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_model import filled
from ndpass.measuring.machine import Machine, time_models
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.runtime import Feed, Runnable
from ndpass.measuring.turns import COMPILED, ratios
from ndpass.passes import Pass
from ndpass.planning.blocks import mergeable
from ndpass.planning.candidate import Choice
from ndpass.planning.candidates import block_of
from ndpass.planning.pass_kinds import split

SECONDS, ROUNDS = 1.5, 10  # of a comparison of two whole models
REPEATS = 2  # comparisons of that length that tell rivals apart


def stand_in(graph: Graph, plan: Mapping[str, Choice], passes: Sequence[Pass]) -> Graph:
    """Rewrite the graph in place as planned, with random weights, and return it.

    Where channels are pruned the first ones are kept, whichever pruning would choose.
    """
    rng = np.random.default_rng(0)
    _, pruning = split(passes)
    names = [site.name for site in graph.sites()]
    for last, block in mergeable(graph, passes, names, calibrated=True).items():
        if last in plan and block.merged(plan[last].candidate):
            graph.merge(
                block.branch, block.outline(plan[last].candidate.setting).map_leaves(lambda leaf: filled(leaf, rng))
            )
            plan = {name: choice for name, choice in plan.items() if name not in block.branch.layers}
    thinned: set[str] = set()  # layers whose channels have been pruned with those of an earlier one
    for site in [s for s in graph.sites() if isinstance(s, Site) and s.name in plan]:
        setting = plan[site.name].candidate.setting
        if not setting:
            continue
        group = graph.channel_group(site) if site.name not in thinned else ""
        if pruning is not None and pruning.name in setting and isinstance(group, Group):
            channels = np.arange(pruning.kept(setting[pruning.name]))
            graph.keep_channels(group, group.filled(channels))
            thinned.update(group.readers)
        now = next(s for s in graph.sites() if s.name == site.name)
        assert isinstance(now, Site)
        inner = {name: s for name, s in setting.items() if pruning is None or name != pruning.name}
        graph.splice(now, block_of(now, passes, inner).map_leaves(lambda leaf: filled(leaf, rng)))
    graph.tidy()
    return graph


@dataclass(frozen=True)
class PlanTimes:
    """speedups: time of the original over that of the plan's stand-in, by round; shares: layer -> share of its time."""

    speedups: list[float]
    shares: Mapping[str, float]


class PlanTimer(Protocol):
    """What times plans beside the original."""

    def time(self, plan: Mapping[str, Choice]) -> PlanTimes:
        """One plan, whole and layer by layer."""
        ...

    def compare(self, plans: Sequence[Mapping[str, Choice]]) -> list[list[float]]:
        """The speedups of several plans, by round, all measured in the same rounds."""
        ...


@dataclass(frozen=True)
class StandIns:
    """Times plans on stand-ins. fresh: the graph before any rewriting, a new one at each call; seconds: of a comparison
    of two models."""

    fresh: Callable[[], Graph]
    passes: Sequence[Pass]
    machine: Machine
    seconds: float = field(default_factory=lambda: SECONDS)

    def time(self, plan: Mapping[str, Choice]) -> PlanTimes:
        graph = self.fresh()
        feed, original = self._feed(graph), graph.runnable()
        model = stand_in(graph, plan, self.passes).runnable()
        (speedups,) = self._speedups([original, model], feed, 1)
        return PlanTimes(speedups, self.machine.shares(model, feed, list(plan)))

    def compare(self, plans: Sequence[Mapping[str, Choice]]) -> list[list[float]]:
        graph = self.fresh()
        models = [graph.runnable(), *(stand_in(self.fresh(), plan, self.passes).runnable() for plan in plans)]
        return self._speedups(models, self._feed(graph), REPEATS)

    def _feed(self, graph: Graph) -> Feed:
        return feed_of(graph.inputs(), graph.sizes, self.machine.target)

    def _speedups(self, models: Sequence[Runnable], feed: Feed, repeats: int) -> list[list[float]]:
        """The first model's time over that of each other, [model][round]."""
        original, *others = time_models(
            self.machine,
            models,
            feed,
            seconds=repeats * self.seconds * len(models) / 2,
            min_rounds=repeats * ROUNDS,
            compiled=repeats * COMPILED,
        )
        return [ratios(original, own) for own in others]


def time_original(
    graph: Graph, machine: Machine, names: Collection[str], seconds: float | None = None
) -> tuple[float, dict[str, float]]:
    """Seconds of the whole graph, by the clock, and of each layer inside it; seconds: how long to time it."""
    model, feed = graph.runnable(), feed_of(graph.inputs(), graph.sizes, machine.target)
    (rounds,) = time_models(machine, [model], feed, seconds=SECONDS if seconds is None else seconds, min_rounds=ROUNDS)
    whole, shares = float(np.median(rounds)), machine.shares(model, feed, names)
    return whole, {name: whole * shares[name] for name in names}
