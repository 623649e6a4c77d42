"""Normalisation changes the form of a model and never what it computes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import EXACT, feed_of, network, normal, relative, run_ort, run_ov, sites_of
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ndpass.conv import Conv
from ndpass.errors import InputError
from ndpass.graph.graph import Graph, Site, Skipped

NORM = {
    "scale": normal(6, seed=2),
    "shift": normal(6, seed=3),
    "mean": normal(6, seed=4),
    "var": np.abs(normal(6, seed=5)) + np.float32(0.01),
}


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in and out again, with no convolution replaced."""
    result = Graph(model).to_model()
    onnx.checker.check_model(result, full_check=True)
    return result


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def check(model: onnx.ModelProto, **kept: int) -> onnx.ModelProto:
    """Normalise, demand exactly these operators and the same outputs; returns the normalised model."""
    result = normalised(model)
    assert kinds(result) == kept
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT
    return result


# BatchNormalization

FOLDED = {
    "bias": ("a = Conv<pads=[1,1,1,1]>(x, W, B)", normal(6, 4, 3, 3), "epsilon=1e-5"),
    "no-bias": ("a = Conv<pads=[1,1,1,1]>(x, W)", normal(6, 4, 3, 3), "epsilon=1e-5"),
    "grouped": ("a = Conv<pads=[1,1,1,1], group=2>(x, W, B)", normal(6, 2, 3, 3), "epsilon=1e-5"),
    "large-epsilon": ("a = Conv(x, W, B)", normal(6, 4, 1, 1), "epsilon=0.5"),
    "default-epsilon": ("a = Conv(x, W, B)", normal(6, 4, 1, 1), "momentum=0.5"),
}


@pytest.mark.parametrize(("conv", "weight", "attrs"), FOLDED.values(), ids=FOLDED.keys())
def test_a_batchnorm_is_folded_into_the_convolution_before_it(
    conv: str, weight: NDArray[np.float32], attrs: str
) -> None:
    norm = f"y = BatchNormalization<{attrs}>(a, scale, shift, mean, var)"
    text = f"(float[2,4,5,5] x) => (float[2,6,5,5] y) {{ {conv} {norm} }}"
    bias = {"B": normal(6)} if "B)" in conv else {}
    result = check(network(text, W=weight, **bias, **NORM), Conv=1)
    assert len(result.graph.initializer) == 2


def test_a_chain_of_batchnorms_is_folded_as_far_as_it_goes() -> None:
    text = """(float[2,4,5,5] x) => (float[2,6,5,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, W) b = BatchNormalization(a, scale, shift, mean, var) r = Relu(b)
        y = BatchNormalization(r, scale, shift, mean, var) }"""
    check(network(text, W=normal(6, 4, 3, 3), **NORM), Conv=1, Relu=1, BatchNormalization=1)


def test_convolutions_that_share_a_weight_are_folded_apart() -> None:
    text = """(float[2,6,5,5] x) => (float[2,6,5,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, W, B) b = BatchNormalization(a, scale, shift, mean, var)
        c = Conv<pads=[1,1,1,1]>(b, W, B) y = BatchNormalization(c, mean, scale, shift, var) }"""
    check(network(text, W=normal(6, 6, 3, 3), B=normal(6), **NORM), Conv=2)


def test_a_folded_half_convolution_stays_half() -> None:
    half = {name: array.astype(np.float16) for name, array in NORM.items()}
    text = """(float16[2,4,5,5] x) => (float16[2,6,3,3] y) {
        a = Conv(x, W) y = BatchNormalization(a, scale, shift, mean, var) }"""
    result = normalised(network(text, W=normal(6, 4, 3, 3, dtype=np.float16), **half))
    assert kinds(result) == {"Conv": 1}
    assert {numpy_helper.to_array(t).dtype.name for t in result.graph.initializer} == {"float16"}


