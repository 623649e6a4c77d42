"""An ONNX classifier as a torch module and back, for tools that prune channels of torch modules.

Layers with weights become torch's own, so that a tool finds them; the rest of the graph runs node by node. Only the
weights are written back to ONNX: a pruned network is the same graph with fewer channels, so no other node may name a
number of channels. Raises ValueError for an operator or an attribute that it has no rule for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

Attributes = dict[str, Any]

WEIGHTED = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}
CARRYING = ("BatchNormalization", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")  # channels stay


class OnnxModule(nn.Module):
    """The graph of `proto`, which has one input and one output, (batch, ...) -> (batch, ...)."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__()
        self.proto, graph = proto, proto.graph
        self.arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.attributes = [{a.name: helper.get_attribute_value(a) for a in n.attribute} for n in graph.node]
        made = zip(graph.node, self.attributes, strict=True)
        self.layers = nn.ModuleDict({_key(n): self._layer(n, a) for n, a in made if n.op_type in WEIGHTED})

    def _layer(self, node: onnx.NodeProto, attributes: Attributes) -> nn.Module:
        arrays = [torch.from_numpy(self.arrays[name].copy()) for name in node.input[1:] if name]
        n_o, *rest = arrays[0].shape
        layer: nn.Module
        if node.op_type == "Conv":
            pads = attributes.get("pads", [0, 0, 0, 0])
            if pads[:2] != pads[2:] or attributes.get("group", 1) != 1:
                raise ValueError(f"{node.name}: padding is the same on both sides and the group is 1")
            layer = nn.Conv2d(
                rest[0],
                n_o,
                tuple(rest[1:]),
                attributes.get("strides", 1),
                tuple(pads[:2]),
                attributes.get("dilations", 1),
                bias=len(arrays) > 1,
            )
        elif node.op_type == "Gemm":
            if not attributes.get("transB") or attributes.get("transA"):
                raise ValueError(f"{node.name}: a linear layer is x Wᵀ + b")
            layer = nn.Linear(rest[0], n_o, bias=len(arrays) > 1)
        else:
            layer = nn.BatchNorm2d(n_o, attributes.get("epsilon", 1e-5))
        for name, value in zip(WEIGHTED[node.op_type], arrays, strict=False):
            getattr(layer, name).data = value
        return layer

    def forward(self, image: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self.proto.graph.input[0].name: image}
        for node, attributes in zip(self.proto.graph.node, self.attributes, strict=True):
            x = values[node.input[0]]
            if node.op_type in WEIGHTED:
                values[node.output[0]] = self.layers[_key(node)](x)
            elif node.op_type == "Add":
                values[node.output[0]] = x + values[node.input[1]]
            elif node.op_type in RULES:
                constants = [self.arrays[name] for name in node.input[1:] if name]
                values[node.output[0]] = RULES[node.op_type](x, attributes, constants)
            else:
                raise ValueError(f"{node.name}: no rule for {node.op_type}")
        return values[self.proto.graph.output[0].name]

    def fixed(self) -> list[nn.Module]:
        """Layers whose channels must stay: what is added up, and what the model returns, also through CARRYING.

        The channels of a residual sum cannot be pruned where a shortcut pads them (option A of ResNets for CIFAR).
        """
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.proto.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        own = [n for n in self.proto.graph.node if n.op_type in ("Conv", "Gemm")]
        return [self.layers[_key(n)] for n in own if not _leads_to_one_layer(n, readers)]

    def to_onnx(self) -> onnx.ModelProto:
        """The model with the layers' present weights."""
        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        new: dict[str, np.ndarray[Any, Any]] = {}
        for node in model.graph.node:
            if node.op_type in WEIGHTED:
                layer = self.layers[_key(node)]
                names = [name for name in node.input[1:] if name]
                for name, part in zip(names, WEIGHTED[node.op_type], strict=False):
                    new[name] = getattr(layer, part).detach().numpy()
        for tensor in model.graph.initializer:
            if tensor.name in new:
                tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
        del model.graph.value_info[:]  # its shapes are those before
        onnx.checker.check_model(model, full_check=True)
        return model


def _leads_to_one_layer(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    while True:
        following = readers.get(node.output[0], [])
        if len(following) != 1:
            return False
        node = following[0]
        if node.op_type not in CARRYING:
            return node.op_type in ("Conv", "Gemm")


def _key(node: onnx.NodeProto) -> str:
    """Module names have no dots."""
    return (node.name or node.output[0]).replace(".", "-")


def _pooled(x: Tensor, attributes: Attributes, _: list[Any]) -> Tensor:
    pads = attributes.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:] or attributes.get("ceil_mode"):
        raise ValueError("pooling is padded the same on both sides and rounds down")
    return functional.max_pool2d(x, attributes["kernel_shape"], attributes.get("strides", 1), tuple(pads[:2]))


def _sliced(x: Tensor, _: Attributes, constants: list[Any]) -> Tensor:
    starts, ends, axes, *steps = ([int(v) for v in c] for c in constants)
    cut = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps[0] if steps else [1] * len(axes), strict=True):
        cut[axis] = slice(start, end, step)
    return x[tuple(cut)]


def _padded(x: Tensor, _: Attributes, constants: list[Any]) -> Tensor:
    pads = [int(v) for v in constants[0]]
    begins, ends = pads[: x.dim()], pads[x.dim() :]
    return functional.pad(x, [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair])


RULES: dict[str, Callable[[Tensor, Attributes, list[Any]], Tensor]] = {
    "Relu": lambda x, _, __: functional.relu(x),
    "MaxPool": _pooled,
    "GlobalAveragePool": lambda x, _, __: x.mean((2, 3), keepdim=True),
    "Flatten": lambda x, _, __: x.flatten(1),
    "Slice": _sliced,
    "Pad": _padded,
}
