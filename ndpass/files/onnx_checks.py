"""What the checker of onnx leaves unchecked in a model: types that there are not, and what tensors hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.files.external_data import tensors_of
from ndpass.graph.onnx_said import weights_of

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
TYPES = frozenset(onnx.TensorProto.DataType.values())


def check_types(model: onnx.ModelProto, name: str) -> None:
    """Raise InputError naming the first tensor that is declared with a type which ONNX does not have."""
    for value in _declared(model.graph):
        if value.type.tensor_type.elem_type not in TYPES:
            number = value.type.tensor_type.elem_type
            raise InputError(f"{name}: not a valid ONNX model: tensor '{value.name}' is of the unknown type {number}")


def _declared(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Inputs, outputs and what is said of tensors in between; in inner graphs too."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for attribute in (a for node in graph.node for a in node.attribute):
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _declared(inner)


def check_values(model: onnx.ModelProto, name: str) -> None:
    """Raise InputError naming the first tensor whose data do not fit its shape, or that holds NaN, or an infinity where
    it is a layer's weight.

    Masks and bounds, such as those of a Clip, may be infinite.
    """
    weights = weights_of(model.graph)
    for place, tensor in tensors_of(model.graph):
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as e:
            why = f"tensor '{place}' cannot be read: {' '.join(str(e).split())[:200]}"
            raise InputError(f"{name}: not a valid ONNX model: {why} (export or copy it again)") from e
        if tensor.data_type in FLOATS and not _finite(array, place in weights):
            raise InputError(f"{name}: weights '{place}' hold NaN or infinite values: export the model again")


def _finite(array: NDArray[np.floating], weight: bool) -> bool:
    return bool(np.isfinite(array).all()) or (not weight and not np.isnan(array).any())
