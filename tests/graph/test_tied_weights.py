"""Layers that share a weight: a run says so, which they are and what it costs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from models import network, normal, run_options

from ndpass.graph.graph import Graph
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
    text = graph.tied(names)
    assert text is not None
    assert text.startswith("4 layers share 2 weights (")
    assert all(f"'{name}'" in text for name in names)
    assert "up to 3.2 kB are stored more" in text, "one of each of 216 and 576 numbers, of four bytes"
    assert "--ignore" in text


def test_a_weight_that_is_still_read_is_stored_beside_what_is_written() -> None:
    graph = Graph(towers())
    text = graph.tied(["a"])
    assert text is not None
    assert text.startswith("2 layers share one weight ('a', 'b')")
    assert "up to 0.9 kB" in text
    assert graph.tied([]) is None
    assert Graph(towers(ALONE)).tied(["a", "b"]) is None


@pytest.mark.parametrize(("text", "ignore", "warned"), [(TOWERS, [], 1), (TOWERS, ["c", "d"], 1), (ALONE, [], 0)])
def test_a_run_warns_once(text: str, ignore: list[str], warned: int, tmp_path: Path) -> None:
    onnx.save(towers(text), tmp_path / "in.onnx")
    options = run_options(parse("cd:rank=4"), Budget("pinned"), ignore=ignore)
    report = pipeline.run(tmp_path / "in.onnx", tmp_path / "out.onnx", options)
    assert sum("share" in told for told in report.warnings) == warned
    assert not any("'c'" in told for told in report.warnings if ignore)
