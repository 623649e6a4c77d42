"""How many samples go through a network at once."""

from __future__ import annotations

from ndpass.graph.graph import Graph
from ndpass.graph.input_spec import static_batch

SHARE = 8  # of the memory that the largest tensor of a batch takes at most; a runtime holds several at once


def batch_within(graph: Graph, memory: int, most: int) -> int:
    """At most `most` samples, fewer where their largest tensor would take over a share of `memory` (bytes); at least 1.

    A batch that the model fixes is no choice: `most` then.
    """
    if static_batch(graph.inputs()) is not None:
        return most
    return max(1, min(most, memory // max(SHARE * 4 * graph.widest(), 1)))
