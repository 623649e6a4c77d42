"""What models are compared by: outputs, or what goes into the choices that outputs are picked by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command
from models import network, normal, run_options

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


def test_other_outputs_stay() -> None:
    found = compared("s = Softmax(f) y = ArgMax<axis = 1>(s)", "int64[1,1] y, float[1,4,8,8] r, float[1,256] s")
    assert found == ["s", "r"]


def test_what_choices_are_applied_to_is_compared_too() -> None:
    """Scores are judged by a limit, boxes are gathered: the comparison is no number, the tables are."""
    body = """s = Softmax(f)  limit = Constant<value_float = 0.5>()  good = Greater(s, limit)  where = NonZero(good)
              t = Transpose(where)  n = Neg(f)  y = GatherND(n, t)"""
    assert compared(body, "float[m] y") == ["n"]
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
