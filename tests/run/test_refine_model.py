"""`ndpass refine`: a model that was rewritten before, in either kind; what it refuses, and what it leaves."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command, Finished, assert_refused
from models import network, normal, residual, run_options
from onnx import numpy_helper

from ndpass.calibration.feeds import open_feeds
from ndpass.errors import UsageError
from ndpass.listener import Listener
from ndpass.planning.candidate import Budget
from ndpass.refining.options import Refine
from ndpass.run.refine_model import refine_model

pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

USAGE, INPUT, BUDGET = 2, 3, 4
SHORT = ("--no-latency", "--threads", 1, "--for", 4)


@pytest.fixture
def pair(folder: Path) -> Path:
    """original.onnx, model.onnx with an error in two layers, data.npz; the folder that they are in."""
    weights = {t.name: numpy_helper.to_array(t) for t in residual().graph.initializer}
    spoilt = residual(W2=0.6 * weights["W2"] + 0.3 * normal(8, 8, 3, 3, seed=7), W3=0.8 * weights["W3"])
    for name, model in (("original", residual()), ("model", spoilt)):
        onnx.save(model, folder / f"{name}.onnx")
    np.savez(folder / "data.npz", images=np.random.default_rng(3).standard_normal((192, 3, 8, 8)).astype(np.float32))
    return folder


def refine(ndpass: Command, *words: object, model: str = "model.onnx", original: str = "original.onnx") -> Finished:
    return ndpass("refine", model, "--original", original, "--calibration", "data.npz", *SHORT, *words)


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_a_rewritten_model_comes_closer_to_its_original(kind: str, pair: Path, ndpass: Command) -> None:
    if kind == "xml":
        import openvino as ov

        for name in ("original", "model"):
            ov.save_model(ov.Core().read_model(pair / f"{name}.onnx"), pair / f"{name}.xml", compress_to_fp16=False)
    names = {"model": f"model.{kind}", "original": f"original.{kind}"}
    done = refine(ndpass, "-o", f"out.{kind}", "--json", "r.json", "--report", "r.html", **names)
    assert done.code == 0, done.err
    assert "refined: 4 epochs" in done.out
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert report["refinement"]["after"] < 0.9 * report["refinement"]["before"]
    assert "Refined: 4 epochs" in Path("r.html").read_text(encoding="utf-8")
    assert not Path(f".out.{kind}.resume").exists()


def test_what_is_not_made_better_is_not_written(pair: Path, ndpass: Command) -> None:
    onnx.save(residual(), pair / "copy.onnx")
    assert_refused(refine(ndpass, "-q", "-o", "out.onnx", model="copy.onnx"), BUDGET, "not made better", "taken back")
    assert not Path("out.onnx").exists()


def test_models_that_do_not_belong_together_are_refused(pair: Path, ndpass: Command) -> None:
    other = network("(float[N,3,8,8] x) => (float[N,2,6,6] y) { y = Conv(x, W) }", W=normal(2, 3, 3, 3))
    onnx.save(other, pair / "model.onnx")
    assert_refused(refine(ndpass, "-q", "-o", "out.onnx"), INPUT, "other inputs than original.onnx")
    Path("original.xml").write_text("<net/>", encoding="utf-8")
    assert_refused(refine(ndpass, "-q", original="original.xml"), USAGE, "of two kinds")


class CutOffError(Exception):
    """Comes while weights are trained."""


def cut_off(text: str, *_: object) -> None:
    if text.startswith("refining"):
        raise CutOffError


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(("held", "labels", "differs"), [(2, 0, "validation"), (1, 3, "data"), (1, 0, "")])
def test_training_goes_on_with_the_same_data_alone(held: int, labels: int, differs: str) -> None:
    """What was cut off has judged its weights by the samples that were held out then, and trained to those labels."""
    images = np.load("data.npz")["images"]

    def run(held: int, labels: int, listen: Listener, **more: bool) -> None:
        drawn = np.random.default_rng(held).standard_normal((40, 3, 8, 8)).astype(np.float32)
        classes = np.random.default_rng(labels).integers(0, 5, len(images))
        options = run_options(
            (),
            Budget("pinned"),
            calibration=lambda specs: open_feeds(images, specs, labels=classes),
            validation=lambda specs: open_feeds(drawn, specs),
            refine=Refine(epochs=4, labels=True),
            threads=1,
            **more,
        )
        refine_model(Path("model.onnx"), Path("original.onnx"), Path("out.onnx"), options, listen)

    with pytest.raises(CutOffError):
        run(1, 0, cut_off)
    with pytest.raises(UsageError, match=f"another run: {differs} was") if differs else nullcontext():
        run(held, labels, lambda *_: None, resume=True)
    assert Path("out.onnx").exists() == (not differs)
