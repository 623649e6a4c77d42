"""What the axes of a model's inputs are: samples, channels or space, told by the first convolution that they reach."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ndpass.graph.channel_rules import ELEMENTWISE, POOLS
from ndpass.graph.constants import is_weight, values
from ndpass.graph.input_spec import InputSpec
from ndpass.graph.macs import Shape

HeightWidth = tuple[int, int]
DEFAULT_HW = (224, 224)  # what open axes are taken for when costs are counted and nobody says otherwise
OTHER_HW = (
    *((n, n) for n in (256, 320, 384, 512, 640)),
    *((n, 320) for n in (48, 32, 64)),  # lines of text
    *((n, n) for n in (128, 96, 64, 48, 32)),
)
# operators that leave the axes of what they read first where they are
KEEPING = {
    *("BatchNormalization", "Convert", "InstanceNormalization", "Interpolate", "LRN", "Pad", "Resize", "Slice"),
    "Upsample",
    *POOLS,
}
Axes = tuple[int | None, ...]  # for each axis of a tensor the axis of the input that it is, None: another one


def likely_size(tensor: gs.Variable, spec: InputSpec, hw: Sequence[int] = DEFAULT_HW) -> Shape:
    """As `size_at`, but within the bounds that the model gives for its axes."""
    sizes = (spec.clamped(axis, size) for axis, size in enumerate(size_at(tensor, spec, hw)))
    return tuple(given if given is not None else size for given, size in zip(spec.shape, sizes, strict=True))


def size_at(tensor: gs.Variable, spec: InputSpec, hw: Sequence[int]) -> Shape:
    """The input's shape with its dynamic axes filled in: 1 sample, the channels of its convolution, hw in space."""
    space = (*hw, *[hw[-1]] * len(spec.shape))  # of a third axis, too
    likely = [1, 1, *space][: len(spec.shape)]
    for node, axes in _reached(tensor):
        if node.op == "Conv" and is_weight(node.inputs[1]):
            channels = node.inputs[1].shape[1] * node.attrs.get("group", 1)
            for place, axis in enumerate(axes):
                if axis is not None:
                    likely[axis] = (1, channels, *space)[place]
            break
    else:
        if spec.channels_last:
            likely[1:3] = hw[:2]
    return tuple(given if given is not None else size for given, size in zip(spec.shape, likely, strict=True))


def with_batches(graph: gs.Graph, specs: Sequence[InputSpec]) -> list[InputSpec]:
    """The inputs, each told whether its axis 0 counts samples."""
    first = next((spec for spec in specs if len(spec.shape) > 1), None)
    batch = None if first is None else first.shape[0]
    return [
        replace(spec, batched=_is_batched(tensor, spec, batch, spec is first))
        for tensor, spec in zip(graph.inputs, specs, strict=True)
    ]


def _is_batched(tensor: gs.Variable, spec: InputSpec, batch: int | None, is_first: bool) -> bool:
    """batch: of the first input. An axis of another fixed length does not count the same samples."""
    if not spec.shape:
        return False
    if not is_first and spec.shape[0] is not None and spec.shape[0] != batch:
        return False
    return not any(0 in axes[1:] for node, axes in _reached(tensor) if node.op == "Conv")


def _reached(tensor: gs.Variable) -> Iterator[tuple[gs.Node, Axes]]:
    """The nodes that read the input or what has the same axes, nearest first, and where the input's axes are then."""
    todo: deque[tuple[gs.Tensor, Axes]] = deque([(tensor, tuple(range(len(tensor.shape or ()))))])
    seen = {id(tensor)}
    while todo:
        here, axes = todo.popleft()
        for node in here.outputs:
            if node.inputs[0] is here or node.op in ELEMENTWISE:
                yield node, axes
            after = _axes_after(node, here, axes)
            if after is not None and node.outputs and id(node.outputs[0]) not in seen:
                seen.add(id(node.outputs[0]))
                todo.append((node.outputs[0], after))


def _axes_after(node: gs.Node, tensor: gs.Tensor, axes: Axes) -> Axes | None:
    """Where the axes are in what the node gives; None where they are not the same ones any more."""
    if node.op in ELEMENTWISE and _fewer_axes(node, tensor, axes):
        return None
    if node.op in ELEMENTWISE or (node.op in KEEPING and node.inputs[0] is tensor):
        return axes
    if node.op == "Transpose":
        given = node.attrs.get("perm")
        order = given if given is not None else _constant(node, 1)
        if order is not None and len(order) != len(axes):
            return None  # broadcasting has put axes in front
        return axes[::-1] if order is None else tuple(axes[int(i)] for i in order)
    if node.op == "Unsqueeze":
        given = node.attrs.get("axes")
        new = given if given is not None else _constant(node, 1)
        return None if new is None else _with_new_axes(axes, [int(i) for i in np.reshape(new, -1)])
    if node.op == "Reshape":
        shape = _constant(node, 1)
        return None if shape is None else _reshaped(tensor, axes, [int(d) for d in shape])
    return None


def _fewer_axes(node: gs.Node, tensor: gs.Tensor, axes: Axes) -> bool:
    """Whether another operand has more axes, so that those of the tensor move."""
    return any(len(t.shape) > len(axes) for t in node.inputs if t is not tensor and t.shape is not None)


def _with_new_axes(axes: Axes, new: Sequence[int]) -> Axes:
    rank = len(axes) + len(new)
    places, old = {i % rank for i in new}, iter(axes)
    return tuple(None if i in places else next(old) for i in range(rank))


def _reshaped(tensor: gs.Tensor, axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Where the Reshape only puts an axis of one in front, as an exporter may write it."""
    own = tuple(tensor.shape or ())
    if len(shape) == len(own) + 1 and shape[0] == 1 and all(s in (-1, d) for s, d in zip(shape[1:], own, strict=True)):
        return (None, *axes)
    return None


def _constant(node: gs.Node, index: int) -> NDArray[Any] | None:
    there = index < len(node.inputs) and is_weight(node.inputs[index])
    return values(node.inputs[index]) if there else None
