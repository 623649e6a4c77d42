"""What candidates cost in milliseconds on the target: timed in small models, corrected by the whole one.

Of a layer's candidates those count that nothing of their kind (passes and forms) beats. At most PER_KIND of a kind are
timed, PER_COMPOSITION where passes are composed, their MACs in a geometric row: what is worth having is often a tenth
of the layer, and there ranks lie close. The others' seconds are interpolated by MACs between their timed neighbours: on
VGG16 for CIFAR-10 that is off by 7 % in the median between three, and by 6 % between any two next to each other, for
kernels have steps of their own. Most of what there is to time are compositions. Where the layer takes another time
inside the whole network than in its small model (other layouts around it, other caches), the whole model is right: the
candidates of that layer are scaled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ndpass.conv import Block
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.layer_profile import inference, layer_seconds
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.target import Target
from ndpass.measuring.turns import time_anew
from ndpass.planning.candidate import Candidate, Choice, pareto, seconds_of

PER_KIND = 6
PER_COMPOSITION = 3
CORRECTION = (0.25, 4.0)  # limits: beyond, the counters and the clock do not speak of the same nodes
SECONDS, ROUNDS = 1.5, 10  # of a comparison of whole models


@dataclass
class Table:
    """Site name -> candidates with seconds, the first as the layer is; whole: seconds of the original by the clock.

    in_place: seconds of each site inside the original.
    """

    candidates: dict[str, list[Candidate]]
    whole: float
    in_place: dict[str, float]

    @property
    def rest(self) -> float:
        """Seconds of what is not among the sites."""
        return max(0.0, self.whole - sum(seconds_of(ways[0]) for ways in self.candidates.values()))

    def predicted(self, chosen: Mapping[str, Candidate]) -> float:
        """Seconds of the whole model with these candidates."""
        return self.rest + sum(map(seconds_of, chosen.values()))


def kind(candidate: Candidate) -> tuple[str, ...]:
    """What passes a candidate is of and in what form: all of its setting but the numbers."""
    words = [(name, *sorted(str(v) for v in s.values() if isinstance(v, str))) for name, s in candidate.setting.items()]
    return tuple(":".join(word) for word in words)


def fronts_of(ways: Sequence[Candidate]) -> list[list[Candidate]]:
    """Of every kind among ways[1:] those that nothing of their kind beats, fewest MACs first."""
    kinds: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in ways[1:]:
        kinds.setdefault(kind(candidate), []).append(candidate)
    return [sorted(pareto(same), key=lambda c: c.macs) for same in kinds.values()]


def thinned(front: Sequence[Candidate]) -> list[Candidate]:
    """The first, the last and some between, their MACs as near to a geometric row as there are."""
    most = PER_KIND if len(front[0].setting) == 1 else PER_COMPOSITION
    if len(front) <= most:
        return list(front)
    logs = np.log([c.macs for c in front])
    wanted = np.linspace(logs[0], logs[-1], most)
    return [front[i] for i in np.unique([np.abs(logs - w).argmin() for w in wanted])]


def interpolated(front: Sequence[Candidate], timed: Mapping[int, float]) -> list[Candidate]:
    """All of a front with seconds; timed: MACs -> seconds of those that were timed, first and last among them."""
    macs = sorted(timed)
    return [replace(c, seconds=float(np.interp(c.macs, macs, [timed[m] for m in macs]))) for c in front]


def priced(
    graph: Graph,
    sites: Sequence[Site],
    candidates: Mapping[str, Sequence[Candidate]],
    block_of: Callable[[Site, Candidate], Block],
    target: Target,
    latencies: Latencies,
    listen: Callable[[int, int], None] = lambda *_: None,
) -> Table:
    """The table of a graph that has not been rewritten yet. block_of: the shapes that a candidate gives the layer."""
    small: dict[str, list[Candidate]] = {}
    for i, site in enumerate(sites):
        listen(i, len(sites))
        dense, fronts = candidates[site.name][0], fronts_of(candidates[site.name])
        few = [dense, *(c for front in fronts for c in thinned(front))]
        rows = None if site.outline.kernel else site.rows * target.batch
        times = iter(latencies.of([block_of(site, c) for c in few], site.in_hw or (), rows))
        small[site.name] = [replace(dense, seconds=next(times))]
        for front in fronts:
            small[site.name] += interpolated(front, {c.macs: next(times) for c in thinned(front)})
    model, feed = graph.runnable(), feed_of(graph.inputs(), graph.sizes, target)
    (rounds,) = time_anew(lambda: [inference(model, target, feed)], seconds=SECONDS, min_rounds=ROUNDS)
    clock = float(np.median(rounds))
    in_place = layer_seconds(model, target, feed, list(small), clock)
    return Table({n: corrected(ways, in_place[n]) for n, ways in small.items()}, clock, in_place)


def corrected(ways: Sequence[Candidate], in_place: float) -> list[Candidate]:
    """The candidates of a layer that takes `in_place` seconds as it is, the ratios between them as they were."""
    ratio = float(np.clip(in_place / seconds_of(ways[0]), *CORRECTION)) if in_place > 0 else 1.0
    return [replace(c, seconds=ratio * seconds_of(c)) for c in ways]


COUNTABLE = 10e-6  # seconds; the runtime's counters are cut to whole microseconds, so shorter layers are not judged


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
