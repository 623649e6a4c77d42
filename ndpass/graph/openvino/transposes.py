"""Products whose first operand OpenVINO turns get the Transpose back that its converter took into them.

`convert_model` makes MatMul(x, W, transpose_a) of a linear layer along another axis than the last, as those between the
tokens of an MLP-Mixer; its CPU plugin takes the two apart again.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ndpass.graph.openvino.fold import decompressed

MATRIX = 2  # axes


def take_apart(model: ov.Model) -> None:
    """Write a MatMul of a turned operand and a constant matrix as a Transpose and a MatMul, in the model itself."""
    for op in model.get_ordered_ops():
        if op.get_type_name() != "MatMul" or not op.get_attributes()["transpose_a"]:
            continue
        x, weight = op.input_values()
        rank = x.get_partial_shape().rank
        if rank.is_dynamic or rank.get_length() < 2 or not _is_matrix(weight.get_node()):
            continue
        order = [*range(rank.get_length() - 2), rank.get_length() - 1, rank.get_length() - 2]
        turned = ops.transpose(x, np.array(order))
        turned.set_friendly_name(f"{op.get_friendly_name()}/transpose_a")
        made = ops.matmul(turned, weight, False, op.get_attributes()["transpose_b"])
        made.set_friendly_name(op.get_friendly_name())
        for key, value in op.get_rt_info().items():
            made.set_rt_info(value, key)
        op.output(0).replace(made.output(0))


def _is_matrix(op: ov.Node) -> bool:
    known = op.get_type_name() == "Constant" or decompressed(op) is not None
    return known and len(op.get_output_shape(0)) == MATRIX
