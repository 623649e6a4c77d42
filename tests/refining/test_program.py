"""What is trained and what is compared, of ONNX and of OpenVINO models alike; weights go back where they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models import feed_of, network, normal, relative, residual, run_ort
from onnx import numpy_helper

from ndpass.graph.openvino.graph import OvGraph
from ndpass.refining import from_onnx, from_openvino


def test_weights_are_those_of_layers() -> None:
    assert from_onnx.read(residual()).weights() == ["W1", "B1", "W2", "B2", "W3", "W4", "B4"]


def test_responses_stand_with_what_is_added_directly() -> None:
    """The branch of the residual block is a response, too: passes put their own sum in its place."""
    assert from_onnx.read(residual()).responses() == ["a", "b", "s", "c", "scores"]


def test_both_roads_name_the_same_responses() -> None:
    import openvino as ov

    model = OvGraph(ov.Core().read_model(residual().SerializeToString())).to_model()
    program = from_openvino.read(model)
    assert program.responses() == ["a", "b", "s", "c", "scores"]
    assert sorted(program.constants[name].size for name in program.weights()) == sorted(
        numpy_helper.to_array(t).size for t in residual().graph.initializer
    )


def test_weights_of_onnx_go_back_and_all_else_stays() -> None:
    model = residual()
    doubled = {name: 2 * value for name, value in from_onnx.read(model).constants.items() if name == "W3"}
    found = from_onnx.write(model, doubled)
    arrays = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, found)]
    assert all(np.array_equal(arrays[1][n], (2 if n == "W3" else 1) * v) for n, v in arrays[0].items())
    assert found.graph.node == model.graph.node
    onnx.checker.check_model(found)


@pytest.mark.parametrize("half", [False, True])
def test_weights_of_openvino_go_back(half: bool, tmp_path: object) -> None:
    import openvino as ov

    source, feed = residual(), feed_of(residual(), N=3)
    model = ov.Core().read_model(source.SerializeToString())
    if half:
        ov.save_model(model, f"{tmp_path}/half.xml", compress_to_fp16=True)
        model = ov.Core().read_model(f"{tmp_path}/half.xml", config={"ENABLE_MMAP": False})
    model = OvGraph(model).to_model()
    program = from_openvino.read(model)
    before = len(model.get_ops())
    halved = {name: program.constants[name] / 2 for name in program.weights()}
    from_openvino.write(model, halved)
    assert len(model.get_ops()) == before
    for tensor in source.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 2, tensor.name))
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative(run_ort(source, feed), [compiled(feed)[0]]) < (1e-3 if half else 1e-5)


TRAINED = {  # a network after its layer with W (4 channels) -> the constants that are trained
    "a bias": ("y = Add(a, rows)", "rows"),
    "a bias behind a scale": ("m = Mul(a, once)\ny = Add(rows, m)", "rows"),
    "the 3 of a hard-swish": ("t = Add(a, three)\nk = Clip(t, zero, six)\nm = Mul(a, k)\ny = Div(m, six)", ""),
    "a scalar": ("y = Add(a, three)", ""),
    "a value for each column": ("y = Add(a, columns)", ""),
    "a value for each element": ("y = Add(a, map)", ""),
    "a layer that something else reads, too": ("t = Add(a, rows)\ny = Mul(a, t)", ""),
    "a constant that something else reads, too": ("t = Add(a, rows)\ny = Mul(t, rows)", ""),
    "a constant of two layers' sums": ("t = Add(a, rows)\nb = Conv(t, V)\ny = Add(b, rows)", "V"),
    "a weight of two layers": ("t = Conv(a, V, C)\ny = Conv(t, V, C)", "V C"),
    "a weight that something else reads, too": ("t = Conv(a, V, C)\ny = Mul(t, V)", "C"),
    "a matrix behind": ("t = MatMul(a, K)\ny = Add(t, last)", "K last"),
    "a matrix in front": ("t = MatMul(K, a)\ny = Add(t, last)", ""),
    "a vector": ("y = MatMul(a, last)", ""),
    "what is added to a sum of layers": ("b = Conv(a, V, C)\nt = Add(a, b)\ny = Add(t, rows)", "V C"),
}
CONSTANTS = {
    "W": normal(4, 3, 3, 3),
    "V": normal(4, 4, 1, 1),
    "K": normal(4, 4),
    "C": normal(4),
    "last": normal(4, seed=1),
    "once": normal(4, 1, 1),
    "rows": normal(1, 4, 1, 1),
    "columns": normal(1, 1, 1, 4),
    "map": normal(1, 4, 4, 4),
    "three": np.float32(3),
    "six": np.float32(6),
    "zero": np.float32(0),
}


def behind_a_layer(body: str) -> onnx.ModelProto:
    """(n, 3, 6, 6) through a convolution to (n, 4, 4, 4), and what comes behind it."""
    words = {word for line in body.split("\n") for word in line.replace("(", " ").replace(")", " ").split()}
    own = {name: value for name, value in CONSTANTS.items() if name == "W" or {name, f"{name},"} & words}
    head = "(float[N,3,6,6] x) => (float[N,4,4,4] y)"
    return network(f"{head} {{ a = Conv(x, W)\n{body} }}", **own)


@pytest.mark.parametrize("what", TRAINED)
def test_only_what_is_a_layers_own_is_trained(what: str) -> None:
    body, wanted = TRAINED[what]
    assert from_onnx.read(behind_a_layer(body)).weights() == ["W", *wanted.split()]


@pytest.mark.parametrize(
    ("layer", "own", "bias"),
    [
        ("ConvTranspose<group=2>(x, W)", {"W": normal(4, 3, 1, 1), "c": normal(6, 1, 1)}, True),
        ("Conv<group=2>(x, W)", {"W": normal(6, 2, 1, 1), "c": normal(6, 1, 1)}, True),
        ("Conv(x, W)", {"W": normal(1, 4, 1, 1), "c": normal(1, 1, 1, 1)}, False),
        ("MatMul(x, W)", {"W": normal(5, 7), "c": normal(7)}, True),
        ("MatMul(x, W)", {"W": normal(5, 7), "c": normal(5, 1)}, False),
    ],
)
def test_a_bias_has_a_value_for_each_channel(layer: str, own: dict[str, np.ndarray[Any, Any]], bias: bool) -> None:
    """On both roads: OpenVINO has other axes of grouped weights, and turned matrices."""
    import openvino as ov

    model = network(f"(float[2,4,5,5] x) => (float[2,p,q,r] y) {{ a = {layer}\n y = Add(a, c) }}", **own)
    assert from_onnx.read(model).weights() == ["W", "c"][: 1 + bias]
    program = from_openvino.read(OvGraph(ov.Core().read_model(model.SerializeToString())).to_model())
    assert sorted(program.constants[name].size for name in program.weights()) == sorted(
        own[name].size for name in ["W", "c"][: 1 + bias]
    )


@pytest.mark.parametrize(("size", "trained"), [(5, True), (1, False)])
def test_the_bias_of_a_gemm_has_one_too(size: int, trained: bool) -> None:
    text = "(float[2,4] x) => (float[2,5] y) { y = Gemm(x, W, c) }"
    found = from_onnx.read(network(text, W=normal(4, 5), c=normal(size))).weights()
    assert found == ["W", "c"][: 1 + trained]
