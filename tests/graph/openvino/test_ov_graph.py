"""OpenVINO models as graphs: the same sites, groups and weights as of the ONNX model, and names and types stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import EXACT, feed_of, network, normal, relative, run_ort
from numpy.typing import NDArray
from openvino import opset13 as ops

from ndpass.conv import Chain, Conv
from ndpass.errors import InputError
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site, Skipped
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.runtime import OpenVINO
from ndpass.passes import NetworkDecoupling

NET = """(float[batch,3,8,8] image) => (float[batch,5] scores, float[batch,16,4,4] features) {
    a = Conv<pads = [1,1,1,1]>(image, w1, b1)  n = BatchNormalization(a, scale, shift, mean, var)  r = Relu(n)
    d = Conv<pads = [1,1,1,1], group = 16>(r, w2, b2)  c = Clip(d, low, high)  p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c)
    e = Conv<pads = [1,1,1,1]>(p, w3)  s = Add(e, p)  t = Relu(s)
    features = Conv<auto_pad = "SAME_UPPER">(t, w4, b4)
    g = Conv<pads = [1,1,1,1], group = 2>(features, w5)  f = Flatten(g)  scores = Gemm<transB = 1>(f, w6, b6)
}"""  # noqa: E501
WEIGHTS = {
    "w1": normal(16, 3, 3, 3),
    "b1": normal(16),
    "scale": 1 + normal(16, seed=1),
    "shift": normal(16, seed=2),
    "mean": normal(16, seed=3),
    "var": np.abs(normal(16, seed=4)) + np.float32(0.5),
    "w2": normal(16, 1, 3, 3),
    "b2": normal(16, seed=5),
    "low": np.float32(-3),
    "high": np.float32(6),
    "w3": normal(16, 16, 3, 3),
    "w4": normal(16, 16, 3, 3, seed=1),
    "b4": normal(16, seed=6),
    "w5": normal(16, 8, 3, 3),
    "w6": normal(5, 256),
    "b6": normal(5),
}


def onnx_net() -> onnx.ModelProto:
    return network(NET, **WEIGHTS)


def ov_of(model: onnx.ModelProto) -> ov.Model:
    return ov.Core().read_model(model.SerializeToString())


def answers(model: Any, feed: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    return list(OpenVINO(model if isinstance(model, ov.Model) else model.SerializeToString())(feed).values())


def sites(graph: Graph) -> list[Site]:
    return [found for found in graph.sites() if isinstance(found, Site)]


def kinds(model: ov.Model) -> list[str]:
    return sorted(op.get_type_name() for op in model.get_ops())


def single(make: Any, *shape: int) -> ov.Model:
    """A model of one input, `make` of it, and one output."""
    x = ops.parameter(list(shape), np.float32, name="x")
    return ov.Model([make(x)], [x], "single")


def quantised(x: Any) -> Any:
    low, high = ops.constant(np.float32(-1)), ops.constant(np.float32(1))
    return ops.fake_quantize(x, low, high, low, high, 255)


def convolution(x: Any, w: Any) -> Any:
    return ops.convolution(x, w, [1, 1], [1, 1], [1, 1], [1, 1])


def with_bias(y: Any, bias: NDArray[np.float32]) -> Any:
    return ops.add(y, ops.constant(bias.reshape(1, -1, 1, 1)))


KERNEL = normal(4, 3, 3, 3)


# ------------------------------------------------------------------------------------------------------------ sites


def test_sites_are_those_of_the_onnx_model() -> None:
    a, b = Graph(onnx_net()), OvGraph(ov_of(onnx_net()))
    assert len(a.sites()) == len(b.sites()) == 6
    for x, y in zip(sites(a), sites(b), strict=True):
        np.testing.assert_allclose(y.conv.weight, x.conv.weight, rtol=0, atol=1e-6)
        assert (x.conv.bias is None) == (y.conv.bias is None)
        if x.conv.bias is not None and y.conv.bias is not None:
            np.testing.assert_allclose(y.conv.bias, x.conv.bias, rtol=0, atol=1e-6)
        assert (x.op, x.in_hw, x.rows, x.outline.pads, x.outline.strides, x.outline.group) == (
            y.op,
            y.in_hw,
            y.rows,
            y.outline.pads,
            y.outline.strides,
            y.outline.group,
        )
        assert [op.replace("Clip", "Max") for op in a.behind(x)] == b.behind(y)  # OpenVINO clips by Maximum and Minimum
        assert a.shapes(4)[a.output_of(x)] == b.shapes(4)[b.output_of(y)]
    assert a.macs() == b.macs()
    assert list(a.macs_by([s.name for s in sites(a)]).values()) == list(b.macs_by([s.name for s in sites(b)]).values())


def test_a_model_that_nobody_rewrites_stays_as_it_is() -> None:
    model = single(lambda x: ops.relu(with_bias(convolution(x, ops.constant(KERNEL)), normal(4))), 1, 3, 8, 8)
    graph = OvGraph(model)
    graph.tidy()
    assert kinds(graph.to_model()) == kinds(model)


SKIPPED = {
    "weights are an input": (
        lambda x: convolution(x, ops.convert(ops.reshape(x, np.array([1, 3, 8, 8]), False), "f32")),
        "weights are computed at run time",
    ),
    "quantised weights": (lambda x: convolution(x, quantised(ops.constant(KERNEL))), "weights are quantised already"),
    "packed weights": (
        lambda x: convolution(
            x,
            ops.multiply(
                ops.convert(ops.constant(np.ones((4, 3, 3, 3), np.int8)), "f32"), ops.constant(np.float32(0.1))
            ),
        ),
        "weights are quantised already",
    ),
    "quantised input": (lambda x: convolution(quantised(x), ops.constant(KERNEL)), "input is quantised already"),
    "transposed": (
        lambda x: ops.convolution_backprop_data(x, ops.constant(normal(3, 4, 3, 3)), [2, 2]),
        "no multiple of its stride",
    ),
    "batched matrix": (lambda x: ops.matmul(x, ops.constant(normal(3, 8, 6)), False, False), "not a matrix"),
    "matrix on the left": (lambda x: ops.matmul(ops.constant(normal(6, 8)), x, False, False), "from the left"),
}


@pytest.mark.parametrize(("make", "reason"), SKIPPED.values(), ids=SKIPPED.keys())
def test_what_is_no_site_is_listed_with_its_reason(make: Any, reason: str) -> None:
    (found,) = OvGraph(single(make, 1, 3, 8, 8)).sites()
    assert isinstance(found, Skipped)
    assert reason in found.reason


def test_a_convolution_inside_a_branch_is_listed() -> None:
    def branch() -> ov.Model:
        x = ops.parameter([1, 3, 8, 8], np.float32)
        return ov.Model([ops.result(convolution(x, ops.constant(KERNEL)))], [x])

    x, on = ops.parameter([1, 3, 8, 8], np.float32, name="x"), ops.parameter([], bool, name="on")
    node = ops.if_op(on)
    bodies = branch(), branch()
    node.set_then_body(bodies[0])
    node.set_else_body(bodies[1])
    node.set_input(x.output(0), bodies[0].get_parameters()[0], bodies[1].get_parameters()[0])
    out = node.set_output(bodies[0].get_results()[0], bodies[1].get_results()[0])
    found = OvGraph(ov.Model([ops.result(out)], [x, on])).sites()
    assert [f.reason for f in found if isinstance(f, Skipped)] == ["inside a If"] * 2


def test_a_model_with_state_is_refused() -> None:
    x = ops.parameter([1, 4], np.float32, name="x")
    state = ops.read_value(ops.constant(np.zeros((1, 4), np.float32)), "s", np.float32, [1, 4])
    total = ops.add(x, state)
    with pytest.raises(InputError, match="keeps state"):
        OvGraph(ov.Model([ops.result(total)], [ops.assign(total, "s")], [x]))


def test_weights_that_are_an_input_of_the_model() -> None:
    x, w = ops.parameter([1, 3, 8, 8], np.float32, name="x"), ops.parameter([4, 3, 3, 3], np.float32, name="w")
    (found,) = OvGraph(ov.Model([convolution(x, w)], [x, w])).sites()
    assert isinstance(found, Skipped)
    assert found.reason == "weights are computed at run time"


def test_weights_in_bfloat16() -> None:
    """Stored in it they are read as float32; used in it they are left alone, NumPy having no such type."""
    stored = ov.op.Constant(ov.Type.bf16, ov.Shape([4, 3, 3, 3]), [1.5] * 108)
    (found,) = OvGraph(single(lambda x: convolution(x, ops.convert(stored, "f32")), 1, 3, 8, 8)).sites()
    assert isinstance(found, Site)
    assert (found.conv.weight == 1.5).all()
    x = ops.parameter([1, 3, 8, 8], ov.Type.bf16, name="x")
    (left,) = OvGraph(ov.Model([convolution(x, stored)], [x])).sites()
    assert isinstance(left, Skipped)
    assert "bfloat16" in left.reason


def test_an_input_of_any_rank_is_refused() -> None:
    x = ops.parameter(ov.PartialShape.dynamic(), np.float32, name="x")
    with pytest.raises(InputError, match="input 'x' may have any number of axes"):
        OvGraph(ov.Model([convolution(x, ops.constant(KERNEL))], [x]))


def test_scale_and_shift_behind_a_convolution_are_folded() -> None:
    """What OpenVINO makes of a BatchNormalization: Multiply and Add by a number for each channel."""
    scale, shift = normal(1, 4, 1, 1, seed=1), normal(1, 4, 1, 1, seed=2)
    model = single(
        lambda x: ops.add(ops.multiply(with_bias(convolution(x, ops.constant(KERNEL)), normal(4)), scale), shift),
        1,
        3,
        8,
        8,
    )
    graph, feed = OvGraph(model), {"x": normal(1, 3, 8, 8)}
    (site,) = sites(graph)
    np.testing.assert_allclose(site.conv.weight, KERNEL * scale.reshape(4, 1, 1, 1), rtol=1e-6)
    assert site.conv.bias is not None
    np.testing.assert_allclose(site.conv.bias, (normal(4) * scale.reshape(4) + shift.reshape(4)), rtol=1e-5, atol=1e-6)
    assert relative(answers(model, feed), answers(graph.to_model(), feed)) < EXACT


# ---------------------------------------------------------------------------------------------------------- rewriting


def decoupled(graph: Graph) -> int:
    """Every site that nd accepts at full rank, which is exact; how many were."""
    rule, done = NetworkDecoupling(rank="full"), 0
    for site in sites(graph):
        if rule.refuse(site.outline) is None:
            graph.splice(site, rule.rewrite(site.conv, rule.settings(site.outline)[0]))
            done += 1
    graph.tidy()
    return done


def test_full_rank_gives_the_outputs() -> None:
    model = ov_of(onnx_net())
    graph = OvGraph(model)
    assert decoupled(graph) >= 3
    feed = feed_of(onnx_net(), batch=3)
    result = graph.to_model()
    assert relative(answers(model, feed), answers(result, feed)) < 1e-4
    assert not any(op.get_friendly_name() == sites(OvGraph(model))[0].name for op in result.get_ops())


def test_names_types_and_open_shapes_stay() -> None:
    model = ov_of(onnx_net())
    model.set_rt_info("yes", "kept")
    graph = OvGraph(model)
    decoupled(graph)
    result = graph.to_model()
    for before, after in zip([*model.inputs, *model.outputs], [*result.inputs, *result.outputs], strict=True):
        assert (before.names, before.element_type, before.partial_shape) == (
            after.names,
            after.element_type,
            after.partial_shape,
        )
        assert before.node.get_friendly_name() == after.node.get_friendly_name()
    assert result.get_rt_info("kept").astype(str) == "yes"
    names = {name for op in result.get_ops() for port in op.outputs() for name in port.get_names()}
    assert {"r", "c", "t", "features"} <= names
    assert result.outputs[1].node.input_value(0).get_node().get_friendly_name() == "features"


def test_what_is_known_of_a_layer_goes_to_what_gives_its_output() -> None:
    x = ops.parameter([1, 3, 8, 8], np.float32, name="x")
    before = convolution(x, ops.constant(KERNEL))
    before.set_friendly_name("layer")
    before.get_rt_info()["mine"] = "kept"
    before.output(0).set_names({"one", "two"})
    graph = OvGraph(ov.Model([before], [x]))
    decoupled(graph)
    made = graph.to_model().outputs[0].node.input_value(0).get_node()
    assert made.get_friendly_name() == "layer"
    assert made.get_rt_info()["mine"].value == "kept"
    assert made.output(0).get_names() == {"one", "two"}


@pytest.mark.parametrize("rank", ["static", "open"])
def test_what_follows_from_shapes_is_folded(rank: str) -> None:
    """ONNX's global pooling, as OpenVINO reads it: over the axes from 2 to the rank of the tensor."""
    body = "a = Conv(x, w)  b = Relu(a)  p = GlobalAveragePool(b)  y = Conv(p, v)"
    text = f"(float[1,3,4,4] x) => (float[1,8,1,1] y) {{ {body} }}"
    model = network(
        text.replace("1,3,4,4", "n,3,h,w") if rank == "open" else text, w=normal(6, 3, 3, 3), v=normal(8, 6, 1, 1)
    )
    graph = OvGraph(ov_of(model))
    assert isinstance(graph.channel_group(sites(graph)[1]), Group)
    assert "Range" not in kinds(graph.to_model())


