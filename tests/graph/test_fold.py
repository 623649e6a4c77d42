"""What is computed beforehand gives the same values of the same type, and nothing is that may change between runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import EXACT, feed_of, network, normal, relative, run_ort, run_ov
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as ops

from ndpass.graph.graph import Graph
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.runtime import OpenVINO

CONV = {"W": normal(4, 3, 3, 3)}


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in and out again, with no convolution replaced."""
    result = Graph(model).to_model()
    onnx.checker.check_model(result, full_check=True)
    return result


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_casts_between_integers_and_floats_stay() -> None:
    """0.25 as an integer is 0, so that the Mul cannot be done in integers."""
    text = """(int32[1,3,6,6] x) => (float[1,4,4,4] y) {
        a = Cast<to=1>(x) b = Mul(a, k) c = Cast<to=6>(b) d = Cast<to=1>(c) y = Conv(d, W) }"""
    model = network(text, k=np.float32(0.25), **CONV)
    result = normalised(model)
    assert operators(result) == ["Cast", "Mul", "Cast", "Cast", "Conv"]
    feed = {"x": np.arange(108, dtype=np.int32).reshape(1, 3, 6, 6)}
    assert relative(run_ort(model, feed), run_ort(result, feed)) < EXACT


def test_sizes_that_are_scaled_as_floats() -> None:
    text = """(float[n,3,h,w] x) => (float[n,4,p,q] y) {
        r = Conv<pads=[1,1,1,1]>(x, W) s = Shape(r) hw = Slice(s, two, four) nc = Slice(s, zero, two)
        f = Cast<to=1>(hw) m = Mul(f, k) i = Cast<to=7>(m) z = Concat<axis=0>(nc, i)
        y = Resize<mode="nearest">(r, , , z) }"""
    numbers = {"k": np.float32(1.5)} | {name: np.array([i]) for name, i in (("zero", 0), ("two", 2), ("four", 4))}
    model = onnx.shape_inference.infer_shapes(network(text, **numbers, **CONV))
    feed = feed_of(model, n=2, h=6, w=8)
    (y,) = run_ort(normalised(model), feed)
    assert y.shape == (2, 4, 9, 12)
    assert relative(run_ort(model, feed), [y]) < EXACT


