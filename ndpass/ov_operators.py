"""The operators of OpenVINO that have a counterpart in ONNX whose rules ndpass knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import openvino as ov

from ndpass.normalise import values

DOMAIN = "openvino"  # of what has none

SAME = {
    "Abs": "Abs", "Add": "Add", "Clamp": "Clip", "Convert": "Cast", "Divide": "Div", "Elu": "Elu", "Erf": "Erf",
    "Exp": "Exp", "Gelu": "Gelu", "HSigmoid": "HardSigmoid", "HSwish": "HardSwish", "HardSigmoid": "HardSigmoid",
    "Maximum": "Max", "Minimum": "Min", "Mish": "Mish", "Multiply": "Mul", "Negative": "Neg", "Relu": "Relu",
    "Selu": "Selu", "Sigmoid": "Sigmoid", "SoftPlus": "Softplus", "SoftSign": "Softsign", "Sqrt": "Sqrt",
    "Subtract": "Sub", "Swish": "Swish", "Tanh": "Tanh",
}  # fmt: skip
POOLS = {"AvgPool": "AveragePool", "MaxPool": "MaxPool", "AdaptiveAvgPool": "GlobalAveragePool",
         "AdaptiveMaxPool": "GlobalMaxPool"}  # fmt: skip
REDUCED = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
UNPACKING = ("Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract", "Transpose")


@dataclass(frozen=True)
class Told:
    """An operator as ONNX has it. inputs: which of the operator's inputs are the node's; shapes: what they are seen in.

    known: whether its channels may be followed by the rules for an ONNX operator of this name.
    """

    op: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...] | None, ...] | None = None
    known: bool = False


def told(op: ov.Node, inputs: Sequence[gs.Tensor]) -> Told | None:
    """The counterpart of an operator that reads these tensors, or None."""
    kind = str(op.get_type_name())
    attributes = op.get_attributes()
    if kind in SAME and attributes.get("auto_broadcast", "numpy") == "numpy":
        return Told(SAME[kind], tuple(range(len(inputs))), known=True)
    if kind in POOLS:
        return Told(POOLS[kind], (0,), known=True)
    rule = RULES.get(kind)
    return rule(op, inputs, attributes) if rule else None


def unpacks(op: ov.Node, inputs: Sequence[gs.Tensor]) -> bool:
    """Whether it makes weights of quantised ones, alone or with others: what it reads are constants or such weights."""
    return op.get_type_name() in UNPACKING and all(
        isinstance(t, gs.Constant) or (t.inputs and t.inputs[0].op == "Dequantize") for t in inputs
    )


def _convolution(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told:
    """Weights of a GroupConvolution are (groups, outputs of one, inputs of one, ...), ONNX's (outputs, inputs, ...)."""
    transposed = "Backprop" in op.get_type_name()
    grouped = op.get_type_name().startswith("Group")
    attrs: dict[str, Any] = {"strides": list(attributes["strides"]), "dilations": list(attributes["dilations"]),
                             "pads": [*attributes["pads_begin"], *attributes["pads_end"]]}  # fmt: skip
    if attributes["auto_pad"] != "explicit":
        attrs["auto_pad"] = str(attributes["auto_pad"]).upper()
        del attrs["pads"]
    shapes = None
    weight = op.get_input_partial_shape(1)
    if grouped and weight.is_static:
        groups, a, b, *kernel = weight.to_shape()
        attrs["group"] = groups
        if isinstance(inputs[1], gs.Constant):
            shapes = (None, (groups * a, b, *kernel))
    return Told("ConvTranspose" if transposed else "Conv", (0, 1), attrs, shapes, known=True)


def _matmul(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    turned = {"transA": int(attributes["transpose_a"]), "transB": int(attributes["transpose_b"])}
    if isinstance(inputs[1], gs.Constant) and len(inputs[1].shape) == 2:
        return Told("Gemm", (0, 1), turned, known=True)
    return None if turned["transA"] else Told("MatMul", (0, 1), known=not turned["transB"])


def _reduce(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    """Over all or some axes behind the channels: these stay what and where they are."""
    rank = op.get_input_partial_shape(0).rank
    if rank.is_dynamic or not isinstance(inputs[1], gs.Constant):
        return None
    axes = {int(a) % rank.get_length() for a in np.atleast_1d(values(inputs[1]))}
    return Told(REDUCED[op.get_type_name()], (0,), known=True) if min(axes, default=0) > 1 else None


def _flatten(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    """A Reshape or Squeeze from (N, C, ...) to (N, C·...)."""
    x, y = op.get_input_partial_shape(0), op.get_output_partial_shape(0)
    if x.rank.is_dynamic or y.rank.is_dynamic or x.rank.get_length() < 3 or y.rank.get_length() != 2:
        return None
    inner = list(x)[1:]
    if any(axis.is_dynamic for axis in [*inner, y[1]]):
        return None
    whole = math.prod(axis.get_length() for axis in inner) == y[1].get_length()
    return Told("Flatten", (0,), {"axis": 1}, known=True) if whole else None


def _concat(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told:  # noqa: ARG001
    return Told("Concat", tuple(range(len(inputs))), {"axis": int(attributes["axis"])}, known=True)


def _pad(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    if not all(isinstance(t, gs.Constant) for t in inputs[1:3]):
        return None
    pads = [int(p) for t in inputs[1:3] for p in values(t)]
    return Told("Pad", (0,), {"pads": pads}, known=True)


def _interpolate(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    number = {4: 3, 3: 2}.get(len(inputs), 99) if "shape_calculation_mode" in attributes else 99
    axes = inputs[number] if number < len(inputs) else None
    if not isinstance(axes, gs.Constant) or any([*attributes.get("pads_begin", ()), *attributes.get("pads_end", ())]):
        return None
    return Told("Resize", (0,), {"axes": [int(a) for a in values(axes)]}, known=True)


def _batchnorm(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    if isinstance(inputs[0], gs.Constant):  # an older version has the data third
        return None
    epsilon = attributes.get("epsilon", attributes.get("eps", 1e-5))
    return Told("BatchNormalization", (0, 1, 2, 3, 4), {"epsilon": float(epsilon)}, known=True)


def _prelu(op: ov.Node, inputs: Sequence[gs.Tensor], attributes: Mapping[str, Any]) -> Told | None:  # noqa: ARG001
    """Its slopes, if there are several, lie along the channels, where ONNX aligns them with the last axis."""
    single = isinstance(inputs[1], gs.Constant) and math.prod(inputs[1].shape) == 1
    return Told("PRelu", (0, 1), known=True) if single else None


RULES: dict[str, Callable[[ov.Node, Sequence[gs.Tensor], Mapping[str, Any]], Told | None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(REDUCED, _reduce),
    **dict.fromkeys(("Reshape", "Squeeze"), _flatten),
    "BatchNormInference": _batchnorm,
    "Concat": _concat,
    "Interpolate": _interpolate,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Pad": _pad,
}
