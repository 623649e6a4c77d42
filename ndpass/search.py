"""Plans for a budget in milliseconds or in the metric: what is chosen is timed in place before anything is fitted.

How long a network takes does not depend on its numbers. So a plan is first tried on a stand-in, the network with blocks
of the planned shapes and random weights: whole and layer by layer. A layer that is not faster there than it was goes
back to what it was, the times of the others correct the table, and the rest is planned anew. Only what has passed is
fitted, which takes minutes; `within_drop` fits at most MOST_FITS plans to find the fastest whose metric falls by no
more than is allowed.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from ndpass.candidates import block_of
from ndpass.errors import BudgetError
from ndpass.graph import Graph, Site
from ndpass.groups import Group
from ndpass.latency_model import filled
from ndpass.pairs import Forest
from ndpass.passes import Pass
from ndpass.planner import Choice, Fronts, damage, least_damage, pareto, seconds_of, separate
from ndpass.pricing import CORRECTION, ROUNDS, SECONDS, Table, feed_of, kind, layer_seconds
from ndpass.profiling import inference, loaded
from ndpass.rewriting import channel_group
from ndpass.target import Target
from ndpass.timing import time_anew

log = logging.getLogger(__name__)

SETTLE = 5  # plans that are made anew for one wish; after that layers that are slower only go back
CLOSE = 0.03  # a wish for a latency is met within this
MOST_FITS = 5
COUNTABLE = 10e-6  # seconds; the runtime's counters are cut to whole microseconds, so shorter layers are not judged
FIRST_DAMAGE = 0.025  # predicted divergence, in nats, for each point of accuracy: where the first fit is tried
STEPS = (0.02, 4.0)  # by which the damage may fall and grow from one fit to the next
TOLD_APART = 0.03  # latencies closer than this need no further fit

T = TypeVar("T")


@dataclass(frozen=True)
class Settled:
    """A plan as timed in place. speedups: original over stand-in, by round; seconds: of the whole, relative to the
    table's; in_place: of each layer; damage: predicted divergence of the outputs."""

    plan: dict[str, Choice]
    speedups: list[float]
    seconds: float
    in_place: dict[str, float]
    damage: float

    @property
    def speedup(self) -> float:
        return float(np.median(self.speedups))


@dataclass
class Search:
    """fresh: the graph before any rewriting, new at each call; fronts: of layers that depend on each other
    (`ndpass.coupling`)."""

    fresh: Callable[[], Graph]
    passes: Sequence[Pass]
    table: Table
    target: Target
    reverted: dict[str, str] = field(default_factory=dict)  # site -> why what was tried there was taken back
    fronts: Fronts = separate

    @property
    def least(self) -> float:
        """Seconds of the whole model at its fastest, as predicted."""
        kept, pairs = self.fronts(self.table.candidates, seconds_of)
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
            found = self.settled(aim)
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
            reachable = math.floor(100 * 0.98 * fastest) / 100
            raise BudgetError(f"--speedup {wanted:g} cannot be reached: {_reachable(reachable)}")
        return best

    def settled(self, aim: float) -> Settled:
        """The plan of least damage predicted to take `aim` seconds, none of its layers slower in place than it was."""
        plan = self._plan(aim)
        for tried in itertools.count(1):
            found = self.timed(plan)
            slower = self._take_back(found)
            self._correct(found)
            if not slower:
                break
            log.info("taken back: %s", ", ".join(slower))
            if tried < SETTLE:
                plan = self._plan(aim)
            else:  # whatever the aim: fewer layers are rewritten each time, so this ends
                plan = {name: self._kept(name) if name in slower else c for name, c in plan.items()}
        return found

    def aim_for(self, wanted: float) -> float:
        """The seconds at which the plan of least damage does as much damage as `wanted`, by bisection."""
        low, high = self.least, self.table.whole
        for _ in range(12):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if damage(self._plan(middle)) <= wanted else (middle, high)
        return high

    def _plan(self, aim: float) -> dict[str, Choice]:
        room = max(aim, self.least * (1 + 1e-9)) - self.table.rest
        plan = least_damage(self.table.candidates, room, seconds_of, self.fronts)
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
        pair = [loaded(m, self.target, feed) for m in (original, model)]  # once; they are compiled more often
        a, b = time_anew(lambda: [inference(m, self.target, feed) for m in pair], seconds=SECONDS, min_rounds=ROUNDS)
        speedups = [x / y for x, y in zip(a, b, strict=True)]
        seconds = self.table.whole / float(np.median(speedups))
        in_place = layer_seconds(model, self.target, feed, list(plan), seconds)
        return Settled(plan, speedups, seconds, in_place, damage(plan))

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
                c for i, c in enumerate(self.table.candidates[name])
                if i == 0 or kind(c) != same or c.macs < choice.candidate.macs
            ]  # fmt: skip
        return slower

    def _correct(self, found: Settled) -> None:
        """Scale the candidates of each kind that was timed in place by how far its time was from what was predicted."""
        for name, choice in found.plan.items():
            after, predicted = found.in_place[name], choice.candidate.seconds
            if not choice.candidate.setting or name in self.reverted or after < COUNTABLE or not predicted:
                continue
            ratio, same = float(np.clip(after / predicted, *CORRECTION)), kind(choice.candidate)
            self.table.candidates[name] = [
                replace(c, seconds=ratio * seconds_of(c)) if i and kind(c) == same else c
                for i, c in enumerate(self.table.candidates[name])
            ]


