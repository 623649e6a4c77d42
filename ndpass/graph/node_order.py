"""Put the nodes of an ONNX graph in the order that the standard asks for: each behind what it reads."""

from __future__ import annotations

from collections import deque

import onnx


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Sort in place, inner graphs too, where nodes are out of order; whether any were.

    Nodes that need not move past each other keep their order. Nodes that wait for each other stay last, as they are.
    """
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    moved = sum(map(sort_nodes, inner)) > 0  # all of them
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [{maker[name] for name in _read(node) if name in maker} - {i} for i, node in enumerate(graph.node)]
    if all(needed < i for i, each in enumerate(needs) for needed in each):
        return moved
    order = _ordered(needs)
    nodes = []
    for i in order:
        node = onnx.NodeProto()
        node.CopyFrom(graph.node[i])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _ordered(needs: list[set[int]]) -> list[int]:
    """Numbers such that each stands behind those that it needs; needs: for each number those."""
    readers: dict[int, list[int]] = {}
    for i, each in enumerate(needs):
        for needed in each:
            readers.setdefault(needed, []).append(i)
    waiting = [len(each) for each in needs]
    ready, order = deque(i for i, count in enumerate(waiting) if count == 0), []
    while ready:
        i = ready.popleft()
        order.append(i)
        for reader in readers.get(i, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    return order + [i for i, count in enumerate(waiting) if count > 0]


def _read(node: onnx.NodeProto) -> set[str]:
    """Names of what the node reads, in the graphs inside it too."""
    read = {name for name in node.input if name}
    for graph in (a.g for a in node.attribute if a.HasField("g")):
        made = {name for n in graph.node for name in n.output} | {t.name for t in graph.input}
        read |= set().union(*(_read(n) for n in graph.node)) - made
    return read