def test_the_model_given_is_not_changed_unless_in_place() -> None:
    model = ov_of(onnx_net())
    before = kinds(model)
    decoupled(OvGraph(model))
    graph = OvGraph(model)
    assert kinds(model) == before
    feed = feed_of(onnx_net(), batch=2)
    expected = answers(model, feed)
    graph = OvGraph(model, in_place=True)
    decoupled(graph)
    assert graph.to_model() is model
    assert kinds(model) != before
    assert relative(expected, answers(model, feed)) < 1e-4


def weight_types(graph: OvGraph) -> list[str]:
    """Of the kernels in the model that the graph writes, sorted."""
    found = [op for op in graph.to_model().get_ops() if op.get_type_name() == "Constant"]
    return sorted(op.get_element_type().to_string() for op in found if len(op.get_output_shape(0)) == 4)


def test_weights_in_half_precision_stay_so_and_new_ones_are_stored_so_too() -> None:
    half = ops.convert(ops.constant(KERNEL.astype(np.float16)), "f32")
    other = ops.convert(ops.constant(normal(4, 4, 3, 3).astype(np.float16)), "f32")
    model = single(lambda x: convolution(ops.relu(convolution(x, half)), other), 1, 3, 8, 8)
    graph = OvGraph(model)
    first = sites(graph)[0]
    assert first.conv.weight.dtype == np.float32
    np.testing.assert_array_equal(first.conv.weight, KERNEL.astype(np.float16).astype(np.float32))
    graph.splice(first, first.conv)
    assert weight_types(graph) == ["f16", "f16"]


