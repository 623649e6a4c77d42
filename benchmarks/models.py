"""Published networks with seeded weights, for measurements that depend on sizes and not on what was learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
VGG16_BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)  # channels; a max-pool ends each block
VGG16_LINEAR = (("fc6", 512 * 7 * 7, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000))


@dataclass(frozen=True)
class Architecture:
    """A network without its numbers; shapes: those of its weights by name, biases named `*.bias`."""

    nodes: list[onnx.NodeProto]
    shapes: dict[str, tuple[int, ...]]
    output: str


def vgg16() -> Architecture:
    """VGG16 (Simonyan & Zisserman 2014, configuration D) on 224x224 images: 13 convolutions and 3 linear layers."""
    nodes: list[onnx.NodeProto] = []
    shapes: dict[str, tuple[int, ...]] = {}
    x, n_i = "image", 3
    for block, widths in enumerate(VGG16_BLOCKS, 1):
        for i, n_o in enumerate(widths, 1):
            name = f"conv{block}_{i}"
            shapes |= {f"{name}.weight": (n_o, n_i, 3, 3), f"{name}.bias": (n_o,)}
            nodes += _with_relu("Conv", name, x, kernel_shape=[3, 3], pads=[1] * 4)
            x, n_i = f"{name}.relu", n_o
        nodes.append(
            helper.make_node("MaxPool", [x], [f"pool{block}"], f"pool{block}", kernel_shape=[2, 2], strides=[2, 2])
        )
        x = f"pool{block}"
    nodes.append(helper.make_node("Flatten", [x], ["features"], "flatten"))
    x = "features"
    for name, n_i, n_o in VGG16_LINEAR:
        shapes |= {f"{name}.weight": (n_o, n_i), f"{name}.bias": (n_o,)}
        nodes += _with_relu("Gemm", name, x, transB=1)
        x = f"{name}.relu"
    return Architecture(nodes[:-1], shapes, "fc8")  # no ReLU behind the scores


def _with_relu(op: str, name: str, x: str, **attributes: int | list[int]) -> list[onnx.NodeProto]:
    inputs = [x, f"{name}.weight", f"{name}.bias"]
    return [
        helper.make_node(op, inputs, [name], name, **attributes),
        helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"),
    ]


def outline(architecture: Architecture) -> onnx.ModelProto:
    """The model with its weights as inputs: megabytes of numbers less, for counting."""
    weights = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in architecture.shapes.items()]
    graph = helper.make_graph(
        architecture.nodes,
        "vgg16",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224]), *weights],
        [helper.make_tensor_value_info(architecture.output, TensorProto.FLOAT, ["batch", 1000])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def seeded(architecture: Architecture, seed: int = 0) -> onnx.ModelProto:
    """The model with weights as He et al. (2015) draw them, which keep the scale of the signal, and small biases."""
    model = outline(architecture)
    del model.graph.input[1:]
    rng = np.random.default_rng(seed)
    for name, shape in architecture.shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(_draw(rng, shape), name))
    return model


def _draw(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Weights (n_o, n_i, ...) of variance 2 / fan-in, or a bias (n_o,) of standard deviation 0.01."""
    scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.01
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
