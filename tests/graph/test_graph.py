"""Graphs: what counts as a site and what does not, and how a block is written into a model that stays the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import EXACT, feed_of, interface, network, normal, relative, rewritten, run_ort, run_ov, sites_of
from numpy.typing import NDArray
from onnx import numpy_helper

from ndpass.conv import Block, Chain, Conv, Sum
from ndpass.graph.graph import Graph, Site, Skipped
from ndpass.graph.sites import uncounted
from ndpass.passes import NetworkDecoupling

HALF = 2e-3  # relative error of float16 arithmetic over a few hundred terms


def thirds(site: Site) -> Block:
    """The site as three branches that add up to it: exact, and free of any pass."""
    conv = site.conv
    parts = [Conv(conv.weight / 3, None, conv.strides, conv.pads, conv.dilations, conv.group) for _ in range(3)]
    return Sum(*parts).with_bias(conv.bias)


def decoupled(site: Site, rank: int | str = "full", form: str = "pw-dw") -> Block | None:
    rule = NetworkDecoupling(rank=rank, form=form)
    return None if rule.refuse(site.outline) else rule.rewrite(site.conv, rule.settings(site.outline)[0])


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def assert_same(model: onnx.ModelProto, result: onnx.ModelProto, **dims: int) -> None:
    feed = feed_of(model, **dims)
    expected = run_ort(model, feed)
    assert interface(result) == interface(model)
    assert relative(expected, run_ort(result, feed)) < EXACT
    assert relative(expected, run_ov(result, feed)) < EXACT


CONV = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, W, B) }"
CONV_WEIGHTS = {"W": normal(4, 3, 3, 3), "B": normal(4)}


# sites


def only(text: str, opset: int = 17, **weights: NDArray[Any]) -> Site | Skipped:
    """The one weighted node of a model."""
    (found,) = Graph(network(text, opset, **weights)).sites()
    return found


MATRIX = normal(8, 6)
SKIPPED = {
    "transposed": (
        "(float[1,4,5,5] x) => (float[1,3,11,11] y) { y = ConvTranspose<strides=[2,2]>(x, W) }",
        {"W": normal(4, 3, 3, 3)},
        "transposed convolution",
    ),
    "computed weights": (
        "(float[1,3,8,8] x, float[4,3,3,3] v) => (float[1,4,6,6] y) { w = Mul(v, W) y = Conv(x, w) }",
        {"W": normal(4, 3, 3, 3)},
        "weights are computed at run time",
    ),
    "computed bias": (
        "(float[1,3,8,8] x, float[4] b) => (float[1,4,6,6] y) { y = Conv(x, W, b) }",
        {"W": normal(4, 3, 3, 3)},
        "weights are computed at run time",
    ),
    "weight as input": (
        "(float[1,3,8,8] x, float[4,3,3,3] v) => (float[1,4,6,6] y) { y = Conv(x, v) }",
        {},
        "weights are computed at run time",
    ),
    "two computed matrices": (
        "(float[2,8] x, float[8,6] v) => (float[2,6] y) { y = MatMul(x, v) }",
        {},
        "weights are computed at run time",
    ),
    "constant on the left": (
        "(float[6,2] x) => (float[8,2] y) { y = MatMul(W, x) }",
        {"W": MATRIX},
        "its weight is multiplied from the left (W x), which no pass rewrites",
    ),
    "batched weight": (
        "(float[5,2,8] x) => (float[5,2,6] y) { y = MatMul(x, W) }",
        {"W": normal(5, 8, 6)},
        "the weight is not a matrix",
    ),
    "vector weight": (
        "(float[2,8] x) => (float[2] y) { y = MatMul(x, W) }",
        {"W": normal(8)},
        "the weight is not a matrix",
    ),
    "whole numbers": (
        "(int32[2,8] x) => (int32[2,6] y) { y = MatMul(x, W) }",
        {"W": np.ones((8, 6), np.int32)},
        "weights of type int32",
    ),
    "transposed input": (
        "(float[8,2] x) => (float[2,6] y) { y = Gemm<transA=1>(x, W) }",
        {"W": MATRIX},
        "Gemm with a transposed input",
    ),
    "bias for each row": (
        "(float[2,8] x) => (float[2,6] y) { y = Gemm(x, W, B) }",
        {"W": MATRIX, "B": normal(2, 1)},
        "bias that is not one number",
    ),
    "auto_pad of an unknown length": (
        """(float[1,T] x) => (float[1,4,t] y) { u = Unsqueeze(x, one)
            y = Conv<auto_pad="SAME_UPPER", strides=[2]>(u, W) }""",
        {"W": normal(4, 1, 3), "one": np.array([1])},
        "depends on the input size, which is not known",
    ),
    "auto_pad of an unknown size": (
        '(float[1,3,H,8] x) => (float[1,4,h,4] y) { y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, W) }',
        {"W": normal(4, 3, 3, 3)},
        "depends on the input size, which is not known",
    ),
}


@pytest.mark.parametrize(("text", "weights", "reason"), SKIPPED.values(), ids=SKIPPED.keys())
def test_what_is_no_site_is_listed_with_its_reason(text: str, weights: dict[str, NDArray[Any]], reason: str) -> None:
    found = only(text, **weights)
    assert isinstance(found, Skipped)
    assert reason in found.reason


def test_a_skipped_node_is_counted_too() -> None:
    found = only(*SKIPPED["transposed"][:1], W=normal(4, 3, 3, 3))
    assert (found.name, found.op) == ("y", "ConvTranspose")
    assert isinstance(found, Skipped)
    assert (found.shape, found.macs) == ((4, 3, 3, 3), 4 * 5 * 5 * 3 * 9)


SITES = {
    "conv": (CONV, CONV_WEIGHTS, (4, 3, 3, 3), (8, 8), 1),
    "grouped": (
        "(float[2,4,8] x) => (float[2,6,6] y) { y = Conv<group=2>(x, W) }",
        {"W": normal(6, 2, 3)},
        (6, 2, 3),
        (8,),
        2,
    ),
    "gemm": ("(float[3,8] x) => (float[3,6] y) { y = Gemm(x, W) }", {"W": MATRIX}, (6, 8), (), 3),
    "gemm-b": ("(float[3,6] x) => (float[3,8] y) { y = Gemm<transB=1>(x, W) }", {"W": MATRIX}, (8, 6), (), 3),
    "matmul": ("(float[2,5,8] x) => (float[2,5,6] y) { y = MatMul(x, W) }", {"W": MATRIX}, (6, 8), (), 10),
    "vector": ("(float[8] x) => (float[6] y) { y = MatMul(x, W) }", {"W": MATRIX}, (6, 8), (), 1),
    "dynamic": (
        "(float[N,3,H,K] x) => (float[N,4,h,k] y) { y = Conv(x, W) }",
        {"W": normal(4, 3, 3, 3)},
        (4, 3, 3, 3),
        (224, 224),
        1,
    ),
}


@pytest.mark.parametrize(("text", "weights", "shape", "in_hw", "rows"), SITES.values(), ids=SITES.keys())
def test_a_site_knows_its_geometry(
    text: str, weights: dict[str, NDArray[Any]], shape: tuple[int, ...], in_hw: tuple[int, ...], rows: int
) -> None:
    found = only(text, **weights)
    assert isinstance(found, Site)
    assert (found.name, found.in_hw, found.rows) == ("y", in_hw, rows)
    assert found.outline.weight.shape == found.conv.weight.shape == shape
    assert (found.outline.bias is None) == (found.conv.bias is None) == ("B" not in weights)
    assert found.outline.weight.strides == (0,) * len(shape)  # the outline takes no memory


def test_sites_stand_in_graph_order_with_every_weighted_node() -> None:
    model = network(
        """(float[1,3,8,8] x) => (float[1,2] y) {
            a = Conv(x, W1) r = Relu(a) b = ConvTranspose<strides=[2,2]>(r, W2) g = GlobalAveragePool(b) f = Flatten(g)
            m = MatMul(f, W3) y = Gemm(m, W4) }""",
        W1=normal(4, 3, 3, 3),
        W2=normal(4, 5, 3, 3),
        W3=normal(5, 6),
        W4=normal(6, 2),
    )
    assert [(f.name, f.op, type(f)) for f in Graph(model).sites()] == [
        ("a", "Conv", Site),
        ("b", "ConvTranspose", Skipped),
        ("m", "MatMul", Site),
        ("y", "Gemm", Site),
    ]


def test_nodes_inside_if_and_loop_are_listed_and_left_alone() -> None:
    model = network(
        """(float[1,3,8,8] x, bool c) => (float[1,3,8,8] y) {
            h = Conv<pads=[1,1,1,1]>(x, W)
            z = If(c) <
                then_branch = t () => (float[1,3,8,8] p) { p = Conv<pads=[1,1,1,1]>(h, V) },
                else_branch = e () => (float[1,3,8,8] q) { q = Relu(h) }
            >
            y = Loop(n, yes, z) <
                body = l (int64 i, bool go, float[1,3,8,8] u) => (bool on, float[1,3,8,8] v) {
                    on = Identity(go) v = Conv<pads=[1,1,1,1]>(u, V) }
            >
        }""",
        W=normal(3, 3, 3, 3),
        V=normal(3, 3, 3, 3, seed=1),
        n=np.array(2),
        yes=np.array(True),
    )
    found = Graph(model).sites()
    assert [(f.name, type(f)) for f in found] == [("h", Site), ("p", Skipped), ("v", Skipped)]
    assert [f.reason for f in found if isinstance(f, Skipped)] == ["inside an If, Loop or Scan"] * 2
    said = uncounted(found)
    assert said is not None
    assert said.startswith("the MACs of 2 layers inside an If, Loop or Scan are not known")
    assert uncounted(found[:1]) is None
    assert Graph(model).params() == 2 * 81 + 2  # V once, although two graphs read it
    result, done = rewritten(model, decoupled)
    assert done == 1
    for condition in (False, True):
        feed = {**feed_of(model), "c": np.array(condition)}
        assert relative(run_ort(model, feed), run_ort(result, feed)) < EXACT


def test_a_constant_input_is_folded_away_or_skipped() -> None:
    model = network(
        "(float[1,4] x) => (float[1,4] y) { m = MatMul(A, W) y = Add(x, m) }", A=normal(1, 8), W=normal(8, 4)
    )
    assert Graph(model).sites() == []


# splicing


def test_a_block_is_written_as_branches_and_a_chain_of_adds() -> None:
    model = network(CONV, **CONV_WEIGHTS)
    result, _ = rewritten(model, lambda s: decoupled(s, 3))
    assert kinds(result) == {"Conv": 6, "Add": 2}
    assert_same(model, rewritten(model, decoupled)[0])


@pytest.mark.parametrize("op", ["gemm", "gemm-b", "matmul", "vector"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_matrix_product_may_become_any_block(op: str, bias: bool) -> None:
    """nd refuses these, other passes do not: a chain of two factors, then a sum of two chains."""
    text, weights, *_ = SITES[op]
    model = network(text, **weights)
    (site,) = sites_of(model)
    W, n = site.conv.weight, site.conv.n_o
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    factored = Chain(Conv(s[:, None] * vt), Conv(u))
    shift = normal(n, seed=5) if bias else np.zeros(n, np.float32)
    (expected,) = run_ort(model, feed_of(model))
    for block in (factored, Sum(Chain(*factored.blocks), Conv(0 * W))):
        biased = block.with_bias(shift if bias else None)
        result, _ = rewritten(model, lambda _, biased=biased: biased)
        for got in (run_ort(result, feed_of(model)), run_ov(result, feed_of(model))):
            assert relative([expected + shift], got) < EXACT


def test_gemm_s_alpha_and_beta_are_multiplied_in_once() -> None:
    model = network(
        "(float[3,8] x) => (float[3,6] y) { y = Gemm<alpha=0.5, beta=3.0>(x, W, B) }", W=MATRIX, B=normal(1, 6)
    )
    assert_same(model, rewritten(model, lambda s: s.conv)[0])


@pytest.mark.parametrize("bias", [(), (1,), (1, 1), (6,), (1, 6)])
def test_gemm_s_bias_is_broadcast(bias: tuple[int, ...]) -> None:
    """One number for all outputs, too: it was left alone, or taken for one output's."""
    text = "(float[3,8] x) => (float[3,6] y) { y = Gemm<beta=3.0>(x, W, B) }"
    model = network(text, W=MATRIX, B=np.float32(0.7) + np.zeros(bias, np.float32))
    (site,) = sites_of(model)
    assert site.conv.bias is not None
    np.testing.assert_allclose(site.conv.bias, np.full(6, 2.1), rtol=1e-6)
    result, done = rewritten(model, lambda s: s.conv)
    assert done == 1
    assert_same(model, result)


