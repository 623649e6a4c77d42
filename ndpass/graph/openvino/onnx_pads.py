"""What OpenVINO reads of an ONNX model, with the pads of transposed convolutions as ONNX has them.

OpenVINO 2026.4 passes over auto_pad of a ConvTranspose without output_shape, and halves the pads of one with
output_shape the other way round, so that its outputs are shifted or of another size than onnxruntime's.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ndpass.graph.transposed_pads import Wanted

KINDS = {"ConvolutionBackpropData": 2, "GroupConvolutionBackpropData": 3}  # and the axes of a kernel before its own


def give_onnx_pads(model: ov.Model) -> ov.Model:
    """The model itself, read from ONNX, with explicit pads where its sizes tell them."""
    found = [op for op in model.get_ordered_ops() if op.get_type_name() in KINDS]
    changed = [_give(op) for op in found]  # in order: one may stand behind another
    if any(changed):
        model.validate_nodes_and_infer_types()
    return model


def _give(op: ov.Node) -> bool:
    attributes, weight = op.get_attributes(), op.get_input_partial_shape(1)
    mode, shape = str(attributes["auto_pad"]).upper(), _shape(op)
    if (mode == "EXPLICIT" and shape is None) or weight.is_dynamic or (op.get_input_size() > 2 and shape is None):
        return False
    wanted = Wanted(
        mode,
        tuple(weight.to_shape())[KINDS[op.get_type_name()] :],
        tuple(attributes["strides"]),
        tuple(attributes["dilations"]),
        tuple(attributes["output_padding"]),
        shape,
    )
    pads = wanted.resolved(_spatial(op))
    if pads is None:
        return False
    half = len(pads[0]) // 2
    make = ops.convolution_backprop_data if KINDS[op.get_type_name()] == 2 else ops.group_convolution_backprop_data
    made = make(
        op.input_value(0),
        op.input_value(1),
        list(wanted.strides),
        pads_begin=pads[0][:half],
        pads_end=pads[0][half:],
        dilations=list(wanted.dilations),
        auto_pad="explicit",
        output_padding=pads[1],
    )
    made.set_friendly_name(op.get_friendly_name())
    names = op.output(0).get_names()
    op.output(0).replace(made.output(0))
    made.output(0).set_names(names)
    return True


def _shape(op: ov.Node) -> tuple[int, ...] | None:
    """What output_shape says, if it is there."""
    if op.get_input_size() < 3 or op.input_value(2).get_node().get_type_name() != "Constant":
        return None
    return tuple(int(n) for n in np.reshape(op.input_value(2).get_node().data, -1))


def _spatial(op: ov.Node) -> tuple[int | None, ...]:
    shape = op.get_input_partial_shape(0)
    return () if shape.rank.is_dynamic else tuple(d.get_length() if d.is_static else None for d in list(shape)[2:])
