"""Shapes that follow from the inputs, and the multiply-accumulates that follow from the shapes."""

from __future__ import annotations

import numpy as np
import onnx
import openvino as ov
import pytest
from models import network, normal
from numpy.typing import NDArray
from openvino import opset13 as ops

from ndpass.conv import Chain, Conv
from ndpass.errors import InputError
from ndpass.graph.graph import Graph, Site, Skipped
from ndpass.graph.macs import count_macs
from ndpass.graph.normalise import import_graph
from ndpass.graph.openvino.graph import OvGraph
from ndpass.graph.shapes import BIG, Shape, infer, skeleton

COUNTED: dict[str, tuple[str, dict[str, NDArray[np.float32]], int]] = {
    "conv": (
        "(float[2,3,8,8] x) => (float[2,4,3,6] y) { y = Conv<strides=[2,1]>(x, W) }",
        {"W": normal(4, 3, 3, 3)},
        2 * 4 * 3 * 6 * 27,
    ),
    "grouped": ("(float[1,4,8] x) => (float[1,6,6] y) { y = Conv<group=2>(x, W) }", {"W": normal(6, 2, 3)}, 6 * 6 * 6),
    "transposed": (
        "(float[1,4,5,5] x) => (float[1,3,11,11] y) { y = ConvTranspose<strides=[2,2]>(x, W) }",
        {"W": normal(4, 3, 3, 3)},
        4 * 25 * 3 * 9,
    ),
    "transposed-grouped": (
        "(float[1,4,5] x) => (float[1,6,7] y) { y = ConvTranspose<group=2>(x, W) }",
        {"W": normal(4, 3, 3)},
        4 * 5 * 3 * 3,
    ),
    "gemm": ("(float[3,8] x) => (float[3,6] y) { y = Gemm(x, W) }", {"W": normal(8, 6)}, 3 * 8 * 6),
    "gemm-a": ("(float[8,3] x) => (float[3,6] y) { y = Gemm<transA=1>(x, W) }", {"W": normal(8, 6)}, 3 * 8 * 6),
    "gemm-b": ("(float[3,8] x) => (float[3,6] y) { y = Gemm<transB=1>(x, W) }", {"W": normal(6, 8)}, 3 * 8 * 6),
    "matmul": ("(float[2,5,3,8] x) => (float[2,5,3,6] y) { y = MatMul(x, W) }", {"W": normal(8, 6)}, 10 * 3 * 8 * 6),
    "batched": ("(float[5,3,8] x) => (float[5,3,6] y) { y = MatMul(x, W) }", {"W": normal(5, 8, 6)}, 5 * 3 * 8 * 6),
    "vector": ("(float[8] x) => (float[6] y) { y = MatMul(x, W) }", {"W": normal(8, 6)}, 8 * 6),
    "lstm": (
        "(float[7,2,5] x) => (float[7,1,2,6] y) { y = LSTM<hidden_size=6>(x, W, R) }",
        {"W": normal(1, 24, 5), "R": normal(1, 24, 6)},
        7 * 2 * 24 * (5 + 6),
    ),
    "lstm-both-ways": (
        """(float[7,2,5] x) => (float[7,2,2,6] y) { y = LSTM<hidden_size=6, direction="bidirectional">(x, W, R) }""",
        {"W": normal(2, 24, 5), "R": normal(2, 24, 6)},
        7 * 2 * 2 * 24 * (5 + 6),
    ),
    "gru": (
        "(float[7,2,5] x) => (float[7,1,2,6] y) { y = GRU<hidden_size=6>(x, W, R) }",
        {"W": normal(1, 18, 5), "R": normal(1, 18, 6)},
        7 * 2 * 18 * (5 + 6),
    ),
    "rnn": (
        "(float[7,2,5] x) => (float[7,1,2,6] y) { y = RNN<hidden_size=6>(x, W, R) }",
        {"W": normal(1, 6, 5), "R": normal(1, 6, 6)},
        7 * 2 * 6 * (5 + 6),
    ),
    "einsum": (
        """(float[2,3,4] x) => (float[2,3,5] y) { y = Einsum<equation="btc,cd->btd">(x, W) }""",
        {"W": normal(4, 5)},
        2 * 3 * 4 * 5,
    ),
    "einsum-ellipsis": (
        """(float[2,3,4] x) => (float[2,3,5] y) { y = Einsum<equation="...c,cd->...d">(x, W) }""",
        {"W": normal(4, 5)},
        2 * 3 * 4 * 5,
    ),
    "nothing": ("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }", {}, 0),
}


@pytest.mark.parametrize(("text", "weights", "macs"), COUNTED.values(), ids=COUNTED.keys())
def test_multiplications_of_one_node(text: str, weights: dict[str, NDArray[np.float32]], macs: int) -> None:
    assert Graph(network(text, **weights)).macs() == macs