@pytest.mark.parametrize(("rows", "left"), [((6,), 1), ((1, 1, 6), 1), ((1,), 1), ((), 1), ((7, 1), 2), ((7, 6), 2)])
def test_the_bias_of_a_matrix_product_is_written_once(rows: tuple[int, ...], left: int) -> None:
    """ONNX has it as an Add behind the MatMul, and a fit's bias stood in an Add before that."""
    text = "(float[2,7,8] x) => (float[2,7,6] y) { m = MatMul(x, W) y = Add(B, m) }"
    model = network(text, W=MATRIX, B=normal(*rows, seed=4) if rows else np.array(0.3, np.float32))
    (expected,) = run_ort(model, feed_of(model))
    shift = normal(6, seed=5)
    result, done = rewritten(model, lambda s: s.conv.with_bias(shift))
    assert done == 1
    assert [node.op_type for node in result.graph.node] == ["MatMul"] + ["Add"] * left
    for got in (run_ort(result, feed_of(model)), run_ov(result, feed_of(model))):
        assert relative([expected + shift], got) < EXACT


def test_a_product_that_the_model_gives_keeps_its_bias_before_the_add() -> None:
    text = "(float[2,7,8] x) => (float[2,7,6] m, float[2,7,6] y) { m = MatMul(x, W) y = Add(m, B) }"
    model = network(text, W=MATRIX, B=normal(6))
    expected, shift = run_ort(model, feed_of(model)), normal(6, seed=5)
    result, _ = rewritten(model, lambda s: s.conv.with_bias(shift))
    assert relative([y + shift for y in expected], run_ort(result, feed_of(model))) < EXACT


