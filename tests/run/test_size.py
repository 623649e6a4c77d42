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