def test_a_new_weight_is_not_halved_where_it_is_too_large_or_most_are_stored_in_float32() -> None:
    small = ops.convert(ops.constant(normal(4, 4, 1, 1).astype(np.float16)), "f32")
    half = ops.convert(ops.constant(KERNEL.astype(np.float16)), "f32")
    plain = ops.constant(normal(4, 4, 3, 3).astype(np.float32))
    mostly_single = OvGraph(single(lambda x: convolution(convolution(convolution(x, half), small), plain), 1, 3, 8, 8))
    first = sites(mostly_single)[0]
    mostly_single.splice(first, first.conv)
    assert weight_types(mostly_single) == ["f16", "f32", "f32"]
    huge = OvGraph(single(lambda x: convolution(x, half), 1, 3, 8, 8))
    (site,) = sites(huge)
    huge.splice(site, replace(site.conv, weight=site.conv.weight * 1e6))
    assert weight_types(huge) == ["f32"]


def test_one_tensor_may_be_two_outputs() -> None:
    x = ops.parameter([1, 3, 8, 8], np.float32, name="x")
    y = convolution(x, ops.constant(KERNEL))
    model = ov.Model([ops.result(y), ops.result(y), ops.result(x)], [x])
    graph, feed = OvGraph(model), {"x": normal(1, 3, 8, 8)}
    (site,) = sites(graph)
    graph.splice(site, Conv(site.conv.weight * 2, None, pads=(1, 1, 1, 1)))
    compiled = [ov.compile_model(m, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for m in (model, graph.to_model())]
    before, after = ([np.array(c(feed)[i]) for i in range(3)] for c in compiled)
    assert relative([2 * before[0], 2 * before[1], before[2]], after) < EXACT


# ------------------------------------------------------------------------------------------------- segments and probes


def test_segments_compute_what_the_whole_does() -> None:
    graph, feed = OvGraph(ov_of(onnx_net())), feed_of(onnx_net(), batch=2)
    decoupled(graph)
    whole = OpenVINO(graph.to_model())(feed)
    later = sites(OvGraph(ov_of(onnx_net())))[3]
    live = graph.live(next(s for s in sites(graph) if s.name.startswith(later.name)))
    first = OpenVINO(graph.segment(live, None, 2))
    middle = first({spec.name: feed[spec.name] for spec in first.inputs})
    assert set(middle) == set(live)
    last = OpenVINO(graph.segment(graph.outputs(), live, 2))
    result = last({spec.name: middle[spec.name] for spec in last.inputs})
    assert relative(list(whole.values()), list(result.values())) < EXACT


def test_a_perturbed_copy_adds_what_the_switch_says() -> None:
    graph, feed = OvGraph(ov_of(onnx_net())), feed_of(onnx_net(), batch=2)
    site = sites(graph)[3]
    copy = graph.copy()
    copy.perturb(site, Conv(-np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1), np.zeros(16, np.float32)), "switch")
    run = OpenVINO(copy.segment(copy.outputs(), None, 2))
    off, on = (run({**feed, "switch": np.full(1, a, np.float32)}) for a in (0.0, 1.0))
    whole = OpenVINO(graph.to_model())(feed)
    assert relative(list(whole.values()), list(off.values())) < EXACT
    assert not np.abs(on["features"]).any()
    assert [s.name for s in graph.inputs()] == ["image"]