def test_branches_join_a_sum_behind_a_bias_in_an_add() -> None:
    """Of Conv, Add of a constant and Add of the shortcut: as where the bias is the convolution's own."""
    text = """(float[N,8,6,6] x) => (float[N,8,6,6] y) {
        r = Relu(x)  c = Conv<pads=[1,1,1,1]>(r, W)  b = Add(c, B)  y = Add(b, r) }"""
    model = network(text, W=normal(8, 8, 3, 3), B=normal(1, 8, 1, 1))
    result, _ = rewritten(model, lambda s: Sum(s.conv, Conv(0 * s.conv.weight, pads=s.conv.pads)))
    assert sum(node.op_type == "Add" for node in result.graph.node) == 2, "one for each of two branches"
    assert_same(model, result, N=2)


BLOCK = """({shape} x) => ({out} y) {{
    r = Relu(x)
    a = Conv<pads=[1,1,1,1]>(r, W1, B1)
    b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, W2, B2)
    {add}
}}"""
BLOCK_WEIGHTS = {
    "W1": normal(32, 32, 3, 3),
    "B1": normal(32),
    "W2": normal(32, 32, 3, 3, seed=1),
    "B2": normal(32, seed=1),
}


def residual(add: str = "s = Add(c, r) y = Relu(s)", out: str = "float[1,32,16,16]") -> onnx.ModelProto:
    """A residual block of 32 channels at 16×16; `add` joins c, the second convolution, and r, the identity."""
    text = BLOCK.format(shape="float[1,32,16,16]", out=out, add=add)
    return network(text, **BLOCK_WEIGHTS)


