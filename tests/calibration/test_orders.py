"""Layers whose samples do not lie one after the other along axis 0: rows and responses are those of each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal, run_ort
from naive import im2col
from numpy.typing import NDArray

from ndpass.calibration.collect import Data, Frontier, samples
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.orders import orders_of
from ndpass.calibration.patches import Sample, patches
from ndpass.calibration.reference import Calibration, ShardedCalibration
from ndpass.conv import Conv
from ndpass.errors import InputError
from ndpass.graph.graph import Graph, Site, Skipped
from ndpass.measuring.sample_order import Order

F = NDArray[np.floating[Any]]
IMAGES = 24
F32 = 1e-5

CONVS = {"W1": normal(8, 3, 3, 3), "W2": normal(6, 8, 3, 3), "W3": normal(6, 5)}
TWICE = "a = Conv<pads=[1,1,1,1]>(f, W1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, W2) d = Relu(c)"
HEAD = f"{TWICE} g = GlobalAveragePool(d) h = Flatten(g) m = MatMul(h, W3)"
FRAMES = network(  # the frames of a sample are maps of their own, one after the other
    f"(float[N,4,3,5,6] x) => (float[N,4,5] y) {{ s = Constant<value_ints=[-1,3,5,6]>() f = Reshape(x, s) {HEAD}"
    " t = Constant<value_ints=[-1,4,5]>() y = Reshape(m, t) }",
    **CONVS,
)
VIEWS = network(  # the left views of all samples, then the right ones
    "(float[N,2,3,5,6] x) => (float[N,5] y) { zero = Constant<value_int=0>() one = Constant<value_int=1>()"
    " l = Gather<axis=1>(x, zero) r = Gather<axis=1>(x, one)"
    f" f = Concat<axis=0>(l, r) {HEAD} u, v = Split<axis=0, num_outputs=2>(m) y = Sub(u, v) }}",
    opset=18,
    **CONVS,
)
TIME_FIRST = network(  # as a recurrent reader of text or a transformer of torch has it
    "(float[N,8,12] x) => (float[12,N,5] y) { a = Conv<pads=[1,1]>(x, V) b = Relu(a)"
    " t = Transpose<perm=[2,0,1]>(b) c = MatMul(t, W) d = Relu(c) m = MatMul(d, W3) y = Identity(m) }",
    V=normal(10, 8, 3),
    W=normal(10, 6),
    W3=normal(6, 5),
)
MODELS = {"frames": FRAMES, "views": VIEWS, "time first": TIME_FIRST}
TAPS = {"frames": ("f", "b", "h"), "views": ("f", "b", "h"), "time first": ("x", "t", "d")}
ORDERS = {
    "frames": [Order(), Order(), Order()],
    "views": [Order(by_map=True)] * 3,
    "time first": [Order(), Order(1), Order(1)],
}


def feeds_of(graph: Graph, images: int = IMAGES) -> Feeds:
    (spec,) = graph.inputs()
    shape = [size or 0 for size in spec.sample]
    return open_feeds(np.random.default_rng(3).standard_normal((images, *shape)).astype(np.float32), graph.inputs())


def sites_in(graph: Graph) -> list[Site]:
    return [s for s in graph.sites() if isinstance(s, Site)]


def static(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = batch
    return fixed


def rows_alone(model: onnx.ModelProto, tap: str, site: Site, feeds: Feeds, sample: Sample) -> F:
    """The input patches at the sampled positions, each sample run by itself in onnxruntime."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(onnx.helper.make_tensor_value_info(tap, onnx.TensorProto.FLOAT, None))
    found = []
    for i, feed in enumerate(feeds.batches(1)):
        x = feed["x"] if tap == "x" else run_ort(tapped, feed)[-1]
        rows = im2col(site.conv, x).reshape(-1, site.outline.unknowns) if site.outline.kernel else x
        found.append(rows.reshape(-1, rows.shape[-1])[sample.positions[i]])
    return np.concatenate(found)