@pytest.mark.parametrize(("text", "weights", "macs"), COUNTED.values(), ids=COUNTED.keys())
def test_openvino_s_operators_take_as_many(text: str, weights: dict[str, NDArray[np.float32]], macs: int) -> None:
    model = ov.Core().read_model(network(text, **weights).SerializeToString())
    assert OvGraph(model).macs() == macs


def test_a_deformable_convolution_is_counted_as_a_convolution() -> None:
    text = """(float[1,4,8,8] x, float[1,18,6,6] offset) => (float[1,6,6,6] y) { y = DeformConv(x, W, offset) }"""
    model = network(text, opset=19, ir_version=9, W=normal(6, 4, 3, 3))
    assert Graph(model).macs() == 6 * 36 * 4 * 9


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "einsum", "transposed"])
def test_layers_that_no_pass_rewrites_are_listed_with_shape_macs_and_reason(name: str) -> None:
    text, weights, macs = COUNTED[name]
    model = network(text, **weights)
    for graph in (Graph(model), OvGraph(ov.Core().read_model(model.SerializeToString()))):
        (row,) = graph.sites()
        assert isinstance(row, Skipped)
        assert (row.shape, row.macs) == (weights["W"].shape, macs)
        assert row.reason


def test_a_matrix_product_with_a_transposed_input_of_three_axes() -> None:
    x = ops.parameter([2, 8, 3], np.float32)
    model = ov.Model([ops.matmul(x, normal(8, 5), True, False)], [x])
    assert OvGraph(model).macs() == 2 * 3 * 8 * 5


def test_attention_in_one_operator_is_counted_as_its_two_products() -> None:
    q, k, v = (ops.parameter([2, 4, n, 8], np.float32) for n in (5, 7, 7))
    model = ov.Model([ops.scaled_dot_product_attention(q, k, v)], [q, k, v])
    assert OvGraph(model).macs() == 2 * 4 * (5 * 7 * 8 + 5 * 7 * 8)


RECOGNISER = """(float[n,3,32,w] x) => (float[p,40] y) {
    a = Conv<pads=[1,1,1,1]>(x, A)  b = ReduceMean<axes=[2], keepdims=0>(a)  t = Transpose<perm=[2,0,1]>(b)
    s = Shape(t)  n = Gather(s, one)  m = Unsqueeze(n, zero)  z = Concat<axis=0>(ones, m, hidden)
    h = ConstantOfShape(z)  o, p, q = LSTM<hidden_size=16>(t, W, R, , , h)
    u = Squeeze(o, ones)  f = Reshape(u, flat)  y = Gemm(f, G) }"""


def test_a_recogniser_is_counted_alike_on_both_roads() -> None:
    numbers = {"one": np.int64(1), "zero": np.array([0]), "ones": np.array([1])}
    numbers |= {"hidden": np.array([16]), "flat": np.array([-1, 16])}
    weights = {"A": normal(8, 3, 3, 3), "W": normal(1, 64, 8), "R": normal(1, 64, 16), "G": normal(16, 40)}
    model = network(RECOGNISER, **numbers, **weights)
    graph = Graph(model, {"x": (1, 3, 32, 96)})
    macs = {
        found.op: found.macs if isinstance(found, Skipped) else found.macs(found.outline) for found in graph.sites()
    }
    assert macs == {"Conv": 8 * 32 * 96 * 27, "LSTM": 96 * 64 * (8 + 16), "Gemm": 96 * 16 * 40}
    assert graph.macs() == sum(n for n in macs.values() if n)
    assert OvGraph(ov.Core().read_model(model.SerializeToString()), graph.sizes).macs() == graph.macs()


def test_what_openvino_said_holds_for_layers_that_are_replaced() -> None:
    text = """(float[1,6,8] x) => (float[1,4,p] y) {
        s = Shape(x) f = Cast<to=1>(s) g = Ceil(f) i = Cast<to=7>(g) r = Reshape(x, i) y = Conv<pads=[1,1]>(r, W) }"""
    model, sizes = network(text, W=normal(4, 6, 3)), {"x": (1, 6, 8)}
    assert "r" not in infer(import_graph(model), sizes)  # ONNX's own inference does not follow Ceil
    graph = Graph(model, sizes)
    (site,) = (s for s in graph.sites() if isinstance(s, Site))
    assert site.macs(site.outline) == 4 * 8 * 6 * 3
    graph.splice(site, Chain(Conv(normal(2, 6, 3), pads=(1, 1)), Conv(normal(4, 2, 1))))
    assert graph.macs() == 8 * (2 * 6 * 3 + 4 * 2)