def adds(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [tuple(n.input) for n in model.graph.node if n.op_type == "Add"]


@pytest.mark.parametrize("add", ["s = Add(c, r) y = Relu(s)", "s = Add(r, c) y = Relu(s)"])
def test_the_identity_enters_first(add: str) -> None:
    """T = 3 in both convolutions: two Adds in the first, and in the second three, the residual one among them."""
    model = residual(add)
    result, _ = rewritten(model, lambda s: decoupled(s, 3))
    assert len(adds(result)) == 2 + 3
    assert ["r" in pair for pair in adds(result)] == [False, False, True, False, False]
    assert [n.output[0] for n in result.graph.node if n.op_type == "Add"][-1] == "s"
    assert_same(model, rewritten(model, thirds)[0])


NOT_RESIDUAL = {
    "a graph output": residual("s = Add(c, r) y = Relu(s)", "float[1,32,16,16] c, float[1,32,16,16]"),
    "two consumers": residual("s = Add(c, r) t = Mul(c, s) y = Relu(t)"),
    "added to itself": residual("s = Add(c, c) y = Relu(s)"),
    "a constant": residual("s = Add(c, W1_0) y = Relu(s)"),
    "a smaller tensor": residual("m = GlobalAveragePool(r) s = Add(c, m) y = Relu(s)"),
}
NOT_RESIDUAL["a constant"].graph.initializer.append(numpy_helper.from_array(normal(1, 32, 16, 16), "W1_0"))


@pytest.mark.parametrize("model", NOT_RESIDUAL.values(), ids=NOT_RESIDUAL.keys())
def test_an_add_of_something_else_stays_where_it_is(model: onnx.ModelProto) -> None:
    result, _ = rewritten(model, thirds)
    before, after = (next(n for n in m.graph.node if n.output[0] == "s") for m in (model, result))
    assert (after.op_type, after.input) == ("Add", before.input)
    assert len(adds(result)) == 2 + 2 + 1
    assert_same(model, result)


def test_two_convolutions_that_meet_in_one_add() -> None:
    model = network(
        "(float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, W) b = Conv(x, V) y = Add(a, b) }",
        W=normal(4, 4, 3, 3),
        V=normal(4, 4, 1, 1),
    )
    result, done = rewritten(model, thirds)
    assert done == 2
    assert kinds(result) == {"Conv": 6, "Add": 5}
    assert_same(model, result)


def test_an_add_of_which_the_convolution_s_input_is_the_other_half() -> None:
    model = network(
        "(float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, W) y = Add(a, x) }",
        W=normal(4, 4, 3, 3),
    )
    result, _ = rewritten(model, thirds)
    assert kinds(result) == {"Conv": 3, "Add": 3}
    assert_same(model, result)


def test_an_add_inside_a_branch_is_not_taken_out_of_it() -> None:
    model = network(
        """(float[1,3,8,8] x, bool c) => (float[1,3,8,8] y) {
            r = Relu(x)
            h = Conv<pads=[1,1,1,1]>(x, W)
            y = If(c) <
                then_branch = t () => (float[1,3,8,8] p) { p = Add(h, r) },
                else_branch = e () => (float[1,3,8,8] q) { q = Relu(r) }
            >
        }""",
        W=normal(3, 3, 3, 3),
    )
    result, _ = rewritten(model, thirds)
    for condition in (False, True):
        feed = {**feed_of(model), "c": np.array(condition)}
        assert relative(run_ort(model, feed), run_ort(result, feed)) < EXACT


def executed(model: onnx.ModelProto) -> Counter[str]:
    """Kinds of the nodes that OpenVINO runs, after its fusions."""
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return Counter(op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops())


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("form", ["pw-dw", "dw-pw"])
def test_openvino_runs_no_add_of_a_residual_block_by_itself(form: str, rank: int) -> None:
    """Each is fused into the convolution before it, so only convolutions are more than they were."""
    dense, thinner = executed(residual()), executed(rewritten(residual(), lambda s: decoupled(s, rank, form))[0])
    assert (dense.pop("Convolution"), thinner.pop("Convolution")) == (2, 2 * 2 * rank)
    assert {k: n for k, n in thinner.items() if k != "Const"} == {k: n for k, n in dense.items() if k != "Const"}


# what models look like


@pytest.mark.parametrize("shape", ["float[N,3,8,8]", "float[N,3,H,K]", "float[1,3,H,8]"])
def test_dynamic_axes_stay_dynamic(shape: str) -> None:
    model = network(f"({shape} x) => (float[n,4,h,k] y) {{ y = Conv(x, W, B) }}", **CONV_WEIGHTS)
    result, done = rewritten(model, decoupled)
    assert done == 1
    assert_same(model, result, N=3, H=9, K=7)


def test_dynamic_sizes_are_counted_at_what_is_asked_for() -> None:
    model = network("(float[N,3,H,K] x) => (float[n,4,h,k] y) { y = Conv(x, W, B) }", **CONV_WEIGHTS)
    assert Graph(model).macs() == 4 * 3 * 9 * 222 * 222
    graph = Graph(model, {"x": (2, 3, 10, 8)})
    assert graph.macs() == 2 * 4 * 3 * 9 * 8 * 6
    (site,) = graph.sites()
    assert isinstance(site, Site)
    assert (site.in_hw, site.rows, site.macs(site.outline)) == ((10, 8), 2, graph.macs())
    graph.assume({"x": (1, 3, 3, 4)})
    assert graph.macs() == 4 * 3 * 9 * 2


def test_an_input_without_any_shape() -> None:
    model = network(CONV, **CONV_WEIGHTS)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    (site,) = sites_of(model)
    assert (site.in_hw, site.rows, site.macs(site.outline)) == (None, 1, None)
    graph = Graph(model)
    assert graph.macs() == 0
    block = decoupled(site)
    assert block is not None
    graph.splice(site, block)
    result = graph.to_model()  # ONNX's checker wants a shape here, in the original too; onnxruntime runs both
    assert not result.graph.input[0].type.tensor_type.HasField("shape")
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)}
    assert relative(run_ort(model, feed), run_ort(result, feed)) < EXACT


