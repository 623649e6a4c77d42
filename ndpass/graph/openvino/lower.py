"""Make an OpenVINO model what its description says: operators that were changed are replaced, all others stay.

The description is that of `describe`, edited as `ndpass.graph.graph` edits any graph. What is written into the
model reads weights where they are; a tensor that was there keeps its names, and what makes it the name of what made it.
In a model that stores weights in half precision new ones are stored so, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import openvino as ov
from openvino import opset13 as ops

from ndpass.conv import Array
from ndpass.graph.constants import given, has, values
from ndpass.graph.openvino.describe import Places, layer
from ndpass.graph.openvino.fold import decompressed, name_of

LARGEST_HALF = float(np.finfo(np.float16).max)
CHANNELS = 1  # their axis
INTERPOLATION = (  # attributes of an Interpolate that a new one keeps
    "mode",
    "pads_begin",
    "pads_end",
    "coordinate_transformation_mode",
    "nearest_mode",
    "antialias",
    "cube_coeff",
)
AUTO_PADS = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower", "VALID": "valid"}


@dataclass
class Lowered:
    """The model, and where every tensor of its description is in it."""

    model: ov.Model
    tensors: dict[str, Any]


def lower(graph: gs.Graph, places: Places, model: ov.Model, pruned: bool) -> Lowered:
    """Edit `model`, the one that was described or a clone of it, in place.

    pruned: whether tensors have fewer channels than in the model.
    """
    return _Writer(graph, places, model, pruned).run()


class _Writer:
    def __init__(self, graph: gs.Graph, places: Places, model: ov.Model, pruned: bool) -> None:
        self.graph, self.places, self.model, self.pruned = graph, places, model, pruned
        self.ops = model.get_ordered_ops()
        self.tensors = {name: self.ops[i].output(port) for name, (i, port) in places.tensors.items()}
        self.made: dict[int, Any] = {}  # new constant -> its port, for those that share it
        self.half = _stored_in_half(self.ops)
        self.settled: set[str] = set()  # operators whose shapes are those of the model as it will be

    def run(self) -> Lowered:
        for t in self.graph.inputs:
            if t.name not in self.places.tensors:  # a switch, of a network that is only probed
                parameter = ops.parameter(list(t.shape), t.dtype)
                parameter.set_friendly_name(t.name)
                self.model.add_parameters([parameter])
                self.tensors[t.name] = parameter.output(0)
        for node in self.graph.nodes:
            if not self._as_it_was(node):
                self._write(node)
            if self.pruned:
                for tensor in node.outputs:
                    self._settle(self.tensors[tensor.name].get_node())
        self.model.validate_nodes_and_infer_types()
        return Lowered(self.model, self.tensors)

    def _as_it_was(self, node: gs.Node) -> bool:
        """Also where constants that it reads were replaced: these are put in here."""
        if node.name not in self.places.slots or (
            self.pruned and (node.op == "Flatten" or self._counts_channels(node))
        ):
            return False
        if node.name in self.places.layers:
            return self.places.layers[node.name] == layer(node)
        number, slots = self.places.slots[node.name]
        if len(node.inputs) > len(slots):  # a Split that was of equal parts has other sizes now
            return False
        for slot, tensor in zip(slots, node.inputs, strict=True):
            if isinstance(tensor, gs.Constant) and tensor.name not in self.places.tensors:
                self.ops[number].input(slot).replace_source_output(self._constant(tensor, values(tensor).shape))
        return True

    def _write(self, node: gs.Node) -> None:
        found = WRITERS[node.op](self, node)
        made, old = found[0].get_node(), self.tensors.get(node.outputs[0].name)
        if old is None or node.outputs[0].name not in self.places.tensors:
            made.set_friendly_name(node.name)
        else:
            before = old.get_node()
            made.set_friendly_name(before.get_friendly_name())
            for key, value in before.get_rt_info().items():
                made.set_rt_info(value, key)
            for tensor, out in zip(node.outputs, found, strict=True):
                self.tensors[tensor.name].replace(out)
        self.tensors.update(zip((tensor.name for tensor in node.outputs), found, strict=True))

    def _settle(self, op: ov.Node) -> None:
        """Infer shapes anew up to this operator: a new one is refused where its inputs have still those of before."""
        if op.get_name() not in self.settled:
            for port in op.input_values():
                self._settle(port.get_node())
            op.validate_and_infer_types()
            self.settled.add(op.get_name())

    def _read(self, tensor: gs.Tensor) -> Any:
        if isinstance(tensor, gs.Constant) and tensor.name not in self.places.tensors:
            return self._constant(tensor, values(tensor).shape)
        return self.tensors[tensor.name]

    def _constant(self, tensor: gs.Constant, shape: tuple[int, ...]) -> Any:
        """A constant that the model did not have, in this shape; its values are not copied."""
        if id(tensor) not in self.made:
            array: Array = np.ascontiguousarray(values(tensor)).reshape(shape)
            made = self._halved(array) if self.half else ov.op.Constant(array, shared_memory=True)
            made.set_friendly_name(tensor.name)
            self.made[id(tensor)] = made.output(0)
        return self.made[id(tensor)]

    def _halved(self, array: Array) -> ov.Node:
        """The array stored in half precision, where it is of float32 and no value is too large for that."""
        if array.dtype != np.float32 or float(np.abs(array).max(initial=0)) > LARGEST_HALF:
            return ov.op.Constant(array, shared_memory=True)
        return ops.convert(ov.op.Constant(array.astype(np.float16)), "f32")

    def _biased(self, node: gs.Node, product: ov.Node, axes: int) -> list[Any]:
        """axes: behind the channels."""
        if len(node.inputs) < 3:
            return [product.output(0)]
        product.set_friendly_name(node.name)
        bias = node.inputs[2]
        if bias.name in self.places.tensors:
            return [ops.add(product, self.tensors[bias.name]).output(0)]
        shape = (1, bias.shape[0], *(1,) * axes) if axes else (bias.shape[0],)
        return [ops.add(product, self._constant(bias, shape)).output(0)]

    def conv(self, node: gs.Node) -> list[Any]:
        x, weight, attrs = self._read(node.inputs[0]), node.inputs[1], node.attrs
        axes, groups = len(weight.shape) - 2, int(attrs.get("group", 1))
        grouped = groups > 1 or (weight.name in self.places.tensors and self._rank(weight) == len(weight.shape) + 1)
        if weight.name in self.places.tensors:
            w = self.tensors[weight.name]
        else:
            n_o, n_i, *kernel = weight.shape
            w = self._constant(weight, (groups, n_o // groups, n_i, *kernel) if grouped else tuple(weight.shape))
        pads = list(attrs.get("pads", [0] * 2 * axes))
        make = ops.group_convolution if grouped else ops.convolution
        product = make(
            x,
            w,
            list(attrs.get("strides", [1] * axes)),
            pads[:axes],
            pads[axes:],
            list(attrs.get("dilations", [1] * axes)),
            AUTO_PADS.get(attrs.get("auto_pad", "NOTSET"), "explicit"),
        )
        return self._biased(node, product, axes)

    def transposed(self, node: gs.Node) -> list[Any]:
        axes, attrs = len(node.inputs[1].shape) - 2, node.attrs
        pads = list(attrs.get("pads", [0] * 2 * axes))
        product = ops.convolution_backprop_data(
            self._read(node.inputs[0]),
            self._read(node.inputs[1]),
            list(attrs.get("strides", [1] * axes)),
            None,
            pads[:axes],
            pads[axes:],
            list(attrs.get("dilations", [1] * axes)),
            AUTO_PADS.get(attrs.get("auto_pad", "NOTSET"), "explicit"),
            list(attrs.get("output_padding", [0] * axes)),
        )
        return self._biased(node, product, axes)

    def _rank(self, tensor: gs.Tensor) -> int:
        return int(self.tensors[tensor.name].get_partial_shape().rank.get_length())

    def gemm(self, node: gs.Node) -> list[Any]:
        product = ops.matmul(
            self._read(node.inputs[0]), self._read(node.inputs[1]), False, bool(node.attrs.get("transB", 0))
        )
        return self._biased(node, product, 0)

    def binary(self, node: gs.Node) -> list[Any]:
        make = {"Add": ops.add, "Mul": ops.multiply}[node.op]
        return [make(*map(self._read, node.inputs)).output(0)]

    def depth_to_space(self, node: gs.Node) -> list[Any]:
        return [ops.depth_to_space(self._read(node.inputs[0]), "blocks_first", node.attrs["blocksize"]).output(0)]

    def flatten(self, node: gs.Node) -> list[Any]:
        return [ops.reshape(self._read(node.inputs[0]), np.array([0, -1]), True).output(0)]

    def resize(self, node: gs.Node) -> list[Any]:
        """Without the number of channels among its sizes, which OpenVINO reads off once, whatever becomes of them."""
        axes = self._axes(node)
        places = [place for place, axis in enumerate(axes) if axis != CHANNELS]
        sizes = ops.gather(self._read(node.inputs[3]), np.array(places), np.array(0))
        said = self.ops[self.places.slots[node.name][0]].get_attributes()
        kept = {name: said[name] for name in INTERPOLATION if name in said}
        left = [axes[place] for place in places]
        x = self._read(node.inputs[0])
        return [ops.interpolate(x, sizes, shape_calculation_mode="sizes", axes=np.array(left), **kept).output(0)]

    def _counts_channels(self, node: gs.Node) -> bool:
        """Whether it is a Resize to sizes that are computed, the number of channels among them."""
        return node.op == "Resize" and has(node, 3) and given(node, 3) is None and CHANNELS in self._axes(node)

    def _axes(self, node: gs.Node) -> list[int]:
        """The axes that the sizes of a Resize are of."""
        rank = self._rank(node.inputs[0])
        return [axis % rank for axis in node.attrs.get("axes") or range(rank)]

    def split(self, node: gs.Node) -> list[Any]:
        """Of given sizes, whatever it was."""
        x, sizes = self._read(node.inputs[0]), values(node.inputs[1])
        return list(ops.variadic_split(x, int(node.attrs["axis"]), [int(size) for size in sizes]).outputs())


def _stored_in_half(operators: list[ov.Node]) -> bool:
    """Whether more weights are stored in half precision than in float32."""
    packed = [constant for op in operators if (constant := decompressed(op)) is not None]
    plain = [op for op in operators if op.get_type_name() == "Constant" and name_of(op.output(0)) == "f32"]
    half, single = (sum(int(math.prod(op.get_output_shape(0))) for op in found) for found in (packed, plain))
    return half > single


WRITERS: dict[str, Callable[[_Writer, gs.Node], list[Any]]] = {
    "Conv": _Writer.conv,
    "ConvTranspose": _Writer.transposed,
    "Gemm": _Writer.gemm,
    "MatMul": _Writer.gemm,
    "Add": _Writer.binary,
    "Mul": _Writer.binary,
    "DepthToSpace": _Writer.depth_to_space,
    "Flatten": _Writer.flatten,
    "Resize": _Writer.resize,
    "Split": _Writer.split,
}