@pytest.mark.parametrize(
    ("attribute", "value", "dtype", "shape"),
    [
        ("value_float", 0.5, np.float32, ()),
        ("value_floats", [0.5, 1.5, 2.5], np.float32, (3,)),
        ("value_int", 2, np.int64, ()),
        ("value_ints", [2, 3, 4], np.int64, (3,)),
        ("value", numpy_helper.from_array(np.array([1.5], np.float16)), np.float16, (1,)),
        ("value", numpy_helper.from_array(np.array([True])), np.bool_, (1,)),
    ],
)
def test_a_constant_keeps_its_type(attribute: str, value: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    y = helper.make_tensor_value_info("y", kind, None)
    x = helper.make_tensor_value_info("x", kind, ["a"])
    nodes = [
        helper.make_node("Constant", [], ["k"], **{attribute: value}),
        helper.make_node("Where", ["c", "k", "x"], ["y"]),
    ]
    given = [x, helper.make_tensor_value_info("c", TensorProto.BOOL, ["a"])]
    graph = helper.make_graph(nodes, "net", given, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (constant,) = Graph(model).to_model().graph.initializer
    array = numpy_helper.to_array(constant)
    assert (array.dtype, array.shape) == (dtype, shape)
    assert (array == numpy_helper.to_array(value) if attribute == "value" else array == np.array(value)).all()


def test_a_small_constant_of_four_bits_is_written_as_it_was() -> None:
    """Unpacked into NumPy it would be written with twice as many bytes as its type has."""
    packed = helper.make_tensor("q", TensorProto.INT4, [4], [1, -2, 3, 7])
    nodes = [helper.make_node("Cast", ["x"], ["a"], to=TensorProto.INT4), helper.make_node("Identity", ["q"], ["y"])]
    nodes += [helper.make_node("Cast", ["a"], ["z"], to=TensorProto.FLOAT)]
    outs = [helper.make_tensor_value_info("y", TensorProto.INT4, [4]), helper.make_tensor_value_info("z", 1, [4])]
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", 1, [4])], outs, [packed])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    opened = Graph(model)
    opened.macs()  # shapes are inferred
    (stored,) = opened.to_model().graph.initializer
    assert (stored.data_type, stored.SerializeToString()) == (packed.data_type, packed.SerializeToString())


def test_an_output_that_needs_no_input_is_kept() -> None:
    text = """(float[2,3,8,8] x) => (float[2,4,6,6] y, float[5,4] anchors) {
        y = Conv(x, W) anchors = Mul(k, k) }"""
    model = network(text, k=normal(5, 4), **CONV)
    result = normalised(model)
    assert operators(result) == ["Conv"]
    assert [o.name for o in result.graph.output] == ["y", "anchors"]
    for run in (run_ort, run_ov):
        np.testing.assert_allclose(run(result, feed_of(model))[1], normal(5, 4) ** 2, rtol=1e-6)


def test_an_initializer_that_is_an_output_is_kept() -> None:
    model = network("(float[2,3,8,8] x) => (float[2,4,6,6] y, float[5,4] k) { y = Conv(x, W) }", k=normal(5, 4), **CONV)
    for run in (run_ort, run_ov):
        np.testing.assert_array_equal(run(normalised(model), feed_of(model))[1], normal(5, 4))


# what would be stored in many times its bytes


def inflated(body: str, outputs: str = "float[1,4,600,600] y", **weights: Any) -> onnx.ModelProto:
    """Of a network with a convolution x -> a of (1, 4, 600, 600), 5.8 MB, and half, the size of it."""
    text = f"(float[1,3,600,600] x) => ({outputs}) {{ a = Conv(x, W) {body} }}"
    return network(text, W=normal(4, 3, 1, 1), s=np.array([1, 4, 600, 600]), **weights)


def test_zeros_of_the_size_of_a_picture_are_not_stored() -> None:
    """Nor what is computed from them alone, but what that is computed from is."""
    body = "t = Add(s, none) z = ConstantOfShape<value = float[1] {0.5}>(t) k = Mul(c, c) n = Mul(z, k) y = Add(a, n)"
    model = inflated(body, none=np.zeros(4, np.int64), c=normal(4, 1, 1))
    result = normalised(model)
    assert operators(result) == ["Conv", "ConstantOfShape", "Mul", "Add"]
    assert result.ByteSize() < 1000
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT


def test_what_is_small_again_is_stored() -> None:
    body = "z = ConstantOfShape<value = float[1] {0.5}>(s) m = ReduceMean<axes=[2,3]>(z) r = Relu(a) y = Add(r, m)"
    assert operators(normalised(inflated(body))) == ["Conv", "Relu", "Add"]


def test_a_large_sum_of_large_constants_is_stored() -> None:
    body = "m = Add(p, q) y = Add(a, m)"
    result = normalised(inflated(body, p=normal(1, 4, 600, 600), q=normal(1, 1, 600, 600)))
    assert operators(result) == ["Conv", "Add"]


def test_a_weight_is_stored_however_it_is_made() -> None:
    body = "k = Expand(one, s) y = Conv(a, k)"
    text = f"(float[1,3,8,8] x) => (float[1,600,8,8] y) {{ a = Conv(x, W) {body} }}"
    weights = {"W": normal(600, 3, 1, 1), "s": np.array([600, 600, 1, 1]), "one": np.full((1, 1, 1, 1), 0.01, "f4")}
    assert operators(normalised(network(text, **weights))) == ["Conv", "Conv"]


def test_nor_does_an_ir_store_them() -> None:
    x = ops.parameter([1, 4, 600, 600], np.float32, name="x")
    a = ops.convolution(x, ops.constant(normal(4, 4, 1, 1)), [1, 1], [0, 0], [0, 0], [1, 1])
    z = ops.multiply(ops.broadcast(ops.constant(np.float32(0.5)), ops.constant([1, 4, 600, 600])), np.float32(3))
    small = ops.reduce_mean(z, ops.constant([2, 3]), keep_dims=True)
    model = ov.Model([ops.result(ops.add(ops.add(a, z), small))], [x], "m")
    result = OvGraph(model).to_model()
    kinds = [op.get_type_name() for op in result.get_ordered_ops()]
    assert sorted(kinds) == sorted(
        ["Parameter", "Convolution", "Broadcast", "Multiply", "Add", "Add", "Result", *["Constant"] * 5]
    )
    largest = max(np.prod(op.get_output_shape(0)) for op in result.get_ops() if op.get_type_name() == "Constant")
    assert largest == 16
    feed = {"x": np.random.default_rng(0).normal(size=(1, 4, 600, 600)).astype(np.float32)}
    assert relative(list(OpenVINO(model)(feed).values()), list(OpenVINO(result)(feed).values())) < EXACT


def test_an_ir_stores_weights_however_they_are_made() -> None:
    x = ops.parameter([1, 600, 8, 8], np.float32, name="x")
    weight = ops.broadcast(ops.constant(np.float32(0.01)), ops.constant([600, 600, 1, 1]))
    model = ov.Model([ops.result(ops.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1]))], [x], "m")
    kinds = [op.get_type_name() for op in OvGraph(model).to_model().get_ordered_ops()]
    assert sorted(kinds) == ["Constant", "Convolution", "Parameter", "Result"]


# sizes


def sizes_of(picked: str, infer: bool = True, **numbers: NDArray[np.int64]) -> list[str]:
    """Operators left of a graph that picks from Shape(r), r being (2, 4, h, 6)."""
    text = f"(float[2,3,h,8] x) => (float[2,4,p,6] r, int64[a] z) {{ r = Conv(x, W) {picked} }}"
    model = network(text, **numbers, **CONV)
    return operators(normalised(onnx.shape_inference.infer_shapes(model) if infer else model))


ONE = {"one": np.array([1]), "two": np.array([2])}
COMPUTED = "m = ReduceMax<keepdims=0>(x) c = Cast<to=7>(m) i = Reshape(c, one) s = Shape(r)"


