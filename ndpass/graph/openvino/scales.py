"""Bias, scale and shift behind a layer, which OpenVINO keeps as Add and Multiply, taken into the layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array
from ndpass.graph.constants import is_weight, values
from ndpass.graph.unique_names import Names, tensor_names

LAYERS = ("Conv", "Gemm")


def absorb_biases(graph: gs.Graph, seen: Callable[[gs.Constant, tuple[int, ...]], gs.Constant]) -> None:
    """An Add of a number for each output becomes the layer's bias, and a Mul by ones goes; no value changes.

    seen: gives a stored constant in another shape.
    """
    given = {id(t) for t in graph.outputs}
    for node in [n for n in graph.nodes if n.op in LAYERS and is_weight(n.inputs[1])]:
        while (behind := _behind(node, given)) is not None:
            other, constant = behind
            if other.op == "Mul" and (values(constant) == 1).all():
                _merge(graph, node, other)
            elif other.op == "Add" and len(node.inputs) == 2 and math.prod(constant.shape) == outputs(node):
                node.inputs.append(seen(constant, (outputs(node),)))
                _merge(graph, node, other)
            else:
                break


def fold_scales(graph: gs.Graph) -> None:
    """Multiply each Mul by constants into the weights of the layer before it, and add each Add to its bias.

    y = s (Wx + b) + t becomes (sW)x + (sb + t), computed in float64.
    """
    given, names = {id(t) for t in graph.outputs}, Names(tensor_names(graph))
    for node in [n for n in graph.nodes if n.op in LAYERS and all(is_weight(t) for t in n.inputs[1:])]:
        while (behind := _behind(node, given)) is not None:
            other, constant = behind
            one = np.broadcast_to(values(constant).astype(np.float64).reshape(-1), outputs(node))
            if other.op == "Mul":
                _rescale(node, one, np.zeros_like(one), names)
            else:
                _rescale(node, np.ones_like(one), one, names)
            _merge(graph, node, other)


def outputs(node: gs.Node) -> int:
    """How many outputs a Conv or Gemm has."""
    return int(node.inputs[1].shape[0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1])


def _behind(node: gs.Node, given: set[int]) -> tuple[gs.Node, gs.Constant] | None:
    """The Add or Mul that alone reads the layer's output, and the number or the numbers, one an output, that it takes.

    given: ids of the graph's outputs.
    """
    y = node.outputs[0]
    if len(y.outputs) != 1 or id(y) in given or node.attrs.get("transA", 0):
        return None
    other = y.outputs[0]
    if other.op not in ("Add", "Mul") or other.domain is not None or len(other.inputs) != 2:
        return None
    constant = next((t for t in other.inputs if t is not y), None)
    if constant is None or not is_weight(constant) or constant.dtype != node.inputs[1].dtype:
        return None
    return (other, constant) if _one_each(node, constant) else None


def _one_each(node: gs.Node, constant: gs.Constant) -> bool:
    """Whether it holds one number for all outputs or one for each, and has no more axes than the layer's output."""
    shape, axes = tuple(constant.shape), len(node.outputs[0].shape or node.inputs[1].shape)
    if node.op == "Gemm":
        return all(d == 1 for d in shape[:-1]) and shape[-1:] in ((), (1,), (outputs(node),)) and len(shape) <= axes
    shape = (1,) * (axes - len(shape)) + shape
    return len(shape) == axes and shape[1] in (1, outputs(node)) and all(d == 1 for d in (shape[0], *shape[2:]))


def _rescale(node: gs.Node, scale: Array, shift: Array, names: Names) -> None:
    """scale, shift (outputs,) of what the layer gives."""
    weight = values(node.inputs[1])
    axis = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
    bias = values(node.inputs[2]).astype(np.float64).reshape(-1) if len(node.inputs) > 2 else np.zeros(len(scale))
    folded = weight * np.expand_dims(scale, [a for a in range(weight.ndim) if a != axis])
    node.inputs = [
        node.inputs[0],
        gs.Constant(names.fresh(f"{node.name}.weight_folded"), np.ascontiguousarray(folded.astype(weight.dtype))),
        gs.Constant(names.fresh(f"{node.name}.bias_folded"), (bias * scale + shift).astype(weight.dtype)),
    ]


def _merge(graph: gs.Graph, node: gs.Node, other: gs.Node) -> None:
    """The layer takes the place of the node behind it too."""
    out = other.outputs[0]
    other.inputs.clear()
    other.outputs.clear()
    node.outputs = [out]
    del graph.nodes[next(i for i, n in enumerate(graph.nodes) if n is other)]
