"""A run whose budget says nothing of time keeps only what is faster in place, by planned times."""

from __future__ import annotations

import numpy as np
import pytest
from models import deep
from paper_machine import PaperMachine

from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.planning.keep_faster import keep_faster
from ndpass.planning.latency_table import TimedPlan
from ndpass.planning.plan import Planner
from ndpass.planning.stand_in import StandIns

PASSES = parse("cd:rank=16")


def kept(machine: PaperMachine) -> TimedPlan:
    """What stays of a plan that rewrites three equal convolutions."""
    graph = Graph(deep())
    sites = [s for s in graph.sites() if isinstance(s, Site) and s.outline.kernel]
    plan = Planner(graph, PASSES, None).plan(sites, Budget("pinned"), lambda *_: None)
    timer = StandIns(lambda: Graph(deep()), PASSES, machine)
    timed, _ = keep_faster(plan, (graph, sites), machine, timer)
    return timed


def layer_names() -> list[str]:
    return [s.name for s in Graph(deep()).sites() if isinstance(s, Site) and s.outline.kernel]


def test_what_is_faster_in_place_stays_rewritten() -> None:
    timed = kept(PaperMachine())
    assert timed.rewritten == layer_names()
    assert timed.speedup > 1


def test_a_layer_that_is_slower_in_place_stays_as_it_is_with_its_times_as_the_reason() -> None:
    first, *others = layer_names()
    timed = kept(PaperMachine(slow={first: 20.0}))
    assert timed.rewritten == others
    assert timed.plan[first].status == "reverted"
    assert "in place it took" in timed.plan[first].reason


def test_where_nothing_is_faster_the_run_ends_and_says_what_would_help() -> None:
    machine = PaperMachine(slow=dict.fromkeys(layer_names(), 20.0))
    with pytest.raises(BudgetError, match=r"no rewrite is faster than the original on this CPU .*--calibration") as e:
        kept(machine)
    assert e.value.exit_code == 4
    assert "busy" not in str(e.value)


def test_a_busy_machine_is_named_where_nothing_is_faster() -> None:
    rng = np.random.default_rng(0)
    slow = dict.fromkeys(layer_names(), 20.0)
    law = "it could not be told whether a rewrite is faster than the original on this CPU: this machine is busy"
    with pytest.raises(BudgetError, match=law + r" \(single rounds gave 0\.\d+ to [1-9]\.\d+ times\)"):
        kept(PaperMachine(slow=slow, noise=lambda: float(rng.lognormal(0, 0.4))))


def test_noise_does_not_end_the_search() -> None:
    rng = np.random.default_rng(0)
    timed = kept(PaperMachine(noise=lambda: float(rng.uniform(0.9, 1.1))))
    assert timed.rewritten
