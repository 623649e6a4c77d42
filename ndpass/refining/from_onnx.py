"""An ONNX model as a program, and its weights back into the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ndpass.refining.program import Program, Step

OPSET = "opset"  # of the standard domain, among the attributes of every step: some operators changed their meaning


def read(model: onnx.ModelProto) -> Program:
    """The graph at the top of the model; a step that holds a graph of its own keeps its operator's name."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    steps = [_step(node, opset) for node in model.graph.node]
    return Program(
        inputs=tuple(i.name for i in model.graph.input if i.name not in constants),
        outputs=tuple(o.name for o in model.graph.output),
        steps=tuple(steps),
        constants=constants,
    )


def _step(node: onnx.NodeProto, opset: int) -> Step:
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = {a.name: _value(a) for a in node.attribute}
    return Step(op, node.name or node.output[0], tuple(node.input), tuple(node.output), {**attributes, OPSET: opset})


def _value(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [text.decode(errors="replace") for text in value]
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def write(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy of the model with these values in its initializers, stored in the type that each has."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            value = np.ascontiguousarray(weights[tensor.name].astype(dtype))
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return made