def test_half_weights_come_back_as_half() -> None:
    model = network(
        "(float16[1,3,8,8] x) => (float16[1,4,6,6] y) { y = Conv(x, W, B) }",
        W=normal(4, 3, 3, 3, dtype=np.float16),
        B=normal(4, dtype=np.float16),
    )
    result, done = rewritten(model, decoupled)
    assert done == 1
    assert {w.dtype.name for w in weights_of(result).values()} == {"float16"}
    assert interface(result) == interface(model)
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < HALF


def test_double_weights_come_back_as_double() -> None:
    model = network(
        "(double[1,3,8,8] x) => (double[1,4,6,6] y) { y = Conv(x, W) }", W=normal(4, 3, 3, 3, dtype=np.float64)
    )
    result, _ = rewritten(model, decoupled)
    assert {w.dtype.name for w in weights_of(result).values()} == {"float64"}
    assert interface(result) == interface(model)


@pytest.mark.parametrize("opset", [6, 7, 9, 11, 13, 17, 21])
def test_every_opset_runs_in_both_runtimes(opset: int) -> None:
    """onnxruntime has no Add before opset 7, so nothing but Conv, Relu and Sum may be written there."""
    text = """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, W, B)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, V)
        y = Relu(b)
    }"""
    model = network(text, opset, W=normal(4, 4, 3, 3), B=normal(4), V=normal(4, 4, 3, 3, seed=1))
    result, done = rewritten(model, decoupled)
    assert done == 2
    assert [(o.domain, o.version) for o in result.opset_import] == [("", opset)]
    assert_same(model, result)


