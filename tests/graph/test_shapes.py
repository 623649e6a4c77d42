"""Shapes that follow from the inputs, and the multiply-accumulates that follow from the shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import network, normal
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.graph.graph import Graph, Site
from ndpass.graph.macs import count_macs
from ndpass.graph.normalise import import_graph
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
    "nothing": ("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }", {}, 0),
}


@pytest.mark.parametrize(("text", "weights", "macs"), COUNTED.values(), ids=COUNTED.keys())
def test_multiplications_of_one_node(text: str, weights: dict[str, NDArray[np.float32]], macs: int) -> None:
    assert Graph(network(text, **weights)).macs() == macs


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
