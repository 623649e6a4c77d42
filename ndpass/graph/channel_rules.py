"""How each operator passes channels on: what `ndpass.graph.channel_walk` does at a node.

A rule ties the channels of the node's inputs and outputs and notes what can be sliced, or refuses. An operator that is
not in `RULES` ends the walk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.graph.axis_rules import MOVING
from ndpass.graph.channel_walk import Refused, Rule, Walk
from ndpass.graph.constants import given, has, is_weight
from ndpass.graph.shape_values import first_axis, source, uses

ELEMENTWISE = {
    "Abs",
    "Add",
    "Cast",
    "Celu",
    "Clip",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "PRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
}
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")

ALIGNED = 7  # opset from which on operands are aligned at their last axes


def weight_axes(node: gs.Node) -> tuple[int, int]:
    """The axes of the weight that run over output and over input channels."""
    return (0, 1) if node.op == "Conv" or node.attrs.get("transB", 0) else (1, 0)


def depthwise(node: gs.Node) -> bool:
    weight = node.inputs[1]
    group = node.attrs.get("group", 1)
    return node.op == "Conv" and group > 1 and weight.shape is not None and tuple(weight.shape[:2]) == (group, 1)


def _conv(walk: Walk, node: gs.Node) -> None:
    if not depthwise(node):
        if node.attrs.get("group", 1) > 1:
            raise Refused(f"{node.op} '{node.name}' is a grouped convolution, whose channels cannot be pruned")
        return _weighted(walk, node, 1)
    x, y = node.inputs[0], node.outputs[0]
    walk.tie((y, 1), (x, 1))
    for index in (1, 2):
        walk.cut(node, index, 0, y)
    return None


def _matrix(walk: Walk, node: gs.Node) -> None:
    if node.attrs.get("transA", 0) or (is_weight(node.inputs[1]) and len(node.inputs[1].shape) != 2):
        walk.refuse(node)
    _weighted(walk, node, -1)


def _weighted(walk: Walk, node: gs.Node, axis: int) -> None:
    """A consumer of the channels of its input, a producer of those of its output, or both."""
    if not all(is_weight(t) or t.is_empty() for t in node.inputs[1:]):
        raise Refused(f"{node.op} '{node.name}' has weights that are computed at run time")
    for tensor, weight_axis in zip((node.outputs[0], node.inputs[0]), weight_axes(node), strict=True):
        if id(tensor) in walk.spans:
            walk.labels(tensor, axis % len(walk.shape(tensor)))
            walk.cut(node, 1, weight_axis, tensor)
    y = node.outputs[0]
    if id(y) in walk.spans and len(node.inputs) > 2 and tuple(node.inputs[2].shape or ())[-1:] not in ((), (1,)):
        walk.cut(node, 2, len(node.inputs[2].shape) - 1, y)


def _elementwise(walk: Walk, node: gs.Node) -> None:
    """Operands are aligned; one of size 1 on the channel axis, or that ends before it, belongs to no channel."""
    y = node.outputs[0]
    reached = next(i for i, t in enumerate((y, *node.inputs)) if id(t) in walk.spans)
    spanned = (y, *node.inputs)[reached]
    axis = walk.spans[id(spanned)].axis + (_before(walk, node, reached - 1) if reached else 0)
    sides, constants = [(y, axis)], []
    for index, t in enumerate(node.inputs):
        if t.is_empty():
            continue
        its, shape = axis - _before(walk, node, index), walk.shape(t)
        if id(t) not in walk.spans and (not 0 <= its < len(shape) or shape[its] == 1):
            continue
        if isinstance(t, gs.Constant):
            constants.append((index, its))
        else:
            sides.append((t, its))
    walk.tie(*sides)
    for index, its in constants:
        walk.cut(node, index, its, y)


def _before(walk: Walk, node: gs.Node, index: int) -> int:
    """How many axes of the output lie before the first one of this operand: they are aligned at their last axes.

    Before opset 7 the second one says with which axis it begins, and slopes (C,) are of the channels.
    """
    rank, own = len(walk.shape(node.outputs[0])), len(walk.shape(node.inputs[index]))
    if walk.opset < ALIGNED and index == 1:
        if node.op == "PRelu" and own == 1 and rank > 1:
            return 1
        if "axis" in node.attrs:
            return int(node.attrs["axis"]) % rank
    return rank - own


def _pool(walk: Walk, node: gs.Node) -> None:
    walk.tie((node.outputs[0], 1), (node.inputs[0], 1))


def _batchnorm(walk: Walk, node: gs.Node) -> None:
    if node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1):
        walk.refuse(node)
    _pool(walk, node)
    for index in range(1, 5):
        walk.cut(node, index, 0, node.outputs[0])


def _concat(walk: Walk, node: gs.Node) -> None:
    y = node.outputs[0]
    axis = node.attrs["axis"] % len(walk.shape(y))
    if any(walk.spans[id(t)].axis != axis for t in (y, *node.inputs) if id(t) in walk.spans):
        walk.refuse(node)
    _in_parts(walk, y, node.inputs, axis)


def _in_parts(walk: Walk, whole: gs.Tensor, parts: Sequence[gs.Tensor], axis: int) -> list[int]:
    """The parts lie behind each other in the whole; returns how large each is."""
    sizes = [walk.shape(t)[axis] for t in parts]
    ends = np.cumsum(sizes)
    for t, part in zip(parts, np.split(np.arange(ends[-1]), ends[:-1]), strict=True):
        own = walk.labels(t, axis)
        if own is not None:
            labels = np.full(ends[-1], -1)
            labels[part] = own
            walk.put(whole, axis, labels)
        now = walk.labels(whole, axis)
        walk.put(t, axis, None if now is None else now[part])
    return sizes


def _split(walk: Walk, node: gs.Node) -> None:
    """A Concat the other way round; its sizes are those of what is left."""
    x = node.inputs[0]
    axis = node.attrs.get("axis", 0) % len(walk.shape(x))
    if any(walk.spans[id(t)].axis != axis for t in (x, *node.outputs) if id(t) in walk.spans):
        walk.refuse(node)
    if has(node, 1) and given(node, 1) is None:
        walk.refuse(node)
    sizes = _in_parts(walk, x, node.outputs, axis)
    for number, t in enumerate(node.outputs):
        own = walk.labels(t, axis)
        if own is not None:
            walk.count(node, 1, number, own, sizes)


def _shape(walk: Walk, node: gs.Node) -> None:
    """Sizes that the model reads off a tensor are of the tensor as it is then: a Resize or Reshape may go by them."""
    x, size = node.inputs[0], node.outputs[0]
    axis = walk.spans[id(x)].axis
    at = axis - first_axis(node, walk.shape)
    if not 0 <= at < walk.shape(size)[0]:
        return
    for user, index, position in uses(size, at, walk.shape, walk.outputs):
        y, its = user.outputs[0], position
        if (user.op, index) == ("Resize", 3):
            fits = _axes(user, len(walk.shape(y)))[position] == axis
            its = axis
        else:
            fits = (user.op, index) == ("Reshape", 1) and walk.shape(y)[its] == walk.shape(x)[axis]
        if not fits:
            walk.refuse(node)
        walk.tie((x, axis), (y, its))
        walk.tie((y, its), (x, axis))


def _spatial(walk: Walk, node: gs.Node) -> None:
    """Pad and Resize, where they leave the channel axis alone."""
    x, y = node.inputs[0], node.outputs[0]
    axis = next(walk.spans[id(t)].axis for t in (x, y) if id(t) in walk.spans)
    rank = len(walk.shape(x))
    if not (_pads_nothing(node, axis, rank) if node.op == "Pad" else _scales_nothing(walk, node, axis, rank)):
        walk.refuse(node)
    walk.tie((y, axis), (x, axis))
    if node.op == "Resize" and has(node, 3) and axis in (axes := _axes(node, rank)):
        _sized(walk, node, axis, axes.index(axis))


def _sized(walk: Walk, node: gs.Node, axis: int, position: int) -> None:
    """The number of channels at this position of a Resize's sizes: a constant, or that of another tensor."""
    y, sizes = node.outputs[0], given(node, 3)
    if sizes is not None:
        walk.count(node, 3, position, walk.spans[id(y)].labels, [int(size) for size in sizes])
    elif (read := source(node.inputs[3], position, walk.shape)) is not None:
        walk.tie((y, axis), read)


