"""The networks that benchmarks build are the published ones."""

from __future__ import annotations

import math

import numpy as np
import onnx

from benchmarks.models import outline, seeded, vgg16


def test_vgg16_has_the_published_size() -> None:
    """138.36 M parameters and 15.35 GMAC in its convolutions, counted without making the weights."""
    architecture = vgg16()
    assert sum(math.prod(shape) for shape in architecture.shapes.values()) == 138_357_544
    model = outline(architecture)
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.value_info}
    macs = [
        math.prod(sizes[node.output[0]][2:]) * math.prod(architecture.shapes[node.input[1]])
        for node in graph.node
        if node.op_type == "Conv"
    ]
    assert len(macs) == 13
    assert sum(macs) == 15_346_630_656


def test_weights_are_seeded_and_scaled() -> None:
    """The first convolution's: equal at every call, of variance 2 / fan-in."""
    architecture = vgg16()
    first = {name: shape for name, shape in architecture.shapes.items() if name.startswith("conv1_1")}
    small = type(architecture)(architecture.nodes, first, architecture.output)
    one, two = (seeded(small).graph.initializer for _ in range(2))
    assert [t.raw_data for t in one] == [t.raw_data for t in two]
    weight = onnx.numpy_helper.to_array(one[0])
    np.testing.assert_allclose(weight.var(), 2 / 27, rtol=0.1)
