"""Residual branches: which are found, their geometry as one convolution, and why others are not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import openvino as ov
import pytest
from models import network, normal, relative, residual, run_ort

from ndpass.conv import Conv
from ndpass.graph.branches import Branch, Unmerged, linearised, merged_outline
from ndpass.graph.graph import Graph
from ndpass.graph.openvino.graph import OvGraph

HEAD = "p = GlobalAveragePool(e)  f = Flatten(p)  scores = Gemm<transB=1>(f, W5)"


def net(body: str, **changed: np.ndarray) -> onnx.ModelProto:
    """A first layer, `r`, what `body` makes of it, `d`, and a head."""
    weights = {
        "W1": normal(8, 3, 3, 3),
        "W2": normal(8, 8, 3, 3),
        "W3": normal(8, 8, 3, 3, seed=1),
        "W4": normal(8, 8, 1, 1),
        "WD": normal(8, 1, 3, 3),
        "W5": normal(5, 8),
        **{name: np.full(8, 0.5, np.float32) for name in "GHMV"},
    }
    text = f"""(float[N,3,8,8] image) => (float[N,5] scores) {{
        a = Conv<pads=[1,1,1,1]>(image, W1)  r = Relu(a)  {body}  e = Relu(d)  {HEAD}
    }}"""
    used = {name: w for name, w in {**weights, **changed}.items() if re.search(rf"\b{name}\b", text)}
    return network(text, **used)


IDENTITY = """b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv<pads=[1,1,1,1]>(s, W3)  d = Add(c, r)"""
PROJECTION = """b = Conv<strides=[2,2], pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv<pads=[1,1,1,1]>(s, W3)
                q = Conv<strides=[2,2]>(r, W4)  d = Add(q, c)"""
BEFORE = """n = Relu(r)  b = Conv<pads=[1,1,1,1]>(n, W2)  s = Sigmoid(b)  c = Conv<pads=[1,1,1,1]>(s, W3)
            d = Add(r, c)"""
NORMALISED = """o = BatchNormalization(r, G, H, M, V)  n = Relu(o)  b = Conv<pads=[1,1,1,1]>(n, W2)  s = Relu(b)
                c = Conv<pads=[1,1,1,1]>(s, W3)  d = Add(r, c)"""
SUMMED = IDENTITY.replace("Add", "Sum")
OF_THREE = IDENTITY.replace("Add(c, r)", "Sum(c, r, a)")
DEPTHWISE = """b = Conv(r, W4)  s = Relu(b)  c = Conv<pads=[1,1,1,1], group=8>(s, WD)  t = Relu(c)
               u = Conv<pads=[1,1,1,1]>(t, W3)  d = Add(u, r)"""


@pytest.mark.parametrize(
    ("body", "layers", "inner", "kernel", "strides", "pads"),
    [
        (IDENTITY, 2, 3, (5, 5), (1, 1), (2, 2, 2, 2)),
        (SUMMED, 2, 3, (5, 5), (1, 1), (2, 2, 2, 2)),
        (OF_THREE, 2, 3, (5, 5), (1, 1), (2, 2, 2, 2)),
        (PROJECTION, 2, 3, (7, 7), (2, 2), (3, 3, 3, 3)),
        (BEFORE, 2, 3, (5, 5), (1, 1), (2, 2, 2, 2)),
        (NORMALISED, 2, 3, (5, 5), (1, 1), (2, 2, 2, 2)),
        (DEPTHWISE, 3, 5, (5, 5), (1, 1), (2, 2, 2, 2)),
    ],
    ids=["identity", "Sum", "Sum of three", "projection", "pre-activation", "normalised before", "depthwise"],
)
@pytest.mark.parametrize("ir", [False, True], ids=["onnx", "ir"])
def test_a_branch_has_the_geometry_of_one_convolution(
    body: str, layers: int, inner: int, kernel: object, strides: object, pads: object, ir: bool
) -> None:
    model = net(body)
    graph = OvGraph(ov.Core().read_model(model.SerializeToString())) if ir else Graph(model)
    (branch,) = graph.blocks()
    assert isinstance(branch, Branch), branch
    assert (len(branch.layers), len(branch.inner)) == (layers, inner)
    assert (branch.outline.kernel, branch.outline.strides, branch.outline.pads) == (kernel, strides, pads)
    assert branch.outline.out_hw(branch.in_hw) == graph.shapes(1)[branch.response][2:]
    assert branch.macs == sum(graph.macs_by(branch.layers).values())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("b = Conv<pads=[1,1,1,1]>(r, W2)  d = Add(b, r)", "its branch is one convolution already"),
        (
            "b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv(s, W4)  t = Relu(c)  d = Add(t, r)",
            "stands between its last convolution and the sum",
        ),
        (
            """b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv(s, W4)  g = GlobalAveragePool(c)
               h = Sigmoid(g)  t = Mul(c, h)  d = Add(t, r)""",
            "as by squeeze-and-excite",
        ),
        (
            """b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv(s, W4)  h = Sigmoid(c)
               t = Mul(c, h)  d = Add(t, r)""",
            "Sigmoid and Mul, as one activation, stand between",
        ),
        (
            """b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv(s, W4)  d0 = Add(c, r)  d = Add(d0, s)""",
            "is one convolution already",  # s is read twice, so the branch would begin behind it
        ),
    ],
    ids=["one", "behind", "squeeze", "silu", "two readers"],
)
def test_what_is_no_block_says_why(body: str, reason: str) -> None:
    found = Graph(net(body)).blocks()
    assert found
    assert all(isinstance(one, Unmerged) for one in found), found
    assert reason in found[0].reason  # type: ignore[union-attr]


def test_a_sum_with_what_does_not_read_the_branch_s_input_is_no_block() -> None:
    text = """(float[N,3,8,8] x, float[N,8,8,8] other) => (float[N,8,8,8] y) {
        r = Relu(x)  b = Conv<pads=[1,1,1,1]>(r, A)  c = Conv(b, B)  d = Conv(r, C)  e = Add(c, other)  y = Add(e, d)
    }"""
    model = network(text, A=normal(8, 3, 3, 3), B=normal(8, 8, 1, 1), C=normal(8, 3, 1, 1))
    sums = [one for one in Graph(model).blocks() if isinstance(one, Unmerged)]
    assert sums[0].reason == "its branch is one convolution already"
    assert Graph(model).blocks()[-1].layers == ("b", "c")  # a chain


GATES = "g = Sigmoid(u)  m = Mul(g, c)  h = Sigmoid(v)  n = Tanh(w)  k = Mul(h, n)  d = Add(m, k)"


@pytest.mark.parametrize(
    "body",
    [
        f"u = Conv(r, W4)  v = Conv(r, W4)  w = Conv(r, W4)  c = Conv(r, W4)  {GATES}",
        """m = MaxPool<kernel_shape=[1,1]>(r)  n = AveragePool<kernel_shape=[1,1]>(r)  g = Sigmoid(m)  k = Mul(g, n)
        d = Add(k, a)""",
    ],
    ids=["two gates", "no convolution"],
)
def test_gates_of_recurrent_cells_are_no_blocks(body: str) -> None:
    """f · c + i · g of an unrolled LSTM, and what a GRU adds."""
    assert not any(isinstance(one, Unmerged) and "multiplied" in one.reason for one in Graph(net(body)).blocks())


@pytest.mark.parametrize(
    "body",
    ["m = MaxPool<kernel_shape=[2,2]>(r)  d = Conv(m, W4)", "g = GlobalAveragePool(r)  h = Conv(g, W4)  d = Add(r, h)"],
)
def test_a_network_without_sums_of_one_shape_has_no_blocks(body: str) -> None:
    assert Graph(net(body)).blocks() == []


def test_the_linear_branch_is_the_branch_without_its_activations() -> None:
    """Where only the first convolution is padded both are the same, at the border too."""
    first = Conv(normal(6, 4, 3, 3), strides=(2, 2), pads=(3, 3, 3, 3))
    second = Conv(normal(5, 6, 3, 2))
    whole = merged_outline([first, second])
    kernel = linearised([first, second], [1.0, 1.0]).astype(np.float32)
    text = "(float[2,4,11,12] x) => (float y) { h = Conv<strides=[2,2], pads=[3,3,3,3]>(x, A)  y = Conv(h, B) }"
    one = f"(float[2,4,11,12] x) => (float y) {{ y = Conv<strides=[2,2], pads={list(whole.pads)}>(x, W) }}"
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4, 11, 12)).astype(np.float32)}
    wanted = run_ort(network(text, A=first.weight, B=second.weight), feed)
    assert relative(run_ort(network(one, W=kernel), feed), wanted) < 1e-6


def test_dilated_layers_are_spread() -> None:
    first, second = Conv(normal(3, 2, 3), dilations=(2,)), Conv(normal(2, 3, 2), dilations=(3,))
    kernel = linearised([first, second], [0.5, 1.0])
    assert kernel.shape == (2, 2, *merged_outline([first, second]).kernel)
    assert np.count_nonzero(kernel.any((0, 1))) == 6
    np.testing.assert_allclose(kernel[:, :, 0], 0.5 * second.weight[:, :, 0] @ first.weight[:, :, 0], rtol=1e-6)


@pytest.mark.parametrize("ir", [False, True], ids=["onnx", "ir"])
def test_merging_leaves_one_layer_in_the_name_of_the_last(ir: bool) -> None:
    model = net(PROJECTION)
    graph = OvGraph(ov.Core().read_model(model.SerializeToString())) if ir else Graph(model)
    (branch,) = graph.blocks()
    assert isinstance(branch, Branch)
    before = graph.macs()
    conv = replace(branch.outline, weight=normal(*branch.outline.weight.shape), bias=normal(8))
    graph.merge(branch, conv)
    graph.tidy()
    now = graph.macs_by(branch.layers)
    assert now == {branch.first: 0, branch.last: branch.cost(conv)}
    assert graph.macs() == before - branch.macs + branch.cost(conv)
    merged = PROJECTION.partition("c =")[2].partition("q =")[2]
    other = net(f"c = Conv<strides=[2,2], pads=[3,3,3,3]>(r, WM, BM)  q ={merged}", WM=conv.weight, BM=conv.bias)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    if ir:
        found = [next(iter(ov.compile_model(graph.to_model(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x).values()))]
    else:
        found = run_ort(graph.to_model(), {"image": x})
    assert relative(found, run_ort(other, {"image": x})) < 1e-5


def test_the_sum_of_one_layer_and_its_input_is_no_block() -> None:
    (found,) = Graph(residual()).blocks()
    assert isinstance(found, Unmerged)
