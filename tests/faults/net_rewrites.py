"""Nets drawn at random, read by either road, rewritten, and judged by what onnx and OpenVINO themselves say."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import openvino as ov
from models import interface, run_ort
from numpy.typing import NDArray
from random_nets import Net

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.files.interface import ov_interface
from ndpass.files.ir_file import read_ir, write_ir
from ndpass.graph.graph import Graph, Site
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.openvino_core import shared_core
from ndpass.passes import parse
from ndpass.planning.blocks import mergeable, refittable
from ndpass.planning.candidate import Budget
from ndpass.planning.candidates import refused
from ndpass.planning.plan import Planner
from ndpass.report import Layer
from ndpass.rewriting.rewriter import Rewriter

Road = Literal["onnx", "ir"]
Arrays = list[NDArray[Any]]
SAMPLES = 12  # that layers are fitted to


@dataclass(frozen=True)
class Rewritten:
    """before, after: onnx.ModelProto or ov.Model; promised: MACs; rows: every layer's."""

    before: Any
    after: Any
    promised: int
    rows: Sequence[Layer]

    @property
    def done(self) -> list[Layer]:
        return [row for row in self.rows if row.status == "done"]


def opened(net: Net, road: Road) -> tuple[Any, Graph]:
    """The model of the road and its graph, whose costs count at the net's own sizes."""
    model = net.model if road == "onnx" else shared_core().read_model(net.model.SerializeToString())
    graph = Graph(model) if road == "onnx" else OvGraph(model)
    if graph.dynamic_hw:
        graph.assume_feed({"x": net.feed(1)})
    return model, graph


def rewritten(
    net: Net, road: Road, spec: str, budget: Budget, calibrated: bool, x: NDArray[Any] | None = None
) -> Rewritten:
    """What `ndpass run` does between reading and writing. x: what layers are fitted to, left out: normal numbers."""
    before, graph = opened(net, road)
    passes, found = parse(spec), graph.sites()
    sites = [f for f in found if isinstance(f, Site) and refused(graph, f, passes, calibrated) is None]
    calibration = None
    if calibrated and sites:
        blocks = [b.branch for b in mergeable(graph, passes, [s.name for s in sites], True).values()]
        fitted = [*sites, *refittable(graph, found, {s.name for s in sites}, bool(blocks))]
        feeds = open_feeds(net.feed(SAMPLES, seed=1) if x is None else x, graph.inputs())
        calibration = Calibration.of(graph, fitted, feeds, 1, 0, 1 << 30, blocks)
    plan: Any = budget
    if calibration is None or budget.is_shared:
        plan = Planner(graph, passes, calibration, jobs=1).plan(sites, budget, lambda *_: None)
    rows = Rewriter(graph, passes, calibration).rewrite(found, sites, plan, lambda *_: None)
    graph.tidy()
    return Rewritten(before, graph.to_model(), graph.macs(), rows)


def check_form(net: Net, done: Rewritten) -> None:
    """The result is legal, its inputs and outputs are the original's, and its MACs are those promised."""
    if isinstance(done.after, onnx.ModelProto):
        onnx.checker.check_model(done.after, full_check=True)
        assert interface(done.after) == interface(done.before)
        again: Graph = Graph(done.after)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_ir(done.after, Path(folder, "net.xml"), compress=False)
            again = OvGraph(read_ir(Path(folder, "net.xml")))
        assert ov_interface(done.after) == ov_interface(done.before)
    if again.dynamic_hw:
        again.assume_feed({"x": net.feed(1)})
    assert again.macs() == done.promised
    assert sum(row.macs[1] for row in done.rows if row.macs) == done.promised
    batch = 1 if again.inputs()[0].batched and again.sizes["x"][0] == 1 else len(net.feed())
    assert counted(done.after, (batch, *net.in_shape)) == done.promised


def answers(model: Any, x: NDArray[Any]) -> Arrays:
    """By onnxruntime and by OpenVINO of an ONNX model, which agree; by OpenVINO of its own."""
    if isinstance(model, onnx.ModelProto):
        return run_ort(model, {"x": x})
    return by_openvino(model, x)


def by_openvino(model: Any, x: NDArray[Any]) -> Arrays:
    """In float32. model: ModelProto or ov.Model."""
    if isinstance(model, onnx.ModelProto):
        model = shared_core().read_model(model.SerializeToString())
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"x": x})
    return [np.asarray(found[i]) for i in range(len(compiled.outputs))]


def apart(expected: Arrays, found: Arrays) -> float:
    """The largest difference, relative to the largest number of that output; infinite where shapes differ, too."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or not np.isfinite(b).all():
            return math.inf
        wide = a.astype(np.float64)
        worst = max(worst, float(np.abs(wide - b).max() / max(np.abs(wide).max(), 1e-3)))
    return worst


def counted(model: Any, shape: Sequence[int]) -> int:
    """MACs of a model at an input shape, from shapes that onnx or OpenVINO infers and from nothing of ndpass."""
    return _counted_onnx(model, shape) if isinstance(model, onnx.ModelProto) else _counted_ir(model, shape)


def _counted_onnx(model: onnx.ModelProto, shape: Sequence[int]) -> int:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for dim, size in zip(fixed.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


KERNEL_FROM = {  # axes of the weight that one element meets, and whether it is one of the output
    "Convolution": (1, True),
    "GroupConvolution": (2, True),
    "ConvolutionBackpropData": (1, False),
    "GroupConvolutionBackpropData": (2, False),
}


def _counted_ir(model: ov.Model, shape: Sequence[int]) -> int:
    fixed = model.clone()
    fixed.reshape({fixed.inputs[0]: ov.PartialShape(list(shape))})
    total = 0
    for op in fixed.get_ops():
        kind = op.get_type_name()
        if kind in KERNEL_FROM:
            first, of_output = KERNEL_FROM[kind]
            place = op.output(0) if of_output else op.input(0)
            total += math.prod(place.get_shape()) * math.prod(list(op.input(1).get_shape())[first:])
        elif kind == "MatMul":
            total += math.prod(op.output(0).get_shape()) * list(op.input(0).get_shape())[-1]
    return total
