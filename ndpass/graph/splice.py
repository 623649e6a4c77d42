"""Put blocks into a graph: in the place of a node, or beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Block, Conv, Sum
from ndpass.graph.dependencies import index_of
from ndpass.graph.emit import Emitter
from ndpass.graph.shapes import Shape
from ndpass.graph.transposed import Transposed
from ndpass.graph.unique_names import Names

Shapes = Callable[[], Mapping[str, Shape]]  # asked for only where they decide


def put(
    graph: gs.Graph,
    node: gs.Node,
    block: Block,
    names: Names,
    shapes: Shapes,
    transposed: Transposed | None = None,
    add: gs.Node | None = None,
) -> list[gs.Node]:
    """Put the block in the place of the node; returns its nodes. add: the residual sum behind, where it is known."""
    x, y, name = node.inputs[0], node.outputs[0], str(node.name)
    plus = "Add" if graph.opset >= 7 else "Sum"
    emit = Emitter(name, node.op, np.dtype(node.inputs[1].dtype), plus, names)
    constant = isinstance(block, Conv) and block.is_constant
    sums = isinstance(block, Sum) and len(block.blocks) > 1 and transposed is None
    add = (add or residual_add(graph, y, shapes)) if sums or constant else None
    index = take_out(graph, node)
    if transposed is not None:
        emit.phases(block, x, y, transposed)
    elif add is None:
        emit(block, x, y)
    else:  # the identity enters first, so that each branch absorbs one Add
        carry = next(t for t in add.inputs if t is not y)
        out = add.outputs[0]
        index = take_out(graph, add)  # what is added to y may be made after it
        if isinstance(block, Conv):
            emit.shift(block, carry, out)
        else:
            emit(block, x, out, carry)
    # not sorted anew: calibration cuts the graph between sites, so that their order must stay
    graph.nodes[index:index] = emit.nodes
    return emit.nodes


def take_out(graph: gs.Graph, node: gs.Node) -> int:
    """Remove the node from the graph; returns where it was."""
    index = index_of(graph.nodes, node)
    node.inputs.clear()
    node.outputs.clear()
    del graph.nodes[index]
    return index


def residual_add(graph: gs.Graph, y: gs.Variable, shapes: Shapes) -> gs.Node | None:
    """The Add of two computed tensors of equal shape that alone consumes y, in the same graph, or None."""
    if len(y.outputs) != 1 or any(y is t for t in graph.outputs):
        return None
    add = y.outputs[0]
    if add.op != "Add" or len(add.inputs) != 2 or any(isinstance(t, gs.Constant) for t in add.inputs):
        return None
    if not any(add is n for n in graph.nodes):  # it is inside an If, Loop or Scan
        return None
    a, b = (shapes().get(t.name) for t in add.inputs)
    return add if a is not None and a == b else None


def perturb(graph: gs.Graph, node: gs.Node, by: Conv, switch: str, names: Names) -> None:
    """Let the node's output y become y + a by(y); a is a new input of the graph, named `switch`, of one element."""
    y, index, dtype = node.outputs[0], index_of(graph.nodes, node) + 1, np.dtype(node.inputs[1].dtype)
    raw, scaled = (gs.Variable(names.fresh(f"{switch}.{role}"), dtype) for role in ("raw", "scaled"))
    strength = gs.Variable(switch, dtype, [1])
    node.outputs = [raw]
    emit = Emitter(switch, node.op, dtype, "Add", names)
    emit(by, raw)
    lost = emit.nodes[-1].outputs[0]
    behind = [
        gs.Node("Mul", f"{switch}.mul", {}, [lost, strength], [scaled]),
        gs.Node("Add", f"{switch}.add", {}, [raw, scaled], [y]),
    ]
    graph.nodes[index:index] = [*emit.nodes, *behind]
    graph.inputs.append(strength)