NOT_FOLDED = {
    "output used twice": (
        "(float[2,4,5,5] x) => (float[2,6,3,3] y)",
        "a = Conv(x, W) b = BatchNormalization(a, scale, shift, mean, var) y = Add(a, b)",
        {"Conv": 1, "BatchNormalization": 1, "Add": 1},
    ),
    "output of the graph": (
        "(float[2,4,5,5] x) => (float[2,6,3,3] a, float[2,6,3,3] y)",
        "a = Conv(x, W) y = BatchNormalization(a, scale, shift, mean, var)",
        {"Conv": 1, "BatchNormalization": 1},
    ),
    "computed parameter": (
        "(float[2,4,5,5] x, float[6] s) => (float[2,6,3,3] y)",
        "a = Conv(x, W) y = BatchNormalization(a, s, shift, mean, var)",
        {"Conv": 1, "BatchNormalization": 1},
    ),
    "computed weight": (
        "(float[2,4,5,5] x, float[6,4,3,3] w) => (float[2,6,3,3] y)",
        "a = Conv(x, w) y = BatchNormalization(a, scale, shift, mean, var)",
        {"Conv": 1, "BatchNormalization": 1},
    ),
    "nothing before it": (
        "(float[2,6,5,5] x) => (float[2,6,5,5] y)",
        "r = Relu(x) y = BatchNormalization(r, scale, shift, mean, var)",
        {"Relu": 1, "BatchNormalization": 1},
    ),
    "something between": (
        "(float[2,4,5,5] x) => (float[2,6,3,3] y)",
        "a = Conv(x, W) r = Relu(a) y = BatchNormalization(r, scale, shift, mean, var)",
        {"Conv": 1, "Relu": 1, "BatchNormalization": 1},
    ),
}


@pytest.mark.parametrize(("signature", "body", "kept"), NOT_FOLDED.values(), ids=NOT_FOLDED.keys())
def test_a_batchnorm_that_cannot_be_folded_stays(signature: str, body: str, kept: dict[str, int]) -> None:
    uses_weight = {"W": normal(6, 4, 3, 3)} if "W)" in body else {}
    check(network(f"{signature} {{ {body} }}", **uses_weight, **NORM), **kept)


def test_a_batchnorm_in_training_mode_stays() -> None:
    text = """(float[2,4,5,5] x) => (float[2,6,3,3] y, float[6] m, float[6] v) {
        a = Conv(x, W) y, m, v = BatchNormalization<training_mode=1>(a, scale, shift, mean, var) }"""
    assert kinds(normalised(network(text, W=normal(6, 4, 3, 3), **NORM)))["BatchNormalization"] == 1


def test_a_batchnorm_over_single_elements_stays() -> None:
    """spatial=0, in opset 7 and 8: one mean for each element, which no convolution has a place for."""
    shape = (6, 3, 3)
    each = {name: np.abs(normal(*shape, seed=i)) + np.float32(0.1) for i, name in enumerate(NORM)}
    text = """(float[2,4,5,5] x) => (float[2,6,3,3] y) {
        a = Conv(x, W) y = BatchNormalization<spatial=0>(a, scale, shift, mean, var) }"""
    result = Graph(network(text, opset=7, W=normal(6, 4, 3, 3), **each)).to_model()
    assert kinds(result) == {"Conv": 1, "BatchNormalization": 1}


def test_a_folded_weight_never_takes_the_name_of_another_tensor() -> None:
    text = """(float[2,4,5,5] x) => (float[2,6,3,3] y) {
        a = Conv(x, W) b = BatchNormalization(a, scale, shift, mean, var) y = Mul(b, taken) }"""
    model = network(text, W=normal(6, 4, 3, 3), taken=normal(1, 1, 3, 3), **NORM)
    model.graph.node[2].input[1] = model.graph.initializer[1].name = "a.bias_folded"
    check(model, Conv=1, Mul=1)


# Add and Mul of constants

