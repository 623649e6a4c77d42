"""Writes networks as ONNX: layers as nodes, weights that are seeded or taken from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ndpass.graph.graph import Graph, Site

OPSET, IR_VERSION = 17, 8
CLASSES = 1000  # of ImageNet, which the classifiers tell apart


@dataclass
class Network:
    """A network without its weights, and the methods that write it; a node's output has the node's name.

    shapes: weight name -> shape, convolutions (n_o, n_i / groups, kh, kw), linear layers (n_o, n_i), biases
    `*.bias` (n_o,). gains: factors on what `seeded` draws. constants: what is not drawn; those named `*.scale` were
    learnt and are taken from a file like weights.
    """

    name: str
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Any operator with one output."""
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def conv(
        self,
        name: str,
        x: str,
        n_i: int,
        n_o: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        pad: int | None = None,
        dilation: int = 1,
        group: int = 1,
        gain: float = 1.0,
    ) -> str:
        """A convolution with a bias; without `pad` the output has ceil(size / stride) rows and columns."""
        pads = [dilation * (kernel // 2) if pad is None else pad] * 4
        self._weigh(name, (n_o, n_i // group, kernel, kernel), gain)
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads}
        attributes |= {"group": group} if group > 1 else {}
        return self.node("Conv", name, x, f"{name}.weight", f"{name}.bias", **attributes)

    def up_conv(self, name: str, x: str, n_i: int, n_o: int) -> str:
        """A transposed 2x2 convolution with a bias, weights (n_i, n_o, 2, 2): twice the height and the width."""
        self.shapes |= {f"{name}.weight": (n_i, n_o, 2, 2), f"{name}.bias": (n_o,)}
        self.gains[f"{name}.weight"] = math.sqrt(n_o * 4 / n_i)  # a pixel of the output is a sum of n_i products
        return self.node(
            "ConvTranspose", name, x, f"{name}.weight", f"{name}.bias", kernel_shape=[2, 2], strides=[2, 2]
        )

    def relu(self, x: str) -> str:
        return self.node("Relu", f"{x}.relu", x)

    def linear(self, name: str, x: str, n_i: int, n_o: int) -> str:
        """(batch, n_i) -> (batch, n_o)"""
        self._weigh(name, (n_o, n_i), 1.0)
        return self.node("Gemm", name, x, f"{name}.weight", f"{name}.bias", transB=1)

    def max_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0, *, ceil: bool = False) -> str:
        """Max-pooling; ceil: the last window may reach over the edge, as Caffe's does."""
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.node("MaxPool", name, x, ceil_mode=int(ceil), **sizes)

    def _weigh(self, name: str, shape: tuple[int, ...], gain: float) -> None:
        self.shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        self.gains[f"{name}.weight"] = gain


def tensor(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output of a network."""
    return helper.make_tensor_value_info(name, kind, shape)


def outline(net: Network) -> onnx.ModelProto:
    """The model with its weights as inputs, without their megabytes: enough to count MACs."""
    model = _without_weights(net)
    model.graph.input.extend(tensor(name, shape) for name, shape in net.shapes.items())
    return model


def seeded(net: Network, seed: int = 0) -> onnx.ModelProto:
    """The model with weights as He et al. (2015) draw them, which keep the scale of the signal, and small biases."""
    model, rng = _without_weights(net), np.random.default_rng(seed)
    for name, shape in net.shapes.items():
        _put(model, name, _draw(rng, shape, net.gains.get(name, 1.0)))
    return model


def filled(net: Network, path: Path) -> onnx.ModelProto:
    """The model with the weights of the ONNX file at `path`, its BatchNorms folded into its convolutions.

    The network's layers take, in graph order, the file's next one of their shape. SystemExit where one finds none or
    one of the file's is left over.
    """
    return with_weights(net, _taken(net, path))


def with_weights(net: Network, weights: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """The model with these weights and learnt scales, by their names in `net`, which are taken out of `weights`."""
    constants = {name: weights.get(name, array) for name, array in net.constants.items()}
    model = _without_weights(replace(net, constants=constants))
    for name in net.shapes:
        _put(model, name, weights.pop(name))
    return model


def _without_weights(net: Network) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(array, name) for name, array in net.constants.items()]
    graph = helper.make_graph(net.nodes, net.name, net.inputs, net.outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _put(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    """Add an initializer, with a copy less than `append(from_array(...))` makes: one layer of VGG16 has 411 MB."""
    raw = array.astype("<f4", copy=False).tobytes()
    model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=array.shape, raw_data=raw)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], gain: float) -> NDArray[np.float32]:
    """Weights (n_o, n_i, ...) of variance 2 gain² / fan-in, or a bias (n_o,) of standard deviation 0.01."""
    scale = gain * math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.01
    drawn = rng.standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(scale)  # in place, for the same reason
    return drawn


def _taken(net: Network, path: Path) -> dict[str, NDArray[Any]]:
    """Weights and learnt scales by their names in `net`."""
    model = onnx.load(path)
    taken: dict[str, NDArray[Any]] = {
        n: _scale(model, n, c.shape, path) for n, c in net.constants.items() if n.endswith(".scale")
    }
    left = [site for site in Graph(model).sites() if isinstance(site, Site)]
    for name in (n.removesuffix(".weight") for n in net.shapes if n.endswith(".weight")):
        shape = net.shapes[f"{name}.weight"]
        index = next((i for i, s in enumerate(left) if s.outline.weight.shape == shape), None)
        if index is None:
            raise SystemExit(f"{path}: every layer needs weights, {name} finds none of shape {shape}")
        conv = left.pop(index).conv
        bias = conv.bias if conv.bias is not None else np.zeros(shape[0])  # exporters leave out one of zeros
        taken |= {f"{name}.weight": conv.weight, f"{name}.bias": bias}
    if left:
        names = ", ".join(site.name for site in left)
        raise SystemExit(f"{path}: {net.name} has no place for the layers {names}: is it another network?")
    return taken


def _scale(model: onnx.ModelProto, name: str, shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    """The first initializer that a Mul reads with as many elements as `shape`."""
    arrays: Mapping[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
    factors = [arrays[i] for n in model.graph.node if n.op_type == "Mul" for i in n.input if i in arrays]
    found = next((t for t in factors if math.prod(t.dims) == math.prod(shape)), None)
    if found is None:
        raise SystemExit(f"{path}: {name} is a factor of {math.prod(shape)} numbers, no Mul in the file has one")
    return numpy_helper.to_array(found).astype(np.float32).reshape(shape)
