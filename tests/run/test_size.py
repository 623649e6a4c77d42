"""A size for inputs that the model leaves open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command, assert_refused
from models import network, normal

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(("size", "macs"), [("16x24", 16 * 24), ("32", 32 * 32)])
def test_costs_are_counted_at_the_size_that_is_given(ndpass: Command, size: str, macs: int) -> None:
    text = "(float[n,3,h,w] x) => (float[n,8,h,w] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
    onnx.save(network(text, W=normal(8, 3, 3, 3)), "open.onnx")
    args = ("run", "open.onnx", "--passes", "cd:rank=2", "-q", "--no-latency", "-o", "out.onnx", "--json", "r.json")
    assert ndpass(*args, "--size", size).code == 0
    before, after = json.loads(Path("r.json").read_text())["model"]["macs"]
    assert before == macs * 8 * 3 * 9
    assert after == macs * (2 * 3 * 9 + 8 * 2)
    assert_refused(ndpass(*args, "--size", "axb"), 2, "write height x width")


def test_height_and_width_may_stand_before_the_channels(ndpass: Command) -> None:
    """As Keras has them: the first convolution tells which axes they are."""
    text = """(float[n,h,w,3] x) => (float[n,8,h,w] y) {
        t = Transpose<perm=[0,3,1,2]>(x)
        y = Conv<pads=[1,1,1,1]>(t, W)
    }"""
    onnx.save(network(text, W=normal(8, 3, 3, 3)), "open.onnx")
    args = ("run", "open.onnx", "--passes", "cd:rank=2", "-q", "--no-latency", "-o", "out.onnx", "--json", "r.json")
    assert ndpass(*args, "--size", "16x24").code == 0
    assert json.loads(Path("r.json").read_text())["model"]["macs"][0] == 16 * 24 * 8 * 3 * 9
    assert ndpass("inspect", "open.onnx", "--size", "16x24", "--json", "i.json").code == 0
    assert json.loads(Path("i.json").read_text())[0]["macs"] == 16 * 24 * 8 * 3 * 9
    bench = ("bench", "open.onnx", "--size", "16x24", "--precision", "f32", "--seconds", "0.1")
    assert ndpass(*bench, "--runtime", "onnxruntime").code == 0


def test_what_is_taken_for_an_open_size_is_said_where_neither_data_nor_an_option_give_it(ndpass: Command) -> None:
    text = "(float[n,3,h,w] x) => (float[n,8,h,w] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
    onnx.save(network(text, W=normal(8, 3, 3, 3)), "open.onnx")
    args = ("run", "open.onnx", "--passes", "cd:rank=2", "--no-latency", "-o", "out.onnx")
    line = "open axes are taken as x 1x3x224x224: --size HxW sets height and width"
    assert line in ndpass(*args).err
    assert "open axes" not in ndpass(*args, "--size", "16").err


SIGNAL = "(float[n,3,t] x) => (float[n,8,u] y) { y = Conv<pads=[1,1]>(x, W) }"
BAND = """(float[n,100,t] x) => (float[n,8,100,t] y) {
    a = Unsqueeze(x, axis) y = Conv<pads=[1,1,1,1]>(a, W) }"""
LINE = "(float[n,3,48,w] x) => (float[n,8,48,v] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
TABLE = "(float[n,t] x) => (float[n,t] y) { y = Relu(x) }"


@pytest.mark.parametrize("command", [("inspect",), ("run", "-o", "o.onnx")])
def test_one_open_axis_has_one_number(ndpass: Command, command: tuple[str, ...]) -> None:
    """The second of two was dropped without a word."""
    onnx.save(network(SIGNAL, W=normal(8, 3, 3)), "m.onnx")
    law = "--size 100x300: input 'x' takes (batch, 3, ?) and no height and width: give one number, as --size 300"
    done = ndpass(command[0], "m.onnx", *command[1:], "--size", "100x300")
    assert done.code == 2
    assert law in done.err
    onnx.save(network(BAND, W=normal(8, 1, 3, 3), axis=np.array([1])), "m.onnx")
    assert "as --size 300" in ndpass(command[0], "m.onnx", *command[1:], "--size", "100x300").err
    onnx.save(network(LINE, W=normal(8, 3, 3, 3)), "m.onnx")
    assert "x 1x3x48x320" in ndpass("inspect", "m.onnx", "--size", "48x320").out


def test_inspect_says_of_open_axes_what_sets_them(ndpass: Command) -> None:
    cases = [
        (SIGNAL, {"W": normal(8, 3, 3)}, "--size N sets"),
        (LINE, {"W": normal(8, 3, 3, 3)}, "--size HxW sets"),
        (TABLE, {}, "calibration data set them"),
    ]
    for text, weights, said in cases:
        onnx.save(network(text, **weights), "m.onnx")
        assert f"open axes are assumed: {said}" in ndpass("inspect", "m.onnx").out
    onnx.save(network(SIGNAL, W=normal(8, 3, 3)), "m.onnx")
    assert "open axes" not in ndpass("inspect", "m.onnx", "--size", "64").out


def test_sizes_of_arrays_are_those_of_the_data(ndpass: Command) -> None:
    onnx.save(network(SIGNAL, W=normal(8, 3, 3)), "m.onnx")
    np.save("data.npy", normal(24, 3, 40))
    args = ("run", "m.onnx", "--passes", "cd:rank=2", "--no-latency", "-o", "out.onnx")
    assert "open axes are taken as x 1x3x40: as the data have them" in ndpass(*args, "--calibration", "data.npy").err
    assert "open axes are taken as x 1x3x224: --size N sets their length" in ndpass(*args).err


def test_calibration_data_of_another_size_are_named(ndpass: Command) -> None:
    """It was "the model in memory: Can't set the input tensor"."""
    text = "(float[n,3,h,w] x) => (float[n,8,h,w] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
    onnx.save(network(text, W=normal(8, 3, 3, 3)), "open.onnx")
    rng = np.random.default_rng(0)
    for size in (8, 12):
        np.save(f"{size}.npy", rng.standard_normal((16, 3, size, size)).astype(np.float32))
    args = ("run", "open.onnx", "--passes", "cd:rank=2", "-q", "--no-latency", "-o", "out.onnx")
    law = "8.npy: a run takes samples of one size; input 'x' is 3x8x8 in the calibration data and 3x12x12"
    data = ("--calibration", "8.npy")
    assert_refused(ndpass(*args, *data, "--validation", "12.npy"), 3, f"{law} in the validation data; set size=HxW")
    assert_refused(ndpass(*args, *data, "--size", "12"), 3, f"{law} by --size; set size=HxW")
    ranks = ndpass("sensitivity", "open.onnx", "--study", "ranks", "--passes", "cd", *data, "--validation", "12.npy")
    assert ranks.code == 3
    assert f"{law} in the validation data" in ranks.err
    assert ndpass(*args, *data, "--size", "8").code == 0