SCALED = {
    "a bias": ("a = Conv(x, W) y = Add(a, each)", {}),
    "a second bias": ("a = Conv(x, W, B) y = Add(each, a)", {}),
    "frozen batchnorm": ("a = Conv(x, W) b = Mul(a, each) y = Add(b, per)", {}),
    "before a batchnorm": ("a = Conv(x, W, B) b = Add(a, each) y = BatchNormalization(b, scale, shift, mean, var)", {}),
    "behind a batchnorm": ("a = Conv(x, W) b = BatchNormalization(a, scale, shift, mean, var) y = Mul(b, half)", {}),
    "one number": ("a = Conv(x, W) b = Mul(a, half) y = Add(b, one)", {}),
    "written out": ("a = Conv(x, W, B) b = Sub(a, each) c = Div(b, per) d = Mul(c, half) y = Sub(d, one)", {}),
    "grouped": ("a = Conv<group=2>(x, V, B) b = Mul(a, each) y = Add(b, each)", {}),
    "linear": (
        "f = Flatten(x) g = Gemm<alpha=0.5, beta=2.0>(f, M, B) h = Mul(g, row) y = Add(h, rows)",
        {"Flatten": 1},
    ),
    "linear, one bias": ("f = Flatten(x) g = Gemm<transB=1, beta=0.5>(f, L, half) y = Add(g, row)", {"Flatten": 1}),
}
CONSTANTS = {
    "W": normal(6, 4, 3, 3),
    "V": normal(6, 2, 3, 3),
    "M": normal(100, 6),
    "L": normal(6, 100),
    "B": normal(6),
    "each": normal(1, 6, 1, 1, seed=1),
    "per": normal(6, 1, 1, seed=2),
    "row": normal(6, seed=3),
    "rows": normal(1, 6, seed=4),
    "one": normal(1, 1, 1, seed=5),
    "half": np.array(0.5, np.float32),
    **NORM,
}


@pytest.mark.parametrize(("body", "others"), SCALED.values(), ids=SCALED.keys())
def test_constants_behind_a_layer_are_taken_into_it(body: str, others: dict[str, int]) -> None:
    out = "2,6" if others else "2,6,3,3"
    model = network(f"(float[2,4,5,5] x) => (float[{out}] y) {{ {body} }}", **CONSTANTS)
    result = check(model, **({"Gemm": 1} if others else {"Conv": 1}), **others)
    assert len(result.graph.initializer) == 2, "a weight and a bias"
    assert relative(run_ort(model, feed_of(model)), run_ov(result, feed_of(model))) < EXACT


UNSCALED = {
    "read by others": ("a = Conv(x, W) b = Add(a, each) y = Add(a, b)", {"Conv": 1, "Add": 2}),
    "for each place": ("a = Conv(x, W) y = Add(a, places)", {"Conv": 1, "Add": 1}),
    "computed": (
        "a = Conv(x, W) m = GlobalAveragePool(a) y = Add(a, m)",
        {"Conv": 1, "GlobalAveragePool": 1, "Add": 1},
    ),
    "a matrix": ("f = Flatten(x) g = Gemm(f, M, matrix) y = Add(g, row)", {"Flatten": 1, "Gemm": 1, "Add": 1}),
    "hard sigmoid": (
        "a = Conv(x, W) b = Add(a, three) c = Clip(b, low, high) y = Div(c, high)",
        {"Conv": 1, "Add": 1, "Clip": 1, "Div": 1},
    ),
    "turned": ("a = Conv(x, W) b = Sub(each, a) y = Div(half, b)", {"Conv": 1, "Sub": 1, "Div": 1}),
    "more axes": ("f = Flatten(x) g = Gemm(f, M) y = Add(g, deep)", {"Flatten": 1, "Gemm": 1, "Add": 1}),
}


@pytest.mark.parametrize(("body", "kept"), UNSCALED.values(), ids=UNSCALED.keys())
def test_constants_that_are_no_bias_stay(body: str, kept: dict[str, int]) -> None:
    more = {name: np.array(value, np.float32) for name, value in (("three", 3), ("low", 0), ("high", 6))}
    more |= {"places": normal(1, 6, 3, 3), "matrix": normal(2, 6), "deep": normal(1, 1, 6)}
    out = ("1,2,6" if "deep" in body else "2,6") if "Flatten" in kept else "2,6,3,3"
    check(network(f"(float[2,4,5,5] x) => (float[{out}] y) {{ {body} }}", **CONSTANTS, **more), **kept)


def test_a_division_by_zero_stays() -> None:
    text = "(float[2,4,5,5] x) => (float[2,6,3,3] y) { a = Conv(x, W) y = Div(a, zero) }"
    assert kinds(normalised(network(text, W=CONSTANTS["W"], zero=np.float32(0)))) == {"Conv": 1, "Div": 1}


def test_a_bias_between_outputs_of_the_model_stays() -> None:
    text = "(float[2,4,5,5] x) => (float[2,6,3,3] a, float[2,6,3,3] y) { a = Conv(x, W) y = Add(a, each) }"
    check(network(text, **CONSTANTS), Conv=1, Add=1)


