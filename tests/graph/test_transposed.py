"""Transposed convolutions: the convolution of their phases is the same, and what stands in their place too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from models import EXACT, feed_of, network, normal, relative, rewritten, run_options, run_ort, run_ov, sites_of
from numpy.typing import NDArray

from ndpass.calibration.collect import Data, Frontier, references, samples
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.gather import collect
from ndpass.calibration.reference import Calibration
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Skipped
from ndpass.graph.openvino.graph import OvGraph
from ndpass.graph.sites import Site
from ndpass.graph.transposed import Transposed
from ndpass.measuring.block_model import small_model
from ndpass.measuring.openvino_core import shared_core
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.planning.probes import Spectrum, weakest_directions
from ndpass.planning.sensitivity import slopes
from ndpass.planning.shared_channels import channel_group
from ndpass.report import Layer
from ndpass.run import pipeline
from ndpass.run.inspection import inspect

F = NDArray[Any]
LAYERS = {  # kernel, stride, pads, output_padding
    "2x2": (2, 2, 0, 0),
    "3x3": (3, 2, 1, 1),
    "4x4": (4, 2, 1, 0),
    "5x5": (5, 2, 2, 1),
    "6x6": (6, 2, 2, 0),
    "9x9-by-3": (9, 3, 4, 2),
    "3x3-by-4": (3, 4, 0, 1),
    "3x3-by-1": (3, 1, 1, 0),
    "4x4-larger": (4, 2, 0, 0),
    "4x4-smaller": (4, 2, 3, 0),
    "5x5-by-1-smaller": (5, 1, 3, 0),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def model(name: str, bias: bool = True, n_i: int = 6, n_o: int = 4) -> onnx.ModelProto:
    """A layer of this geometry between two others."""
    k, s, pad, more = LAYERS[name]
    attrs = f"strides=[{s},{s}], pads=[{pad},{pad},{pad},{pad}], output_padding=[{more},{more}]"
    weights = {"W": normal(n_i, n_o, k, k), **({"B": normal(n_o)} if bias else {})}
    high, wide = (s * (side - 1) + k - 2 * pad + more for side in (7, 6))
    text = f"""(float[N,3,7,6] x) => (float[N,{n_o},{high},{wide}] y) {{
        a = Conv(x, V)  r = Relu(a)  t = ConvTranspose<{attrs}>({", ".join(["r", *weights])})  y = Relu(t) }}"""
    return network(text, **weights, V=normal(n_i, 3, 1, 1))


def layer(of: onnx.ModelProto) -> Site:
    return next(site for site in sites_of(of) if site.name == "t")


@every_layer
def test_the_layer_is_the_convolution_of_its_phases(name: str) -> None:
    """In both runtimes and by both roads, with the MACs and the shape of the layer as it is."""
    original = model(name)
    k, s, *_ = LAYERS[name]
    site = layer(original)
    assert site.transposed is not None
    assert site.shape == (6, 4, k, k)
    assert site.macs(site.outline) == 6 * 4 * k * k * 7 * 6
    assert Graph(original).macs() == 6 * 4 * k * k * 42 + 18 * 42
    feed = feed_of(original, N=2)
    expected = run_ort(original, feed)
    result, done = rewritten(original, lambda found: found.conv if found.name == "t" else None)
    assert done == 1
    assert {node.op_type for node in result.graph.node} == {"Conv", "Relu"} | ({"DepthToSpace"} if s > 1 else set())
    assert relative(expected, run_ort(result, feed)) < EXACT
    assert relative(expected, run_ov(result, feed)) < EXACT

    graph = OvGraph(shared_core().read_model(original.SerializeToString()))
    (other,) = (found for found in graph.sites() if isinstance(found, Site) and found.op == "ConvTranspose")
    np.testing.assert_array_equal(other.conv.weight, site.conv.weight)
    graph.splice(other, other.conv)
    graph.tidy()
    compiled = shared_core().compile_model(graph.to_model(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative(expected, [np.asarray(compiled(feed)[0])]) < EXACT


@given(
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.integers(1, 4),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    beyond=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
@settings(max_examples=60, deadline=None, derandomize=True)
@example(kernel=(4, 4), stride=2, pads=(3, 3, 3, 3), beyond=(0, 0))
@example(kernel=(4, 4), stride=2, pads=(0, 0, 0, 0), beyond=(0, 0))
@example(kernel=(3, 5), stride=2, pads=(1, 2, 0, 2), beyond=(0, 1))
def test_any_geometry_is_rewritten_to_the_same_or_refused_with_a_reason(
    kernel: tuple[int, int], stride: int, pads: tuple[int, ...], beyond: tuple[int, int]
) -> None:
    """Kernel, stride, pads and output_padding as they may come; both as phases and, to be timed, as it is."""
    more = [min(one, stride - 1) for one in beyond]  # ONNX's law
    sizes = [stride * (side - 1) + k for side, k in zip((5, 6), kernel, strict=True)]
    sizes = [size - pads[a] - pads[a + 2] + more[a] for a, size in enumerate(sizes)]
    assume(min(sizes) > 0)
    attrs = f"strides=[{stride},{stride}], pads={list(pads)}, output_padding={more}"
    text = f"(float[1,3,5,6] x) => (float[1,2,{sizes[0]},{sizes[1]}] y) {{ y = ConvTranspose<{attrs}>(x, W, B) }}"
    original = network(text, W=normal(3, 2, *kernel), B=normal(2))
    (found,) = Graph(original).sites()
    if isinstance(found, Skipped):
        assert any(size % stride for size in sizes) or any(pads[i] >= kernel[i % 2] for i in range(4))
        assert found.reason.startswith("transposed convolution")
        return
    feed = feed_of(original)
    expected = run_ort(original, feed)
    result, done = rewritten(original, lambda site: site.conv)
    assert done == 1
    assert relative(expected, run_ort(result, feed)) < EXACT
    made = small_model(found.outline, found.outline, (5, 6), 1, 2, transposed=found.transposed)
    as_it_is = onnx.load_from_string(made)
    assert any(node.op_type == "ConvTranspose" for node in as_it_is.graph.node)
    run_ort(as_it_is, {"x": feed["x"]})


@every_layer
def test_weights_and_outputs_come_back(name: str) -> None:
    site = layer(model(name))
    found = site.transposed
    assert found is not None
    np.testing.assert_array_equal(found.kernel(found.weight(site.conv.weight)), site.conv.weight)
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2, 4, 3 * found.stride, 5 * found.stride))
    parted = found.parted(y)
    assert parted.shape == (2, 4 * found.phases, 3, 5)
    for row in range(found.stride):
        for column in range(found.stride):
            phase = (row * found.stride + column) * 4
            np.testing.assert_array_equal(
                parted[:, phase : phase + 4], y[:, :, row :: found.stride, column :: found.stride]
            )
    flat = parted.transpose(0, 2, 3, 1).reshape(-1, 4 * found.phases)
    np.testing.assert_allclose(found.rows(flat).mean(0), y.mean((0, 2, 3)))


@every_layer
def test_the_layer_is_timed_as_it_is_and_its_blocks_as_they_are_written(name: str) -> None:
    site = layer(model(name))
    (rule,) = parse("cd")
    block = rule.outline(site.outline, {"rank": 2})  # type: ignore[attr-defined]
    ops = []
    for one in (site.outline, block):
        text = small_model(one, site.outline, (7, 6), 2, 3, transposed=site.transposed)
        made = onnx.load_from_string(text)
        ops.append({node.op_type for node in made.graph.node})
        x = np.zeros((2, 6, 7, 6), np.float32)
        (y,) = run_ort(made, {"x": x})
        assert y.shape == (2, 3, 1, 1)
    assert "ConvTranspose" in ops[0]
    assert "ConvTranspose" not in ops[1]


REFUSED = {
    "group": ("ConvTranspose<group=2, strides=[2,2]>(x, W)", (4, 2, 2, 2), "transposed convolution (group=2)"),
    "one stride": ("ConvTranspose<strides=[2,1], pads=[0,0,0,1]>(x, W)", (4, 3, 2, 2), "of one stride"),
    "dilated": ("ConvTranspose<dilations=[2,2], pads=[1,1,1,1]>(x, W)", (4, 3, 2, 2), "without dilation"),
    "asked shape": ("ConvTranspose<strides=[2,2], output_shape=[28,12]>(x, W)", (4, 3, 3, 3), "pads are not given"),
    "other size": ("ConvTranspose<strides=[2,2]>(x, W)", (4, 3, 3, 3), "output is no multiple of its stride"),
    "cut off": ("ConvTranspose<strides=[2,2], pads=[0,0,6,6]>(x, W)", (4, 3, 4, 4), "more than its kernel reaches"),
    "wide": ("ConvTranspose<strides=[2,2], pads=[3,3,0,0]>(x, W)", (4, 3, 3, 3), "pads as wide as its kernel"),
}


@pytest.mark.parametrize(("node", "shape", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_others_are_left_alone_with_a_reason(node: str, shape: tuple[int, ...], reason: str) -> None:
    (found,) = Graph(network(f"(float[1,4,7,6] x) => (float[1,p,q,r] y) {{ y = {node} }}", W=normal(*shape))).sites()
    assert isinstance(found, Skipped)
    assert reason in found.reason
    assert found.macs is not None


def images(count: int = 40) -> F:
    x = np.random.default_rng(0).standard_normal((count, 3, 7, 8))
    return (x[..., 2:] + x[..., 1:-1] + x[..., :-2]).astype(np.float32)


def test_moments_are_of_input_patches_and_of_all_phases() -> None:
    graph = Graph(model("4x4"))
    (site,) = (found for found in graph.sites() if isinstance(found, Site) and found.name == "t")
    data = Data(open_feeds(images(), graph.inputs()), 8)
    chosen = samples(graph, [site], data)
    responses = references(graph, [site], chosen, data)["t"]
    moments = collect(site, Frontier(graph, data, 1 << 30), chosen["t"], responses)()
    assert moments.B.shape == (16, 54)
    assert moments.error(site.conv.matrix) < 1e-6
    np.testing.assert_allclose(moments.bias(site.conv.matrix), site.conv.bias, atol=1e-4)
    assert site.transposed is not None
    assert weakest_directions(Spectrum.of(site.transposed.rows(responses)), 0.1).projection.shape == (4, 4)


def rows_of(of: onnx.ModelProto, spec: str, budget: Budget, data: bool) -> dict[str, Layer]:
    onnx.save(of, "in.onnx")
    fit = (lambda inputs: open_feeds(images(), inputs)) if data else None
    options = run_options(parse(spec), budget, calibration=fit, threads=1)
    return {row.name: row for row in pipeline.run(Path("in.onnx"), Path("out.onnx"), options).layers}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("spec", ["cd", "sd", "nd", "cd,sd", "cd,nd"])
@pytest.mark.parametrize("budget", [Budget("macs", 0.8), Budget("energy", 0.3)])
def test_budgets_rewrite_the_layer_and_report_it(budget: Budget, spec: str, data: bool) -> None:
    row = rows_of(model("4x4", n_i=16, n_o=8), spec, budget, data)["t"]
    assert row.op == "ConvTranspose"
    assert row.shape == "16x8x4x4"
    assert row.macs is not None
    assert row.macs[0] == 16 * 8 * 16 * 42
    assert row.status == "done"
    assert row.macs[1] < row.macs[0]
    assert row.error_measured is not None
    assert row.error_predicted is not None
    assert row.error_measured <= row.error_predicted + 1e-5 or "," in spec


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("spec", ["cd:rank=full", "sd:rank=full", "nd:rank=full"])
def test_full_rank_changes_nothing(spec: str) -> None:
    original = model("3x3")
    rows_of(original, spec, Budget("pinned"), False)
    written, feed = onnx.load("out.onnx"), feed_of(original, N=2)
    assert "DepthToSpace" in {node.op_type for node in written.graph.node}
    assert relative(run_ort(original, feed), run_ort(written, feed)) < EXACT
    assert relative(run_ort(original, feed), run_ov(written, feed)) < EXACT


def test_inspect_lists_what_passes_can_do_and_why_pruning_cannot() -> None:
    found = {row.name: row for row in inspect(Graph(model("4x4", n_i=16, n_o=8)))}["t"]
    assert found.op == "ConvTranspose"
    assert found.shape == (16, 8, 4, 4)
    assert not found.passes["cd"].refused
    assert "transposed convolution" in found.passes["cp"].refused


def test_geometry_is_what_the_formula_says() -> None:
    """By hand, 4 taps, stride 2, one pad: phase 0 reads x[y-1], x[y], phase 1 x[y], x[y+1]."""
    found = Transposed((1, 1, 4, 4), 2, (1, 1))
    outline = found.outline(bias=False)
    assert (outline.kernel, outline.pads, outline.n_o) == ((3, 3), (1, 1, 1, 1), 4)
    weight = np.arange(16.0).reshape(1, 1, 4, 4)
    kernel = found.kernel(weight).reshape(2, 2, 3, 3)
    np.testing.assert_array_equal(kernel[0, 0], [[15, 13, 0], [7, 5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(kernel[1, 1], [[0, 0, 0], [0, 10, 8], [0, 2, 0]])


# ----------------------------------------------------------------------------------------------------- neighbours


def neighbours() -> onnx.ModelProto:
    """A transposed convolution between two layers that pruning could narrow."""
    text = """(float[N,3,7,6] x) => (float[N,8,14,12] y) {
        a = Conv<pads=[1,1,1,1]>(x, V)  r = Relu(a)
        t = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(r, W, B)  s = Relu(t)
        y = Conv<pads=[1,1,1,1]>(s, U) }"""
    return network(text, V=normal(16, 3, 3, 3), W=normal(16, 12, 4, 4), B=normal(12), U=normal(8, 12, 3, 3))


def test_pruning_leaves_channels_alone_that_another_pass_may_take_apart() -> None:
    graph = Graph(neighbours())
    _, transposed, behind = (found for found in graph.sites() if isinstance(found, Site))
    assert channel_group(graph, transposed, parse("cp")) == "transposed convolution: its input channels are left alone"
    assert isinstance(channel_group(graph, behind, parse("cp")), Group)
    why = channel_group(graph, behind, parse("cp,cd"))
    assert why == "its input channels are those of ConvTranspose 't', which may become another layer"


def test_channels_that_come_out_of_it_are_pruned_by_both_roads() -> None:
    read, feed = shared_core().read_model(neighbours().SerializeToString()), feed_of(neighbours(), N=2)
    found: list[F] = []
    for graph in (Graph(neighbours()), OvGraph(read)):
        behind = [site for site in graph.sites() if isinstance(site, Site)][2]
        group = channel_group(graph, behind, parse("cp"))
        assert isinstance(group, Group)
        graph.keep_channels(group, np.arange(0, 12, 2))
        assert graph.macs() == 3 * 9 * 16 * 42 + 16 * 6 * 16 * 42 + 6 * 9 * 8 * 168
        made = graph.runnable()
        made = shared_core().read_model(made) if isinstance(made, bytes) else made
        compiled = shared_core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found.append(np.asarray(compiled(feed)[0]))
    assert relative(found[:1], found[1:]) < EXACT


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("spec", ["cp,cd", "cp:channels=4:criterion=l2,cd:rank=4", "bm,cp,cd,sd,nd"])
def test_whole_networks_are_rewritten(spec: str) -> None:
    budget = Budget("pinned") if "=" in spec else Budget("macs", 0.5)
    rows = rows_of(neighbours(), spec, budget, True)
    assert rows["t"].status == "done"
    feed, written = feed_of(neighbours(), N=2), onnx.load("out.onnx")
    assert relative(run_ort(written, feed), run_ov(written, feed)) < 1e-4


@pytest.mark.parametrize("road", ["onnx", "ir"])
def test_what_an_error_of_the_layer_does_is_probed(road: str) -> None:
    """Behind it as behind any other: the outputs move by what the error is made of."""
    read = shared_core().read_model(neighbours().SerializeToString())
    graph = Graph(neighbours()) if road == "onnx" else OvGraph(read)
    sites = [found for found in graph.sites() if isinstance(found, Site)]
    calibration = Calibration.of(graph, sites, open_feeds(images(), graph.inputs()), 1, 0, 1 << 30)
    found = slopes(calibration, graph, sites, pruning=["cp"])
    name = "t" if road == "onnx" else "t/WithoutBiases"
    assert set(found.plain) == set(found.pruned) == {"a", name, "y"}
    assert 0.1 < found.plain[name] / found.plain["y"] < 10


BEHIND = {
    "a batchnorm": "y = BatchNormalization(t, S, B, B, V)",
    "a bias": "y = Add(t, E)",
    "scale and shift": "m = Mul(t, E) y = Add(m, E)",
}


@pytest.mark.parametrize("road", ["onnx", "ir"])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("body", BEHIND.values(), ids=BEHIND)
def test_what_stands_behind_is_taken_into_the_layer(body: str, group: int, road: str) -> None:
    """It stood behind the DepthToSpace, once more over the whole map. A grouped layer, which none rewrites, stays."""
    text = f"""(float[2,6,5,5] x) => (float[2,4,10,10] y) {{
        t = ConvTranspose<strides=[2,2], group={group}>(x, W)  {body} }}"""
    weights = {"W": normal(6, 4 // group, 2, 2), "S": normal(4), "B": normal(4, seed=1), "E": normal(1, 4, 1, 1)}
    used = {name: w for name, w in weights.items() if f" {name}" in text}
    original = network(text, **used, **({"V": np.abs(normal(4, seed=2)) + np.float32(0.1)} if "V)" in body else {}))
    feed = feed_of(original)
    expected = run_ort(original, feed)
    for rewrites in (False, True):
        graph: Graph = Graph(original)
        if road == "ir":
            graph = OvGraph(shared_core().read_model(original.SerializeToString()))
        (site,) = graph.sites()
        assert isinstance(site, Site) == (group == 1)
        if isinstance(site, Site):
            assert site.conv.bias is not None
            assert graph.output_of(site) == graph.outputs()[0] or road == "ir"
            if rewrites:
                graph.splice(site, site.conv)
        graph.tidy()
        made = graph.to_model()
        if road == "onnx":
            kinds = {node.op_type for node in made.graph.node}
            assert group > 1 or kinds == ({"Conv", "DepthToSpace"} if rewrites else {"ConvTranspose"})
            assert relative(expected, run_ort(made, feed)) < EXACT
        compiled = shared_core().compile_model(
            made if road == "ir" else shared_core().read_model(made.SerializeToString()),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32"},
        )
        assert relative(expected, [np.asarray(compiled(feed)[0])]) < EXACT


@pytest.mark.parametrize("road", ["onnx", "ir"])
def test_the_bias_of_a_layer_that_stays_is_pruned_with_its_channels(road: str) -> None:
    """Its bias, an Add in OpenVINO, is its own: it goes with the channels that the layer behind does not read."""
    text = """(float[2,6,5,5] x) => (float[2,3,10,10] y) {
        t = ConvTranspose<strides=[2,2]>(x, W)  b = Add(t, E)  r = Relu(b)  y = Conv(r, V) }"""
    head = normal(3, 4, 1, 1)
    head[:, 1] = 0  # of no use, so that pruning it is exact
    original = network(text, W=normal(6, 4, 2, 2), E=normal(1, 4, 1, 1), V=head)
    graph: Graph = Graph(original)
    if road == "ir":
        graph = OvGraph(shared_core().read_model(original.SerializeToString()))
    reader = next(site for site in graph.sites() if isinstance(site, Site) and site.op == "Conv")
    group = graph.channel_group(reader)
    assert isinstance(group, Group)
    graph.keep_channels(group, np.array([0, 2, 3]))
    graph.tidy()
    made = graph.to_model()
    compiled = shared_core().compile_model(
        made if road == "ir" else shared_core().read_model(made.SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    feed = feed_of(original)
    assert relative(run_ort(original, feed), [np.asarray(compiled(feed)[0])]) < EXACT
