"""What OpenVINO infers of an ONNX graph: it follows computed shapes further than ONNX's own inference."""

from __future__ import annotations

import logging
from typing import NamedTuple

import onnx
import openvino as ov

log = logging.getLogger(__name__)

ONNX_TYPES = {
    "f32": onnx.TensorProto.FLOAT,
    "f16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
    "f64": onnx.TensorProto.DOUBLE,
    "i8": onnx.TensorProto.INT8,
    "i16": onnx.TensorProto.INT16,
    "i32": onnx.TensorProto.INT32,
    "i64": onnx.TensorProto.INT64,
    "u8": onnx.TensorProto.UINT8,
    "u16": onnx.TensorProto.UINT16,
    "u32": onnx.TensorProto.UINT32,
    "u64": onnx.TensorProto.UINT64,
    "boolean": onnx.TensorProto.BOOL,
}


class Tensor(NamedTuple):
    """A tensor's type, as ONNX numbers it, and the size of each axis, None where it is open."""

    kind: int
    axes: tuple[int | None, ...]


def ask_openvino(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Name -> type and axes of every tensor that OpenVINO knows the number of axes of; empty if it cannot read it."""
    try:
        read = ov.Core().read_model(model.SerializeToString())
    except Exception:  # an operator that it does not have, say; its exceptions share no parent
        log.debug("OpenVINO cannot read the graph to infer its shapes", exc_info=True)
        return {}
    found = {}
    for port in (port for op in read.get_ops() for port in op.outputs()):
        shape, kind = port.get_partial_shape(), ONNX_TYPES.get(port.get_element_type().to_string())
        if shape.rank.is_dynamic or kind is None:
            continue
        axes = tuple(axis.get_length() if axis.is_static else None for axis in shape)
        found.update(dict.fromkeys(port.get_names(), Tensor(kind, axes)))
    return found
