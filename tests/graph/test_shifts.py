"""What is left of dropped branches, a number a channel, in the biases of what makes the shortcuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import EXACT, network, normal, relative, run_ort

from ndpass.conv import Conv
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph
from ndpass.graph.openvino.graph import OvGraph

# A pre-activation network of two blocks; of each branch the last layer has weights of zero, so that it gives its bias.
BEFORE = """a = Conv<pads=[1,1,1,1]>(x, A)
    n = Relu(a)  b = Conv(n, B)  s = Relu(b)  c = Conv(s, Z, M)  d = Add(a, c)
    m = Relu(d)  e = Conv(m, B)  t = Relu(e)  f = Conv(t, Z, N)  g = Add(f, d)  y = Relu(g)"""
BEHIND = """a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)
    b = Conv(r, B)  s = Relu(b)  c = Conv(s, Z, M)  d = Add(r, c)  y = Relu(d)"""
STRIDED = """a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)
    b = Conv<strides=[2,2]>(r, B)  s = Relu(b)  c = Conv(s, Z, M)  q = Conv<strides=[2,2]>(r, B, P)  d = Add(q, c)
    y = Relu(d)"""
READ_TWICE = """a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)
    b = Conv(r, B)  s = Relu(b)  c = Conv(s, Z, M)  q = Conv(r, B, P)  d = Add(q, c)  h = Sigmoid(q)  y = Mul(d, h)"""
ONE_KEPT = """a = Conv<pads=[1,1,1,1]>(x, A)
    n = Relu(a)  b = Conv(n, B)  s = Relu(b)  c = Conv(s, B, P)  d = Add(c, a)
    m = Relu(d)  e = Conv(m, B)  t = Relu(e)  f = Conv(t, Z, N)  g = Add(d, f)  y = Relu(g)"""


def model_of(body: str) -> onnx.ModelProto:
    weights = {
        "A": normal(8, 3, 3, 3),
        "B": normal(8, 8, 1, 1),
        "Z": np.zeros((8, 8, 1, 1), np.float32),
        **{name: normal(8, 1, seed=i)[:, 0] for i, name in enumerate("MNP")},
    }
    used = {name: w for name, w in weights.items() if f", {name}" in body}
    return network(f"(float[N,3,6,6] x) => (float[N,8,h,w] y) {{ {body} }}", **used)


def read(model: onnx.ModelProto, road: str) -> Graph:
    return OvGraph(ov.Core().read_model(model.SerializeToString())) if road == "ir" else Graph(model)


def answers(graph: Graph, x: Any) -> list[Any]:
    if not isinstance(graph, OvGraph):
        return run_ort(graph.to_model(), {"x": x})
    return list(ov.compile_model(graph.to_model(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x).values())


def without(graph: Graph, kept: int = 0) -> Graph:
    """All branches but the first `kept` as what they give, which is constant."""
    while found := [one for one in graph.blocks() if isinstance(one, Branch) and not one.is_plain][kept:]:
        last = next(site for site in graph.sites() if site.name == found[0].last)
        bias = last.conv.bias  # type: ignore[union-attr]
        graph.merge(found[0], Conv(np.zeros((8, 8, 0, 0)), bias, strides=found[0].outline.strides))
    graph.tidy()
    return graph


def sums(graph: Graph) -> list[bool]:
    """Of every Add whether it adds a constant."""
    found = [node for node in graph._graph.nodes if node.op == "Add"]
    return [any(not t.inputs and hasattr(t, "values") for t in node.inputs) for node in found]


@pytest.mark.parametrize("road", ["onnx", "ir"])
@pytest.mark.parametrize(
    ("body", "left"),
    [(BEFORE, []), (BEHIND, [True]), (STRIDED, []), (READ_TWICE, [True])],
    ids=["pre-activation", "behind a ReLU", "projection", "read twice"],
)
def test_a_shift_is_folded_where_a_convolution_alone_makes_the_shortcut(body: str, left: list[bool], road: str) -> None:
    model, x = model_of(body), np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    graph = without(read(model, road))
    assert sums(graph) == left
    assert relative(answers(graph, x), run_ort(model, {"x": x})) < EXACT
    if road == "onnx":
        onnx.checker.check_model(graph.to_model(), full_check=True)


@pytest.mark.parametrize("road", ["onnx", "ir"])
def test_a_shift_goes_through_a_sum_that_stays(road: str) -> None:
    model, x = model_of(ONE_KEPT), np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    graph = without(read(model, road), kept=1)
    assert sums(graph) == [False]
    assert relative(answers(graph, x), run_ort(model, {"x": x})) < EXACT


def test_before_opset_7_the_sum_says_its_axis() -> None:
    graph = without(
        Graph(
            network(
                "(float[N,3,6,6] x) => (float[N,8,h,w] y) { " + BEHIND + " }",
                opset=6,
                A=normal(8, 3, 3, 3),
                B=normal(8, 8, 1, 1),
                Z=np.zeros((8, 8, 1, 1), np.float32),
                M=np.ones(8, np.float32),
            )
        )
    )
    onnx.checker.check_model(graph.to_model(), full_check=True)
