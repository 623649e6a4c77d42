"""A run on models whose inputs are other than one batch of images."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from conftest import Command
from models import network, normal, relative, run_ort

import ndpass as package

W = normal(8, 3, 3, 3)


def test_a_scalar_beside_the_image_with_and_without_data() -> None:
    text = "(float[n,3,8,8] x, float t) => (float[n,8,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, W) y = Mul(a, t) }"
    model = network(text, W=W)
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(3, 8, 8)).astype("f4"), "t": np.float32(0.5 + i % 2)} for i in range(24)]
    feed: dict[str, Any] = {"x": normal(2, 3, 8, 8), "t": np.array(0.7, np.float32)}
    for calibration in (None, data):
        result = package.run(model, passes="nd:rank=2", calibration=calibration)
        assert relative(run_ort(model, feed), run_ort(result.model, feed)) < 0.95


def test_an_image_without_a_batch_axis(folder: Path, ndpass: Command) -> None:
    text = """(float[3,8,8] x) => (float[8,8,8] y) {
        a = Unsqueeze(x, axis) b = Conv<pads=[1,1,1,1]>(a, W) y = Squeeze(b, axis) }"""
    model = network(text, W=W, axis=np.array([0]))
    onnx.save(model, folder / "m.onnx")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype("f4"))
    for more in ([], ["--calibration", "data.npy"]):
        done = ndpass("run", "m.onnx", "--passes", "nd:rank=2", *more, "-o", "out.onnx", "-q")
        assert done.code == 0, done.err
        feed = {"x": normal(3, 8, 8)}
        assert relative(run_ort(model, feed), run_ort(onnx.load(folder / "out.onnx"), feed)) < 0.95


STATE = """(float[1,3,8,8] x, float[2,1,8] state) => (float[1,8,8,8] y, float[2,1,8] next) {
    a = Conv<pads=[1,1,1,1]>(x, W) s = ReduceSum<keepdims=0>(state, first) r = Reshape(s, column) y = Add(a, r)
    next = Tanh(state) }"""


def stateful(text: str = STATE) -> onnx.ModelProto:
    """A step of a network that hands its state on, of two layers: the batch of the state is its axis 1."""
    return network(text, W=W, first=np.array([0]), column=np.array([-1, 8, 1, 1]))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "each": lambda state: state,  # (n, 2, 1, 8)
    "in a row": lambda state: state[:, :, 0].swapaxes(0, 1),  # (2, n, 8)
    "one for all": lambda state: state[0],  # (2, 1, 8)
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", ["1", "n"])
def test_a_state_may_have_its_batch_behind(layout: str, n: str, folder: Path, ndpass: Command) -> None:
    """And the rate, a scalar, comes once or with every sample."""
    text = f"""(float[{n},3,8,8] x, float[2,{n},8] state, float rate) => (float[{n},8,8,8] y, float[2,{n},8] next) {{
        a = Conv<pads=[1,1,1,1]>(x, W) s = ReduceSum<keepdims=0>(state, first) r = Reshape(s, column) b = Add(a, r)
        y = Mul(b, rate) next = Tanh(state) }}"""
    onnx.save(stateful(text), folder / "m.onnx")
    x, state, rate = normal(24, 3, 8, 8), normal(24, 2, 1, 8, seed=1), np.full(24, 2, "f4")
    if layout == "one for all":
        state[:] = state[0]
    np.savez("data.npz", x=x, state=LAYOUTS[layout](state), rate=rate if layout == "each" else rate[0])
    np.savez("whole.npz", x=x, state=state, rate=rate)
    done = ndpass("run", "m.onnx", "--passes", "nd:rank=1", "--calibration", "data.npz", "-o", "out.onnx", "-q")
    assert done.code == 0, done.err
    lines = [
        ndpass("evaluate", "out.onnx", "--data", data, "--against", "m.onnx").out.splitlines()[1:]
        for data in ("data.npz", "whole.npz")
    ]
    assert lines[0] == lines[1]


def test_inputs_of_other_counts_are_named(folder: Path, ndpass: Command) -> None:
    onnx.save(stateful(), folder / "m.onnx")
    np.savez("data.npz", x=normal(24, 3, 8, 8), state=normal(20, 2, 1, 8))
    done = ndpass("run", "m.onnx", "--calibration", "data.npz", "-o", "out.onnx")
    assert "all inputs have the same batch; found 24 of 'x', 20 of 'state'; make them equal" in done.err


@pytest.mark.parametrize("command", ["run", "evaluate", "sensitivity", "refine"])
def test_every_command_reads_data_of_several_inputs_alike(command: str, folder: Path, ndpass: Command) -> None:
    onnx.save(stateful(), folder / "m.onnx")
    rng = np.random.default_rng(0)
    x, state = (rng.normal(size=(24, *shape)).astype("f4") for shape in ((3, 8, 8), (2, 1, 8)))
    np.savez("data.npz", x=x, state=state)
    data = ("--calibration", "data.npz")
    done = ndpass("run", "m.onnx", "--passes", "nd:rank=2", *data, "-o", "out.onnx", "-q")
    assert done.code == 0, done.err
    if command == "evaluate":
        done = ndpass("evaluate", "out.onnx", "--data", "data.npz", "--against", "m.onnx")
    elif command == "sensitivity":
        done = ndpass("sensitivity", "m.onnx", *data)
    elif command == "refine":
        pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")
        done = ndpass("refine", "out.onnx", "--original", "m.onnx", *data, "--for", "2s", "-o", "better.onnx", "-q")
    assert done.code == 0 or "m.onnx: an input has no axis for samples" in done.err, done.err  # which refine needs


UNRANKED = """(float[n,3,h,w] x) => (float[n,8,p,q] y) {
    a = Squeeze(x) b = Unsqueeze(a, axis) c = Conv<pads=[1,1,1,1]>(b, W) y = Relu(c) }"""


def test_a_model_that_openvino_reads_only_with_fixed_axes(folder: Path, ndpass: Command) -> None:
    """What is left by a Squeeze of no axes has a rank only where the sizes are known."""
    onnx.save(network(UNRANKED, W=W, axis=np.array([0])), folder / "m.onnx")
    np.save("data.npy", normal(24, 3, 12, 12))
    done = ndpass("run", "m.onnx", "--passes", "nd:rank=1", "--calibration", "data.npy", "-o", "out.onnx")
    assert done.code == 3
    law, _, remedy = done.err.splitlines()[-1].partition(": fix them with ")
    assert "OpenVINO, which measures what ndpass makes, cannot read the model: not with open axes (Conv-" in law
    assert "rank has to be known (static))" in law
    assert '{"x": [1, 3, 12, 12]}' in remedy
    shown = ndpass("inspect", "m.onnx").out
    assert "cannot read the model: not with open axes" in shown
    assert "ndpass run" not in shown
    assert '{"x": [1, 3, 224, 224]}' in shown.splitlines()[-1]
    words = shlex.split(remedy)
    subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True)
    done = ndpass("run", "m.xml", "--passes", "nd:rank=1", "--calibration", "data.npy", "-o", "out.xml", "-q")
    assert done.code == 0, done.err


def test_inspect_recommends_no_run_of_what_openvino_cannot_read(folder: Path, ndpass: Command) -> None:
    model = network("(float[n,3,8,8] x) => (float[n,8,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, W) y = odd.Odd(a) }", W=W)
    model.opset_import.append(onnx.helper.make_opsetid("odd", 1))
    onnx.save(model, folder / "m.onnx")
    shown = ndpass("inspect", "m.onnx").out
    assert "cannot read the model: -- No conversion rule found for operations: odd.Odd" in shown
    assert "next:" not in shown


def test_a_range_is_said_once_of_data_that_were_held_out(folder: Path, ndpass: Command) -> None:
    onnx.save(network("(float[n,3,8,8] x) => (float[n,8,6,6] y) { y = Conv(x, W) }", W=W), folder / "m.onnx")
    for name in ("data", "other"):
        pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8))
        pixels[:, 0, 0, :2] = (0, 255)
        np.save(f"{name}.npy", pixels.astype("f4"))
    args = ("run", "m.onnx", "--passes", "nd:rank=1", "--calibration", "data.npy", "--no-latency", "-o", "out.onnx")
    for more, kinds in (((), ["calibration"]), (("--validation", "other.npy"), ["calibration", "validation"])):
        done = ndpass(*args, *more)
        assert done.code == 0
        said = [line.split()[2] for line in done.out.splitlines() if "data range from 0 to 255" in line]
        assert said == kinds


def test_inspect_says_where_there_is_no_layer(folder: Path, ndpass: Command) -> None:
    onnx.save(network("(float[n,3] x) => (float[n,3] y) { y = Relu(x) }"), folder / "m.onnx")
    lines = ndpass("inspect", "m.onnx").out.splitlines()
    assert lines == [
        "0 layers, 0 MACs, 0 parameters at x 1x3",
        "there is no layer with weights of its own that ndpass knows",
    ]


def test_axes_of_minus_one_take_the_size_of_the_data(folder: Path, ndpass: Command) -> None:
    model = network("(float[n,3,h,w] x) => (float[n,8,p,q] y) { y = Conv(x, W) }", W=W)
    for axis in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    onnx.save(model, folder / "m.onnx")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype("f4"))
    done = ndpass("run", "m.onnx", "--passes", "nd:rank=2", "--calibration", "data.npy", "-o", "out.onnx", "-q")
    assert done.code == 0, done.err


def saved_ir(folder: Path, shape: str | None = None, conv: str = "Conv<pads=[1,1,1,1]>(x, W)") -> None:
    model = network(f"(float[n,3,h,w] x) => (float[n,8,p,q] y) {{ y = {conv} }}", W=W)
    ir = ov.Core().read_model(model.SerializeToString())
    if shape is not None:
        ir.reshape(shape)
    ov.save_model(ir, folder / "m.xml", compress_to_fp16=False)


def same_in_openvino(folder: Path, x: np.ndarray) -> float:
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    a, b = (ov.Core().compile_model(folder / name, "CPU", f32)(x)[0] for name in ("m.xml", "out.xml"))
    return relative([a], [b])


@pytest.mark.parametrize("passes", ["nd:rank=full:form=pw-dw", "sd:rank=full"])
def test_bounds_of_an_output_may_differ_where_another_operator_makes_it(
    folder: Path, ndpass: Command, passes: str
) -> None:
    saved_ir(folder, conv="Conv<pads=[2,0,0,3]>(x, W)")
    done = ndpass("run", "m.xml", "--passes", passes, "-o", "out.xml", "-q")
    assert done.code == 0, done.err
    assert same_in_openvino(folder, normal(2, 3, 9, 12)) < 1e-5


def test_bounded_axes_of_an_ir(folder: Path, ndpass: Command) -> None:
    """224x224 is not within the bounds, nor is the batch by which metrics are measured."""
    saved_ir(folder, "[1..4,3,8..64,8..64]")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype("f4"))
    for passes, more in (("nd:rank=full", []), ("nd:rank=2", ["--calibration", "data.npy"])):
        done = ndpass("run", "m.xml", "--passes", passes, *more, "-o", "out.xml", "-q")
        assert done.code == 0, done.err
    assert same_in_openvino(folder, normal(2, 3, 9, 12)) < 0.95


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_tensor_whose_length_depends_on_values_is_alive_beside_a_convolution(
    folder: Path, ndpass: Command, suffix: str
) -> None:
    """As the anchors of a detector are, where no inference knows how many there are."""
    text = """(float[n,3,8,8] x) => (float[n,8,8,8] y) {
        nz = NonZero(x)  z = Cast<to=1>(nz)  a = Conv<pads=[1,1,1,1]>(x, W)  d = Conv<pads=[1,1,1,1]>(a, V)
        m = ReduceMean<keepdims=0>(z)  y = Add(d, m) }"""
    model = network(text, W=W, V=normal(8, 8, 3, 3))
    onnx.save(model, folder / "m.onnx")
    if suffix == ".xml":
        ov.save_model(ov.Core().read_model(folder / "m.onnx"), folder / "m.xml", compress_to_fp16=False)
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype("f4"))
    options = ["--passes", "nd:rank=2", "--calibration", "data.npy", "-o", f"out{suffix}", "-q"]
    done = ndpass("run", f"m{suffix}", *options)
    assert done.code == 0, done.err
