"""A time limit: which layers are planned, what is timed, and what is said, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from models import network, normal
from paper_machine import PaperMachine

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.planning.candidate_times import timed_table
from ndpass.planning.deadline import PLANNED, PROBED, REASON, TIMED, Deadline, Ration
from ndpass.planning.plan import Planner
from ndpass.planning.work import planning_work


class Watch:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def layers() -> onnx.ModelProto:
    """Four convolutions: large, small, large, small."""
    text = """(float[N,3,16,16] x) => (float[N,8,4,4] y) {
        a = Conv<pads=[1,1,1,1]>(x, A)
        b = Conv<pads=[1,1,1,1], strides=[4,4]>(a, B)
        c = Conv<pads=[1,1,1,1]>(a, C)
        d = Conv<pads=[1,1,1,1], strides=[4,4]>(c, D)
        y = Add(b, d)
    }"""
    weights = {"A": normal(24, 3, 3, 3), "B": normal(8, 24, 3, 3), "C": normal(24, 24, 3, 3), "D": normal(8, 24, 3, 3)}
    return network(text, **weights)


def sites_of(graph: Graph) -> list[Site]:
    return [s for s in graph.sites() if isinstance(s, Site)]


def chosen(limit: float, seconds: Callable[[Site], float]) -> list[str]:
    """Names of the layers that there is time for, each taking so many seconds."""
    watch, sites = Watch(), sites_of(Graph(layers()))
    ration = Ration(sites, Deadline(limit, watch))
    found = []
    for i, site in enumerate(sites):
        if ration.has(i):
            found.append(site.name)
            watch.seconds += seconds(site)
    return found


def test_all_layers_are_planned_where_there_is_time_and_none_where_it_is_over() -> None:
    assert chosen(1e9, planning_work) == ["a", "b", "c", "d"]
    watch, sites = Watch(), sites_of(Graph(layers()))
    ration = Ration(sites, Deadline(10, watch))
    watch.seconds = PLANNED * 10
    assert not any(ration.has(i) for i in range(len(sites)))


def test_layers_with_the_most_macs_for_their_work_come_first() -> None:
    """The first one tells how fast the machine is; of the rest there is time for one, which is the large one."""
    sites = sites_of(Graph(layers()))
    a, _, c, _ = map(planning_work, sites)
    assert chosen(1.01 * (a + c) / PLANNED, planning_work) == ["a", "c"]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_what_is_left_out_stays_as_it_is_and_is_said(watch: Watch) -> None:
    graph, rules = Graph(layers()), parse("cp,cd,nd")
    sites, deadline = sites_of(graph), Deadline(10, watch)
    images = np.random.default_rng(0).standard_normal((24, 3, 16, 16), dtype=np.float32)
    calibration = Calibration.of(graph, sites, open_feeds(images, graph.inputs()), 1, 0, 1 << 30)

    def listen(stage: str, done: int, _total: int) -> None:
        if stage == "planning" and done == 3:
            watch.seconds = 9

    plan = Planner(graph, rules, calibration, 2, 1, deadline=deadline).plan(sites, Budget("macs", 0.6), listen)
    assert list(deadline.left_out) == ["d"]
    assert (plan["d"].candidate.setting, plan["d"].reason) == ({}, REASON)
    assert any(plan[name].candidate.setting for name in "abc")
    share = deadline.left_out["d"] / graph.macs()
    assert deadline.warning(graph.macs()) == (
        f"--time-limit left no time for 1 layer with {share:.1%} of the MACs, nor to try how much an error in 3 layers "
        "costs: more time may give a faster model"
    )
    assert Deadline(10, watch).warning(graph.macs()) is None


def test_layers_that_there_is_no_time_to_probe_count_as_the_most_sensitive_one(watch: Watch) -> None:
    graph, rules = Graph(layers()), parse("cd")
    sites, deadline = sites_of(graph), Deadline(10, watch)
    images = np.random.default_rng(0).standard_normal((24, 3, 16, 16), dtype=np.float32)
    calibration = Calibration.of(graph, sites, open_feeds(images, graph.inputs()), 1, 0, 1 << 30)
    probed = []

    def listen(stage: str, done: int, _total: int) -> None:
        if stage == "probing":
            probed.append(done)
            watch.seconds = PROBED * 10 if done == 2 else watch.seconds

    ledger = Planner(graph, rules, calibration, deadline=deadline).ledger(sites, listen)
    slopes = ledger.slopes()
    assert slopes is not None
    assert probed == [0, 1, 2, 3]
    assert slopes.plain["c"] == slopes.plain["d"] == max(slopes.plain["a"], slopes.plain["b"])
    assert slopes.plain["a"] != slopes.plain["b"]
    assert deadline.warning(graph.macs()) == (
        "--time-limit left no time to try how much an error in 2 layers costs: more time may give a faster model"
    )


def test_layers_are_timed_largest_first_and_the_rest_stays_when_time_is_over(watch: Watch) -> None:
    graph, rules = Graph(layers()), parse("cd")
    sites, deadline = sites_of(graph), Deadline(10, watch)
    ledger = Planner(graph, rules, None).ledger(sites, lambda *_: None)
    names = []

    def listen(stage: str, done: int, _total: int) -> None:
        if stage == "timing" and done == 1:
            watch.seconds = TIMED * 10

    machine = PaperMachine()
    table = timed_table(graph, sites, ledger.table(), rules, Latencies(machine, None), listen, deadline=deadline)
    assert list(table.candidates) == [site.name for site in sites]
    names = [name for name, ways in table.candidates.items() if len(ways) > 1]
    assert names == ["c"]
    assert table.kept("a").reason == REASON
    assert sorted(table.left_out) == ["a", "b", "d"]
    assert all(ways[0].seconds for ways in table.candidates.values())
