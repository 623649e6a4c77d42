"""Quantises a model so that it can be timed in int8; its ranges, and so its outputs, mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ndpass.graph.openvino.fold import fold_and_unpack

if TYPE_CHECKING:
    import openvino as ov


RANGE = 4.0  # of the activations; the value means nothing
APART = {  # operator -> axes of its weights with a range of their own
    "Convolution": (0,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolution": (0, 1),
    "GroupConvolutionBackpropData": (0, 2),
    "MatMul": (0,),
}


def is_int8(model: ov.Model) -> bool:
    """Whether the model is quantised already."""
    return any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())


def quantised(model: ov.Model) -> ov.Model:
    """Put FakeQuantize where NNCF puts it, in place, so that the model runs in int8; returns the model.

    Weights: int8, symmetric, one range for each output channel. Activations: 8 bits, one range for each tensor (before
    a depthwise convolution: for each channel), on the input of every convolution and matrix product and on both inputs
    of an Add.
    """
    fold_and_unpack(model)
    for node in list(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind in APART and _constant(node.input_value(1)):
            _quantise_weight(node)
            _quantise_input(node, 0, by_channel=_depthwise(node))
        elif kind == "Add" and not _constant(node.input_value(1)):
            _quantise_input(node, 0)
            _quantise_input(node, 1)
        elif kind == "Slice":
            _quantise_input(node, 0)
    model.validate_nodes_and_infer_types()
    return model


def _quantise_weight(node: ov.Node) -> None:
    from openvino import opset13

    weight, apart = node.input_value(1), APART[node.get_type_name()]
    values = weight.get_node().data
    high = np.abs(values).max(axis=tuple(a for a in range(values.ndim) if a not in apart), keepdims=True)
    node.input(1).replace_source_output(opset13.fake_quantize(weight, -high, high, -high, high, 255).output(0))


def _quantise_input(node: ov.Node, port: int, by_channel: bool = False) -> None:
    """A range symmetric about 0, or from 0 upwards behind a Relu."""
    from openvino import opset13

    source = node.input_value(port)
    if source.get_node().get_type_name() == "FakeQuantize":
        return
    shared = [i.get_node() for i in source.get_target_inputs() if i.get_node().get_type_name() == "FakeQuantize"]
    if not shared:
        rank = len(source.get_partial_shape())
        ranges = np.full((1, node.input_value(port).get_partial_shape()[1].get_length(), *(1,) * (rank - 2)), RANGE)
        ranges = ranges * np.linspace(0.5, 1, ranges.size).reshape(ranges.shape) if by_channel else ranges[:, :1]
        positive = source.get_node().get_type_name() == "Relu"
        low, high = ranges * (0 if positive else -128 / 127), ranges
        low, high = low.astype(np.float32), high.astype(np.float32)
        shared = [opset13.fake_quantize(source, low, high, low, high, 256)]
    node.input(port).replace_source_output(shared[0].output(0))


def _depthwise(node: ov.Node) -> bool:
    grouped = node.get_type_name() == "GroupConvolution"
    return grouped and bool(node.get_input_partial_shape(1)[0] == node.get_input_partial_shape(0)[1])


def _constant(output: ov.Output) -> bool:
    return bool(output.get_node().get_type_name() == "Constant")
