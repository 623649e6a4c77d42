"""What models are compared by: outputs, or what goes into the choices that outputs are picked by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from conftest import Command
from models import network, normal, run_options
from openvino import opset13 as ops

import ndpass
from benchmarks.networks.layers import seeded
from benchmarks.networks.ssd300 import ssd300
from ndpass import passes
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.graph.comparison_outputs import shown
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.runtime import OpenVINO
from ndpass.planning.candidate import Budget
from ndpass.planning.sensitivity import slopes
from ndpass.run import pipeline

CONV = "a = Conv<pads = [1,1,1,1]>(x, W) r = Relu(a) f = Flatten(r)"


def compared(body: str, outputs: str) -> list[str]:
    """Of a network with a convolution x -> a, its ReLU r (1, 4, 8, 8), and that flattened, f (1, 256)."""
    text = f"(float[1,3,8,8] x) => ({outputs}) {{ {CONV} {body} }}"
    graph = Graph(network(text, W=normal(4, 3, 3, 3)))
    return graph.compared() or graph.outputs()


def test_computed_outputs_are_compared_themselves() -> None:
    assert compared("y = Softmax(f) z = Neg(f)", "float[1,256] y, float[1,256] z") == ["y", "z"]


def test_what_is_chosen_is_compared_before_the_choice() -> None:
    assert compared("y = ArgMax<axis = 1>(f)", "int64[1,1] y") == ["f"]
    assert compared("k = Constant<value_ints = [5]>() v, i = TopK(f, k)", "float[1,5] v, int64[1,5] i") == ["f"]


COUNTED = {
    "Compress": "k = Greater(f, limit) g = Reshape(k, flat) h = Reshape(f, flat) y = Compress(h, g)",
    "Unique": "y = Unique(f)",
    "Slice": "k = Greater(f, limit) c = Cast<to=7>(k) n = ReduceSum(c) e = Reshape(n, flat) y = Slice(f, flat, e)",
    "Range": "h = ReduceMax<keepdims=0>(f) zero = Sub(h, h) one = Exp(zero) y = Range(zero, h, one)",
}


@pytest.mark.parametrize("name", COUNTED)
def test_as_many_as_values_say_are_chosen(name: str) -> None:
    """How many there are in a rewritten model is another number."""
    constants = "limit = Constant<value_float = 0.5>() flat = Constant<value_ints = [-1]>()"
    found = compared(f"{constants} {COUNTED[name]}", "float[m] y")
    assert "y" not in found
    assert set(found) <= {"f", "h", "zero", "one"}


def test_values_that_something_is_padded_with_are_no_choice() -> None:
    body = """h = ReduceMax<keepdims=0>(f) p = Constant<value_ints = [0, 1, 0, 1]>() q = Pad(f, p, h)"""
    text = f"(float[batch,3,8,8] x) => (float[n] q) {{ {CONV} {body} }}"
    assert Graph(network(text, W=normal(4, 3, 3, 3))).compared() is None


def detector_ir(kind: str) -> ov.Model:
    """Two convolutions, then boxes and scores, of which NMS leaves as many as pass a limit."""
    x = ops.parameter([1, 3, 16, 16], np.float32, name="x")
    x.output(0).set_names({"x"})

    def conv(of: ov.Node, weight: np.ndarray, pad: int) -> ov.Node:
        return ops.convolution(of, ops.constant(weight), [1, 1], [pad, pad], [pad, pad], [1, 1])

    a = ops.relu(conv(x, normal(16, 3, 3, 3), 1))
    low = np.einsum("or,rihw->oihw", normal(16, 12), normal(12, 16, 3, 3))
    b = ops.relu(conv(a, low.astype(np.float32), 1))
    rows = ops.reshape(ops.transpose(conv(b, normal(4, 16, 1, 1), 0), [0, 2, 3, 1]), [1, -1, 4], False)
    rows = ops.abs(rows)
    rows = ops.concat([rows, ops.add(rows, np.float32(3))], 2)
    boxes = ops.gather(rows, ops.constant([0, 1, 4, 5]), ops.constant(2))
    scores = ops.sigmoid(ops.reshape(conv(b, normal(3, 16, 1, 1, seed=1), 0), [1, 3, -1], False))
    if kind == "matrix":
        found = ops.matrix_nms(boxes, scores, score_threshold=0.5)
    else:
        found = ops.multiclass_nms(boxes, scores, score_threshold=0.5, iou_threshold=0.5)
    return ov.Model([ops.result(found.output(0))], [x], "m")


@pytest.mark.parametrize("kind", ["matrix", "multiclass"])
@pytest.mark.parametrize("data", [True, False])
def test_an_ir_that_ends_in_a_choice_of_openvino_s_is_rewritten(kind: str, data: bool) -> None:
    images = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    settings = {"calibration": images} if data else {}
    report = ndpass.run(detector_ir(kind), "cd", macs=0.6, latency=False, threads=1, **settings).report
    assert [row.status for row in report.layers].count("done") >= 1
    if data:
        assert report.metric is not None
        assert 0 < report.metric.after < 100


def test_rows_that_a_mask_picks_are_compared_before_it() -> None:
    body = f"""{CONV.replace("f = Flatten(r)", "")} s = Conv(r, S) p = Conv(r, P) sf = Reshape(s, flat)
        t = Transpose<perm=[0,2,3,1]>(p) pf = Reshape(t, rows) k = Greater(sf, limit) y = Compress<axis=0>(pf, k)"""
    constants = {"flat": np.array([-1]), "rows": np.array([-1, 4]), "limit": np.float32(0.2)}
    weights = {"W": normal(8, 3, 3, 3), "S": normal(1, 8, 1, 1), "P": normal(4, 8, 1, 1, seed=1)}
    model = network(f"(float[1,3,8,8] x) => (float[m,4] y) {{ {body} }}", **constants, **weights)
    assert Graph(model).compared() == ["sf", "pf"]
    images = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
    report = ndpass.run(model, "cd", macs=0.8, latency=False, threads=1, calibration=images).report
    assert report.metric is not None
    assert 0 < report.metric.after < 100


def test_other_outputs_stay() -> None:
    found = compared("s = Softmax(f) y = ArgMax<axis = 1>(s)", "int64[1,1] y, float[1,4,8,8] r, float[1,256] s")
    assert found == ["s", "r"]


def test_what_choices_are_applied_to_is_compared_too() -> None:
    """Scores are judged by a limit, boxes are gathered: the comparison is no number, the scores and the tables are."""
    body = """s = Softmax(f)  limit = Constant<value_float = 0.5>()  good = Greater(s, limit)  where = NonZero(good)
              t = Transpose(where)  n = Neg(f)  y = GatherND(n, t)"""
    assert compared(body, "float[m] y") == ["s", "n"]
    assert compared(f"{body} p = GatherND(s, t)", "float[m] y, float[m] p") == ["s", "n"]


def test_what_follows_from_other_tensors_alone_is_not_compared_twice() -> None:
    body = """i = ArgMax<axis = 1, keepdims = 0>(f)  c = Constant<value_ints = [-1]>()  g = Reshape(f, c)
              y = Gather(g, i)"""
    assert compared(body, "float[1] y") == ["f"]


def test_shapes_are_no_values() -> None:
    """Old exporters write index arithmetic with NonZero of ones: no value goes in."""
    body = """s = Shape(f)  ones = ConstantOfShape<value = int64[1] {1}>(s)  where = NonZero(ones)
              t = Transpose(where)  y = GatherND(f, t)"""
    text = f"(float[batch,3,8,8] x) => (float[n] y) {{ {CONV} {body} }}"
    assert Graph(network(text, W=normal(4, 3, 3, 3))).compared() is None


def test_a_choice_inside_an_if_is_one() -> None:
    body = """m = ReduceMax<keepdims = 0>(f)  zero = Constant<value_float = 0.0>()  c = Greater(m, zero)
              y = If(c)<then_branch = yes () => (int64[1,1] p) { p = ArgMax<axis = 1>(f) },
                        else_branch = no () => (int64[1,1] q) { q = ArgMin<axis = 1>(f) }>"""
    assert compared(body, "int64[1,1] y") == ["f"]


PICKED = """s = Constant<value_ints = [1,4,64]>()  p = Reshape(r, s)  t = Transpose<perm = [0,2,1]>(p)
            m = ReduceMax<axes = [2], keepdims = 0>(t)  k = Constant<value_ints = [5]>()  v, i = TopK<axis = 1>(m, k)
            two = Constant<value_ints = [2]>()  u = Unsqueeze(i, two)  e = Constant<value_ints = [1,1,4]>()
            w = Expand(u, e)  q = GatherElements<axis = 1>(t, w)  y = MatMul(q, M)"""


def picked(graph: Graph) -> dict[str, str]:
    return {found.name: getattr(found, "reason", "") for found in graph.sites()}


def test_layers_behind_a_choice_stay_as_they_are() -> None:
    """Of the five best places others may be picked, so that rows do not correspond, and nothing there is compared."""
    text = f"(float[1,3,8,8] x) => (float[1,5,8] y) {{ {CONV} {PICKED} }}"
    graph = Graph(network(text, W=normal(4, 3, 3, 3), M=normal(4, 8)))
    assert graph.compared() == ["t"]
    assert picked(graph)["a"] == ""
    assert picked(graph)["y"].startswith("behind TopK 'v': that may pick others in a rewritten model")


def test_what_is_chosen_from_inputs_is_always_the_same() -> None:
    """As the neighbours of points are: layers on what is picked are rewritten and compared as any others."""
    text = """(float[1,40,3] x) => (float[1,5,8] y) {
              m = ReduceMax<axes = [2], keepdims = 0>(x)  k = Constant<value_ints = [5]>()  v, i = TopK<axis = 1>(m, k)
              two = Constant<value_ints = [2]>()  u = Unsqueeze(i, two)  e = Constant<value_ints = [1,1,3]>()
              w = Expand(u, e)  q = GatherElements<axis = 1>(x, w)  y = MatMul(q, M) }"""
    graph = Graph(network(text, M=normal(3, 8)))
    assert graph.compared() is None
    assert picked(graph) == {"y": ""}


def test_inputs_are_not_compared() -> None:
    text = "(float[1,5] x) => (int64[1,1] y) { y = ArgMax<axis = 1>(x) }"
    assert Graph(network(text)).compared() is None


def test_inner_tensors_can_be_shown() -> None:
    model = network("(float[1,5] x) => (float[1,5] y) { a = Neg(x) y = Relu(a) }")
    assert shown(model.SerializeToString(), None) == model.SerializeToString()
    assert OpenVINO(shown(model.SerializeToString(), ["a"]))({"x": np.ones((1, 5), np.float32)})["a"].tolist() == [
        [-1] * 5
    ]


@pytest.fixture
def detector(folder: Path) -> Path:
    """SSD300 with an eighth of the channels."""
    onnx.save(seeded(ssd300(width=0.125)), folder / "ssd.onnx")
    return Path("ssd.onnx")


def test_a_detector_is_rewritten_and_verified(detector: Path) -> None:
    """Its outputs stay boxes, scores and classes; compared are all boxes and all scores, not those that are picked."""
    assert Graph(onnx.load(detector)).compared() == ["objects", "corners"]
    report = pipeline.run(detector, Path("out.onnx"), run_options(passes.parse("nd:rank=2"), Budget("pinned")))
    original = report.verified["the original on random inputs"]
    assert original.worst_output in ("objects", "corners")
    assert original.top1_agreement is None  # boxes are no class scores
    assert 0 < original.relative_error < 1
    assert report.verified["itself in onnxruntime"].relative_error < 1e-4
    assert [o.name for o in onnx.load("out.onnx").graph.output] == ["boxes", "scores", "classes"]


def test_damage_to_a_detector_is_what_its_heads_lose(detector: Path) -> None:
    """Each head with many positions moves the boxes or the scores; behind the choice half of them would not."""
    graph, heads = Graph(onnx.load(detector)), ("conv4_3.loc", "conv4_3.conf", "conv7.loc", "conv7.conf")
    sites = [site for site in graph.sites() if isinstance(site, Site) and site.name in heads]
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 300, 300)).astype(np.float32)
    calibration = Calibration.of(graph, sites, open_feeds(images, graph.inputs()), 1, 0, 1 << 30)
    found = slopes(calibration, graph, sites).plain
    assert len(set(found.values())) == len(sites)


def test_labels_of_images_are_not_compared_with_boxes(detector: Path, ndpass: Command) -> None:
    rng = np.random.default_rng(0)
    np.savez("data.npz", images=rng.integers(0, 256, (3, 300, 300, 3), dtype=np.uint8), labels=np.arange(3))
    done = ndpass(
        "run",
        detector,
        "--passes",
        "nd:rank=2",
        "--validation",
        "data.npz",
        "--preprocess",
        "size=300",
        "-o",
        "out.onnx",
    )
    assert done.code == 0, done.err
    assert "accuracy" not in done.out


def test_detectors_are_compared_by_evaluate(detector: Path, ndpass: Command) -> None:
    np.save("data.npy", np.random.default_rng(0).integers(0, 256, (3, 300, 300, 3), dtype=np.uint8))
    assert ndpass("run", "-q", detector, "--passes", "nd:rank=2", "-o", "out.onnx").code == 0
    done = ndpass("evaluate", "out.onnx", "--data", "data.npy", "--preprocess", "size=300", "--against", detector)
    assert done.code == 0, done.err
    assert "of the outputs' norm" in done.out
    assert "top-1" not in done.out
