"""The interface of a model: names, types and shapes of its inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from ndpass.graph.openvino.port_names import port_name

if TYPE_CHECKING:
    import openvino as ov


Ports: TypeAlias = "list[tuple[str, str, str]]"  # name, type and shape of each


Interface: TypeAlias = "onnx.ModelProto | tuple[Ports, Ports]"  # the latter an OpenVINO model's inputs and outputs


def signature(model: onnx.ModelProto, side: str) -> list[tuple[str, bytes]]:
    """(name, type and shape) of the inputs or outputs in order; an input with a default need not be fed and is none."""
    defaults = _initializers(model) if side == "input" else set()
    infos = getattr(model.graph, side)
    return [(i.name, i.type.SerializeToString(deterministic=True)) for i in infos if i.name not in defaults]


def _initializers(model: onnx.ModelProto) -> set[str]:
    return {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}


def interface(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs of the model without anything else, to keep when the model itself is let go."""
    bare = onnx.ModelProto()
    defaults = _initializers(model)
    bare.graph.input.extend(i for i in model.graph.input if i.name not in defaults)
    bare.graph.output.extend(model.graph.output)
    return bare


def ov_interface(model: ov.Model) -> tuple[Ports, Ports]:
    """Inputs and outputs in order.

    Of an output's open axis the bounds do not count: they are what OpenVINO infers, which depends on the operators.
    """
    inputs = [(port_name(p), _type(p), p.get_partial_shape().to_string()) for p in model.inputs]
    outputs = [(port_name(p), _type(p), _without_bounds(p.get_partial_shape())) for p in model.outputs]
    return inputs, outputs


def _type(port: Any) -> str:
    return str(port.get_element_type().to_string())


def _without_bounds(shape: Any) -> str:
    """An openvino.PartialShape as text."""
    if shape.rank.is_dynamic:
        return "[...]"
    return f"[{','.join(str(axis.get_length()) if axis.is_static else '?' for axis in shape)}]"