def test_a_bias_inside_an_if_stays() -> None:
    """One of the two branches alone may add it."""
    text = """(float[2,4,5,5] x, bool c) => (float[2,6,3,3] y) {
        a = Conv(x, W)
        y = If (c) <then_branch = then () => (float[2,6,3,3] t) { t = Add(a, each) },
                    else_branch = other () => (float[2,6,3,3] e) { e = Add(a, per) }> }"""
    model = network(text, **CONSTANTS)
    result = normalised(model)
    feed = {"x": normal(2, 4, 5, 5)}
    for c in (True, False):
        here = {**feed, "c": np.array(c)}
        assert relative(run_ort(model, here), run_ort(result, here)) < EXACT


def test_a_weight_that_nothing_multiplies_is_not_stored_twice() -> None:
    text = """(float[2,6,5,5] x) => (float[2,6,5,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, S) b = Add(a, each) y = Conv<pads=[1,1,1,1]>(b, S, B) }"""
    result = check(network(text, S=normal(6, 6, 3, 3), each=CONSTANTS["each"], B=normal(6)), Conv=2)
    assert len(result.graph.initializer) == 3, "the weight and two biases"


def test_what_half_precision_cannot_hold_stays_outside() -> None:
    text = "(float16[2,4,5,5] x) => (float16[2,6,3,3] y) { a = Conv(x, W) b = Mul(a, small) y = Mul(b, large) }"
    weight = normal(6, 4, 3, 3, dtype=np.float16)
    small, large = (np.full((1, 6, 1, 1), value, np.float16) for value in (0.5, 6e4))
    assert kinds(normalised(network(text, W=weight * 4, small=small, large=large))) == {"Conv": 1, "Mul": 1}


def test_what_half_precision_would_round_away_stays_outside() -> None:
    text = "(float16[2,4,5,5] x) => (float16[2,6,3,3] y) { a = Conv(x, W) y = Div(a, large) }"
    large = np.full((1, 6, 1, 1), 3e4, np.float16)
    weight = normal(6, 4, 3, 3, dtype=np.float16)
    assert kinds(normalised(network(text, W=weight / 10, large=large))) == {"Conv": 1, "Div": 1}
    assert kinds(normalised(network(text, W=weight / 10, large=large / 1e4))) == {"Conv": 1}


def test_an_input_that_may_be_missing_is_refused() -> None:
    kind = onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2]))
    text = "(float[2] x) => (float[2] y) { a = OptionalGetElement(x) y = Relu(a) }"
    model = network(text)
    model.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(InputError, match="input 'x' is no tensor"):
        Graph(model)


def test_integers_are_not_divided_beforehand() -> None:
    text = "(int64[2,3] x) => (int64[2,2] y) { a = Gemm(x, W) y = Div(a, two) }"
    model = network(text, W=np.arange(6).reshape(3, 2), two=np.int64(2))
    assert kinds(normalised(model)) == {"Gemm": 1, "Div": 1}


def test_before_opset_7_operands_are_aligned_otherwise_and_stay() -> None:
    text = "(float[2,4,5,5] x) => (float[2,6,3,3] y) { a = Conv(x, W) y = Add<broadcast=1, axis=1>(a, row) }"
    model = network(text, opset=6, W=CONSTANTS["W"], row=CONSTANTS["row"])
    assert kinds(Graph(model).to_model()) == {"Conv": 1, "Add": 1}


# auto_pad


def padded(
    auto_pad: str, kernel: list[int], strides: list[int], dilations: list[int], in_hw: list[int]
) -> onnx.ModelProto:
    sizes = ",".join(map(str, in_hw))
    out = ",".join("pqr"[: len(kernel)])
    attrs = f'auto_pad="{auto_pad}", strides={strides}, dilations={dilations}'
    text = f"(float[1,2,{sizes}] x) => (float[1,3,{out}] y) {{ y = Conv<{attrs}>(x, W) }}"
    return network(text, W=normal(3, 2, *kernel))


def resolved(model: onnx.ModelProto) -> Conv:
    (site,) = sites_of(model)
    return site.conv


