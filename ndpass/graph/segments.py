"""Parts of a graph: what is needed from one place on, and a model that computes some of its tensors from others."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from ndpass.graph.dependencies import index_of, reads, upstream
from ndpass.graph.onnx_export import export_node, weight
from ndpass.graph.onnx_said import Said
from ndpass.graph.shapes import Inferred

OLDEST_IR = 4  # from which on a weight need not be an input as well


def live(graph: gs.Graph, node: gs.Node) -> tuple[str, ...]:
    """The computed tensors that the node and what follows it need of what comes before."""
    index = index_of(graph.nodes, node)
    made = {id(t) for n in graph.nodes[:index] for t in n.outputs} | {id(t) for t in graph.inputs}
    needed = {t.name: None for n in graph.nodes[index:] for t in reads(n) if id(t) in made}
    return tuple(needed)


def not_before(graph: gs.Graph, node: gs.Node, names: Sequence[str]) -> list[str]:
    """Those of the tensors that this node or one behind it makes; an input or a constant is none of them."""
    tensors = graph.tensors()
    made = {id(t) for n in graph.nodes[index_of(graph.nodes, node) :] for t in n.outputs}
    return [name for name in names if id(tensors[name]) in made]


def read_by(graph: gs.Graph, outputs: Sequence[str], cut: Sequence[str] | None) -> list[str]:
    """What of `cut` (None: the graph's inputs) the computation of `outputs` reads."""
    start, nodes = _part(graph, outputs, cut)
    used = _used(graph, outputs, nodes)
    return [str(t.name) for t in start if id(t) in used]


def _used(graph: gs.Graph, outputs: Sequence[str], nodes: Sequence[gs.Node]) -> set[int]:
    """The ids of what the nodes read and of the outputs, one of which may be a constant or an input as it is."""
    tensors = graph.tensors()
    return {id(t) for node in nodes for t in reads(node)} | {id(tensors[name]) for name in outputs}


def segment(
    graph: gs.Graph, outputs: Sequence[str], cut: Sequence[str] | None, known: Inferred, said: Said, ir_version: int
) -> onnx.ModelProto:
    """A model of the part of the graph that computes `outputs` from `cut` (None: the graph's inputs).

    known: types and shapes that its inputs get. ir_version: the whole model's.
    """
    start, nodes = _part(graph, outputs, cut)
    used, chosen = _used(graph, outputs, nodes), {id(node) for node in nodes}
    part = onnx.helper.make_graph(
        [export_node(n, said) for n in graph.nodes if id(n) in chosen],
        "segment",
        [
            onnx.helper.make_tensor_value_info(t.name, known.types.get(t.name, 0), known.axes.get(t.name))
            for t in start
            if id(t) in used
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [weight(t) for t in graph.tensors().values() if isinstance(t, gs.Constant) and id(t) in used],
    )
    return onnx.helper.make_model(part, opset_imports=graph.import_domains, ir_version=max(ir_version, OLDEST_IR))


def _part(graph: gs.Graph, outputs: Sequence[str], cut: Sequence[str] | None) -> tuple[list[gs.Tensor], list[gs.Node]]:
    """Where the part may begin, and its nodes."""
    tensors = graph.tensors()
    start = [tensors[name] for name in cut] if cut is not None else list(graph.inputs)
    return start, upstream([tensors[name] for name in outputs], {id(t) for t in start})
