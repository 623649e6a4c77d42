"""A `Network` as a torch module, so that the network that is trained is the one that is written.

    TorchNetwork(net)(images, ["offsets", "logits"])    tensors of the network by their names, for images (batch, ...)

Every convolution that a ReLU follows has a BatchNorm between the two while it trains; `weights` folds them in:

    ReLU(γ (W x − μ) / √(σ² + ε) + β) = ReLU(W' x + b')    W' = γ W / √(σ² + ε)    b' = β − γ μ / √(σ² + ε)

What is trained is a weight divided by its gain, so that one learning rate fits the first layer, which reads pixels, the
layers within and the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch.nn import functional

from benchmarks.networks.layers import Network

Tensors = dict[str, Any]  # name -> tensor; torch is untyped here


class TorchNetwork(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """The layers of `net` as torch modules, with weights of the variance of `benchmarks.networks.layers.seeded`."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.network = net
        signals = {n.input[0] for n in net.nodes if n.op_type == "Relu"}
        self.normed = {n.name for n in net.nodes if n.op_type == "Conv" and n.output[0] in signals}
        self.learnt = torch.nn.ParameterDict()
        self.norms = torch.nn.ModuleDict()
        for name, shape in net.shapes.items():
            if name.removesuffix(".bias") not in self.normed:
                self.learnt[_key(name)] = _drawn(shape)
        for name, value in net.constants.items():
            if name.endswith(".scale"):
                self.learnt[_key(name)] = torch.nn.Parameter(torch.from_numpy(value.copy()))
            else:
                self.register_buffer(_key(name), torch.from_numpy(value.copy()), persistent=False)
        for name in sorted(self.normed):
            self.norms[_key(name)] = torch.nn.BatchNorm2d(net.shapes[f"{name}.bias"][0])

    def forward(self, images: torch.Tensor, wanted: Sequence[str]) -> list[torch.Tensor]:
        """The tensors `wanted`, by name; only nodes that they need are run."""
        values: Tensors = {self.network.inputs[0].name: images}
        for node in self._needed(wanted):
            values[node.output[0]] = self._run(node, values)
        return [values[name] for name in wanted]

    def freeze(self, names: Sequence[str]) -> None:
        """Stops these layers from learning, with their BatchNorms as they will be folded, until the next `train()`."""
        for name in names:
            self.learnt[_key(f"{name}.weight")].requires_grad_(False)
            self.norms[_key(name)].eval().requires_grad_(False)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Float32 by their names in the network, BatchNorms folded with their running statistics."""
        found = {
            name: self._plain(name) for name in self.network.shapes if name.removesuffix(".bias") not in self.normed
        }
        for name in self.normed:
            norm = self.norms[_key(name)]
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            found[f"{name}.weight"] *= factor.reshape(-1, 1, 1, 1)
            found[f"{name}.bias"] = norm.bias - norm.running_mean * factor
        found |= {n: self.learnt[_key(n)] for n in self.network.constants if n.endswith(".scale")}
        return {name: np.array(t.detach().contiguous().numpy(), np.float32) for name, t in found.items()}

    def _plain(self, name: str) -> torch.Tensor:
        return self.learnt[_key(name)] * self.network.gains.get(name, 1.0)

    def _needed(self, wanted: Sequence[str]) -> list[onnx.NodeProto]:
        needed, found = set(wanted), []
        for node in reversed(self.network.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                found.append(node)
        return found[::-1]

    def _run(self, node: onnx.NodeProto, values: Tensors) -> torch.Tensor:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            return self._conv(node, values[node.input[0]], attributes)
        inputs = [values[i] if i in values else self._constant(i) for i in node.input]
        return OPERATORS[node.op_type](inputs, attributes)

    def _constant(self, name: str) -> torch.Tensor:
        return self.learnt[_key(name)] if name.endswith(".scale") else getattr(self, _key(name))

    def _conv(self, node: onnx.NodeProto, x: torch.Tensor, attributes: dict[str, Any]) -> torch.Tensor:
        bias = None if node.name in self.normed else self._plain(f"{node.name}.bias")
        geometry = attributes["strides"], attributes["pads"][:2], attributes["dilations"]
        y = functional.conv2d(x, self._plain(f"{node.name}.weight"), bias, *geometry)
        return self.norms[_key(node.name)](y) if node.name in self.normed else y


def _drawn(shape: tuple[int, ...]) -> torch.nn.Parameter:
    """Weights (n_o, n_i, kh, kw) of variance 2 / fan-in (He et al. 2015), biases (n_o,) of zeros."""
    value = torch.zeros(shape)
    if len(shape) == 4:
        torch.nn.init.kaiming_normal_(value, nonlinearity="relu")
        value = value.contiguous(memory_format=torch.channels_last)  # which torch's CPU convolutions are fastest with
    return torch.nn.Parameter(value)


def _key(name: str) -> str:
    """Torch's names of parts have no dots."""
    return name.replace(".", "_")


def _pooled(inputs: list[Any], a: dict[str, Any]) -> torch.Tensor:
    return functional.max_pool2d(
        inputs[0], a["kernel_shape"], a["strides"], a["pads"][:2], ceil_mode=bool(a["ceil_mode"])
    )


def _reshaped(inputs: list[Any], _: dict[str, Any]) -> torch.Tensor:
    x, shape = inputs[0], inputs[1].tolist()
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


OPERATORS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "Relu": lambda i, _: functional.relu(i[0]),
    "MaxPool": _pooled,
    "Gather": lambda i, a: i[0].index_select(a["axis"], i[1]),
    "Add": lambda i, _: i[0] + i[1],
    "Sub": lambda i, _: i[0] - i[1],
    "Mul": lambda i, _: i[0] * i[1],
    "Div": lambda i, _: i[0] / i[1],
    "ReduceL2": lambda i, a: torch.linalg.vector_norm(i[0], dim=a["axes"], keepdim=True),
    "Transpose": lambda i, a: i[0].permute(a["perm"]),
    "Reshape": _reshaped,
    "Concat": lambda i, a: torch.cat(i, dim=a["axis"]),
}
