"""The operators of OpenVINO that have a counterpart in ONNX whose rules ndpass knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
import openvino as ov

from ndpass.graph.constants import values

DOMAIN = "openvino"  # of what has none
NOTHING = -1  # in the place of an input that ONNX has and the operator has not
ONE_OF_BOTH = 11  # opset from which on Interpolate reads scales or sizes
LAST = np.iinfo(np.int64).max

SAME = {
    "Abs": "Abs",
    "Add": "Add",
    "Clamp": "Clip",
    "Convert": "Cast",
    "Divide": "Div",
    "Elu": "Elu",
    "Erf": "Erf",
    "Exp": "Exp",
    "Gelu": "Gelu",
    "HSigmoid": "HardSigmoid",
    "HSwish": "HardSwish",
    "HardSigmoid": "HardSigmoid",
    "Maximum": "Max",
    "Minimum": "Min",
    "Mish": "Mish",
    "Multiply": "Mul",
    "Negative": "Neg",
    "Relu": "Relu",
    "Selu": "Selu",
    "Sigmoid": "Sigmoid",
    "SoftPlus": "Softplus",
    "SoftSign": "Softsign",
    "Sqrt": "Sqrt",
    "Subtract": "Sub",
    "Swish": "Swish",
    "Tanh": "Tanh",
}
POOLS = {
    "AvgPool": "AveragePool",
    "MaxPool": "MaxPool",
    "AdaptiveAvgPool": "GlobalAveragePool",
    "AdaptiveMaxPool": "GlobalMaxPool",
}
REDUCED = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
# operator -> which of its inputs are x, the input weights and the recurrent weights
SEQUENCES = {"LSTMSequence": (0, 4, 5), "GRUSequence": (0, 3, 4), "RNNSequence": (0, 3, 4)}
CELLS = {"LSTMCell": (0, 3, 4), "GRUCell": (0, 2, 3), "RNNCell": (0, 2, 3)}
UNPACKING = ("Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract", "Transpose")


class Met(NamedTuple):
    """An operator of the model, the tensors that it reads in the description, and its attributes."""

    op: ov.Node
    inputs: Sequence[gs.Tensor]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """An operator as ONNX has it. inputs: which of the operator's inputs are the node's, or NOTHING; shapes: what they
    are seen in.

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
    return rule(Met(op, inputs, attributes)) if rule else None


def unpacks(op: ov.Node, inputs: Sequence[gs.Tensor]) -> bool:
    """Whether it makes weights of quantised ones, alone or with others: what it reads are constants or such weights."""
    return op.get_type_name() in UNPACKING and all(
        isinstance(t, gs.Constant) or (t.inputs and t.inputs[0].op == "Dequantize") for t in inputs
    )


def _convolution(met: Met) -> Told:
    """Weights of a GroupConvolution are (groups, outputs of one, inputs of one, ...), ONNX's (outputs, inputs, ...)."""
    transposed = "Backprop" in met.op.get_type_name()
    grouped = met.op.get_type_name().startswith("Group")
    attrs: dict[str, Any] = {
        "strides": list(met.attributes["strides"]),
        "dilations": list(met.attributes["dilations"]),
        "pads": [*met.attributes["pads_begin"], *met.attributes["pads_end"]],
    }
    if met.attributes["auto_pad"] != "explicit":
        attrs["auto_pad"] = str(met.attributes["auto_pad"]).upper()
        del attrs["pads"]
    if transposed:
        attrs["output_padding"] = list(met.attributes["output_padding"])
    if len(met.inputs) > 2:
        attrs["output_shape"] = []  # which is an input
    shapes = None
    weight = met.op.get_input_partial_shape(1)
    if grouped and weight.is_static:
        groups, a, b, *kernel = weight.to_shape()
        attrs["group"] = groups
        if isinstance(met.inputs[1], gs.Constant):
            shapes = (None, (groups * a, b, *kernel))
    return Told("ConvTranspose" if transposed else "Conv", (0, 1), attrs, shapes, known=True)


def _matmul(met: Met) -> Told | None:
    turned = {"transA": int(met.attributes["transpose_a"]), "transB": int(met.attributes["transpose_b"])}
    if isinstance(met.inputs[1], gs.Constant) and len(met.inputs[1].shape) == 2:
        return Told("Gemm", (0, 1), turned, known=True)
    plain = not any(turned.values())
    return Told("MatMul", (0, 1), {} if plain else turned, known=plain)


def _reduce(met: Met) -> Told | None:
    axes = _listed(met, 1)
    attrs = {"axes": axes, "keepdims": int(met.attributes["keep_dims"])}
    return Told(str(met.op.get_type_name()), (0,), attrs, known=True) if axes else None


def _axes_at(met: Met) -> Told | None:
    """Squeeze and Unsqueeze of axes that are named."""
    axes = _listed(met, 1)
    return Told(str(met.op.get_type_name()), (0,), {"axes": axes}, known=True) if axes else _flatten(met)


def _listed(met: Met, index: int) -> list[int] | None:
    """The values of a constant input."""
    known = index < len(met.inputs) and isinstance(met.inputs[index], gs.Constant)
    return [int(a) for a in np.reshape(values(met.inputs[index]), -1)] if known else None


def _reshape(met: Met) -> Told | None:
    if (flat := _flatten(met)) is not None:
        return flat
    attrs = {"allowzero": int(not met.attributes["special_zero"])}
    return Told("Reshape", (0, 1), attrs, known=True) if _listed(met, 1) else None