@dataclass(frozen=True)
class Fit(Generic[T]):
    """A plan that has been fitted: drop in points of the metric; result: what `within_drop`'s `fit` has made."""

    settled: Settled
    drop: float
    result: T


def within_drop(
    search: Search,
    limit: float,
    settle: Callable[[float, int], Settled],
    fit: Callable[[Settled, int], tuple[float, T]],
    at_least: float = 1.0,
) -> Fit[T]:
    """The fastest plan whose measured drop is at most `limit` points, by bisection on the damage.

    settle: (damage, number) -> a plan that does as much, timed in place; fit: (plan, number) -> drop and its result.
    at_least: the speedup that is asked for too. Raises BudgetError.
    """
    best: Fit[T] | None = None
    tried: list[tuple[float, float]] = []  # damage, drop
    failed, wanted = math.inf, FIRST_DAMAGE * limit
    for number in range(MOST_FITS):
        settled = settle(wanted, number)
        if not any(c.candidate.setting for c in settled.plan.values()) or settled.speedup <= 1:
            log.info("at a predicted damage of %.3g nothing is faster", wanted)
            drop, ok, done = 0.0, True, wanted
        else:
            done = settled.damage
            drop, result = fit(settled, number)
            ok = drop <= limit
            log.info("fit %d: %.2f times as fast, drop %.2f", number + 1, settled.speedup, drop)
            if ok and settled.speedup > (best.settled.speedup if best else 1.0):
                best = Fit(settled, drop, result)
        tried.append((done, drop))
        failed = failed if ok else min(failed, done)
        passed = max((damage for damage, drop in tried if drop <= limit), default=0.0)
        if ok and settled.seconds <= search.least * (1 + TOLD_APART):
            break  # nothing is faster
        wanted = _next(limit, tried, passed, failed)
        if best and search.aim_for(wanted) > best.settled.seconds * (1 - TOLD_APART):
            break
    if best is None or best.settled.speedup < at_least:
        raise BudgetError(_why_not(search, limit, at_least, best, tried))
    return best


def _next(limit: float, tried: Sequence[tuple[float, float]], passed: float, failed: float) -> float:
    """The damage to try next: where drop, taken as proportional to damage, meets the limit; inside the bracket."""
    damage, drop = tried[-1]
    wanted = damage * float(np.clip(0.95 * limit / drop if drop > 0 else STEPS[1], *STEPS))
    if failed < math.inf and not passed < wanted < failed:
        wanted = math.sqrt(passed * failed) if passed > 0 else failed / STEPS[1]
    return wanted


def _why_not(
    search: Search, limit: float, at_least: float, best: Fit[T] | None, tried: Sequence[tuple[float, float]]
) -> str:
    if best is not None:
        reachable = math.floor(100 * best.settled.speedup) / 100
        return f"--speedup {at_least:g} with --max-drop {limit:g} cannot be reached: {_reachable(reachable)}"
    if all(drop == 0 for _, drop in tried):
        return f"nothing on this CPU at {search.target.precision} is faster: {_reachable(1.0)}"
    least = min(drop for _, drop in tried if drop > 0)
    return f"--max-drop {limit:g} cannot be met: the least drop of {len(tried)} plans was {least:.2f}; ask for that"


def _reachable(speedup: float) -> str:
    if speedup <= 1:
        return "no rewrite was measured faster than the original; allow more passes (--passes auto) or --precision f32"
    return f"the best measured is {speedup:.2f} times as fast; ask for --speedup {speedup:.2f}, or allow more passes"
