"""Fold what an OpenVINO model computes from constants and from shapes that are known, and nothing else.

OpenVINO's own ConstantFolding also unpacks weights that are stored in half precision, so that the model that is written
would be twice as large as the one that was read; here the Convert behind such weights stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.passes import ConstantFolding, Manager

NEVER = {
    "Parameter",
    "Result",
    "Constant",
    "FakeQuantize",
    "FakeConvert",
    "RandomUniform",
    "Multinomial",
    "ReadValue",
    "Assign",
    "If",
    "Loop",
    "TensorIterator",
}
HALVES = ("f16", "bf16")
PLAIN = (
    "f16",
    "f32",
    "f64",
    "i32",
    "i64",
    "u32",
    "u64",
    "boolean",
)  # integers of 8 bits or fewer are quantised weights


def fold(model: ov.Model) -> None:
    """Put constants in the place of all that can be computed now, in the model itself."""
    for op in model.get_ordered_ops():
        if op.get_type_name() in NEVER or decompressed(op) is not None:
            continue
        found = _values(op)
        if found is None:
            continue
        for port, value in zip(op.outputs(), found, strict=True):
            constant = ov.op.Constant(value)
            constant.set_friendly_name(op.get_friendly_name())
            port.replace(constant.output(0))


def fold_and_unpack(model: ov.Model) -> None:
    """OpenVINO's own ConstantFolding, in place: a grouped weight, which the front end reshapes, is a Constant then."""
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def decompressed(op: ov.Node) -> ov.Node | None:
    """The Constant in half precision that this Convert makes float32 or float64 of; None for any other operator."""
    if op.get_type_name() != "Convert" or name_of(op.output(0)) not in ("f32", "f64"):
        return None
    source = op.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" and name_of(source.output(0)) in HALVES else None


def name_of(port: Any) -> str:
    """The element type of a port as OpenVINO writes it: f32, i64, boolean, ..."""
    return str(port.get_element_type().to_string())


def constant_value(op: ov.Node) -> NDArray[Any] | None:
    """What a Constant or a Convert of half precision holds; None for any other operator.

    Not a copy where the type is the same: to be read while the model lives.
    """
    packed = decompressed(op)
    if packed is not None:
        return np.asarray(packed.get_data(dtype=op.get_output_element_type(0).to_dtype()))
    return np.asarray(op.data) if op.get_type_name() == "Constant" else None


def _values(op: ov.Node) -> list[NDArray[Any]] | None:
    """The values of all outputs, None where they depend on the inputs or OpenVINO cannot compute them here."""
    if any(name_of(port) not in PLAIN or not port.get_partial_shape().is_static for port in op.outputs()):
        return None
    if op.get_type_name() == "ShapeOf":
        shape = op.get_input_partial_shape(0)
        return [np.array(shape.to_shape(), op.get_output_element_type(0).to_dtype())] if shape.is_static else None
    inputs = [constant_value(port.get_node()) if name_of(port) in PLAIN else None for port in op.input_values()]
    if not inputs or any(value is None for value in inputs):
        return None
    outputs = [ov.Tensor(port.get_element_type(), port.get_shape()) for port in op.outputs()]
    try:
        done = op.evaluate(outputs, [ov.Tensor(np.array(value, order="C")) for value in inputs])
    except (RuntimeError, TypeError):  # no evaluator for this operator or type: it stays
        return None
    return [np.array(tensor.data) for tensor in outputs] if done else None
