"""Where a number in a tensor of shapes comes from: lists of sizes that a model computes from the shapes of its tensors.

Exporters write `Shape → Slice or Gather → Concat → Resize` where a size is not known when the model is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.graph.constants import is_weight, values
from ndpass.graph.shapes import Shape

Length = Callable[[gs.Tensor], Shape]
Source = tuple[gs.Tensor, int]  # a tensor and the axis whose size it is

SAME = ("Cast", "Identity", "Squeeze", "Unsqueeze")
MOVING = (*SAME, "Concat", "Gather", "Slice")  # operators that hand numbers on as they are


def source(tensor: gs.Tensor, position: int, shape: Length) -> Source | None:
    """The tensor and the axis whose size stands at this position, None where it is another number or is computed.

    shape: gives the shape of a tensor.
    """
    if not tensor.inputs:
        return None
    node = tensor.inputs[0]
    if node.op == "Shape":
        return node.inputs[0], position + first_axis(node, shape)
    before = _moved(node, position, shape)
    return None if before is None else source(*before, shape)


def stated(tensor: gs.Tensor, position: int, shape: Length) -> tuple[gs.Node, int, int, int] | None:
    """Where the number at this position stands as a constant, None where it does not.

    The Concat that puts it there, where in its output, which of its inputs the constant is, and where in that.
    """
    if not tensor.inputs:
        return None
    node = tensor.inputs[0]
    before = None if node.op == "Shape" else _moved(node, position, shape)
    if before is None:
        return None
    if node.op != "Concat" or not is_weight(before[0]):
        return stated(*before, shape)
    ends = np.cumsum([int(np.prod(shape(part))) for part in node.inputs])
    return node, position, int(np.searchsorted(ends, position, side="right")), before[1]


def first_axis(node: gs.Node, shape: Length) -> int:
    """The axis that a Shape begins with."""
    start = int(node.attrs.get("start", 0))
    return start + len(shape(node.inputs[0])) if start < 0 else start


def uses(tensor: gs.Tensor, at: int, shape: Length, given: Collection[int]) -> Iterator[tuple[gs.Node, int, int]]:
    """Every node that computes with the number at this position: the node, which of its inputs, the position in it.

    So does a moving operator that takes the number for an index, or of which it is not known where it puts it.
    given: ids of the tensors that the model gives; of such a one it is the node that makes it, and no input.
    """
    if id(tensor) in given:
        yield tensor.inputs[0], -1, at
    for node in tensor.outputs:
        moved = node.inputs if node.op == "Concat" else node.inputs[:1]
        handed = node.op in MOVING and any(t is tensor for t in moved)
        yield from (
            (node, index, at)
            for index, t in enumerate(node.inputs)
            if t is tensor and not (handed and index < len(moved))
        )
        if handed:
            yield from _handed_on(node, tensor, at, shape, given)


def _handed_on(
    node: gs.Node, tensor: gs.Tensor, at: int, shape: Length, given: Collection[int]
) -> Iterator[tuple[gs.Node, int, int]]:
    """What computes with the number behind a moving operator, or the operator itself where it hides the number."""
    out = node.outputs[0]
    for position in range(max(1, int(np.prod(shape(out))))):
        before = _moved(node, position, shape)
        if before is None:
            yield node, 0, at
        elif before[0] is tensor and before[1] == at:
            yield from uses(out, position, shape, given)


def _moved(node: gs.Node, position: int, shape: Length) -> tuple[gs.Tensor, int] | None:
    """The input and the position in it of the number that a moving operator puts at this position."""
    x = node.inputs[0]
    if node.op in SAME:
        return x, position
    if node.op == "Gather" and is_weight(node.inputs[1]) and len(shape(x)) == 1:
        index = int(values(node.inputs[1]).reshape(-1)[position])
        return x, index % shape(x)[0]
    if node.op == "Slice":
        taken = _sliced(node, shape(x))
        return None if taken is None or position >= len(taken) else (x, taken[position])
    if node.op == "Concat":
        for part in node.inputs:
            size = int(np.prod(shape(part)))
            if position < size:
                return part, position
            position -= size
    return None


def _sliced(node: gs.Node, shape: Shape) -> range | None:
    """The positions that a Slice of a list takes, None where they are not known before the model runs."""
    given = dict(zip(("starts", "ends", "axes", "steps"), node.inputs[1:], strict=False))
    given = {name: tensor for name, tensor in given.items() if not tensor.is_empty()}
    if len(shape) != 1 or not all(is_weight(t) for t in given.values()):
        return None
    found = {name: int(values(tensor).reshape(-1)[0]) for name, tensor in given.items()}
    found = found or {name: int(node.attrs[name][0]) for name in ("starts", "ends")}
    return range(shape[0])[slice(found["starts"], found["ends"], found.get("steps", 1))]