# ------------------------------------------------------------------------------------------------------------- pruning


def test_channels_are_pruned_as_in_onnx() -> None:
    """Through BatchNormalization, Relu, a depthwise convolution, Clip, MaxPool, a residual Add and Flatten."""
    a, b = Graph(onnx_net()), OvGraph(ov_of(onnx_net()))
    feed = feed_of(onnx_net(), batch=2)
    done = []
    for x, y in zip(sites(a), sites(b), strict=True):
        mine, other = a.channel_group(x), b.channel_group(y)
        assert isinstance(mine, str) == isinstance(other, str), (mine, other)
        if isinstance(mine, Group) and isinstance(other, Group):
            assert mine.size == other.size
            keep = mine.filled(np.arange(0, mine.size, 2))
            a.keep_channels(mine, keep)
            b.keep_channels(other, keep)
            done.append(x.name)
    a.tidy()
    b.tidy()
    assert len(done) == 2
    assert a.macs() == b.macs() < Graph(onnx_net()).macs()
    assert relative(answers(a.to_model(), feed), answers(b.to_model(), feed)) < EXACT


def test_channels_before_a_flatten_are_pruned() -> None:
    text = """(float[batch,3,4,4] x) => (float[batch,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(a)  f = Flatten(r)  y = Gemm(f, w2, b2) }"""
    model = network(text, w1=normal(8, 3, 3, 3), b1=normal(8), w2=normal(128, 5), b2=normal(5))
    a, b, feed = Graph(model), OvGraph(ov_of(model)), feed_of(model, batch=2)
    for graph in (a, b):
        group = graph.channel_group(sites(graph)[1])
        assert isinstance(group, Group)
        graph.keep_channels(group, np.array([0, 3, 5]))
        graph.splice(sites(graph)[1], sites(graph)[1].conv)
    assert a.macs() == b.macs()
    assert relative(answers(a.to_model(), feed), answers(b.to_model(), feed)) < EXACT


