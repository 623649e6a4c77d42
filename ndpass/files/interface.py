"""A model's public face: names, types and shapes of its inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import onnx

from ndpass.graph.openvino.port_names import port_name

if TYPE_CHECKING:
    import openvino as ov


Ports: TypeAlias = "list[tuple[str, str, str]]"  # name, type and shape of each


Interface: TypeAlias = "onnx.ModelProto | tuple[Ports, Ports]"  # the latter an OpenVINO model's inputs and outputs


def signature(model: onnx.ModelProto, side: str) -> list[tuple[str, bytes]]:
    """(name, type and shape) of the inputs or outputs in order; initializers listed as inputs are none."""
    weights = {t.name for t in model.graph.initializer}
    infos = getattr(model.graph, side)
    return [(i.name, i.type.SerializeToString(deterministic=True)) for i in infos if i.name not in weights]


def interface(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs of the model without anything else, to keep when the model itself is let go."""
    bare = onnx.ModelProto()
    weights = {t.name for t in model.graph.initializer}
    bare.graph.input.extend(i for i in model.graph.input if i.name not in weights)
    bare.graph.output.extend(model.graph.output)
    return bare


def ov_interface(model: ov.Model) -> tuple[Ports, Ports]:
    """Inputs and outputs in order."""
    inputs, outputs = (
        [(port_name(p), p.get_element_type().to_string(), p.get_partial_shape().to_string()) for p in ports]
        for ports in (model.inputs, model.outputs)
    )
    return inputs, outputs
