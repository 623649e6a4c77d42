"""Times candidates in small models and makes the table of what they take.

Of a layer's candidates those count that no other of their kind (passes and forms) beats, as far as is known. At most
PER_KIND of a kind are timed, PER_COMPOSITION where passes are composed. Their MACs are near a geometric row: what is
worth having is often a tenth of the layer, and ranks lie close there. The others' seconds are interpolated by MACs
between their timed neighbours. On VGG16 for CIFAR-10 that is off by 7 % in the median between three timed ones, and by
6 % between any two next to each other, because kernels have steps of their own. Most of what there is to time are
compositions.

The candidates of a layer are then scaled alike so that the layer as it is takes what it takes inside the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ndpass.graph.graph import Graph, Site
from ndpass.listener import Listener, Step, tell
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import Pass
from ndpass.planning.blocks import Mergeable, mergeable
from ndpass.planning.candidate import Candidate, CandidateStore, possible, seconds_of
from ndpass.planning.candidates import block_of, channel_group
from ndpass.planning.latency_table import CORRECTION, VISIBLE, LatencyTable, kind
from ndpass.planning.stand_in import time_original

PER_KIND = 6
PER_COMPOSITION = 3


def timed_table(
    graph: Graph,
    sites: Sequence[Site],
    candidates: Mapping[str, Sequence[Candidate]],
    passes: Sequence[Pass],
    latencies: Latencies,
    listen: Listener = lambda *_: None,
    store: CandidateStore | None = None,
) -> LatencyTable:
    """The table of a graph that has not been rewritten yet.

    candidates: of each site, the first as the layer is. store: where the timed candidates of each layer are kept as
    they come.
    """
    small: dict[str, list[Candidate]] = {}
    named = {site.name: site for site in sites}
    merged = mergeable(graph, passes, list(named), calibrated=True)
    for i, site in enumerate(sites):
        tell(listen, Step("timing", i, len(sites), site.name))
        known = store.load_candidates(site.name) if store else None
        if known is not None:
            small[site.name] = known
            continue
        block, batch = merged.get(site.name), latencies.machine.target.batch
        dense, fronts = candidates[site.name][0], fronts_of([c for c in candidates[site.name] if not _merges(block, c)])
        few = [dense, *(c for front in fronts for c in thinned(front))]
        group, rows = channel_group(graph, site, passes), rows_of(graph, site, batch)
        blocks = [block_of(site, passes, c.setting, group) for c in few]
        times = iter(latencies.of(blocks, site.in_hw or (), rows))
        small[site.name] = [replace(dense, seconds=next(times))]
        for front in fronts:
            small[site.name] += interpolated(front, {c.macs: next(times) for c in thinned(front)})
        if block is not None:
            rows = rows_of(graph, named[block.branch.first], batch)
            small[site.name] += _merged(block, candidates[site.name], latencies, rows)
        if store:
            store.save_candidates(site.name, small[site.name])
    whole, in_place = time_original(graph, latencies.machine, list(small))
    others = {last: list(block.branch.layers[:-1]) for last, block in merged.items()}
    ways = {name: corrected(own, in_place[name]) for name, own in small.items()}
    return LatencyTable(ways, whole, in_place, blocks=others)


def _merged(block: Mergeable, ways: Sequence[Candidate], latencies: Latencies, rows: int) -> list[Candidate]:
    """The candidates that merge the block, timed as the one convolution that they are; rows: of the block's input."""
    own = [c for c in ways if block.merged(c)]
    times = latencies.of([block.shape(c) for c in own], block.branch.in_hw, rows)
    return [replace(c, seconds=seconds) for c, seconds in zip(own, times, strict=True)]


def _merges(block: Mergeable | None, candidate: Candidate) -> bool:
    return block is not None and block.merged(candidate)


def rows_of(graph: Graph, site: Site, batch: int) -> int:
    """Rows of the site's input at a batch of `batch` samples: all its axes but the features and the spatial ones.

    A batch that the model fixes itself is in the shapes already, so it is not multiplied in a second time.
    """
    shape = graph.shapes(batch)[graph.input_of(site)]
    return shape[0] if site.outline.kernel else math.prod(shape[:-1])


def fronts_of(ways: Sequence[Candidate]) -> list[list[Candidate]]:
    """Of every kind among ways[1:] the candidates that no other of their kind is known to beat, fewest MACs first."""
    kinds: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in ways[1:]:
        kinds.setdefault(kind(candidate), []).append(candidate)
    return [possible(same) for same in kinds.values()]


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


def corrected(ways: Sequence[Candidate], in_place: float) -> list[Candidate]:
    """The candidates scaled alike, so that the first takes `in_place` seconds; as they are where counters show none."""
    ratio = float(np.clip(in_place / seconds_of(ways[0]), *CORRECTION)) if in_place >= VISIBLE else 1.0
    return [replace(c, seconds=ratio * seconds_of(c)) for c in ways]