BATCH = {
    "gather": "n = Gather<axis=0>(q, ZERO)",
    "slice": "n0 = Slice(q, ZEROS, ONE, ZEROS)  n = Squeeze(n0, ZEROS)",
}


@pytest.mark.parametrize("taken", BATCH)
def test_channels_of_a_tensor_whose_batch_is_read_off_are_pruned(taken: str) -> None:
    """As in a detector's heads, which are reshaped by the batch that the model finds."""
    text = f"""(float[batch,3,4,4] x) => (float[batch,m,2] y) {{
        a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)  b = Conv<pads=[1,1,1,1]>(r, B)  s = Relu(b)
        q = Shape(s)  {BATCH[taken]}  u = Unsqueeze(n, ZEROS)  v = Concat<axis=0>(u, REST)
        c = Conv(s, C)  t = Transpose<perm=[0,2,3,1]>(c)  y = Reshape(t, v) }}"""
    numbers = {"ZERO": np.array(0), "ZEROS": np.array([0]), "ONE": np.array([1]), "REST": np.array([-1, 2])}
    used = {name: value for name, value in numbers.items() if f"{name}," in text or f"{name})" in text}
    model = network(text, A=normal(8, 3, 3, 3), B=normal(8, 8, 3, 3), C=normal(4, 8, 1, 1), **used)
    a, b = Graph(model), OvGraph(ov_of(model))
    assert all(isinstance(group, Group) for group in list(b.channel_groups().values())[1:])
    for graph in (a, b):
        group = graph.channel_group(sites(graph)[2])
        assert isinstance(group, Group)
        graph.keep_channels(group, np.array([0, 3, 5]))
        graph.tidy()
    assert a.macs() == b.macs()
    for batch in (1, 3):
        feed = feed_of(model, batch=batch)
        assert relative(answers(a.to_model(), feed), answers(b.to_model(), feed)) < EXACT


