"""More passes give no worse plan: what keeps two of them apart keeps neither of them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import network, normal, run_options

from ndpass.calibration.feeds import open_feeds
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.blocks import mergeable
from ndpass.planning.candidate import Budget, Candidate, macs_of
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.choose import choose, least_cost
from ndpass.report import Report
from ndpass.run import pipeline

pytestmark = pytest.mark.usefixtures("folder")

FEW = 10  # channels that matter, of 32


def stream(blocks: int = 3) -> onnx.ModelProto:
    """Residual blocks with SiLU between their layers, in a stream of which 22 channels hardly matter."""
    body = ["o = Conv<pads=[1,1,1,1]>(x, O)", "s0 = Relu(o)"]
    weights = {"O": normal(32, 3, 3, 3), "Z": normal(8, 32, 3, 3)}
    for i in range(blocks):
        weights |= {f"A{i}": normal(32, 32, 3, 3, seed=i) / 8, f"B{i}": normal(32, 32, 3, 3, seed=9 + i) / 8}
        body.append(
            f"""a{i} = Conv<pads=[1,1,1,1]>(s{i}, A{i})  g{i} = Sigmoid(a{i})  r{i} = Mul(a{i}, g{i})
                b{i} = Conv<pads=[1,1,1,1]>(r{i}, B{i})  s{i + 1} = Add(s{i}, b{i})"""
        )
    for name in ("O", *(f"B{i}" for i in range(blocks))):
        weights[name][FEW:] *= 0.03
    text = "  ".join([*body, f"y = Conv<pads=[1,1,1,1]>(s{blocks}, Z)"])
    return network(f"(float[N,3,12,12] x) => (float[N,8,12,12] y) {{ {text} }}", **weights)


def run(model: onnx.ModelProto, spec: str, share: float, shape: tuple[int, ...]) -> Report:
    onnx.save(model, "in.onnx")
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    options = run_options(
        parse(spec), Budget("macs", share), calibration=lambda inputs: open_feeds(data, inputs), threads=1
    )
    return pipeline.run(Path("in.onnx"), Path("out.onnx"), options)


def error(report: Report) -> float:
    found = report.verified["the original"].relative_error
    assert found is not None
    return float(found)


def test_a_stream_is_pruned_where_blocks_could_be_merged() -> None:
    """bm kept cp out of all channels that go through a block, whatever was planned for it."""
    alone, both = (error(run(stream(), spec, 0.5, (24, 3, 12, 12))) for spec in ("cp", "bm,cp"))
    assert both <= 1.01 * alone
    assert alone < 0.05


def test_no_plan_both_merges_a_block_and_prunes_what_it_reads_with_others() -> None:
    graph, passes = Graph(stream(2)), parse("bm,cp")
    sites = [site for site in graph.sites() if isinstance(site, Site)]
    blocks = mergeable(graph, passes, [site.name for site in sites], calibrated=True)
    assert set(blocks) == {"b0", "b1"}
    coupling = Coupling(graph, sites, passes, blocks)
    (readers,) = coupling.together.groups.values()
    assert set(readers) == {"a0", "a1", "y"}
    pruned = {"cp": {"channels": FEW}}
    table: dict[str, list[Candidate]] = {}
    for site in sites:
        macs = site.macs(site.outline) or 0
        table[site.name] = [Candidate(macs)]
        if site.name in readers:
            table[site.name].append(Candidate(macs * FEW // 32, 0.01, pruned))
        if site.name in blocks:
            table[site.name].append(Candidate(macs, 0.02, {"bm": {"kernel": 3}}))
    found = [least(one, coupling) for one in (table, merging_only(table), pruning_only(table))]
    assert found[0] == min(found[1:])
    for share in (0.8, 0.6, 0.5):
        plan = choose(table, Budget("macs", share), graph.macs(), coupling.fronts, coupling.together)
        done = {name for choice in plan.values() for name in choice.candidate.setting}
        assert len(done) == 1


def merging_only(table: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    return {name: [c for c in ways if "cp" not in c.setting] for name, ways in table.items()}


def pruning_only(table: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    return {name: [c for c in ways if "bm" not in c.setting] for name, ways in table.items()}


def least(table: Mapping[str, list[Candidate]], coupling: Coupling) -> float:
    """The least MACs of all layers together."""
    return least_cost(coupling.fronts(table, macs_of), macs_of)


def test_a_layer_that_goes_with_its_chain_is_not_pruned() -> None:
    """Then its inputs stay: the layer before, which would have made fewer of them, takes what it did."""
    text = """(float[N,3,12,12] x) => (float[N,8,12,12] y) {
        o = Conv<pads=[1,1,1,1]>(x, O)  p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(o)
        a = Conv<pads=[1,1,1,1]>(p, A)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, B) }"""
    model = network(text, O=normal(32, 3, 3, 3), A=normal(32, 32, 3, 3), B=normal(8, 32, 3, 3))
    graph, passes = Graph(model), parse("bm,cp")
    sites = [site for site in graph.sites() if isinstance(site, Site)]
    blocks = mergeable(graph, passes, [site.name for site in sites], calibrated=True)
    coupling = Coupling(graph, sites, passes, blocks)
    o, a, y = ([Candidate(site.macs(site.outline) or 0)] for site in sites)
    merged = blocks["y"].cost({"bm": {"kernel": 1}})
    a.append(Candidate(a[0].macs // 4, 0.0, {"cp": {"channels": 8}}))
    y.append(Candidate(merged, 0.0, {"bm": {"kernel": 1}}))
    assert least({"o": o, "a": a, "y": y}, coupling) == o[0].macs + merged


def vocoder() -> onnx.ModelProto:
    """Ten of the sixteen channels that a 1-D ConvTranspose makes hardly matter, and no pass can rewrite it."""
    weights = {"A": normal(32, 8, 7), "T": normal(32, 16, 8) / 16, "C": normal(16, 16, 3), "D": normal(1, 16, 7)}
    weights["T"][:, 6:] *= 0.05
    text = """(float[N,8,40] x) => (float[N,1,160] y) {
        a = Conv<pads=[3,3]>(x, A)  b = LeakyRelu<alpha=0.2>(a)  t = ConvTranspose<strides=[4], pads=[2,2]>(b, T)
        u = LeakyRelu<alpha=0.2>(t)  c = Conv<pads=[1,1]>(u, C)  v = LeakyRelu<alpha=0.2>(c)  y = Conv<pads=[3,3]>(v, D)
    }"""
    return network(text, **weights)


def test_channels_of_a_transposed_layer_that_stays_are_pruned_beside_other_passes() -> None:
    alone, both = (error(run(vocoder(), spec, 0.6, (48, 8, 40))) for spec in ("cp", "cp,cd"))
    assert both <= 1.01 * alone
    assert alone < 0.2
