"""Blocks that compete with their layers: the planner against trying everything, and what they take in place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from models import network, normal

from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.blocks import mergeable, why_unmerged, without_merged
from ndpass.planning.candidate import Budget, Candidate, Choice, seconds_of
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.choose import choose
from ndpass.planning.latency_table import LatencyTable, TimedPlan


def two_blocks() -> onnx.ModelProto:
    text = """(float[1,8,6,6] x) => (float[1,8,6,6] y) {
        a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)  b = Conv<pads=[1,1,1,1]>(r, B)  s = Add(b, x)
        c = Conv<pads=[1,1,1,1]>(s, C)  t = Relu(c)  d = Conv<pads=[1,1,1,1]>(t, D)  y = Add(s, d)
    }"""
    return network(text, **{name: normal(8, 8, 3, 3, seed=i) for i, name in enumerate("ABCD")})


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(two_blocks())


def candidates(graph: Graph, seed: int) -> dict[str, list[Candidate]]:
    """Each layer as it is and with two ranks of sd; the last of each block with two kernels of bm, and without one;
    seeded errors."""
    rng, found = np.random.default_rng(seed), {}
    for site in (s for s in graph.sites() if isinstance(s, Site)):
        dense = site.macs(site.outline) or 0
        ways = [Candidate(dense, 0.0)]
        ways += [Candidate(dense * r // 12, float(rng.random()), {"sd": {"rank": r}}) for r in (2, 6)]
        if site.name in "bd":
            ways += [Candidate(dense * k * k // 9, float(rng.random()), {"bm": {"kernel": k}}) for k in (1, 3)]
            ways.append(Candidate(0, 1 + float(rng.random()), {"bm": {"kernel": "none"}}))
        found[site.name] = ways
    return found


def everything(ways: Mapping[str, list[Candidate]], room: float) -> float:
    """The least damage of all choices within the room."""
    least = np.inf
    for chosen in itertools.product(*ways.values()):
        plan = dict(zip(ways, chosen, strict=True))
        gone = {first for first, last in (("a", "b"), ("c", "d")) if "bm" in plan[last].setting}
        left = [c for name, c in plan.items() if name not in gone]
        if sum(c.macs for c in left) <= room:
            least = min(least, sum(c.error for c in left))
    return least


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.15, 0.3, 0.5, 0.8])
def test_the_planner_finds_the_best_of_all_choices(graph: Graph, seed: int, share: float) -> None:
    passes, sites = parse("sd,bm"), [s for s in graph.sites() if isinstance(s, Site)]
    blocks = mergeable(graph, passes, "abcd", calibrated=True)
    assert list(blocks) == ["b", "d"]
    ways = candidates(graph, seed)
    wanted = everything(ways, share * graph.macs())
    fronts = Coupling(graph, sites, passes, blocks).fronts
    if not np.isfinite(wanted):
        with pytest.raises(BudgetError):
            choose(ways, Budget("macs", share), graph.macs(), fronts)
        return
    plan = without_merged(choose(ways, Budget("macs", share), graph.macs(), fronts), blocks)
    assert sum(one.candidate.error for one in plan.values()) == pytest.approx(wanted)
    assert sum(one.candidate.macs for one in plan.values()) <= share * graph.macs()


def test_what_cannot_be_merged_says_why(graph: Graph) -> None:
    rules = parse("bm")
    assert why_unmerged(graph, rules, "a", calibrated=True) is None
    assert "--calibration" in str(why_unmerged(graph, rules, "a", calibrated=False))
    assert why_unmerged(graph, parse("sd"), "a", calibrated=True) is None
    assert mergeable(graph, rules, ["a", "b", "d"], calibrated=True).keys() == {"b"}
    narrow = network(
        "(float[1,64,4,4] x) => (float[1,64,4,4] y) { a = Conv(x, A)  b = Conv(a, B)  y = Add(b, x) }",
        A=normal(4, 64, 1, 1),
        B=normal(64, 4, 1, 1),
    )
    reason = why_unmerged(Graph(narrow), parse("bm:kernel=1"), "a", calibrated=True)
    assert reason == "as one convolution it would take more MACs than its layers do"
    (block,) = mergeable(Graph(narrow), rules, ["a", "b"], calibrated=True).values()
    assert block.settings() == [{"kernel": "none"}]  # dropped it takes none
    assert block.branch.outline.kernel == (1, 1)  # what is asked of the data


def timed(merged: float) -> tuple[LatencyTable, TimedPlan]:
    """Layers of 20 µs each, the second in the place of both at so many µs."""
    one = Candidate(9, seconds=15e-6, setting={"bm": {"kernel": 3}})
    dense = Candidate(9, seconds=20e-6)
    ways = {"a": [dense], "b": [dense, one]}
    table = LatencyTable(ways, 100e-6, {"a": 20e-6, "b": 20e-6}, blocks={"b": ["a"]})
    plan = {"a": Choice(Candidate(0, seconds=0.0), "merged into 'b'"), "b": Choice(one)}
    seconds = 60e-6 + merged
    return table, TimedPlan(plan, [100e-6 / seconds], seconds, {"a": 0.0, "b": merged})


def test_a_block_is_judged_beside_all_its_layers() -> None:
    table, plan = timed(merged=30e-6)
    assert table.predicted({n: c.candidate for n, c in plan.plan.items()}) == pytest.approx(75e-6)
    assert table.learn(plan) == []
    assert table.seconds_in_place("b", plan, changed=True) == pytest.approx((40e-6, 30e-6))
    assert seconds_of(table.candidates["b"][1]) == pytest.approx(30e-6)


def test_a_block_that_is_no_faster_is_taken_back_with_all_its_layers() -> None:
    table, plan = timed(merged=45e-6)
    slower = table.learn(plan)
    assert slower == ["b"]
    now = table.without(plan.plan, slower)
    assert [choice.candidate.macs for choice in now.values()] == [9, 9]