PYRAMID = """(float[N,3,H,W] x) => (float[N,5,P,Q] p, float[N,5,R,S] q) {
    a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)  b = Conv<strides=[2,2],pads=[1,1,1,1]>(r, B)  s = Relu(b)
    u = Conv(s, U)  l = Conv(r, L)
    k = Shape(r)  hw = Slice(k, two, four)  m = Shape(u)  nc = Slice(m, zero, two)  z = Concat<axis=0>(nc, hw)
    up = Resize<MODE>(u, , , z)  o = Add(up, l)
    p = Conv<pads=[1,1,1,1]>(o, P)  q = Conv<pads=[1,1,1,1]>(u, Q) }"""
MODES = [
    'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
    'mode="linear", coordinate_transformation_mode="align_corners"',
    'mode="cubic"',
]


@pytest.mark.parametrize("mode", MODES)
def test_a_pyramid_that_resizes_to_sizes_it_reads_off_is_pruned_as_in_onnx(mode: str) -> None:
    weights = {"A": normal(4, 3, 3, 3), "B": normal(6, 4, 3, 3), "U": normal(8, 6, 1, 1), "L": normal(8, 4, 1, 1)}
    heads = {"P": normal(5, 8, 3, 3), "Q": normal(5, 8, 3, 3, seed=1)}
    model = network(
        PYRAMID.replace("MODE", mode), **weights, **heads, zero=np.array([0]), two=np.array([2]), four=np.array([4])
    )
    a, b, feed = Graph(model), OvGraph(ov_of(model)), feed_of(model, N=2, H=13, W=10)
    for graph in (a, b):
        assert {name for name, group in graph.channel_groups().items() if isinstance(group, Group)} == set("blupq")
    for graph in (a, b):
        for name in ("u", "p"):
            group = graph.channel_group(next(site for site in sites(graph) if site.name == name))
            assert isinstance(group, Group)
            graph.keep_channels(group, np.array([0, 3, 4]))
        graph.tidy()
    assert a.macs() == b.macs()
    expected = run_ort(a.to_model(), feed)
    assert relative(expected, answers(a.to_model(), feed)) < EXACT
    assert relative(expected, answers(b.to_model(), feed)) < EXACT


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("leading", [(), (3,)])
def test_a_product_of_a_turned_input_is_a_site(turned: bool, leading: tuple[int, ...]) -> None:
    """`convert_model` takes the transpose before a linear layer into it, which ONNX keeps."""
    x = ops.parameter([*leading, 7, 5], np.float32, name="x")
    weight = normal(6, 7) if turned else normal(7, 6)
    product = ops.matmul(x, weight, True, turned)
    model = ov.Model([ops.relu(ops.add(product, normal(6, seed=1)))], [x])
    feed = {"x": normal(*leading, 7, 5, seed=2)}
    expected, graph = answers(model, feed), OvGraph(model)
    (site,) = sites(graph)
    assert (site.outline.n_i, site.outline.n_o) == (7, 6)
    assert site.macs(site.outline) == graph.macs() == int(np.prod(leading)) * 5 * 7 * 6
    assert relative(expected, answers(graph.to_model(), feed)) < EXACT
    graph.splice(site, Chain(replace(site.conv, bias=None), Conv(np.eye(6), site.conv.bias)))
    graph.tidy()
    assert relative(expected, answers(graph.to_model(), feed)) < EXACT


