"""A network whose channels are pruned beside itself with the columns of the lost ones set to zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import openvino as ov
from models import EXACT, feed_of, interface, relative, run_ort
from numpy.typing import NDArray

from ndpass.graph.channel_groups import Group, input_group, shapes_after
from ndpass.graph.channel_rules import weight_axes
from ndpass.graph.constants import values
from ndpass.graph.graph import Graph, Site
from ndpass.graph.normalise import import_graph, normalise
from ndpass.graph.openvino.graph import OvGraph
from ndpass.graph.shapes import Shape, infer
from ndpass.measuring.runtime import OpenVINO


def load(model: onnx.ModelProto) -> tuple[gs.Graph, dict[str, Shape]]:
    graph = normalise(import_graph(model))
    return graph, infer(graph, {})


def find(graph: gs.Graph, name: str) -> Group | str:
    return input_group(graph, next(n for n in graph.nodes if n.name == name), infer(graph, {}))


def group_of(graph: gs.Graph, name: str) -> Group:
    group = find(graph, name)
    assert isinstance(group, Group), group
    return group


def masked(model: onnx.ModelProto, name: str, channels: NDArray[np.int64]) -> onnx.ModelProto:
    """The network with the columns of the lost channels set to zero in every consumer."""
    graph, _ = load(model)
    for member in group_of(graph, name).consumers:
        weight = values(member.node.inputs[1]).copy()
        lost = np.setdiff1d(np.arange(len(member.channels)), member.kept(channels))
        weight[(slice(None),) * weight_axes(member.node)[1] + (lost,)] = 0
        member.node.inputs[1] = gs.Constant(f"{member.node.name}.masked", weight)
    return gs.export_onnx(graph)


def pruned(model: onnx.ModelProto, name: str, channels: NDArray[np.int64]) -> onnx.ModelProto:
    """As it is written: what the model said of its nodes must agree with what became of them."""
    graph = Graph(model)
    group = group_of(graph._graph, name)
    after = shapes_after(group, channels, infer(graph._graph, {}))
    graph.keep_channels(group, channels)
    known = infer(graph._graph, {})
    assert {key: known[key] for key in after} == after
    graph.tidy()
    result: onnx.ModelProto = graph.to_model()
    onnx.checker.check_model(result, full_check=True)
    return result


def elements(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer)


def assert_as_masked(
    model: onnx.ModelProto, name: str, channels: list[int] | None = None, run: Callable[..., Any] = run_ort
) -> None:
    group = group_of(load(model)[0], name)
    stay = group.filled(np.arange(0, group.size, 2) if channels is None else np.array(channels))
    result, feed = pruned(model, name, stay), feed_of(model)
    assert interface(result) == interface(model)
    assert elements(result) < elements(model)
    assert relative(run(masked(model, name, stay), feed), run(result, feed)) < EXACT


def assert_ir_as_masked(model: onnx.ModelProto, name: str, channels: NDArray[np.int64]) -> None:
    """As `assert_as_masked`, of the same model as OpenVINO reads it."""
    number = next(i for i, site in enumerate(Graph(model).sites()) if site.name == name)
    graph = OvGraph(ov.Core().read_model(model.SerializeToString()))
    site = graph.sites()[number]
    assert isinstance(site, Site)
    group = graph.channel_group(site)
    assert isinstance(group, Group), group
    assert group.size == group_of(load(model)[0], name).size
    graph.keep_channels(group, channels)
    graph.tidy()
    feed = feed_of(model)
    found = list(OpenVINO(graph.to_model())(feed).values())
    assert relative(run_ort(masked(model, name, channels), feed), found) < EXACT