CLASSIFIER = network(
    """(float[N,3,H,K] x) => (float[N,5] y) {
        a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, W) s = Shape(a) n = Slice(s, zero, one)
        t = Concat<axis=0>(n, rest) p = GlobalAveragePool(a) r = Reshape(p, t) y = Gemm(r, V) }""",
    W=normal(4, 3, 3, 3),
    V=normal(4, 5),
    zero=np.array([0]),
    one=np.array([1]),
    rest=np.array([4]),
)


def test_shapes_follow_through_computed_reshapes() -> None:
    sizes: dict[str, Shape] = {"x": (2, 3, 16, 8)}
    graph = import_graph(CLASSIFIER)
    shapes = infer(graph, sizes)
    assert {name: shapes[name] for name in "xapry"} == {
        "x": (2, 3, 16, 8),
        "a": (2, 4, 8, 4),
        "p": (2, 4, 1, 1),
        "r": (2, 4),
        "y": (2, 5),
    }
    assert count_macs(graph, shapes) == 2 * (4 * 8 * 4 * 27 + 4 * 5)


def test_a_dynamic_input_counts_as_one_image_of_224() -> None:
    graph = Graph(CLASSIFIER)
    assert graph.sizes == {"x": (1, 3, 224, 224)}
    assert graph.macs() == 4 * 112 * 112 * 27 + 4 * 5


def test_what_is_not_known_counts_nothing() -> None:
    text = "(float[1,3,8,8] x) => (float[a,b] y) { n = NonZero(x) f = Cast<to=1>(n) t = Transpose(f) y = MatMul(t, W) }"
    graph = import_graph(network(text, W=normal(4, 6)))
    shapes = infer(graph, {"x": (1, 3, 8, 8)})
    assert "t" not in shapes
    assert count_macs(graph, shapes) == 0


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("(float[1,3] x) => (float[1,5] y) { y = Gemm(x, W) }", normal(4, 5)),
        ("(float[1,3] x) => (float[1,4] y) { y = Add(x, W) }", normal(4)),
        ("(float[1,3] x) => (float[1,4] y) { y = Conv(x, W) }", normal(4, 3, 3, 3)),
        ("(float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, W) }", normal(4, 2, 3, 3)),
        ("(float[1,3,8,8] x) => (float[1,4,5,6] y) { y = Conv<pads=[-1,0,0,0]>(x, W) }", normal(4, 3, 3, 3)),
    ],
    ids=["product", "sum", "rank", "channels", "pads"],
)
def test_a_graph_that_contradicts_itself_is_refused(text: str, weight: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="the graph contradicts itself"):
        Graph(network(text, W=weight))


def test_channels_that_do_not_fit_are_refused_by_name() -> None:
    text = "(float[N,4,8,8] x) => (float[n,4,6,6] y) { y = Conv<group=2>(x, W) }"
    with pytest.raises(InputError, match="convolution 'y' has weights for 6 channels, its input 'x' has 4"):
        Graph(network(text, W=normal(4, 3, 3, 3)))


def test_a_contradiction_at_given_sizes_is_no_fault_of_the_model() -> None:
    """What was assumed for an open axis may be too small: then costs are unknown, no more."""
    model = network("(float[1,1,T] x) => (float[1,4,t] y) { y = Conv(x, W) }", W=normal(4, 1, 3))
    graph = Graph(model, {"x": (1, 1, 1)})
    assert graph.macs() == 0
    (site,) = graph.sites()
    assert isinstance(site, Site)
    assert site.macs(site.outline) is None
    with pytest.raises(InputError, match=r"at input x 1x1x1: .*'y'.*give sizes that the model is made for"):
        graph.assume({"x": (1, 1, 1)})
    graph.assume({"x": (1, 1, 5)})
    assert graph.macs() == 4 * 3 * 3


def test_large_weights_are_not_copied_and_small_ones_are() -> None:
    """Small constants may be shapes, so inference needs their values."""
    model = network(
        "(float[1,64] x) => (float[1,8,8] y) { h = MatMul(x, W) y = Reshape(h, s) }",
        W=normal(64, 64),
        s=np.array([1, 8, 8]),
    )
    thin = skeleton(import_graph(model), {"x": (1, 64)})
    assert [t.name for t in thin.graph.initializer] == ["s"]
    assert [(i.name, len(i.type.tensor_type.shape.dim)) for i in thin.graph.input] == [("x", 2), ("W", 2)]
    assert BIG < 64 * 64
    assert thin.ByteSize() < 64 * 64


def test_an_outer_constant_that_only_a_branch_uses() -> None:
    text = """(float[1,4] x, bool c) => (float[1,4] y) {
        y = If(c) <
            then_branch = t () => (float[1,4] p) { p = Add(x, k) },
            else_branch = e () => (float[1,4] q) { q = Relu(x) }
        >
    }"""
    model = network(text, k=normal(1, 4))
    assert infer(import_graph(model), {"x": (1, 4), "c": ()})["y"] == (1, 4)
    onnx.checker.check_model(Graph(model).to_model(), full_check=True)
