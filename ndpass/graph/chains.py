"""Plain chains, conv–activation–conv without a shortcut, of which one convolution may take the place.

What is between both layers is element-wise and read by nothing else; the first one's input and the second one's output
may have any readers. A convolution is in one pair at most. Where there are more in a row, as in VGG, they are paired so
that the most MACs go with kernels as large as the layers' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_graphsurgeon as gs

from ndpass.graph.branches import Branch, before, branch_of
from ndpass.graph.sites import Found, Site

LEAST = 0.15  # share of the MACs of both that a kernel as large as theirs has to save

Best = tuple[float, tuple[Branch, ...]]  # MACs saved, and by which pairs


def chains(graph: gs.Graph, taken: Collection[str], read: Callable[[gs.Node], Found]) -> list[Branch]:
    """Pairs of convolutions in graph order, none of them with a layer of these names."""
    outputs = {id(t) for t in graph.outputs}
    convs = [node for node in graph.nodes if node.op == "Conv" and node.name not in taken]
    paths = [path for node in convs if (path := _path(node, outputs)) and path[-1].name not in taken]
    pairs = [pair for path in paths if (pair := _pair(path, read)) is not None]
    return disjoint([node.name for node in convs], {pair.last: (pair, saved) for pair, saved in pairs})


def _path(last: gs.Node, outputs: set[int]) -> list[gs.Node]:
    """The nodes from this convolution up to the one before it; none where there is no such."""
    nodes, t = [last], last.inputs[0]
    while (found := before(t, nodes, outputs)) is not None:
        own, t = found
        nodes += own
        if own[-1].op == "Conv":
            return nodes
    return []


def _pair(path: Sequence[gs.Node], read: Callable[[gs.Node], Found]) -> tuple[Branch, float] | None:
    """With the MACs that one kernel as large as those of both layers saves; None where these are too few, or where the
    layers are not known well enough."""
    first, last = read(path[-1]), read(path[0])
    if not isinstance(first, Site) or not isinstance(last, Site) or first.in_hw is None:
        return None
    if first.outline.out_hw(first.in_hw) != last.in_hw or first.rows != last.rows:
        return None
    pair = branch_of(f"{first.name} to {last.name}", path, [first, last], str(path[0].outputs[0].name))
    share = math.prod(map(max, first.outline.kernel, last.outline.kernel)) / pair.outline.kernel_size
    saved = pair.macs - share * pair.cost(pair.outline)
    return (pair, saved) if saved >= LEAST * pair.macs else None


def disjoint(order: Sequence[str], pairs: Mapping[str, tuple[Branch, float]]) -> list[Branch]:
    """Those without a layer in common that save most in all.

    order: of all layers; pairs: by the name of the last layer, with what each saves.
    """
    best: dict[str, Best] = {}  # of the layers in a row up to this one
    for name in order:
        best[name] = 0.0, ()
        if name in pairs:
            pair, saved = pairs[name]
            ahead = best[pairs[pair.first][0].first] if pair.first in pairs else (0.0, ())
            best[name] = max(best[pair.first], (ahead[0] + saved, (*ahead[1], pair)), key=lambda own: own[0])
    inner = {pair.first for pair, _ in pairs.values()}
    found = [pair for name in order if name not in inner for pair in best[name][1]]
    return sorted(found, key=lambda pair: order.index(pair.first))