@pytest.mark.parametrize("opset", [6, 17])
def test_every_operator_that_is_written_exists_in_its_opset(opset: int) -> None:
    model = residual()
    model.opset_import[0].version = opset
    result, _ = rewritten(model, lambda s: decoupled(s, 3))
    written = {op for op, n in kinds(result).items() if n > kinds(model)[op]}
    assert written == {"Conv", "Add" if opset >= 7 else "Sum"}
    for op in written:
        assert onnx.defs.get_schema(op, opset, "")


@pytest.mark.parametrize("names", [["", ""], ["same", "same"], ["a", ""], ["b", "a"]])
def test_empty_and_double_node_names(names: list[str]) -> None:
    """A site is found by its name, so names must become unique, whatever tensors are called."""
    model = network(
        "(float[1,4,8,8] x) => (float[1,3,8,8] b) { a = Conv<pads=[1,1,1,1]>(x, W) b = Conv<pads=[1,1,1,1]>(a, V) }",
        W=normal(4, 4, 3, 3),
        V=normal(3, 4, 3, 3),
    )
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    assert len({s.name for s in sites_of(model)}) == 2
    result, done = rewritten(model, decoupled)
    assert done == 2
    for node in model.graph.node:
        node.ClearField("name")  # onnxruntime refuses double names, so the original runs without them
    assert_same(model, result)
    written = [n.name for n in result.graph.node]
    assert len(written) == len(set(written))