def _flatten(met: Met) -> Told | None:
    """From (N, C, ...) to (N, C·...)."""
    x, y = met.op.get_input_partial_shape(0), met.op.get_output_partial_shape(0)
    if x.rank.is_dynamic or y.rank.is_dynamic or x.rank.get_length() < 3 or y.rank.get_length() != 2:
        return None
    inner = list(x)[1:]
    if any(axis.is_dynamic for axis in [*inner, y[1]]):
        return None
    whole = math.prod(axis.get_length() for axis in inner) == y[1].get_length()
    return Told("Flatten", (0,), {"axis": 1}, known=True) if whole else None


def _concat(met: Met) -> Told:
    return Told("Concat", tuple(range(len(met.inputs))), {"axis": int(met.attributes["axis"])}, known=True)


def _split(met: Met) -> Told | None:
    """Of equal parts, or of those that a constant list gives."""
    if not all(isinstance(t, gs.Constant) for t in met.inputs[1:]):
        return None
    axis = int(np.atleast_1d(values(met.inputs[1]))[0])
    return Told("Split", (0, *range(2, len(met.inputs))), {"axis": axis}, known=True)


def _pad(met: Met) -> Told | None:
    if not all(isinstance(t, gs.Constant) for t in met.inputs[1:3]):
        return None
    pads = [int(p) for t in met.inputs[1:3] for p in values(t)]
    return Told("Pad", (0,), {"pads": pads}, known=True)


def _interpolate(met: Met) -> Told | None:
    """A Resize, with the sizes or scales that it reads. Before opset 11 these are two inputs, one of them unused."""
    if any([*met.attributes.get("pads_begin", ()), *met.attributes.get("pads_end", ())]):
        return None
    if "shape_calculation_mode" not in met.attributes:
        return None
    by_sizes, both = met.attributes["shape_calculation_mode"] == "sizes", _opset(met.op) < ONE_OF_BOTH
    number = 3 if both else 2
    axes = _listed(met, number)
    if axes is None and number < len(met.inputs):
        return None
    given = (0, NOTHING, NOTHING, 1) if by_sizes else (0, NOTHING, 2 if both else 1)
    return Told("Resize", given, {} if axes is None else {"axes": axes}, known=True)


def _opset(op: ov.Node) -> int:
    """The one that the operator is of."""
    return int(str(op.get_type_info().version_id).removeprefix("opset"))


def _gather(met: Met) -> Told | None:
    """Of a list, of which numbers are taken by constant positions."""
    if not _is_list(met) or met.attributes.get("batch_dims", 0) or not isinstance(met.inputs[1], gs.Constant):
        return None
    return Told("Gather", (0, 1), {"axis": 0}, known=True)


def _slice(met: Met) -> Told | None:
    """Of a list, between constant positions."""
    if not _is_list(met) or not all(isinstance(t, gs.Constant) for t in met.inputs[1:]):
        return None
    return Told("Slice", (0, 1, 2, 4, 3) if len(met.inputs) > 4 else (0, 1, 2, NOTHING, 3), known=True)


def _strided_slice(met: Met) -> Told | None:
    """The same, all numbers between both."""
    begin, end, stride = (_listed(met, index) for index in (1, 2, 3))
    others = [any(met.attributes.get(f"{name}_mask", ())) for name in ("shrink_axis", "new_axis", "ellipsis")]
    if not _is_list(met) or begin is None or end is None or any(others) or stride not in (None, [1]):
        return None
    starts = [0] if any(met.attributes["begin_mask"]) else begin
    ends = [LAST] if any(met.attributes["end_mask"]) else end
    return Told("Slice", (0,), {"starts": starts, "ends": ends}, known=True)


def _is_list(met: Met) -> bool:
    rank = met.op.get_input_partial_shape(0).rank
    return bool(rank.is_static and rank.get_length() == 1)


def _batchnorm(met: Met) -> Told | None:
    if isinstance(met.inputs[0], gs.Constant):  # an older version has the data third
        return None
    epsilon = met.attributes.get("epsilon", met.attributes.get("eps", 1e-5))
    return Told("BatchNormalization", (0, 1, 2, 3, 4), {"epsilon": float(epsilon)}, known=True)


def _prelu(met: Met) -> Told | None:
    """Its slopes, if there are several, lie along the channels, where ONNX aligns them with the last axis."""
    single = isinstance(met.inputs[1], gs.Constant) and math.prod(met.inputs[1].shape) == 1
    return Told("PRelu", (0, 1), known=True) if single else None


def _recurrent(met: Met) -> Told:
    """x and the weights first, as ONNX has them, then all else."""
    kind = str(met.op.get_type_name())
    first = (SEQUENCES | CELLS)[kind]
    rest = tuple(i for i in range(len(met.inputs)) if i not in first)
    return Told(kind.removesuffix("Sequence").removesuffix("Cell"), first + rest)


def _einsum(met: Met) -> Told:
    return Told("Einsum", tuple(range(len(met.inputs))), {"equation": str(met.attributes["equation"])})


def _deformable(met: Met) -> Told:
    """x, the kernel and the offsets, as ONNX has them, then the mask."""
    return Told("DeformConv", (0, 2, 1, *range(3, len(met.inputs))))


RULES: dict[str, Callable[[Met], Told | None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(REDUCED, _reduce),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _axes_at),
    **dict.fromkeys(("Split", "VariadicSplit"), _split),
    "BatchNormInference": _batchnorm,
    "Concat": _concat,
    "Interpolate": _interpolate,
    "DeformableConvolution": _deformable,
    "Einsum": _einsum,
    "Gather": _gather,
    "MatMul": _matmul,
    **dict.fromkeys((*SEQUENCES, *CELLS), _recurrent),
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "ShapeOf": lambda _: Told("Shape", (0,), known=True),
    "Slice": _slice,
    "StridedSlice": _strided_slice,
}
