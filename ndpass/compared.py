"""What models are compared by where outputs are picked and not computed, as boxes are by NonMaxSuppression.

A choice jumps: two scores that rounding brings into another order swap two rows, and a model that was rewritten picks
another number of them. What goes into the choices is continuous, so it stands for the outputs behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from ndpass.names import all_nodes, reads

CHOOSING = ("NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "NonZero")
SHAPES = ("Shape", "Size")  # what they say does not depend on values
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def compared(graph: gs.Graph, types: Mapping[str, int]) -> list[str]:
    """Names of the outputs, those behind a choice replaced by the computed floats that go into it and what follows it.

    types: tensor name -> ONNX's number of its type. The graph's nodes are in order.
    """
    outputs = [str(t.name) for t in graph.outputs]
    chosen, entering = _choices(graph)
    if not any(id(t) in chosen for t in graph.outputs):
        return outputs
    floats = {i: str(t.name) for i, t in entering.items() if types.get(t.name) in FLOATS}
    kept = _independent(graph, floats)
    kept += [str(t.name) for t in graph.outputs if id(t) not in chosen and t.name not in kept]
    return kept or outputs


def _choices(graph: gs.Graph) -> tuple[set[int], dict[int, gs.Tensor]]:
    """The ids of all tensors behind a choice, and by id those that depend on the inputs' values and meet one."""
    valued, chosen = {id(t) for t in graph.inputs}, set[int]()
    entering: dict[int, gs.Tensor] = {}
    for node in graph.nodes:
        before = {id(t): t for t in reads(node)}
        computed = {i: t for i, t in before.items() if i in valued}
        if before.keys() & chosen or (computed and _chooses(node)):
            entering |= computed
            chosen |= {id(t) for t in node.outputs}
        elif computed and node.op not in SHAPES:
            valued |= {id(t) for t in node.outputs}
    return chosen, entering


def _chooses(node: gs.Node) -> bool:
    """Whether the node, or one in a graph inside it, is a choice."""
    return node.op in CHOOSING or any(n.op in CHOOSING for part in node.subgraphs() for n in all_nodes(part))


def _independent(graph: gs.Graph, names: Mapping[int, str]) -> list[str]:
    """Of these tensors, by id, those that are no function of the others, in graph order; inputs are none."""
    free = {id(t) for t in graph.inputs}  # reached from the inputs past all that are named
    kept = []
    for node in graph.nodes:
        if any(id(t) in free and id(t) not in names for t in reads(node)):
            free |= {id(t) for t in node.outputs}
            kept += [names[id(t)] for t in node.outputs if id(t) in names]
    return kept


def showing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The model with these tensors as its outputs, for the runtimes; `model` itself is changed."""
    if names != [output.name for output in model.graph.output]:
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return bytes(model.SerializeToString())


def viewed(path: Path, names: Sequence[str], outputs: Sequence[str]) -> Path | bytes:
    """The file as it is where `names` are its outputs, else with them as outputs; files need less memory."""
    return path if list(names) == list(outputs) else showing(onnx.load(path), names)
