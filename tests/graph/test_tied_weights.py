"""Layers that share a weight: a run says so, which they are and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from models import feed_of, network, normal, run_options, run_ort, run_ov

from ndpass.graph.graph import Graph, Site
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.openvino_core import shared_core
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.run import pipeline

TOWERS = """(float[N,3,6,6] p, float[N,3,6,6] q) => (float[N,8,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(p, A)  r = Relu(a)  c = Conv<pads=[1,1,1,1]>(r, B)
    b = Conv<pads=[1,1,1,1]>(q, A)  s = Relu(b)  d = Conv<pads=[1,1,1,1]>(s, B)
    y = Sub(c, d) }"""
ALONE = """(float[N,3,6,6] p, float[N,3,6,6] q) => (float[N,8,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(p, A)  b = Conv<pads=[1,1,1,1]>(q, C)  y = Sub(a, b) }"""


def towers(text: str = TOWERS) -> onnx.ModelProto:
    weights = {"A": normal(8, 3, 3, 3), "B": normal(8, 8, 3, 3), "C": normal(8, 3, 3, 3, seed=1)}
    return network(text, **{name: w for name, w in weights.items() if f", {name})" in text})


@pytest.mark.parametrize("road", ["onnx", "ir"])
def test_layers_bytes_and_remedy_are_named(road: str) -> None:
    model = towers()
    graph = OvGraph(shared_core().read_model(model.SerializeToString())) if road == "ir" else Graph(model)
    names = [site.name for site in graph.sites()]
    text = graph.tied(names, by_data=True)
    assert text is not None
    assert text.startswith("4 layers share 2 weights (")
    assert all(f"'{name}'" in text for name in names)
    assert "up to 3.2 kB are stored more" in text, "one of each of 216 and 576 numbers, of four bytes"
    assert "--ignore" in text


def test_a_weight_that_is_still_read_is_stored_beside_what_is_written() -> None:
    graph = Graph(towers())
    text = graph.tied(["a"], by_data=True)
    assert text is not None
    assert text.startswith("2 layers share one weight ('a', 'b')")
    assert "up to 0.9 kB" in text
    assert graph.tied([], by_data=True) is None
    assert Graph(towers(ALONE)).tied(["a", "b"], by_data=True) is None


@pytest.mark.parametrize(("text", "ignore", "warned"), [(TOWERS, [], 1), (TOWERS, ["c", "d"], 1), (ALONE, [], 0)])
def test_a_run_warns_once(text: str, ignore: list[str], warned: int, tmp_path: Path) -> None:
    onnx.save(towers(text), tmp_path / "in.onnx")
    options = run_options(parse("cd:rank=4"), Budget("pinned"), ignore=ignore)
    report = pipeline.run(tmp_path / "in.onnx", tmp_path / "out.onnx", options)
    assert all("those of equal settings are stored once" in told for told in report.warnings if "share" in told)
    assert sum("share" in told for told in report.warnings) == warned
    assert not any("'c'" in told for told in report.warnings if ignore)


@pytest.mark.parametrize("kind", ["cd:rank=2", "sd:rank=2", "nd:rank=1"])
def test_fitted_by_weights_alone_equal_settings_are_stored_once(kind: str, tmp_path: Path) -> None:
    onnx.save(towers(), tmp_path / "in.onnx")
    pipeline.run(tmp_path / "in.onnx", tmp_path / "out.onnx", run_options(parse(kind), Budget("pinned")))
    made = onnx.load(tmp_path / "out.onnx")
    convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
    assert len({node.input[1] for node in convolutions}) == len(convolutions) / 2
    assert len(made.graph.initializer) == len({name for node in convolutions for name in node.input[1:]})
    feed = feed_of(made, N=2)
    same = {"p": feed["p"], "q": feed["p"]}
    for run in (run_ort, run_ov):
        assert not np.any(run(made, same)[0]), "equal inputs of the towers give equal outputs"


def test_in_ir_too(tmp_path: Path) -> None:
    core = shared_core()
    ov.save_model(core.read_model(towers().SerializeToString()), tmp_path / "in.xml", compress_to_fp16=False)
    pipeline.run(tmp_path / "in.xml", tmp_path / "out.xml", run_options(parse("cd:rank=2"), Budget("pinned")))
    made = core.read_model(tmp_path / "out.xml")
    weights = [op.input_value(1).get_node().get_name() for op in made.get_ops() if op.get_type_name() == "Convolution"]
    assert len(weights) == 8
    assert len(set(weights)) == 4


def test_biases_of_zeros_of_other_layers_stay_apart() -> None:
    graph = Graph(network(APART, A=normal(8, 3, 3, 3), B=normal(8, 8, 3, 3), n=np.zeros(8, "f"), m=np.zeros(8, "f")))
    for site in [found for found in graph.sites() if isinstance(found, Site)]:
        graph.splice(site, replace(site.conv, weight=site.conv.weight / 2))
    graph.tidy()
    assert len(graph.to_model().graph.initializer) == 4


APART = """(float[N,3,6,6] p) => (float[N,8,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(p, A, n)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, B, m) }"""
