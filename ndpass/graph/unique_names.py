"""Names that no other tensor or node of a model has, so that what is added never takes the place of something else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_graphsurgeon as gs


class Names:
    """The names that are taken; `fresh` gives out one that is not."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def fresh(self, base: str) -> str:
        """`base` itself or `base` with a number behind it, taken from now on."""
        name, n = base, 1
        while name in self._taken:
            n += 1
            name = f"{base}_{n}"
        self._taken.add(name)
        return name


def all_graphs(graph: gs.Graph) -> list[gs.Graph]:
    """The graph and every graph inside If, Loop and Scan, at any depth."""
    return [graph, *graph.subgraphs(recursive=True)]


def all_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """The nodes of the graph, then those of every graph inside it."""
    for part in all_graphs(graph):
        yield from part.nodes


def tensor_names(graph: gs.Graph) -> set[str]:
    """Of the graph and those inside it: a name of an outer graph may not come back in an inner one."""
    return {name for part in all_graphs(graph) for name in part.tensors()}


def label(node: gs.Node) -> str:
    """What to call a node: its name, else that of its first output, else its operator."""
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a unique name: its own where it has one, else its label; doubles get a number."""
    names = Names()
    for node in sorted(all_nodes(graph), key=lambda n: not n.name):  # given names first, so that they are kept
        node.name = names.fresh(label(node))
