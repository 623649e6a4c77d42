"""What nodes read and tensors depend on, by identity: graph-surgeon compares nodes by content, weights included."""

from __future__ import annotations

import onnx_graphsurgeon as gs

SHAPES = ("Shape", "ShapeOf", "Size")  # operators that do not look at values


def index_of(nodes: list[gs.Node], node: gs.Node) -> int:
    """Position of the node itself."""
    return next(i for i, n in enumerate(nodes) if n is node)


def reads(node: gs.Node) -> list[gs.Tensor]:
    """The tensors that a node reads, those included that the graphs inside it take from outside."""
    inner = [t for g in node.attrs.values() if isinstance(g, gs.Graph) for n in g.nodes for t in reads(n)]
    return [t for t in [*node.inputs, *inner] if not t.is_empty()]


def upstream(tensors: list[gs.Tensor], stop: set[int]) -> list[gs.Node]:
    """Every node that the tensors depend on, up to the tensors whose ids are in `stop`."""
    seen: dict[int, gs.Node] = {}
    queue = list(tensors)
    while queue:
        tensor = queue.pop()
        if id(tensor) in stop:
            continue
        for node in tensor.inputs:
            if id(node) not in seen:
                seen[id(node)] = node
                queue.extend(reads(node))
    return list(seen.values())


def knows_values(tensor: gs.Tensor, of: set[int]) -> bool:
    """Whether the tensor is computed from the values of tensors whose ids are in `of`, not from their shapes alone."""
    seen: set[int] = set()
    queue = [tensor]
    while queue:
        here = queue.pop()
        if id(here) in of:
            return True
        for node in here.inputs:
            if id(node) not in seen and node.op not in SHAPES:
                seen.add(id(node))
                queue.extend(reads(node))
    return False


def outer_reads(node: gs.Node) -> list[gs.Tensor]:
    """As `reads`, without what the graphs inside the node make themselves."""
    inner = [t for g in node.attrs.values() if isinstance(g, gs.Graph) for t in _taken_in(g)]
    return [t for t in [*node.inputs, *inner] if not t.is_empty()]


def _taken_in(graph: gs.Graph) -> list[gs.Tensor]:
    """What a graph inside a node takes from outside, and its constants."""
    own = {id(t) for t in graph.inputs} | {id(t) for node in graph.nodes for t in node.outputs}
    read = [t for node in graph.nodes for t in outer_reads(node)] + list(graph.outputs)
    return [t for t in read if id(t) not in own]