@pytest.mark.parametrize(("turned", "weight"), [(False, normal(6, 7)), (True, normal(7, 6))])
def test_a_weight_from_the_left_is_counted_and_told(turned: bool, weight: NDArray[Any]) -> None:
    x = ops.parameter([7, 5], np.float32, name="x")
    graph = OvGraph(ov.Model([ops.matmul(weight, x, turned, False)], [x]))
    (found,) = graph.sites()
    assert isinstance(found, Skipped)
    assert "from the left" in found.reason
    assert found.macs == graph.macs() == 7 * 6 * 5


# -------------------------------------------------------------------------------------------------------------- shapes


def test_sizes_that_a_model_leaves_open_are_assumed() -> None:
    """As a converted torch model has them: all axes open, the channels too, which the first convolution knows."""
    x = ops.parameter(ov.PartialShape([-1, -1, -1, -1]), np.float32, name="x")
    graph = OvGraph(ov.Model([convolution(x, ops.constant(KERNEL))], [x]))
    assert graph.sizes == {"x": (1, 3, 224, 224)}
    assert graph.dynamic_hw
    graph.assume({"x": (1, 3, 10, 12)})
    assert graph.macs() == 4 * 10 * 12 * 27
    with pytest.raises(InputError, match="contradicts itself"):
        graph.assume({"x": (1, 5, 10, 12)})


def test_shapes_are_those_of_the_described_tensors() -> None:
    """`Model.reshape` replaces a MatMul with a transposed operand, whose old ports then keep their open shapes."""
    text = """(float[n,c,h,w] x) => (float[n,4,p,q] y) {
        a = Conv(x, W)  s = Shape(a)  b = Flatten<axis=2>(a)  t = Transpose<perm=[1,0]>(b)
        g = MatMul(b, t)  m = MatMul(g, b)  y = Reshape(m, s) }"""
    model = network(text, W=normal(4, 3, 3, 3))
    sizes = {"x": (1, 3, 8, 8)}
    both = [Graph(model, sizes), OvGraph(ov.Core().read_model(model.SerializeToString()), sizes)]
    assert both[0].macs() == both[1].macs() == 36 * 4 * 27 + 4 * 36 * 4 + 4 * 4 * 36