@pytest.mark.parametrize("memory", [1 << 30, 50_000, 1])
@pytest.mark.parametrize("name", MODELS)
def test_rows_and_responses_are_those_of_each_sample_whatever_the_memory(name: str, memory: int) -> None:
    """The responses are drawn in smaller batches where memory is short, where they lie in another order."""
    model = MODELS[name]
    graph = Graph(model)
    sites, feeds = sites_in(graph), feeds_of(graph)
    found = Calibration.of(graph, sites, feeds, 1, 0, memory)
    frontier = Frontier(graph, found.data, memory)
    for site, tap in zip(sites, TAPS[name], strict=True):
        sample, batch = found.chosen[site.name], found.data.batch
        assert sample.rows == IMAGES * sample.each
        rows = np.concatenate(
            [
                patches(site.outline, sample.order.by_sample(x, batch), sample.of(i * batch, batch))
                for i, x in enumerate(frontier.advance(site))
            ]
        )
        expected = rows_alone(model, tap, site, feeds, sample)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=F32 * np.abs(expected).max())
        bias = 0 if site.conv.bias is None else site.conv.bias
        wanted = expected @ site.conv.matrix.T + bias
        np.testing.assert_allclose(found.responses[site.name], wanted, rtol=0, atol=F32 * np.abs(wanted).max())


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_the_samples_is_told_by_a_run(name: str) -> None:
    graph = Graph(MODELS[name])
    chosen = samples(graph, sites_in(graph), Data(feeds_of(graph), 8))
    assert [chosen[site.name].order for site in sites_in(graph)] == ORDERS[name]


def test_the_first_samples_may_be_alike() -> None:
    """Black pictures ahead, say: one that is not alike is looked at, and where there is none nothing is told."""
    graph = Graph(VIEWS)
    site = sites_in(graph)[0]
    x = np.random.default_rng(0).standard_normal((24, 2, 3, 5, 6)).astype(np.float32)
    x[:4] = 0
    chosen = samples(graph, [site], Data(open_feeds(x, graph.inputs()), 8))
    assert chosen[site.name].order == Order(by_map=True)
    x[:8] = 0
    feeds = open_feeds(x, graph.inputs())
    found = Calibration.of(graph, [site], feeds, 1, 0, 50_000)
    sample, batch = found.chosen[site.name], found.data.batch
    assert not sample.order.told
    assert batch > 1
    rows = np.concatenate(
        [
            patches(site.outline, sample.order.by_sample(one, batch), sample.of(i * batch, batch))
            for i, one in enumerate(Frontier(graph, found.data, 50_000).advance(site))
        ]
    )
    wanted = rows @ site.conv.matrix.T
    np.testing.assert_allclose(found.responses[site.name], wanted, rtol=0, atol=F32 * np.abs(wanted).max())


def test_a_fixed_batch_is_told_by_a_run_too_where_time_is_as_long_as_the_batch() -> None:
    graph = Graph(static(TIME_FIRST, 12))
    chosen = samples(graph, sites_in(graph), Data(feeds_of(graph), 12))
    assert [chosen[site.name].order for site in sites_in(graph)] == ORDERS["time first"]


def test_moments_of_shards_are_those_of_one_walk() -> None:
    graph = Graph(VIEWS)
    sites, feeds = sites_in(graph), feeds_of(graph)
    whole = Calibration.of(graph, sites, feeds, 1, 0, 1 << 30)
    data = Data(feeds, 4, 1)
    parts = ShardedCalibration.of_shards(graph, sites, data, 1 << 30, (), 3, 1)
    one, other = whole.walk(graph), parts.walk(graph)
    for site in sites:
        a, b = one.moments(site), other.moments(site)
        for got, wanted in ((b.C, a.C), (b.B, a.B)):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=F32 * np.abs(wanted).max())