def explicit(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the pads that ndpass found in place of auto_pad."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    (node,) = result.graph.node
    (attr,) = (a for a in node.attribute if a.name == "auto_pad")
    node.attribute.remove(attr)
    node.attribute.append(helper.make_attribute("pads", list(resolved(model).pads)))
    return result


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), st.data())
def test_auto_pad_is_what_onnxruntime_makes_of_it(auto_pad: str, data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 2))

    def each(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(axes)]

    kernel = each(1, 4)
    model = padded(auto_pad, kernel, each(1, 3), [1] * axes, each(4, 9))
    feed = feed_of(model)
    (expected,) = run_ort(model, feed)
    assert resolved(model).out_hw(feed["x"].shape[2:]) == expected.shape[2:]
    assert relative([expected], run_ort(explicit(model), feed)) < EXACT


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("strides", "dilations"), [([1, 1], [2, 3]), ([2, 2], [2, 1]), ([3, 2], [1, 4])])
def test_auto_pad_with_dilation_is_what_openvino_makes_of_it(
    auto_pad: str, size: int, strides: list[int], dilations: list[int]
) -> None:
    """onnxruntime does not run this combination."""
    model = padded(auto_pad, [3, 2], strides, dilations, [size, size])
    (expected,) = run_ov(model, feed_of(model))
    assert expected.shape[2:] == tuple(-(-size // s) for s in strides)
    assert relative([expected], run_ort(explicit(model), feed_of(model))) < EXACT


@pytest.mark.parametrize(
    ("auto_pad", "size", "stride", "pads"),
    [
        ("SAME_UPPER", 8, 1, (1, 1)),
        ("SAME_LOWER", 8, 1, (1, 1)),
        ("SAME_UPPER", 8, 2, (0, 1)),
        ("SAME_LOWER", 8, 2, (1, 0)),
        ("SAME_UPPER", 9, 2, (1, 1)),
        ("SAME_UPPER", 9, 5, (0, 0)),
        ("VALID", 8, 2, (0, 0)),
        ("NOTSET", 8, 2, (0, 0)),
    ],
)
def test_pads_of_a_kernel_of_three(auto_pad: str, size: int, stride: int, pads: tuple[int, int]) -> None:
    assert resolved(padded(auto_pad, [3], [stride], [1], [size])).pads == pads


def test_same_padding_of_a_dynamic_size_is_known_at_stride_one() -> None:
    text = '(float[1,2,H,K] x) => (float[1,3,h,k] y) {{ y = Conv<auto_pad="SAME_LOWER", strides={}>(x, W) }}'
    (one,) = Graph(network(text.format([1, 1]), W=normal(3, 2, 4, 3))).sites()
    (two,) = Graph(network(text.format([1, 2]), W=normal(3, 2, 4, 3))).sites()
    assert isinstance(one, Site)
    assert one.conv.pads == (2, 1, 1, 1)
    assert isinstance(two, Skipped)
    assert two.reason == "auto_pad SAME_LOWER with a stride depends on the input size, which is not known"


# constants


def test_constant_nodes_identities_and_constant_arithmetic_become_initializers() -> None:
    text = """(float[1,2,6,6] x) => (float[1,3,4,4] y) {
        shape = Constant<value_ints=[3]>()
        b = ConstantOfShape<value = float[1] {0.5}>(shape)
        w = Constant<value = float[3,2,3,3] {VALUES}>()
        i = Identity(w)
        j = Identity(i)
        d = Add(j, W)
        y = Conv(x, d, b)
    }"""
    values = normal(3, 2, 3, 3, seed=1)
    model = network(text.replace("VALUES", ",".join(map(str, values.flatten()))), W=normal(3, 2, 3, 3))
    result = check(model, Conv=1)
    (site,) = sites_of(result)
    np.testing.assert_allclose(site.conv.weight, values + normal(3, 2, 3, 3), rtol=EXACT)
    np.testing.assert_array_equal(site.conv.bias, np.full(3, 0.5, np.float32))


def test_weights_that_come_as_half_and_are_cast_are_found() -> None:
    """How many exporters store a float16 model that runs in float32."""
    text = "(float[1,2,6,6] x) => (float[1,3,4,4] y) { w = Cast<to=1>(W) y = Conv(x, w) }"
    result = check(network(text, W=normal(3, 2, 3, 3, dtype=np.float16)), Conv=1)
    assert len(sites_of(result)) == 1


def test_what_onnxruntime_cannot_fold_stays_and_the_rest_is_folded() -> None:
    text = """(float[1,2,6,6] x) => (float[1,3,4,4] y) {
        w = Identity(W) c = Conv(x, w) k = org.example.Blur(B) y = Mul(c, k) }"""
    model = network(text, W=normal(3, 2, 3, 3), B=normal(1, 3, 1, 1))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    graph = Graph(model)
    assert [type(f) for f in graph.sites()] == [Site]
    assert kinds(graph.to_model()) == {"Conv": 1, "Blur": 1, "Mul": 1}


def test_unused_nodes_and_weights_go() -> None:
    text = "(float[1,2,6,6] x) => (float[1,3,4,4] y) { y = Conv(x, W) unused = Conv(x, V) }"
    result = check(network(text, W=normal(3, 2, 3, 3), V=normal(7, 2, 3, 3)), Conv=1)
    assert [t.name for t in result.graph.initializer] == ["W"]


@pytest.mark.parametrize(
    "body", ["r = RandomNormal<shape=[1,2,6,6]>()", "r = RandomUniformLike(k)", "r = Bernoulli(k)"]
)
def test_random_numbers_are_not_constants(body: str) -> None:
    text = f"(float[1,2,6,6] x) => (float[1,2,6,6] y) {{ {body} y = Add(x, r) }}"
    result = normalised(network(text, k=np.full((1, 2, 6, 6), 0.5, np.float32)))
    assert [n.op_type for n in result.graph.node] == [body.split()[2].split("(")[0].split("<")[0], "Add"]


def test_random_numbers_inside_a_branch_are_not_constants_either() -> None:
    text = """(float[1,4] x, bool c) => (float[1,4] y) {
        y = If(c) <
            then_branch = t () => (float[1,4] p) { r = Bernoulli(k) p = Add(x, r) },
            else_branch = e () => (float[1,4] q) { s = Add(k, k) q = Add(x, s) }
        >
    }"""
    result = normalised(network(text, k=np.full((1, 4), 0.5, np.float32)))
    kept = {a.name: [n.op_type for n in a.g.node] for a in result.graph.node[0].attribute}
    assert kept == {"then_branch": ["Bernoulli", "Add"], "else_branch": ["Add"]}


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_random_in_training_only(training: bool) -> None:
    text = "(float[1,4] x) => (float[1,4] y) { r = Dropout(k, half, training) y = Add(x, r) }"
    weights = {"k": np.ones((1, 4), np.float32), "half": np.float32(0.5), "training": np.array(training)}
    assert kinds(normalised(network(text, **weights)))["Dropout"] == training


def test_a_branch_that_is_always_taken_takes_the_place_of_its_if() -> None:
    text = """(float[1,3,8,8] x) => (float[1,3,6,6] y) {
        y = If(always) <
            then_branch = t () => (float[1,3,6,6] p) { v = Identity(W) p = Conv(x, v) },
            else_branch = e () => (float[1,3,6,6] q) { q = Conv(x, U) }
        >
    }"""
    model = network(text, W=normal(3, 3, 3, 3), U=normal(3, 3, 3, 3, seed=1), always=np.array(True))
    assert len(sites_of(check(model, Conv=1))) == 1


# functions


def test_local_functions_are_inlined() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
        net (float[1,2,6,6] x) => (float[1,2,4,4] y) { a = local.Block(x, W) y = Relu(a) }
        <opset_import: ["" : 17], domain: "local">
        Block (x, w) => (y) { c = Conv(x, w) y = Relu(c) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(normal(2, 2, 3, 3), "W"))
    result = check(model, Conv=1, Relu=2)
    assert not result.functions
    assert len(sites_of(model)) == 1


# refused as a whole

INT8: dict[str, NDArray[Any]] = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}


@pytest.mark.parametrize(
    "body",
    [
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv(d, W)",
        "q = QuantizeLinear(x, s, z) i = ConvInteger(q, V, z) y = Cast<to=1>(i)",
        "q, t, u = DynamicQuantizeLinear(x) y = DequantizeLinear(q, t, u)",
    ],
)
def test_a_quantised_model_is_refused(body: str) -> None:
    weights = {"W": normal(3, 2, 3, 3), "V": np.ones((3, 2, 3, 3), np.uint8), **INT8}
    model = network(f"(float[1,2,6,6] x) => (float[a,b,c,d] y) {{ {body} }}", **weights)
    with pytest.raises(
        InputError, match=r"already quantised \(node '.+' is \w+\): run ndpass before quantising"
    ) as refusal:
        Graph(model)
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize("op", ["FusedConv", "NhwcMaxPool", "FusedMatMul"])
def test_a_model_that_onnxruntime_has_fused_is_refused(op: str) -> None:
    model = network(f"(float[1,2,6,6] x) => (float[a,b,c,d] y) {{ y = com.microsoft.{op}(x) }}")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(InputError, match=f"optimised by onnxruntime .* is {op}.*: give the model from before that"):
        Graph(model)


def test_an_operator_of_that_name_in_another_domain_is_not_refused() -> None:
    model = network("(float[1,2,6,6] x) => (float[a,b,c,d] y) { y = org.example.FusedConv(x) }")
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    assert Graph(model).sites() == []


def test_a_quantised_branch_is_found_too() -> None:
    text = """(float[1,4] x, bool c) => (float[1,4] y) {
        y = If(c) <
            then_branch = t () => (float[1,4] p) { q = QuantizeLinear(x, s, z) p = DequantizeLinear(q, s, z) },
            else_branch = e () => (float[1,4] r) { r = Relu(x) }
        >
    }"""
    with pytest.raises(InputError, match="already quantised"):
        Graph(network(text, **INT8))


def test_weights_stored_as_whole_numbers_are_a_quantised_model() -> None:
    """A weight-only quantised model has one DequantizeLinear on constants: folding it would hide that."""
    text = "(float[1,2,6,6] x) => (float[1,3,4,4] y) { w = DequantizeLinear(V, s, z) y = Conv(x, w) }"
    model = network(text, V=np.ones((3, 2, 3, 3), np.uint8), **INT8)
    with pytest.raises(InputError, match="already quantised"):
        Graph(model)


def test_onnx_s_own_domain_may_have_its_long_name() -> None:
    """Also beside the short one, and inside an If; the model that was given stays as it is."""
    model = network(
        "(float[2,3,8,8] x) => (float[2,4,6,6] y) { c = Constant<value = bool {1}>() m = ReduceMax<keepdims=0>(x) "
        "g = Greater(m, o) r = If(g)<then_branch = yes () => (float[2,3,8,8] p) { p = Relu(x) }, "
        "else_branch = no () => (float[2,3,8,8] q) { q = Neg(x) }> y = Conv(r, W) }",
        W=normal(4, 3, 3, 3),
        o=np.float32(0),
    )
    long = onnx.ModelProto()
    long.CopyFrom(model)
    long.opset_import[0].domain = "ai.onnx"
    for node in [*long.graph.node, *(n for a in long.graph.node[3].attribute for n in a.g.node)]:
        node.domain = "ai.onnx"
    given = long.SerializeToString()
    result = Graph(long).to_model()
    onnx.checker.check_model(result, full_check=True)
    assert long.SerializeToString() == given
    assert [(o.domain, o.version) for o in result.opset_import] == [("", 17)]
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) == 0
    long.opset_import.append(onnx.helper.make_opsetid("", 17))
    assert [(o.domain, o.version) for o in Graph(long).to_model().opset_import] == [("", 17)]


@pytest.mark.parametrize(
    ("terms", "opset", "kept"),
    [
        ("a, x", 17, {"Conv": 1, "Add": 1}),
        ("x, a, x, one", 17, {"Conv": 1, "Add": 3}),
        ("a, one", 17, {"Conv": 1}),
        ("a, x", 7, {"Conv": 1, "Add": 1}),
        ("a, x", 6, {"Conv": 1, "Sum": 1}),
        ("a", 17, {"Conv": 1, "Sum": 1}),
    ],
)
def test_a_sum_becomes_additions(terms: str, opset: int, kept: dict[str, int]) -> None:
    """With a constant it is a bias."""
    used = {"one": normal(6, 1, 1)} if "one" in terms else {}
    nodes = f"a = Conv<pads=[1,1,1,1]>(x, W) y = Sum({terms})"
    model = network(
        f"(float[1,6,5,5] x) => (float[1,6,5,5] y) {{ {nodes} }}", opset=opset, W=normal(6, 6, 3, 3), **used
    )
    result = check(model, **kept)
    assert relative(run_ov(model, feed_of(model)), run_ov(result, feed_of(model))) < EXACT
