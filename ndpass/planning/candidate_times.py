"""Times candidates in small models and makes the table of what they take.

Which ones are timed is in `ndpass.planning.timed_rounds`; of the smallest layers, compositions are not, for what they
could save is little and to time them takes as long as in large ones. The candidates of a layer are then scaled alike so
that the layer as it is takes what it takes inside the whole network.
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
from ndpass.planning.candidate import Candidate, CandidateStore, seconds_of
from ndpass.planning.candidates import block_of
from ndpass.planning.deadline import TIMED, Deadline
from ndpass.planning.latency_table import CORRECTION, VISIBLE, LatencyTable
from ndpass.planning.shared_channels import SharedChannels, channel_group
from ndpass.planning.stand_in import time_original
from ndpass.planning.timed_rounds import Timer, timed_in_rounds

SMALL = 0.1  # of the MACs of all layers, that the smallest ones have together


def timed_table(
    graph: Graph,
    sites: Sequence[Site],
    candidates: Mapping[str, Sequence[Candidate]],
    passes: Sequence[Pass],
    latencies: Latencies,
    listen: Listener = lambda *_: None,
    store: CandidateStore | None = None,
    deadline: Deadline | None = None,
) -> LatencyTable:
    """The table of a graph that has not been rewritten yet.

    candidates: of each site, the first as the layer is. store: where the timed candidates of each layer are kept as
    they come. deadline: when the rest of the layers, those with the fewest MACs, is left as it is.
    """
    small: dict[str, list[Candidate]] = {}
    named = {site.name: site for site in sites}
    merged = mergeable(graph, passes, list(named), calibrated=True)
    small_ones = _smallest(sites, SMALL)
    for i, site in enumerate(sorted(sites, key=lambda site: -(site.macs(site.outline) or 0))):
        tell(listen, Step("timing", i, len(sites), site.name))
        known = store.load_candidates(site.name) if store else None
        if known is not None:
            small[site.name] = known
            continue
        if deadline and (site.name in deadline.left_out or deadline.is_near(TIMED)):
            deadline.leave_out(site)
            small[site.name] = timed_in_rounds(candidates[site.name][:1], _timer(graph, site, passes, latencies))
            continue
        block, batch = merged.get(site.name), latencies.machine.target.batch
        inside = [c for c in candidates[site.name] if not _merges(block, c)]
        if site.name in small_ones:
            inside = _single(inside)
        small[site.name] = timed_in_rounds(inside, _timer(graph, site, passes, latencies))
        if block is not None:
            rows = rows_of(graph, named[block.branch.first], batch)
            small[site.name] += _merged(block, candidates[site.name], latencies, rows)
        if store:
            store.save_candidates(site.name, small[site.name])
    latencies.let_go()
    whole, in_place = time_original(graph, latencies.machine, list(small))
    others = {last: list(block.branch.layers[:-1]) for last, block in merged.items()}
    ways = {name: corrected(small[name], in_place[name]) for name in named}
    left_out, together = list(deadline.left_out) if deadline else [], SharedChannels.of(graph, sites, passes)
    return LatencyTable(ways, whole, in_place, blocks=others, left_out=left_out, together=together)


def _smallest(sites: Sequence[Site], share: float) -> set[str]:
    """The layers with the fewest MACs that have together at most this share of them."""
    macs = {site.name: site.macs(site.outline) or 0 for site in sites}
    names = sorted(macs, key=macs.__getitem__)
    together = np.cumsum([macs[name] for name in names])
    return {name for name, own in zip(names, together, strict=True) if own <= share * together[-1]}


def _single(ways: list[Candidate]) -> list[Candidate]:
    """Those of no pass or one, if there are any of one: with pinned settings all may be compositions."""
    found = [c for c in ways if len(c.setting) < 2]
    return found if len(found) > 1 else ways


def _merged(block: Mergeable, ways: Sequence[Candidate], latencies: Latencies, rows: int) -> list[Candidate]:
    """The candidates that merge the block, with seconds, beside the largest convolution; rows: of the block's input.

    A branch that is dropped takes no time: what is left of it is in the sum, or in another layer's bias.
    """
    own = [c for c in ways if block.merged(c)]
    gone, timed = [replace(c, seconds=0.0) for c in own if not c.macs], [c for c in own if c.macs]

    def times(few: Sequence[Candidate]) -> list[float]:
        return latencies.of([block.outline(c.setting) for c in few], block.branch.in_hw, rows)

    if not timed:
        return gone
    settings = ({block.rule.name: c.setting[block.rule.name]} for c in timed)
    beside = max((Candidate(block.cost(s), math.inf, s) for s in settings), key=lambda c: c.macs)  # nothing to choose
    return [*gone, *timed_in_rounds([beside, *timed], times)[1:]]


def _merges(block: Mergeable | None, candidate: Candidate) -> bool:
    return block is not None and block.merged(candidate)


def _timer(graph: Graph, site: Site, passes: Sequence[Pass], latencies: Latencies) -> Timer:
    """What times candidates of a layer, the first as it is."""
    group, rows = channel_group(graph, site, passes), rows_of(graph, site, latencies.machine.target.batch)

    def times(few: Sequence[Candidate]) -> list[float]:
        blocks = [block_of(site, passes, c.setting, group) for c in few]
        return latencies.of(blocks, site.in_hw or (), rows, site.transposed)

    return times


def rows_of(graph: Graph, site: Site, batch: int) -> int:
    """Rows of the site's input at a batch of `batch` samples: all its axes but the features and the spatial ones.

    A batch that the model fixes itself is in the shapes already, so it is not multiplied in a second time.
    """
    shape = graph.shapes(batch)[graph.input_of(site)]
    return shape[0] if site.outline.kernel else math.prod(shape[:-1])


def corrected(ways: Sequence[Candidate], in_place: float) -> list[Candidate]:
    """The candidates scaled alike, so that the first takes `in_place` seconds; as they are where counters show none."""
    ratio = float(np.clip(in_place / seconds_of(ways[0]), *CORRECTION)) if in_place >= VISIBLE else 1.0
    return [replace(c, seconds=ratio * seconds_of(c)) for c in ways]