def test_where_no_order_is_found_responses_are_drawn_in_the_batch_of_the_walk() -> None:
    """Each row is the mean of two samples, of any batch: it belongs to none, but rows and responses go together."""
    model = network(
        "(float[N,3,5,6] x) => (float[N,6,5,6] y) { zero = Constant<value_ints=[0]>()"
        " m = ReduceMean<keepdims=1>(x, zero) f = Add(x, m) a = Conv<pads=[1,1,1,1]>(f, W1) b = Relu(a)"
        " k = Concat<axis=0>(b, b) d = Conv<pads=[1,1,1,1]>(k, W2) y, z = Split<axis=0, num_outputs=2>(d) }",
        opset=18,
        W1=CONVS["W1"],
        W2=CONVS["W2"],
    )
    graph = Graph(model)
    sites = sites_in(graph)
    found = Calibration.of(graph, sites, feeds_of(graph), 1, 0, 50_000)
    batch, frontier = found.data.batch, Frontier(graph, found.data, 50_000)
    assert batch > 1
    assert not found.chosen["d"].order.told
    for site in sites:
        sample = found.chosen[site.name]
        rows = np.concatenate(
            [
                patches(site.outline, sample.order.by_sample(x, batch), sample.of(i * batch, batch))
                for i, x in enumerate(frontier.advance(site))
            ]
        )
        wanted = rows @ site.conv.matrix.T
        np.testing.assert_allclose(found.responses[site.name], wanted, rtol=0, atol=F32 * np.abs(wanted).max())


def test_a_layer_that_knows_shapes_alone_is_left_out() -> None:
    """Positions from an open width through a small network, as relative positions are embedded."""
    model = network(
        "(float[N,3,5,W] x) => (float[N,8,5,W] y) { a = Conv<pads=[1,1,1,1]>(x, W1) s = Shape(x)"
        " three = Constant<value_int=3>() w = Gather(s, three) zero = Constant<value_int=0>()"
        " one = Constant<value_int=1>() r = Range(zero, w, one) f = Cast<to=1>(r) ax = Constant<value_ints=[1]>()"
        " u = Unsqueeze(f, ax) h = MatMul(u, P) t = Transpose<perm=[1,0]>(h) t2 = Unsqueeze(t, ax) y = Add(a, t2) }",
        W1=CONVS["W1"],
        P=normal(1, 8),
    )
    found = {one.name: one for one in Graph(model).sites()}
    assert isinstance(found["a"], Site)
    assert isinstance(found["h"], Skipped)
    assert found["h"].reason == "computed from shapes alone, the same for all samples"


def test_a_layer_whose_rows_come_with_no_sample_is_named() -> None:
    model = network(
        "(float[N,3,5,6] x) => (float[1,8,5,6] y) { zero = Constant<value_ints=[0]>()"
        " m = ReduceMean<keepdims=1>(x, zero) y = Conv<pads=[1,1,1,1]>(m, W1) }",
        opset=18,
        W1=CONVS["W1"],
    )
    graph = Graph(model)
    with pytest.raises(InputError, match=r"layer 'y' gives 1x8x5x6 for 8 samples, .* leave it out with --ignore y"):
        samples(graph, sites_in(graph), Data(feeds_of(graph), 8))
    assert orders_of(graph, {"y": "y"}, ["y"], feeds_of(graph), 1, 1) == {"y": Order()}


def test_positions_are_counted_through_all_maps_of_a_sample() -> None:
    conv = Conv(normal(4, 3, 3, 3), pads=(1, 1, 1, 1))
    x = np.random.default_rng(0).standard_normal((6, 3, 4, 5)).astype(np.float32)  # three samples of two maps
    rows = im2col(conv, x).reshape(3, 40, 27)
    positions = np.array([[0, 19, 20], [39, 21, 3], [7, 7, 30]])
    expected = np.concatenate([rows[i, positions[i]] for i in range(3)])
    np.testing.assert_array_equal(patches(conv, x, positions), expected)
