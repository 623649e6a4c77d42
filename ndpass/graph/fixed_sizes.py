"""Sizes of tensors that a model fixes and its nodes read off them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ndpass.graph.constants import is_known, values
from ndpass.graph.shapes import Axes, inference


def fixed_sizes(graph: gs.Graph) -> list[tuple[gs.Node, NDArray[np.int64]]]:
    """What each Shape says of sizes that the model fixes, and what is picked of it where others are open."""
    shapes = [node for node in graph.nodes if node.op == "Shape" and node.outputs]
    if not shapes:
        return []
    fixed, found = _declared(graph, {node.inputs[0].name for node in shapes}), []
    for node in [n for n in graph.nodes if n.op in ("Shape", "Gather", "Slice") and n.outputs]:
        sizes = _sizes(node, fixed)
        if sizes is not None and all(d is not None for d in sizes.reshape(-1)):
            found.append((node, sizes.astype(np.int64)))
    return found


def _declared(graph: gs.Graph, names: Collection[str]) -> dict[str, Axes]:
    """Of these tensors the sizes that the model declares and that also follow from its inputs.

    What is declared alone may be left over from a batch or a size that somebody has opened since.
    """
    inferred, tensors = inference(graph, {}, strict=False).axes, graph.tensors()
    found = {}
    for name in names & inferred.keys():
        declared = tensors[name].shape
        if declared is not None and len(declared) == len(inferred[name]):
            found[name] = tuple(
                a if a == d and isinstance(a, int) and a >= 0 else None
                for a, d in zip(inferred[name], declared, strict=True)
            )
    return found


def _sizes(node: gs.Node, fixed: Mapping[str, Axes]) -> NDArray[Any] | None:
    """What the node picks of the sizes of a tensor, None for an open one; None if it does something else."""
    if node.op == "Shape":
        axes = fixed.get(node.inputs[0].name)
        if axes is None:
            return None
        return np.array(axes, object)[node.attrs.get("start", 0) : node.attrs.get("end")]
    made = node.inputs[0].inputs
    sizes = _sizes(made[0], fixed) if len(made) == 1 and made[0].op == "Shape" else None
    if sizes is None:
        return None
    return _gathered(node, sizes) if node.op == "Gather" else _sliced(node, sizes)


def _gathered(node: gs.Node, sizes: NDArray[Any]) -> NDArray[Any] | None:
    if not is_known(node.inputs[1]):
        return None
    index = values(node.inputs[1])
    inside = bool(np.all((index >= -len(sizes)) & (index < len(sizes))))
    return np.asarray(sizes[index], object) if inside else None


def _sliced(node: gs.Node, sizes: NDArray[Any]) -> NDArray[Any] | None:
    """Starts, ends, axes and steps are inputs, and attributes before opset 10."""
    given: list[int | None] = [0, None, 0, 1]
    for place, key in enumerate(("starts", "ends", "axes", "steps")):
        tensor = node.inputs[place + 1] if place + 1 < len(node.inputs) else None
        if tensor is not None and not tensor.is_empty():
            if not is_known(tensor):
                return None
            given[place] = int(np.reshape(values(tensor), -1)[0])
        elif key in node.attrs:
            given[place] = int(node.attrs[key][0])
    start, end, axis, step = given
    return sizes[start:end:step] if axis in (0, -1) else None