def test_a_given_node_name_is_kept() -> None:
    model = network(CONV, **CONV_WEIGHTS)
    model.graph.node[0].name = "stem/conv"
    assert [s.name for s in sites_of(model)] == ["stem/conv"]
    result, _ = rewritten(model, lambda s: decoupled(s, 2))
    assert all(n.name.startswith("stem/conv/") for n in result.graph.node)


@pytest.mark.parametrize("taken", ["c/0.weight", "c/1.weight", "c/0_1x1.out", "c/2_add.out"])
def test_a_new_tensor_never_takes_the_name_of_another(taken: str) -> None:
    model = network(
        "(float[1,3,8,8] x) => (float[1,4,6,6] y) { t = Mul(x, k) u = Conv(t, W, B) y = Add(u, v) }",
        k=np.array(2, np.float32),
        v=normal(1, 4, 1, 1),
        **CONV_WEIGHTS,
    )
    old = "v" if taken.endswith("weight") else "t"
    for node in model.graph.node:
        node.name = "c" if node.op_type == "Conv" else f"n{node.output[0]}"
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = taken if name == old else name
    for tensor in model.graph.initializer:
        tensor.name = taken if tensor.name == old else tensor.name
    onnx.checker.check_model(model, full_check=True)
    assert_same(model, rewritten(model, thirds)[0])
    assert_same(model, rewritten(model, decoupled)[0])


def test_a_new_node_never_takes_the_name_of_a_site() -> None:
    model = network(
        "(float[1,4,8,8] x) => (float[1,3,4,4] b) { a = Conv(x, W) b = Conv(a, V) }",
        W=normal(4, 4, 3, 3),
        V=normal(3, 4, 3, 3),
    )
    model.graph.node[0].name, model.graph.node[1].name = "c", "c/0_1x1"
    result, done = rewritten(model, decoupled)
    assert done == 2
    assert_same(model, result)


