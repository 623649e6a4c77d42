"""What the axes of inputs are: samples, channels or space, and how large they are taken for."""

from __future__ import annotations

import numpy as np
import onnx
import openvino as ov
import pytest
from models import network, normal

from ndpass.graph.graph import Graph
from ndpass.graph.input_spec import InputSpec, largest_batch, static_batch
from ndpass.graph.openvino.graph import OvGraph

W = normal(4, 3, 3, 3)

SIZES = {
    "nchw": ("(float[n,3,h,w] x) => (float[n,4,p,q] y) { y = Conv(x, W) }", (1, 3, 224, 224)),
    "channels-open": ("(float[n,c,h,w] x) => (float[n,4,p,q] y) { y = Conv(x, W) }", (1, 3, 224, 224)),
    "nhwc": (
        "(float[n,h,w,3] x) => (float[n,4,p,q] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, W) }",
        (1, 224, 224, 3),
    ),
    "nhwc-scaled": (
        """(float[n,h,w,c] x) => (float[n,4,p,q] y) {
            s = Mul(x, k) t = Transpose<perm=[0,3,1,2]>(s) y = Conv(t, W) }""",
        (1, 224, 224, 3),
    ),
    "height-fixed": ("(float[n,3,40,w] x) => (float[n,4,p,q] y) { y = Conv(x, W) }", (1, 3, 40, 224)),
    "no-batch": (
        "(float[3,h,w] x) => (float[n,4,p,q] y) { t = Unsqueeze(x, zero) y = Conv(t, W) }",
        (3, 224, 224),
    ),
}


def made(text: str) -> onnx.ModelProto:
    numbers = {"k": np.float32(0.5), "zero": np.array([0])}
    return network(text, W=W, **{n: v for n, v in numbers.items() if f" {n})" in text})


@pytest.mark.parametrize("name", SIZES)
def test_open_axes_are_filled_by_what_they_are(name: str) -> None:
    text, size = SIZES[name]
    model = made(text)
    assert Graph(model).sizes == {"x": size}
    assert OvGraph(ov.Core().read_model(model.SerializeToString())).sizes == {"x": size}


def test_an_image_without_a_batch_axis() -> None:
    model = made("(float[3,8,8] x) => (float[n,4,6,6] y) { t = Unsqueeze(x, zero) y = Conv(t, W) }")
    for graph in (Graph(model), OvGraph(ov.Core().read_model(model.SerializeToString()))):
        (spec,) = graph.inputs()
        assert (spec.batched, spec.sample) == (False, (3, 8, 8))
        assert static_batch(graph.inputs()) == ("x", 1)
        assert graph.shapes(1)["x"] == (3, 8, 8)
        assert str(spec) == "input 'x' takes (batch, 3, 8, 8)"


@pytest.mark.parametrize(
    "inside",
    [
        's = Sub(x, k) u = Unsqueeze(s, zero) r = Resize<mode="linear">(u,, two) t = Pad(r, pads)',
        'u = Unsqueeze(x, zero) s = Slice(u, from, to) r = Resize<mode="nearest">(s,, two)'
        " t = AveragePool<kernel_shape=[2,2]>(r)",
    ],
)
def test_an_image_without_a_batch_axis_that_is_resized_inside(inside: str) -> None:
    """As detectors of torchvision do: it was taken for three samples."""
    model = network(
        f"(float[3,8,8] x) => (float[1,4,p,q] y) {{ {inside} y = Conv(t, W) }}",
        W=W,
        zero=np.array([0]),
        k=np.ones((3, 1, 1), np.float32),
        two=np.array([1, 1, 2, 2], np.float32),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        **{"from": np.array([0, 0, 0, 0]), "to": np.array([1, 3, 7, 7])},
    )
    for graph in (Graph(model), OvGraph(ov.Core().read_model(model.SerializeToString()))):
        (spec,) = graph.inputs()
        assert (spec.batched, spec.sample) == (False, (3, 8, 8))


@pytest.mark.parametrize(
    ("inputs", "batched"),
    [
        ("float[n,3,8,8] x, float t", [True, False]),
        ("float[n,3,8,8] x, float[n] t", [True, True]),
        ("float[n,3,8,8] x, float[4] t", [True, False]),
        ("float[2,3,8,8] x, float[2] t", [True, True]),
        ("float[2,3,8,8] x, float[4,1,1] t", [True, False]),
    ],
)
def test_inputs_beside_the_image(inputs: str, batched: list[bool]) -> None:
    text = f"({inputs}) => (float[n,4,6,6] y, float u) {{ y = Conv(x, W) u = ReduceMean<keepdims=0>(t) }}"
    assert [spec.batched for spec in Graph(made(text)).inputs()] == batched


def test_axes_of_minus_one_are_open() -> None:
    model = made("(float[n,3,h,w] x) => (float[n,4,p,q] y) { y = Conv(x, W) }")
    for axis in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    graph = Graph(model)
    assert graph.inputs()[0].shape == (None, 3, None, None)
    assert graph.dynamic_hw
    assert [d.dim_value for d in graph.to_model().graph.input[0].type.tensor_type.shape.dim] == [-1, 3, -1, -1]


def bounded(shape: str) -> OvGraph:
    model = ov.Core().read_model(
        made("(float[n,3,h,w] x) => (float[n,4,p,q] y) { y = Conv(x, W) }").SerializeToString()
    )
    model.reshape(shape)
    return OvGraph(model)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("[1..4,3,8..64,8..64]", (1, 3, 64, 64)),
        ("[2..4,3,?,256..]", (2, 3, 224, 256)),
        ("[?,3,8..300,?]", (1, 3, 224, 224)),
    ],
)
def test_bounds_of_axes_are_kept(shape: str, size: tuple[int, ...]) -> None:
    assert bounded(shape).sizes == {"x": size}


def test_samples_outside_the_bounds_do_not_fit() -> None:
    (spec,) = bounded("[1..4,3,8..64,8..]").inputs()
    assert str(spec) == "input 'x' takes (batch, 3, 8..64, 8..)"
    assert largest_batch([spec]) == ("x", 4)
    shapes = [(9, 3, 8, 8), (1, 3, 64, 900), (1, 3, 65, 8), (1, 3, 8, 7), (1, 3, 8), (1, 4, 8, 8)]
    assert [spec.fits(shape) for shape in shapes] == [True, True, False, False, False, False]


def test_sizes_of_a_feed() -> None:
    specs = [InputSpec("x", (None, 3), np.dtype("f4")), InputSpec("t", (), np.dtype("f4"), batched=False)]
    assert [spec.fed(5, size) for spec, size in zip(specs, [(1, 3), ()], strict=True)] == [(5, 3), ()]


def test_a_size_that_the_model_does_not_run_at_gives_way_to_one_that_it_does() -> None:
    text = """(float[n,3,h,w] x) => (float[n,9] y) { a = Conv(x, W)  r = Flatten(a)  y = Gemm(r, V) }"""
    model = network(text, W=W, V=normal(4 * 46 * 318, 9))
    for graph in (Graph(model), OvGraph(ov.Core().read_model(model.SerializeToString()))):
        assert graph.sizes == {"x": (1, 3, 48, 320)}
        assert graph.macs() == 4 * 46 * 318 * (27 + 9)
