"""Fold what an OpenVINO model computes from constants and from shapes that are known, and nothing else.

OpenVINO's own ConstantFolding also unpacks weights that are stored in half precision, so that the model that is written
would be twice as large as the one that was read; here the Convert behind such weights stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.passes import ConstantFolding, Manager

from ndpass.graph.fold import INFLATED, SMALL
from ndpass.graph.openvino.operators import CELLS, CONVOLUTIONS, SEQUENCES

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

Large = dict[str, list[NDArray[Any]] | None]


def fold(model: ov.Model) -> None:
    """Put constants in the place of all that can be computed now, in the model itself.

    Not where they would be far larger than what they are computed from, if no layer reads them as weights.
    """
    ordered = [op for op in model.get_ordered_ops() if op.get_type_name() not in NEVER and decompressed(op) is None]
    large: Large = dict.fromkeys(_inflating(ordered))
    for op in ordered:
        if op.get_name() in large:
            continue
        found = _values(op, large)
        if found is None:
            continue
        for port, value in zip(op.outputs(), found, strict=True):
            constant = ov.op.Constant(value)
            constant.set_friendly_name(op.get_friendly_name())
            port.replace(constant.output(0))


def _inflating(ordered: Sequence[ov.Node]) -> set[str]:
    """The names of the operators whose values would be stored in many times the bytes that they come from."""
    origins = _origins(ordered)
    stay, before = set[str](), -1
    while before != len(stay):  # what a folded operator hands to one that stays is stored, too
        before, folded = len(stay), origins.keys() - stay
        for op in (op for op in ordered if op.get_name() in folded):
            stored = [port for port in op.outputs() if _readers(port).keys() - folded]
            limit = max(SMALL, INFLATED * sum(origins[op.get_name()].values()))
            if sum(map(_size, stored)) > limit and not any(map(_is_held, stored)):
                stay.add(op.get_name())
    return stay


def _origins(ordered: Sequence[ov.Node]) -> dict[str, dict[str, int]]:
    """Of each operator that depends on constants and known shapes alone: the names and the bytes of the constants."""
    found: dict[str, dict[str, int]] = {}
    for op in ordered:
        if not all(port.get_partial_shape().is_static for port in op.outputs()):
            continue
        read = [port for port in op.input_values() if op.get_type_name() != "ShapeOf"]
        own = {port.get_node().get_name(): _size(port) for port in read if _is_constant(port.get_node())}
        computed = [port.get_node().get_name() for port in read if not _is_constant(port.get_node())]
        if all(name in found for name in computed) and (read or op.get_type_name() == "ShapeOf"):
            found[op.get_name()] = {key: size for name in computed for key, size in found[name].items()} | own
    return found


def _is_constant(op: ov.Node) -> bool:
    return op.get_type_name() == "Constant" or decompressed(op) is not None


def _size(port: Any) -> int:
    """In bytes."""
    return int(math.prod(port.get_shape())) * max(int(port.get_element_type().size), 1)


def _readers(port: Any) -> dict[str, list[tuple[str, int]]]:
    """Name -> types of the operators that read the port, and at which of their inputs."""
    found: dict[str, list[tuple[str, int]]] = {}
    for target in port.get_target_inputs():
        op = target.get_node()
        found.setdefault(op.get_name(), []).append((op.get_type_name(), target.get_index()))
    return found


def _is_held(port: Any) -> bool:
    """Whether a layer reads it as a weight."""
    read = [one for places in _readers(port).values() for one in places]
    return any(kind in (*CONVOLUTIONS, *SEQUENCES, *CELLS, "MatMul") and place > 0 for kind, place in read)


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


def _values(op: ov.Node, large: Large) -> list[NDArray[Any]] | None:
    """The values of all outputs, None where they depend on the inputs or OpenVINO cannot compute them here.

    large: what stays, by name, with its values where they were needed.
    """
    if any(name_of(port) not in PLAIN or not port.get_partial_shape().is_static for port in op.outputs()):
        return None
    if op.get_type_name() == "ShapeOf":
        shape = op.get_input_partial_shape(0)
        return [np.array(shape.to_shape(), op.get_output_element_type(0).to_dtype())] if shape.is_static else None
    inputs = [_read(port, large) if name_of(port) in PLAIN else None for port in op.input_values()]
    if not inputs or any(value is None for value in inputs):
        return None
    outputs = [ov.Tensor(port.get_element_type(), port.get_shape()) for port in op.outputs()]
    try:
        done = op.evaluate(outputs, [ov.Tensor(np.array(value, order="C")) for value in inputs])
    except (RuntimeError, TypeError):  # no evaluator for this operator or type: it stays
        return None
    return [np.array(tensor.data) for tensor in outputs] if done else None


def _read(port: Any, large: Large) -> NDArray[Any] | None:
    """The values of a constant or of an operator that stays though it is one."""
    name = port.get_node().get_name()
    if name not in large:
        return constant_value(port.get_node())
    if large[name] is None:
        large[name] = _values(port.get_node(), large)
    found = large[name]
    return None if found is None else found[port.get_index()]