def _axes(node: gs.Node, rank: int) -> list[int]:
    """The axes that the scales or sizes of a Resize are of, in their order: all, where it names none."""
    return [a % rank for a in node.attrs.get("axes") or range(rank)]


def _pads_nothing(node: gs.Node, axis: int, rank: int) -> bool:
    pads, axes = node.attrs.get("pads"), given(node, 3)
    if pads is None:
        pads = given(node, 1)
    if pads is None or (axes is None and has(node, 3)):
        return False
    of = [a % rank for a in axes] if axes is not None else list(range(rank))
    return not any(pads[i] or pads[i + len(of)] for i, a in enumerate(of) if a == axis)


def _scales_nothing(walk: Walk, node: gs.Node, axis: int, rank: int) -> bool:
    """A crop could reach over channels; of sizes the number of channels must be a constant or what is read off x."""
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    axes = _axes(node, rank)
    if axis not in axes:
        return True
    if has(node, 3):
        x, y, sizes = node.inputs[0], node.outputs[0], given(node, 3)
        stretched = node.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"  # each axis by itself
        whole = stretched and walk.shape(x)[axis] == walk.shape(y)[axis]
        return whole and (sizes is not None or source(node.inputs[3], axes.index(axis), walk.shape) is not None)
    scales = given(node, 2)
    return scales is not None and scales.size == len(axes) and scales[axes.index(axis)] == 1


RULES: dict[str, Rule] = {
    **MOVING,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("Gemm", "MatMul"), _matrix),
    **dict.fromkeys(("Pad", "Resize"), _spatial),
    "BatchNormalization": _batchnorm,
    "Concat": _concat,
    "Shape": _shape,
    "Split": _split,
}
