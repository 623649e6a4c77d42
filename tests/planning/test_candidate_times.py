"""The table of candidates: how small models follow the whole one, and at how many rows layers are timed."""

from __future__ import annotations

from dataclasses import replace

import onnx
import openvino as ov
import pytest
from models import deep, network, normal
from paper_machine import EACH, PER_MAC, PaperMachine
from planned_times import table

from ndpass.graph.graph import Graph, Site
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.target import Target
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate, seconds_of
from ndpass.planning.candidate_times import (
    SMALL,
    _smallest,
    corrected,
    rows_of,
    timed_table,
)
from ndpass.planning.candidates import candidates_for, refused
from ndpass.planning.plan import Planner


@pytest.mark.parametrize("unseen", [0.0, 0.9e-6])
def test_a_layer_is_scaled_to_what_counters_show_of_it(unseen: float) -> None:
    found = corrected(table().candidates["a"], 200e-6)
    assert [c.seconds for c in found] == pytest.approx([200e-6, 100e-6, 40e-6])
    assert [c.seconds for c in corrected(table().candidates["a"], unseen)] == pytest.approx([100e-6, 50e-6, 20e-6])


# ---------------------------------------------------------------------------------------------------------------- rows


def dense(batch: str) -> onnx.ModelProto:
    """A matrix product on 5 rows a sample, a convolution, and a matrix product on one row a sample."""
    text = f"""(float[{batch},5,16] image) => (float[{batch},10] scores) {{
        a = MatMul(image, w1)
        c = Conv(a, w2)
        f = Flatten(c)
        scores = Gemm(f, w3)
    }}"""
    return network(text, w1=normal(16, 24), w2=normal(6, 5, 3), w3=normal(132, 10))


@pytest.mark.parametrize("batch", ["batch", "8"])
def test_a_batch_that_the_model_fixes_is_not_multiplied_in_twice(batch: str) -> None:
    as_ir = ov.Core().read_model(dense(batch).SerializeToString())
    for graph in (Graph(dense(batch)), OvGraph(as_ir)):
        rows = [rows_of(graph, site, 8) for site in graph.sites() if isinstance(site, Site)]
        assert rows == [40, 8, 8]


@pytest.mark.parametrize("batch", ["batch", "8"])
def test_dense_layers_take_the_time_of_all_their_rows(batch: str) -> None:
    graph, machine = Graph(dense(batch)), PaperMachine(Target(threads=1, batch=8))
    sites = [s for s in graph.sites() if isinstance(s, Site)]
    as_they_are = {site.name: [Candidate(site.macs(site.outline) or 0)] for site in sites}
    made = timed_table(graph, sites, as_they_are, parse("cd"), Latencies(machine, None))
    macs = [40 * 16 * 24, 8 * 22 * 6 * 5 * 3, 8 * 132 * 10]
    for name, n in zip(as_they_are, macs, strict=True):
        assert made.candidates[name][0].seconds == pytest.approx(EACH + n * PER_MAC)


# ----------------------------------------------------------------------------------------------------------- the table


def test_the_table_has_the_times_of_the_machine() -> None:
    """One kind is timed at all its ranks here; what is left of the whole is what is in none of the layers."""
    graph, machine = Graph(deep()), PaperMachine()
    sites = [s for s in graph.sites() if isinstance(s, Site) and s.op == "Conv"]
    found = {
        site.name: [Candidate(64 * 64 * 9 * 784), Candidate(784 * 2 * (64 * 64 + 64 * 9), 0.1, nd)] for site in sites
    }
    made = timed_table(graph, sites, found, parse("nd"), Latencies(machine, None))
    for name, (as_it_is, decoupled) in made.candidates.items():
        assert seconds_of(as_it_is) == pytest.approx(EACH + as_it_is.macs * PER_MAC) == made.in_place[name]
        assert seconds_of(decoupled) == pytest.approx(4 * EACH + decoupled.macs * PER_MAC)  # four convolutions
    assert made.rest == pytest.approx(EACH + 640 * PER_MAC)  # the Gemm


nd: dict[str, dict[str, int | str]] = {"nd": {"rank": 2, "form": "dw-pw"}}


def test_what_pruning_leaves_is_timed_as_all_else_is() -> None:
    graph, passes = Graph(deep()), parse("cp:criterion=l2,sd")
    sites = [s for s in graph.sites() if isinstance(s, Site) and refused(graph, s, passes, False) is None]
    found = Planner(graph, passes, None, most=2).candidates(sites, lambda *_: None)
    few = {name: [*each[:2], *[c for c in each if "cp" in c.setting][:3]] for name, each in found.items()}
    made = timed_table(graph, sites, few, passes, Latencies(PaperMachine(), None)).candidates
    pruned = [c for each in made.values() for c in each if "cp" in c.setting]
    assert pruned
    assert all(0 < seconds_of(c) < seconds_of(each[0]) for each in made.values() for c in each[1:])


def test_of_the_smallest_layers_compositions_are_not_timed() -> None:
    graph, passes = Graph(deep()), parse("cd,sd")
    sites = [s for s in graph.sites() if isinstance(s, Site) and s.op == "Conv"]
    small = replace(sites[0], name="small", outline=replace(sites[0].outline, weight=sites[0].outline.weight[:4]))
    found = {site.name: candidates_for(site, passes) for site in sites}
    assert all(any(len(c.setting) == 2 for c in ways) for ways in found.values())
    table = timed_table(graph, sites, found, passes, Latencies(PaperMachine(), None)).candidates
    assert all(any(len(c.setting) == 2 for c in ways) for ways in table.values())
    assert _smallest([*sites, small], SMALL) == {"small"}
    assert _smallest(sites, SMALL) == set()
