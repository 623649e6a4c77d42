"""Bias, scale and shift behind a layer, which stand there as Add and Mul, Sub and Div, taken into the layer.

OpenVINO keeps every bias like that. Exporters of ONNX do so with frozen BatchNormalization, with biases that were
given by hand, and with linear layers of more than two axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array
from ndpass.graph.constants import has, is_weight, values
from ndpass.graph.unique_names import Names, all_graphs, tensor_names

LAYERS = ("Conv", "ConvTranspose", "Gemm")
TURNED = ("Sub", "Div")  # whose constant has to stand behind
BEHIND = ("Add", "Mul", *TURNED)
ALIGNED = 7  # opset from which on operands are aligned at their last axes


@dataclass(frozen=True)
class _Behind:
    """What alone reads a layer's output y and makes scale · y + shift of it; each one number, or one for each output.

    constant: where the numbers are.
    """

    node: gs.Node
    constant: gs.Constant

    @property
    def scale(self) -> Array:
        if self.node.op == "Div":
            return 1 / self._numbers
        return self._numbers if self.node.op == "Mul" else np.ones(1)

    @property
    def shift(self) -> Array:
        if self.node.op == "Sub":
            return -self._numbers
        return self._numbers if self.node.op == "Add" else np.zeros(1)

    @property
    def _numbers(self) -> Array:
        return values(self.constant).astype(np.float64).reshape(-1)


def absorb_biases(graph: gs.Graph, seen: Callable[[gs.Constant, tuple[int, ...]], gs.Constant]) -> None:
    """An Add of a number for each output becomes the layer's bias, and a Mul by ones goes; no value changes.

    seen: gives a stored constant in another shape.
    """
    places = _Places(graph)
    for node in [n for n in graph.nodes if takes(n) and is_weight(n.inputs[1])]:
        while (behind := places.behind(node)) is not None:
            other, constant = behind.node, behind.constant
            if other.op == "Mul" and (values(constant) == 1).all():
                _merge(graph, node, other)
            elif other.op == "Add" and len(node.inputs) == 2 and math.prod(constant.shape) == outputs(node):
                node.inputs.append(seen(constant, (outputs(node),)))
                _merge(graph, node, other)
            else:
                break


def fold_scales(graph: gs.Graph) -> int:
    """Multiply each Mul by constants into the weights of the layer before it, and add each Add to its bias; Sub and Div
    likewise.

    y = s (Wx + b) + t becomes (sW)x + (sb + t), computed in float64. Returns how many nodes went. Weights stay those
    that they were where nothing is multiplied. What the type of the weights cannot hold stays outside.
    """
    if graph.opset < ALIGNED:
        return 0
    places, names, folded = _Places(graph), Names(tensor_names(graph)), 0
    for node in [n for n in graph.nodes if takes(n)]:
        while (behind := places.behind(node)) is not None and rescale(node, behind.scale, behind.shift, names):
            _merge(graph, node, behind.node)
            folded += 1
    return folded


def takes(node: gs.Node) -> bool:
    """Whether it is a layer that a bias may be put into; no pass rewrites the transposed convolutions left out."""
    if node.op == "ConvTranspose":
        return node.attrs.get("group", 1) == 1 and "output_shape" not in node.attrs
    return node.op in LAYERS


def outputs(node: gs.Node) -> int:
    """How many outputs a layer has."""
    return int(node.inputs[1].shape[_output_axis(node)])


def _output_axis(node: gs.Node) -> int:
    """Of its weight."""
    return 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1


def one_each(constant: gs.Tensor, outputs: int, axis: int, axes: int) -> bool:
    """Whether it holds one number for all outputs or one for each, aligned with a tensor of so many axes.

    axis: the one that the outputs lie along.
    """
    shape = tuple(constant.shape)
    shape = (1,) * (axes - len(shape)) + shape
    return len(shape) == axes and shape[axis] in (1, outputs) and math.prod(shape) == shape[axis]


def _row_bias(node: gs.Node) -> bool:
    """Whether the bias is one number an output, or one for all: a Gemm may add a matrix."""
    return not has(node, 2) or math.prod(node.inputs[2].shape) in (1, outputs(node))


class _Places:
    """What of a graph may be taken away: nodes of the graph itself, between tensors that nothing outside it names."""

    def __init__(self, graph: gs.Graph) -> None:
        self._own = {id(node) for node in graph.nodes}
        self._given: Collection[int] = {id(t) for part in all_graphs(graph) for t in part.outputs}

    def behind(self, node: gs.Node) -> _Behind | None:
        """The Add, Mul, Sub or Div that alone reads the output, if it takes one number or one for each output."""
        y = node.outputs[0]
        if len(y.outputs) != 1 or id(y) in self._given or node.attrs.get("transA", 0):
            return None
        other = y.outputs[0]
        if other.op not in BEHIND or other.domain not in (None, "") or len(other.inputs) != 2:
            return None
        constant = next((t for t in other.inputs if t is not y), None)
        if constant is None or not is_weight(constant) or constant.dtype != node.inputs[1].dtype:
            return None
        if not np.issubdtype(constant.dtype, np.floating):
            return None  # 7 / 2 is 3, and 3.5 of what is multiplied by 1 / 2
        if other.op in TURNED and (other.inputs[0] is not y or not values(constant).all()):
            return None  # c - y is no shift of y; by zero nothing is divided
        axes = len(node.outputs[0].shape or node.inputs[1].shape)
        fits = one_each(constant, outputs(node), axes - 1 if node.op == "Gemm" else 1, axes)
        if not fits or id(other) not in self._own or _hard_sigmoid(other, constant):
            return None
        return _Behind(other, constant)


def _hard_sigmoid(node: gs.Node, constant: gs.Constant) -> bool:
    """Whether it is the 3 of a hard sigmoid, clip(x + 3, 0, 6) / 6, which runtimes know by all of its parts."""
    return node.op == "Add" and math.prod(constant.shape) == 1 and any(n.op == "Clip" for n in node.outputs[0].outputs)


def rescale(node: gs.Node, scale: Array, shift: Array, names: Names) -> bool:
    """Let the layer give scale · y + shift, (1,) or (outputs,), in place of y, Gemm's beta taken into its bias.

    False where it cannot: its constants are computed, or their type does not hold the numbers; nothing has changed.
    """
    if not all(is_weight(t) or t.is_empty() for t in node.inputs[1:]) or not _row_bias(node):
        return False
    n_o, dtype = outputs(node), np.dtype(node.inputs[1].dtype)
    beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    bias = values(node.inputs[2]).astype(np.float64).reshape(-1) if has(node, 2) else np.zeros(1)
    shifted = _held(np.broadcast_to(beta * bias * scale + shift, n_o), dtype)
    weight = node.inputs[1]
    if (scale != 1).any():
        found = values(weight)
        across = np.expand_dims(
            np.broadcast_to(scale, n_o), [axis for axis in range(found.ndim) if axis != _output_axis(node)]
        )
        folded = _held(found * across, dtype)
        weight = None if folded is None else gs.Constant(names.fresh(f"{node.name}.weight_folded"), folded)
    if shifted is None or weight is None:
        return False
    node.inputs = [node.inputs[0], weight, gs.Constant(names.fresh(f"{node.name}.bias_folded"), shifted)]
    if beta != 1:
        node.attrs["beta"] = 1.0
    return True


def _held(array: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """In this type; None where a number is too large for it, or many are so small that they lose their digits."""
    with np.errstate(over="ignore"):
        found: Array = np.ascontiguousarray(array.astype(dtype))
    if not np.isfinite(found).all():
        return None
    lost = np.linalg.norm(found.astype(np.float64) - array)
    return found if lost <= 2 * float(np.finfo(found.dtype).eps) * np.linalg.norm(array) else None


def _merge(graph: gs.Graph, node: gs.Node, other: gs.Node) -> None:
    """The layer takes the place of the node behind it too."""
    out = other.outputs[0]
    other.inputs.clear()
    other.outputs.clear()
    node.outputs = [out]
    del graph.nodes[next(i for i, n in enumerate(graph.nodes) if n is other)]
