"""What stands between a turn to channels last and a turn back works on channels first instead, and the turns are gone.

Some exporters keep the layout of the framework that they come from: a Transpose behind every convolution and one in
front of it, and bias, normalisation, activations and residual sums between, on (N, H, W, C). Runtimes undo that when
they compile a model. Here it is undone as well, so that biases are folded, and so that residual branches and channels
are found as in any other export. A Cast to the type that a tensor has already goes, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from ndpass.graph.constants import is_known, is_weight, values
from ndpass.graph.fold import STANDARD
from ndpass.graph.scales import ALIGNED
from ndpass.graph.unique_names import Names, all_graphs, all_nodes, tensor_names

ALONE = {
    *("Abs", "Cast", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign"),
    *("Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
}  # operators that look at each element of their first input by itself
TOGETHER = {"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"}  # and those of several, broadcast
KEEPING = ALONE | TOGETHER | {"AveragePool", "Concat", "Conv", "MaxPool", "Pad", "Transpose"}  # the type of their input


def drop_casts(graph: gs.Graph) -> None:
    """Take out each Cast to the type that its input has for certain; the nodes are in order."""
    outside, gone = _read_outside(graph), set[int]()
    known: dict[int, int] = {}
    for node in graph.nodes:
        if node.domain not in STANDARD or not node.inputs or not node.outputs:
            continue
        kind = _kind(node.inputs[0], known)
        if node.op == "Cast":
            out, to = node.outputs[0], int(node.attrs["to"])
            if kind == to and id(out) not in outside:
                _read_instead(out, node.inputs[0])
                node.inputs.clear()
                node.outputs.clear()
                gone.add(id(node))
                continue
            known[id(out)] = to
        elif node.op in KEEPING and kind is not None:
            known[id(node.outputs[0])] = kind
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _kind(tensor: gs.Tensor, known: dict[int, int]) -> int | None:
    """ONNX's number of the tensor's type, None where it is not certain."""
    if id(tensor) in known:
        return known[id(tensor)]
    if tensor.inputs or not isinstance(tensor.dtype, np.dtype | type):
        return None
    return int(dtype_to_onnx(tensor.dtype))  # of an input or a constant, which say their own


def undo_turns(graph: gs.Graph) -> int:
    """Have nodes between turns work on channels first where fewer turns are left then; returns how many went."""
    if graph.opset < ALIGNED:
        return 0
    outside, before = _read_outside(graph), _turns(graph)
    names = Names(tensor_names(graph) | {node.name for node in all_nodes(graph)})
    for region in _regions(graph):
        if region.pays(outside):
            region.turn(graph, outside, names)
    graph.cleanup(remove_unused_graph_inputs=False)
    graph.toposort()
    return before - _turns(graph)


def _read_outside(graph: gs.Graph) -> set[int]:
    """Outputs, and what the graphs inside nodes read."""
    inner = [t for part in graph.subgraphs(recursive=True) for node in part.nodes for t in node.inputs]
    return {id(t) for t in (*inner, *(t for part in all_graphs(graph) for t in part.outputs))}


def _turns(graph: gs.Graph) -> int:
    return sum(node.op == "Transpose" for node in graph.nodes)


def _away(node: gs.Node) -> int | None:
    """How many axes it turns from channels first to channels last; None of anything else."""
    return _turned(node, _to_last)


def _back(node: gs.Node) -> int | None:
    """How many axes it turns from channels last to channels first; None of anything else."""
    return _turned(node, _to_first)


def _turned(node: gs.Node, order: Callable[[int], list[int]]) -> int | None:
    perm = node.attrs.get("perm") if node.op == "Transpose" and node.domain in STANDARD else None
    return len(perm) if perm is not None and len(perm) > 2 and list(perm) == order(len(perm)) else None


def _to_last(axes: int) -> list[int]:
    return [0, *range(2, axes), 1]


def _to_first(axes: int) -> list[int]:
    return [0, axes - 1, *range(1, axes - 1)]


@dataclass
class _Region:
    """Nodes that hang together between turns of so many axes. entries: the turns to channels last in front of them."""

    axes: int
    entries: list[gs.Node] = field(default_factory=list)
    nodes: list[gs.Node] = field(default_factory=list)

    @property
    def tensors(self) -> Iterator[gs.Tensor]:
        """With channels last."""
        for node in (*self.entries, *self.nodes):
            yield node.outputs[0]

    def _exits(self, tensor: gs.Tensor) -> list[gs.Node]:
        """The turns back behind a tensor."""
        return [node for node in tensor.outputs if _back(node) == self.axes]

    def _needed(self, tensor: gs.Tensor, outside: set[int]) -> bool:
        """Whether something beyond the region reads the tensor with channels last."""
        inside = {id(node) for node in self.nodes}
        others = [node for node in tensor.outputs if id(node) not in inside and _back(node) != self.axes]
        return bool(others) or id(tensor) in outside

    def pays(self, outside: set[int]) -> bool:
        """Whether more turns go than come."""
        back = sum(len(self._exits(tensor)) for tensor in self.tensors)
        gone = sum(not self._needed(node.outputs[0], outside) for node in self.entries)
        come = sum(self._needed(node.outputs[0], outside) for node in self.nodes)
        return back > 0 and back + gone > come

    def turn(self, graph: gs.Graph, outside: set[int], names: Names) -> None:
        """Have the nodes work on channels first. What is read beyond with channels last keeps its name."""
        needed = {id(tensor) for tensor in self.tensors if self._needed(tensor, outside)}
        first = {id(node.outputs[0]): node.inputs[0] for node in self.entries}
        exits = [(turn, tensor) for tensor in self.tensors for turn in self._exits(tensor)]
        for node in self.nodes:
            last = node.outputs[0]
            node.inputs = [self._input(node, i, first, names) for i in range(len(node.inputs))]
            if node.op == "Concat":
                node.attrs["axis"] = _to_last(self.axes)[int(node.attrs["axis"]) % self.axes]
            first[id(last)] = made = gs.Variable(names.fresh(f"{last.name}_channels_first"), last.dtype)
            node.outputs = [made]
            if id(last) in needed:
                perm = {"perm": _to_last(self.axes)}
                name = names.fresh(f"{node.name}_channels_last")
                graph.nodes.append(gs.Node("Transpose", name, perm, [made], [last]))
        for turn, tensor in exits:
            _give(graph, turn, first[id(tensor)], outside)

    def _input(self, node: gs.Node, index: int, first: Mapping[int, gs.Tensor], names: Names) -> gs.Tensor:
        """With channels first; numbers of a single element, and what is no operand, stay."""
        tensor = node.inputs[index]
        if id(tensor) in first or node.op in ALONE or not isinstance(tensor, gs.Constant) or _size(tensor) == 1:
            return first.get(id(tensor), tensor)
        found = values(tensor)
        found = found.reshape((1,) * (self.axes - found.ndim) + found.shape).transpose(_to_first(self.axes))
        return gs.Constant(names.fresh(f"{tensor.name}_channels_first"), np.ascontiguousarray(found))


def _give(graph: gs.Graph, turn: gs.Node, tensor: gs.Tensor, outside: set[int]) -> None:
    """What reads the turn's output reads the tensor; an output of the model keeps its name."""
    out = turn.outputs[0]
    turn.inputs.clear()
    turn.outputs.clear()
    if id(out) in outside:
        graph.nodes.append(gs.Node("Identity", turn.name, {}, [tensor], [out]))
    else:
        _read_instead(out, tensor)