def test_a_node_named_like_one_of_a_site_s_is_not_counted_with_it() -> None:
    model = network(
        "(float[1,4,8,8] x) => (float[1,3,4,4] b) { a = Conv(x, W) b = Conv(a, V) }",
        W=normal(4, 4, 3, 3),
        V=normal(3, 4, 3, 3),
    )
    model.graph.node[0].name, model.graph.node[1].name = "c", "c/1"
    graph = Graph(model)
    first, _ = (s for s in graph.sites() if isinstance(s, Site))
    assert graph.macs_by(["c"]) == {"c": first.macs(first.outline)}
    graph.splice(first, thirds(first))
    assert graph.macs_by(["c"]) == {"c": 3 * (first.macs(first.outline) or 0)}


def test_what_a_model_says_about_itself_is_kept() -> None:
    model = network(CONV, **CONV_WEIGHTS)
    model.producer_name, model.producer_version = "trainer", "1.2"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "a model"
    model.graph.doc_string = "a graph"
    onnx.helper.set_model_props(model, {"classes": "cat,dog", "mean": "0.5"})
    result, _ = rewritten(model, decoupled)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(result, field) == getattr(model, field)
    assert (result.graph.name, result.graph.doc_string) == (model.graph.name, model.graph.doc_string)
    assert {p.key: p.value for p in result.metadata_props} == {"classes": "cat,dog", "mean": "0.5"}


def test_ir_3_lists_its_weights_as_inputs() -> None:
    model = network(
        "(float[1,3,8,8] x, float[4,3,3,3] W, float[4] B) => (float[1,4,6,6] y) { y = Conv(x, W, B) }",
        opset=8,
        ir_version=3,
        **CONV_WEIGHTS,
    )
    result, done = rewritten(model, decoupled)
    assert done == 1
    assert result.ir_version == 4
    assert_same(model, result)


def test_an_unused_input_stays() -> None:
    model = network("(float[1,3,8,8] x, float[2] unused) => (float[1,4,6,6] y) { y = Conv(x, W, B) }", **CONV_WEIGHTS)
    assert interface(rewritten(model, decoupled)[0]) == interface(model)


def test_a_convolution_may_be_read_twice_and_be_an_output() -> None:
    model = network(
        "(float[1,3,8,8] x) => (float[1,4,6,6] c, float[1,4,6,6] y) { c = Conv(x, W, B) r = Relu(c) y = Mul(r, c) }",
        **CONV_WEIGHTS,
    )
    assert_same(model, rewritten(model, decoupled)[0])


def test_an_empty_bias_is_no_bias() -> None:
    model = network(CONV, **CONV_WEIGHTS)
    model.graph.node[0].input[2] = ""
    (site,) = sites_of(model)
    assert site.conv.bias is None
    assert_same(model, rewritten(model, decoupled)[0])


def test_rewriting_a_site_twice_reads_the_original_weights() -> None:
    """A site's weights are those of the model as it came in, also after other sites were replaced."""
    graph = Graph(residual())
    first, second = (s for s in graph.sites() if isinstance(s, Site))
    before = second.conv.weight.copy()
    graph.splice(first, thirds(first))
    np.testing.assert_array_equal(second.conv.weight, before)
    np.testing.assert_array_equal(first.conv.weight, BLOCK_WEIGHTS["W1"])


def test_the_cost_of_the_graph_follows_its_nodes() -> None:
    graph = Graph(residual())
    first, _ = (s for s in graph.sites() if isinstance(s, Site))
    before, block = graph.macs(), decoupled(first, 2)
    assert block is not None
    graph.splice(first, block)
    assert graph.macs() - before == (first.macs(block) or 0) - (first.macs(first.outline) or 0)
