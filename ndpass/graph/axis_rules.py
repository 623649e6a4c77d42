"""How channels pass through operators behind which they may stand on another axis.

Exporters write a global pool as ReduceMean, and what follows as Reshape, Squeeze or Unsqueeze.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.graph.channel_walk import Rule, Walk
from ndpass.graph.constants import given, has, values
from ndpass.graph.shape_values import source, stated, uses
from ndpass.graph.shapes import Shape

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

Places = Sequence[int | None]  # axis of the input -> where it is in the output, None where it is gone


def _reduce(walk: Walk, node: gs.Node) -> None:
    """Over other axes than that of the channels."""
    rank, axes = len(walk.shape(node.inputs[0])), _axes(node)
    if axes is None and has(node, 1):
        walk.refuse(node)
    if not axes:
        axes = [] if node.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    lost = {a % rank for a in axes}
    _moved(walk, node, _left(rank, lost, bool(node.attrs.get("keepdims", 1))))


def _left(rank: int, lost: set[int], kept: bool) -> Places:
    """kept: whether an axis that is lost stays as one of size 1."""
    return [None if a in lost else a if kept else a - sum(b < a for b in lost) for a in range(rank)]


def _squeeze(walk: Walk, node: gs.Node) -> None:
    """Of axes that are named: without, the channels themselves go where one of them is left."""
    rank, axes = len(walk.shape(node.inputs[0])), _axes(node)
    if not axes:
        walk.refuse(node)
    _moved(walk, node, _left(rank, {a % rank for a in axes}, kept=False))


def _unsqueeze(walk: Walk, node: gs.Node) -> None:
    rank, axes = len(walk.shape(node.outputs[0])), _axes(node)
    if axes is None:
        walk.refuse(node)
    new = {a % rank for a in axes}
    _moved(walk, node, [a for a in range(rank) if a not in new])


def _axes(node: gs.Node) -> list[int] | None:
    """An attribute or a constant input; None where there is neither."""
    listed = node.attrs.get("axes") if "axes" in node.attrs else given(node, 1)
    return None if listed is None else [int(a) for a in np.reshape(listed, -1)]


def _moved(walk: Walk, node: gs.Node, places: Places) -> None:
    x, y = node.inputs[0], node.outputs[0]
    if id(x) in walk.spans:
        before, after = walk.spans[id(x)].axis, places[walk.spans[id(x)].axis]
    else:
        after = walk.spans[id(y)].axis
        before = places.index(after) if after in places else -1
    if after is None or before < 0:
        walk.refuse(node)
    walk.tie((y, after), (x, before))


def _flatten(walk: Walk, node: gs.Node) -> None:
    """(N, C, H, W) -> (N, C·H·W): every channel is H·W columns on end."""
    shape = walk.shape(node.inputs[0])
    if node.attrs.get("axis", 1) % max(len(shape), 1) != 1:
        walk.refuse(node)
    _on_end(walk, node, 1, 1)


def _reshape(walk: Walk, node: gs.Node) -> None:
    """Where the channels stay an axis, or become the last one with all that stands behind them."""
    x, y, sizes = node.inputs[0], node.outputs[0], given(node, 1)
    axes = _same_place(walk, x, y)
    if axes is None:
        walk.refuse(node)
    before, after = axes
    if sizes is None:
        _reshape_to_computed(walk, node, before, after)
        return
    size = int(sizes[after])
    if size == 0 and before != after:  # as many as the input has on another axis
        walk.refuse(node)
    _on_end(walk, node, before, after)
    labels = walk.labels(y, after)
    if size > 0 and labels is not None:
        walk.count(node, 1, after, labels, [int(s) for s in sizes])


def _reshape_to_computed(walk: Walk, node: gs.Node, before: int, after: int) -> None:
    """To a list that is computed: the channels' number in it is a constant that nothing else uses, or that of a tensor
    read off, or what is left for the last axis."""
    x, y, sizes = node.inputs[0], node.outputs[0], node.inputs[1]
    read, place = source(sizes, after, walk.shape), stated(sizes, after, walk.shape)
    if read is not None:
        if walk.shape(x)[before] != walk.shape(y)[after]:
            walk.refuse(node)
        _on_end(walk, node, before, after)
        walk.tie((y, after), read)
        return
    if place is None:
        walk.refuse(node)
    concat, at, index, position = place
    listed = [int(s) for s in np.reshape(values(concat.inputs[index]), -1)]
    inferred = listed[position] == -1 and after == len(walk.shape(y)) - 1
    alone = list(uses(concat.outputs[0], at, walk.shape, walk.outputs)) == [(node, 1, after)]
    if not inferred and (listed[position] <= 0 or not alone):
        walk.refuse(node)
    _on_end(walk, node, before, after)
    labels = walk.labels(y, after)
    if not inferred and labels is not None:
        walk.count(concat, index, position, labels, listed)


def _slice(walk: Walk, node: gs.Node) -> None:
    """Of other axes, or a run of channels, which is then between what is left of its ends."""
    x, y = node.inputs[0], node.outputs[0]
    axis = next(walk.spans[id(t)].axis for t in (x, y) if id(t) in walk.spans)
    starts, ends, axes, steps = (given(node, index) for index in range(1, 5))
    if not has(node, 1) or (has(node, 3) and axes is None):
        walk.refuse(node)
    of = [int(a) % len(walk.shape(x)) for a in axes] if axes is not None else range(walk.shape(node.inputs[1])[0])
    if axis not in of:
        walk.tie((y, axis), (x, axis))
        return
    place, size = list(of).index(axis), walk.shape(x)[axis]
    if starts is None or ends is None or (has(node, 4) and (steps is None or steps[place] != 1)):
        walk.refuse(node)
    first, last, _ = slice(int(starts[place]), int(ends[place])).indices(size)
    below, labels = walk.labels(y, axis), np.full(size, -1)
    if below is not None:
        labels[first:last] = below
        walk.put(x, axis, labels)
    own = walk.labels(x, axis)
    if own is None:
        return
    walk.put(y, axis, own[first:last])
    if first > 0:
        walk.count(node, 1, place, own[:first], [int(s) for s in starts])
    if last < size:
        walk.count(node, 2, place, own[:last], [int(e) for e in ends])


def _same_place(walk: Walk, x: gs.Tensor, y: gs.Tensor) -> tuple[int, int] | None:
    """The axis of the channels in x and in y: as much stands before the one as before the other."""
    shapes = walk.shape(x), walk.shape(y)
    befores = [walk.spans[id(x)].axis] if id(x) in walk.spans else range(len(shapes[0]))
    afters = [walk.spans[id(y)].axis] if id(y) in walk.spans else range(len(shapes[1]))
    pairs = [(a, b) for a in befores for b in afters if math.prod(shapes[0][:a]) == math.prod(shapes[1][:b])]
    alone = [(a, b) for a, b in pairs if shapes[0][a] == shapes[1][b]]
    ended = [(a, b) for a, b in pairs if shapes[0][a] > 1 and _is_end(shapes, a, b)]
    return next(iter([*alone, *ended]), None)


def _is_end(shapes: tuple[Shape, Shape], before: int, after: int) -> bool:
    return after == len(shapes[1]) - 1 and shapes[1][after] == math.prod(shapes[0][before:])


def _on_end(walk: Walk, node: gs.Node, before: int, after: int) -> None:
    """Every channel on axis `before` of the input is as many on end on axis `after` of the output."""
    x, y = node.inputs[0], node.outputs[0]
    size = walk.shape(x)[before]
    columns = walk.shape(y)[after] // max(size, 1)
    below = walk.labels(y, after)
    if below is not None:
        rows = below.reshape(size, columns)
        top = rows.max(axis=1)
        walk.ties.append((np.repeat(top, columns)[below >= 0], below[below >= 0]))
        walk.put(x, before, top)
    above = walk.labels(x, before)
    walk.put(y, after, None if above is None else np.repeat(above, columns))


MOVING: dict[str, Rule] = {
    **{f"Reduce{name}": _reduce for name in REDUCTIONS},
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