def _regions(graph: gs.Graph) -> list[_Region]:
    """What hangs together behind turns to channels last; the nodes of the graph are in order."""
    of: dict[int, _Region] = {}  # tensor -> its region
    for node in graph.nodes:
        axes, before = _away(node), of.get(id(node.inputs[0])) if node.inputs else None
        if before is not None and _back(node) == before.axes:
            continue  # of three axes it is both, and leads out
        if axes is not None:
            of[id(node.outputs[0])] = _Region(axes, entries=[node])
        elif (joined := _joined(node, of)) is not None:
            whole, *others = joined
            for other in others:
                whole.entries += other.entries
                whole.nodes += other.nodes
                of.update({id(tensor): whole for tensor in other.tensors})
            whole.nodes.append(node)
            of[id(node.outputs[0])] = whole
    order = {id(node): i for i, node in enumerate(graph.nodes)}
    found = list({id(region): region for region in of.values()}.values())
    for region in found:
        region.nodes.sort(key=lambda node: order[id(node)])
    return found


def _joined(node: gs.Node, of: Mapping[int, _Region]) -> list[_Region] | None:
    """The regions that a node would be in, all of its operands being in them or constants; None where it can be in
    none."""
    alone, together = node.op in ALONE, node.op in TOGETHER or node.op == "Concat"
    if node.domain not in STANDARD or not (alone or together) or len(node.outputs) != 1 or not node.inputs:
        return None
    operands = node.inputs[:1] if alone else node.inputs
    found = [of.get(id(tensor)) for tensor in operands]
    regions = list({id(region): region for region in found if region is not None}.values())
    if not regions or len({region.axes for region in regions}) > 1:
        return None
    others = [t for t, region in zip(operands, found, strict=True) if region is None]
    rest = node.inputs[1:] if alone else []
    fits = all(is_weight(t) and len(t.shape) <= regions[0].axes and node.op != "Concat" for t in others)
    if node.op == "PRelu" and any(len(t.shape) == 1 and _size(t) > 1 for t in others):
        return None  # OpenVINO takes such a slope along the second axis where that is as long
    return regions if fits and all(t.is_empty() or is_known(t) for t in rest) else None


def _size(constant: gs.Constant) -> int:
    return math.prod(constant.shape)


def _read_instead(tensor: gs.Tensor, other: gs.Tensor) -> None:
    """What reads the tensor reads the other."""
    for node in list(tensor.outputs):
        node.inputs = [other if t is tensor else t for t in node.inputs]
