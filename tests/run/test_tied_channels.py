"""cp where a layer reads one channel several times, as behind the Concat of a Ghost module."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command
from models import network, normal, run_ort

GHOST = """(float[n,3,16,16] x) => (float[n,8,16,16] y) {
    a = Conv<pads=[1,1,1,1]>(x, A)  b = Conv<pads=[1,1,1,1], group=8>(a, B)
    c = Concat<axis=1>(a, b)  y = Conv<pads=[1,1,1,1]>(c, V) }"""
UNEVEN = """(float[n,3,16,16] x) => (float[n,8,16,16] y) {
    a = Conv<pads=[1,1,1,1]>(x, A)  e = Conv<pads=[1,1,1,1]>(x, E)  b = Conv<pads=[1,1,1,1], group=8>(a, B)
    c = Concat<axis=1>(a, b, e)  y = Conv<pads=[1,1,1,1]>(c, V) }"""
WEIGHTS = {"A": normal(8, 3, 3, 3), "B": normal(8, 1, 3, 3)}
MODELS = {
    "ghost": network(GHOST, **WEIGHTS, V=normal(8, 16, 3, 3)),
    "uneven": network(UNEVEN, **WEIGHTS, E=normal(4, 3, 3, 3), V=normal(8, 20, 3, 3)),
}


@pytest.mark.parametrize("passes", ["cp:channels=6", "cp:channels=6:criterion=l2", "cp:channels=6,sd:rank=8"])
@pytest.mark.parametrize("name", MODELS)
def test_the_error_promised_is_the_error_measured(name: str, passes: str, folder: Path, ndpass: Command) -> None:
    model = MODELS[name]
    onnx.save(model, folder / "m.onnx")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(120, 3, 16, 16)).astype("f4"))
    options = ["--calibration", "data.npy", "-o", "out.onnx", "--json", "r.json", "-q"]
    done = ndpass("run", "m.onnx", "--passes", passes, *options)
    assert done.code == 0, done.err
    rows = {r["name"]: r for r in json.loads(Path("r.json").read_text())["layers"] if r["status"] == "done"}
    row = rows["y"]
    if "," not in passes and "l2" not in passes:  # by the criterion that errors are predicted for
        assert row["error_predicted"] == pytest.approx(row["error_measured"], rel=0.1)
    x = np.random.default_rng(1).normal(size=(8, 3, 16, 16)).astype("f4")
    (a,), (b,) = run_ort(model, {"x": x}), run_ort(onnx.load("out.onnx"), {"x": x})
    assert float(np.sum((a - b) ** 2) / np.sum(a**2)) < 1.3 * row["error_measured"] + 0.01
