"""`--refine` in a whole run: kept and said, or said why not, and the fitted model is written in any case."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal, residual

import ndpass
from ndpass.errors import UsageError
from ndpass.refining import options

torch = pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")


def images(count: int = 160) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal((count, 3, 8, 8)).astype(np.float32)


def run(model: Any, **changed: Any) -> ndpass.Result:
    given = {"passes": "sd:rank=1", "calibration": images(), "threads": 1, "latency": False, "refine": 4}
    return ndpass.run(model, **{**given, **changed})


def test_onnx_and_openvino_models_are_refined_alike() -> None:
    import openvino as ov

    fitted, found = run(residual(), refine=None).report, run(residual())
    refinement = found.report.refinement
    assert refinement is not None
    assert refinement.kept
    assert found.report.model.macs == fitted.model.macs
    assert found.report.verified["the original"].relative_error < fitted.verified["the original"].relative_error
    assert f"refined: 4 epochs in {refinement.seconds:.0f} s on 128 samples, KL at temperature 2" in str(found)
    ir = run(ov.Core().read_model(residual().SerializeToString())).report.refinement
    assert ir is not None
    assert ir.kept
    assert ir.after == pytest.approx(refinement.after, rel=0.02)


def test_an_operator_that_torch_lacks_leaves_the_fitted_model(tmp_path: Path) -> None:
    text = "(float[N,3,8,8] x) => (float[N,4,4,4] y) { a = Conv(x, W)  s = Atan(a)  y = Conv(s, V) }"
    model = network(text, W=normal(8, 3, 3, 3), V=normal(4, 8, 3, 3))
    found = run(model)
    assert found.report.refinement is not None
    assert found.report.refinement.reason.startswith("torch's side has no operator Atan")
    assert not found.report.refinement.kept
    paths = [tmp_path / name for name in ("refused.onnx", "fitted.onnx")]
    for path, result in zip(paths, (found, run(model, refine=None)), strict=True):
        onnx.save(result.model, path)
    assert filecmp.cmp(*paths, shallow=False)


def test_factors_that_cd_makes_of_a_1x1_convolution_are_held_orthonormal() -> None:
    text = """(float[N,3,8,8] x) => (float[N,6] y) {
        a = Conv(x, W)  r = Relu(a)  b = Conv(r, V)  y = ReduceMean<axes=[2,3], keepdims=0>(b) }"""
    model = network(text, W=normal(8, 3, 3, 3), V=normal(6, 8, 1, 1))
    found = run(model, passes="cd:rank=2", refine_orthonormal=0.1)
    refinement = found.report.refinement
    assert refinement is not None
    assert refinement.orthonormal is not None
    assert refinement.orthonormal.factors == 1
    assert refinement.orthonormal.after < refinement.orthonormal.before
    assert "orthonormal factors: 1, penalty" in str(found)


def test_without_torch_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'ndpass\[refine\]'"):
        run(residual())


@pytest.mark.parametrize("length", ["soon", "0", "-3", "2.5", "10 parsecs", ""])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(UsageError, match="write a time"):
        run(residual(), refine=length)


@pytest.mark.parametrize(
    ("changed", "law"),
    [
        ({"calibration": None}, "trains on data"),
        ({"refine_labels": True}, "have no labels"),
        ({"refine": None, "refine_labels": True}, "say how long"),
        ({"refine": None, "refine_orthonormal": 0.1}, "say how long"),
        ({"refine_orthonormal": -0.1}, "weight of 0 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(changed: dict[str, Any], law: str) -> None:
    with pytest.raises(UsageError, match=law):
        run(residual(), **changed)