@pytest.mark.parametrize(
    ("picked", "numbers", "left"),
    [
        ("z = Shape<start=0, end=2>(r)", {}, ["Conv"]),
        ("z = Shape<start=-1>(r)", {}, ["Conv"]),
        ("z = Shape<start=1, end=3>(r)", {}, ["Conv", "Shape"]),
        ("s = Shape(r) z = Gather(s, one)", ONE, ["Conv"]),
        ("s = Shape(r) z = Gather(s, two)", ONE, ["Conv", "Shape", "Gather"]),
        ("s = Shape(r) z = Slice(s, one, two)", ONE, ["Conv"]),
        ("s = Shape(r) z = Slice(s, one, three)", {**ONE, "three": np.array([3])}, ["Conv", "Shape", "Slice"]),
        (f"{COMPUTED} z = Gather(s, i)", ONE, ["Conv", "ReduceMax", "Cast", "Shape", "Reshape", "Gather"]),
        (f"{COMPUTED} z = Slice(s, i, two)", ONE, ["Conv", "ReduceMax", "Cast", "Shape", "Reshape", "Slice"]),
    ],
)
def test_sizes_that_the_model_fixes_are_folded(
    picked: str, numbers: dict[str, NDArray[np.int64]], left: list[str]
) -> None:
    assert sizes_of(picked, **numbers) == left


def test_a_slice_of_sizes_whose_ends_are_attributes() -> None:
    """Before opset 10."""
    text = """(float[2,3,7,8] x) => (float[2,4,5,6] r, int64[1] z) {
        r = Conv(x, W) s = Shape(r) z = Slice<starts=[1], ends=[2]>(s) }"""
    result = normalised(onnx.shape_inference.infer_shapes(network(text, opset=9, ir_version=4, **CONV)))
    assert operators(result) == ["Conv"]
    (z,) = (numpy_helper.to_array(t) for t in result.graph.initializer if t.name == "z")
    assert z.tolist() == [4]


def test_shape_gives_the_axes_that_its_attributes_name() -> None:
    text = """(float[2,3,7,8] x) => (float[2,4,5,6] r, int64[2] z) { r = Conv(x, W) z = Shape<start=1, end=3>(r) }"""
    result = normalised(onnx.shape_inference.infer_shapes(network(text, **CONV)))
    (z,) = (numpy_helper.to_array(t) for t in result.graph.initializer if t.name == "z")
    assert z.tolist() == [4, 5]


def test_declared_sizes_of_a_batch_that_was_opened_since_are_not_believed() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,p] y) {
        r = Conv(x, W) s = Shape(r) n = Slice(s, zero, two) z = Concat<axis=0>(n, minus) y = Reshape(r, z) }"""
    numbers = {name: np.array([i]) for name, i in (("zero", 0), ("two", 2), ("minus", -1))}
    model = onnx.shape_inference.infer_shapes(network(text, **numbers, **CONV))
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_param = "n"
    feed = {"x": normal(3, 3, 8, 8)}
    assert run_ov(normalised(model), feed)[0].shape == (3, 4, 36)


# branches


def test_branches_with_constants_of_one_name_stay_apart() -> None:
    text = """(float[1,4] x) => (float[1,4] y) {
        a = If(always) <
            then_branch = t () => (float[1,4] p) { k = Constant<value_floats=[1.0,2.0,3.0,4.0]>() p = Mul(x, k) },
            else_branch = e () => (float[1,4] q) { q = Relu(x) } >
        y = If(never) <
            then_branch = u () => (float[1,4] p) { p = Relu(a) },
            else_branch = f () => (float[1,4] q) { k = Constant<value_floats=[5.0,6.0,7.0,8.0]>() q = Add(a, k) } >
    }"""
    model = network(text, always=np.array(True), never=np.array(False))
    result = normalised(model)
    assert operators(result) == ["Mul", "Add"]
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT


def test_a_branch_that_hands_out_a_constant() -> None:
    text = """(float[1,4] x) => (float[1,4] y) {
        a = If(always) <
            then_branch = t () => (float[4] p) { p = Identity(k) },
            else_branch = e () => (float[1,4] q) { q = Relu(x) } >
        y = Mul(x, a)
    }"""
    model = network(text, always=np.array(True), k=normal(4))
    result = normalised(model)
    assert "If" not in operators(result)
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT


# nodes that are folded


def test_a_folded_node_is_gone_before_sizes_are_inferred() -> None:
    """Shape's folding infers shapes, which refuses a node whose outputs were taken away."""
    text = """(float[2,3,8,8] x) => (float[2,4,36] y) {
        k = Constant<value_float=2.0>()  m = Mul(x, k)  r = Conv(m, W)  s = Shape(r)  n = Slice(s, zero, two)
        a, b = Split<axis=0>(both)  z = Concat<axis=0>(n, a)  y = Reshape(r, z) }"""
    numbers = {"zero": np.array([0]), "two": np.array([2]), "both": np.array([-1, 7])}
    model = onnx.shape_inference.infer_shapes(network(text, **numbers, **CONV))
    result = normalised(model)
    assert operators(result) == ["Mul", "Conv", "Reshape"]
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT
