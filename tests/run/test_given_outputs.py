"""Outputs that no layer makes: constants, as the priors of a detector, inputs that are handed on, and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import network, normal
from openvino import opset13 as ops

import ndpass
from ndpass.graph.graph import Graph, Site
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.runtime import OpenVINO

LOW = np.einsum("or,rihw->oihw", normal(16, 4), normal(4, 16, 3, 3))  # of rank 4
WEIGHTS = {"A": normal(16, 3, 3, 3), "B": LOW, "priors": normal(6, 4)}
X = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)


def onnx_model(batch: str | int) -> onnx.ModelProto:
    text = (
        f"(float[{batch},3,8,8] x) => (float[{batch},16,8,8] y, float[6,4] twice, float[{batch},3,8,8] x, int64[4] s) "
        "{ a = Conv<pads=[1,1,1,1]>(x, A) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, B) "
        "twice = Add(priors, priors) s = Shape(y) }"
    )
    return network(text, **WEIGHTS)


def openvino_model() -> ov.Model:
    x = ops.parameter([-1, 3, 8, 8], np.float32, name="x")
    x.output(0).set_names({"x"})
    pads = [1, 1]
    r = ops.relu(ops.convolution(x, ops.constant(WEIGHTS["A"]), [1, 1], pads, pads, [1, 1]))
    y = ops.convolution(r, ops.constant(WEIGHTS["B"]), [1, 1], pads, pads, [1, 1])
    given = {"y": y, "twice": ops.constant(2 * WEIGHTS["priors"]), "x": x, "s": ops.shape_of(y)}
    results = [ops.result(op) for op in given.values()]
    for name, result in zip(given, results, strict=True):
        result.set_friendly_name(f"{name}/sink_port_0")
    return ov.Model(results, [x], "m")


MODELS = {"open batch": onnx_model("n"), "batch of 1": onnx_model(1), "batch of 4": onnx_model(4)}


@pytest.mark.parametrize("settings", [{"calibration": X}, {}], ids=["data", "no data"])
@pytest.mark.parametrize("name", [*MODELS, "IR"])
def test_a_model_that_gives_what_no_layer_makes_is_rewritten(name: str, settings: dict[str, Any]) -> None:
    model = openvino_model() if name == "IR" else MODELS[name]
    result = ndpass.run(model, "cd", macs=0.8, latency=False, threads=1, **settings)
    assert [row.status for row in result.report.layers].count("done") == 1
    written = result.model
    found = OpenVINO(written if name == "IR" else written.SerializeToString())({"x": X[:4]})
    want = OpenVINO(model if name == "IR" else model.SerializeToString())({"x": X[:4]})
    assert list(found) == ["y", "twice", "x", "s"]
    for key in ("twice", "x", "s"):
        np.testing.assert_array_equal(found[key], want[key])
    np.testing.assert_allclose(found["y"], want["y"], atol=1e-4)


def test_a_metric_is_of_what_is_computed() -> None:
    """The input, which is a picture, came first: no rewrite could lose a decibel of it."""
    model = onnx_model("n")
    model.graph.output.insert(0, model.graph.output.pop(2))
    result = ndpass.run(model, "cd:rank=2", latency=False, threads=1, calibration=X)
    assert result.report.metric is not None
    assert result.report.metric.after < 99


@pytest.mark.parametrize("graph", [Graph(onnx_model("n")), OvGraph(openvino_model())], ids=["ONNX", "IR"])
def test_a_part_gives_inputs_and_constants(graph: Graph) -> None:
    found = OpenVINO(graph.segment(["x", "twice", "y"], None, 4))({"x": X[:4]})
    np.testing.assert_array_equal(found["x"], X[:4])
    np.testing.assert_array_equal(found["twice"], 2 * WEIGHTS["priors"])
    site = next(s for s in graph.sites() if isinstance(s, Site))
    assert graph.not_before(site, graph.outputs()) == ["y", "s"]
