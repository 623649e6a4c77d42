"""What is planned and rewritten, and the planner that is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ndpass.calibration.reference import Calibration
from ndpass.graph.graph import Graph
from ndpass.passes import Pass
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.deadline import Deadline
from ndpass.planning.plan import Planner
from ndpass.planning.shelf import Shelf
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run.job import Open
from ndpass.run.spread import away_of

REACH = 16  # layers behind a block that are fitted anew by way of rehearsal; all of a deep network's would take minutes


@dataclass(frozen=True)
class Network:
    """What is to be rewritten. open: the graph before any rewriting, a new one at each call; calibration: the data that
    layers are fitted to, None fits to the weights alone; weighed_by: what layers are weighed by then."""

    open: Open
    passes: Sequence[Pass]
    calibration: Calibration | None
    weighed_by: Calibration | None = None


def planner_for(
    graph: Graph,
    network: Network,
    checkpoint: Checkpoint | None,
    jobs: int | None,
    most: int | None = None,
    deadline: Deadline | None = None,
) -> Planner:
    """A planner of the graph as it is now that keeps what it does in the checkpoint. most: passes that are composed."""
    calibration = network.calibration
    store, folder = (checkpoint.part("candidates"), checkpoint.part("moments").folder) if checkpoint else (None, None)
    shelf = Shelf(folder, calibration.memory) if calibration else None
    effects = checkpoint.part("effects") if checkpoint else None
    return Planner(
        graph,
        network.passes,
        calibration,
        most,
        jobs,
        store,
        shelf,
        network.weighed_by,
        effects,
        deadline,
        away_of(calibration, network.passes, most),
        partial(with_one_block, network),
    )


def with_one_block(network: Network, last: str, candidate: Candidate) -> Graph:
    """The network with the block merged that ends with this layer, and REACH layers behind it fitted anew."""
    opened = network.open()
    end = [one.name for one in opened.found].index(last) + 1 + REACH
    kept = {site.name: Choice(Candidate(0)) for site in opened.sites}
    rewriter = Rewriter(opened.graph, network.passes, network.calibration)
    rewriter.rewrite(opened.found[:end], opened.sites, {**kept, last: Choice(candidate)}, lambda *_: None)
    return opened.graph
