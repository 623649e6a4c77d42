"""Constants that are added to a map, one number a channel, go into the bias of what makes the map; two biases are one.

Where a residual branch is dropped, its mean stays: y = s + m with s the shortcut. If a convolution makes s, and nothing
else reads it, then its bias takes m and the sum goes. So it does if s is a sum of which a convolution makes one side,
as in pre-activation networks. An activation in between ends the search: m stays a sum, which takes no MACs.

A linear layer that ONNX writes as MatMul and Add is fitted without the Add, so that the fit's bias stands before it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array
from ndpass.graph.constants import is_weight, values
from ndpass.graph.dependencies import index_of
from ndpass.graph.scales import one_each
from ndpass.graph.unique_names import Names, all_graphs


def fold_shifts(graph: gs.Graph, written: Collection[str], names: Names) -> None:
    """Fold the constants that Adds with names among `written` add, where that is possible, in place."""
    outputs = {id(t) for t in graph.outputs}
    for node in [n for n in graph.nodes if n.name in written]:
        shift = _shift(node)
        path = _path(node.inputs[0], shift, outputs) if shift is not None else []
        if shift is not None and path:
            _take(path[0], shift, names)
            _in_one(graph, path[-1], node)


def fold_biases(graph: gs.Graph, written: Collection[str], names: Names) -> None:
    """Of two Adds of constants one behind the other, the first of which is named in `written`, the second adds both."""
    given = {id(t) for part in all_graphs(graph) for t in part.outputs}
    own = {id(node) for node in graph.nodes}
    for node in [n for n in graph.nodes if n.name in written and _adds_row(n)]:
        y, bias = node.outputs[0], node.inputs[1]
        if len(y.outputs) != 1 or id(y) in given or id(y.outputs[0]) not in own:
            continue
        behind = y.outputs[0]
        other = next((t for t in behind.inputs if t is not y), None) if behind.op == "Add" else None
        if other is None or not is_weight(other) or other.dtype != bias.dtype:
            continue
        if not one_each(other, bias.shape[0], len(other.shape) - 1, max(len(other.shape), 1)):
            continue
        both = values(bias).astype(np.float64) + values(other).astype(np.float64).reshape(-1)
        made = both.astype(bias.dtype).reshape(*other.shape[:-1], -1)  # of as many axes as the second has
        behind.inputs = [node.inputs[0], gs.Constant(names.fresh(f"{behind.name}.bias"), made)]
        del graph.nodes[index_of(graph.nodes, node)]
        node.inputs.clear()
        node.outputs.clear()


def _adds_row(node: gs.Node) -> bool:
    """Whether it adds numbers (n,) along the last axis."""
    return node.op == "Add" and len(node.inputs) == 2 and is_weight(node.inputs[1]) and len(node.inputs[1].shape) == 1


def _shift(node: gs.Node) -> gs.Constant | None:
    """What is added to each channel of a map, (1, C, 1, …), if it is a node that does so."""
    if node.op != "Add" or len(node.inputs) != 2:
        return None
    if isinstance(node.inputs[0], gs.Constant) or not is_weight(node.inputs[1]):
        return None
    shape = tuple(node.inputs[1].shape)
    return node.inputs[1] if len(shape) > 2 and shape == (1, shape[1], *(1,) * (len(shape) - 2)) else None


def _path(tensor: gs.Tensor, shift: gs.Constant, outputs: Collection[int]) -> list[gs.Node]:
    """From the node that can take the shift to the one that makes the tensor, each read by the next alone."""
    if len(tensor.outputs) != 1 or not tensor.inputs or id(tensor) in outputs:
        return []
    node = tensor.inputs[0]
    if _takes(node, shift):
        return [node]
    if node.op != "Add" or any(isinstance(t, gs.Constant) for t in node.inputs):
        return []
    ahead = (_path(t, shift, outputs) for t in node.inputs)
    return next(([*path, node] for path in ahead if path), [])


def _takes(node: gs.Node, shift: gs.Constant) -> bool:
    """Whether it is a convolution with as many outputs whose bias may be another, or adds such a shift itself."""
    if node.op == "Add":
        other = _shift(node)
        return other is not None and other.shape == shift.shape
    if node.op != "Conv" or not all(is_weight(t) or t.is_empty() for t in node.inputs[1:]):
        return False
    weight = node.inputs[1].shape
    return len(weight) == len(shift.shape) and weight[0] == shift.shape[1]


def _take(node: gs.Node, shift: gs.Constant, names: Names) -> None:
    """Give the node a constant of its own that has the shift in it: others may read the one that was there."""
    more: Array = values(shift)
    if node.op == "Add":
        old: Array = values(node.inputs[1])
        made = gs.Constant(names.fresh(f"{node.name}.mean"), (old + more).astype(old.dtype))
        node.inputs = [node.inputs[0], made]
        return
    bias: Array = more.reshape(-1)
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = bias + values(node.inputs[2]).reshape(-1)
    dtype = np.dtype(node.inputs[1].dtype)
    node.inputs = [*node.inputs[:2], gs.Constant(names.fresh(f"{node.name}.bias"), bias.astype(dtype))]


def _in_one(graph: gs.Graph, last: gs.Node, add: gs.Node) -> None:
    """Let `last` make what `add` made of it. A sum is written in the name of `add`, for `last` is as it was read."""
    (y,), inputs, gone = add.outputs, list(last.inputs), last if last.op == "Add" else add
    del graph.nodes[index_of(graph.nodes, gone)]
    add.inputs.clear()
    if gone is last:
        last.inputs.clear()
        last.outputs.clear()
        add.inputs.extend(inputs)
    else:
        add.outputs.clear()
        last.outputs = [y]
