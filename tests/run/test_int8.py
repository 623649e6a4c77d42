"""int8 on top of the passes: what --int8 writes and reports, and the same by hand, as in its guide."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command, small_network
from models import ROOT
from pages import blocks

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.measuring.runtime import OpenVINO
from ndpass.report import Report
from ndpass.run import digits
from ndpass.run import quantise as quantise_module
from ndpass.run.judge import Judge
from ndpass.run.quantise import quantise

pytest.importorskip("nncf", reason="int8 is quantised by NNCF: pip install 'ndpass[int8]'")
import openvino as ov

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """NNCF runs the network once for each sample that it takes ranges from, with a tensor out of every layer."""
    monkeypatch.setattr(quantise_module, "SAMPLES", 40)


def fit_and_measured() -> tuple[Feeds, Feeds]:
    (fit, _), (images, labels) = digits.images()
    inputs = OpenVINO(digits.model_path()).inputs
    return open_feeds(fit, inputs), open_feeds(images, inputs, labels=labels)


def kinds(model: ov.Model) -> list[str]:
    return [op.get_type_name() for op in model.get_ops()]


def test_quantised_digits_keep_their_accuracy() -> None:
    fit, measured = fit_and_measured()
    quantised = quantise(digits.model_path(), fit, OpenVINO(digits.model_path()).inputs)
    assert "FakeQuantize" in kinds(quantised)
    found = Judge(digits.model_path(), measured, threads=1)(quantised, "int8")
    assert found.before is not None
    assert found.after is not None
    assert found.after.value == pytest.approx(found.before.value, abs=1)
    assert found.agreement.kl != 0  # it is not the original that ran


def test_depthwise_weights_have_a_range_for_each_channel(ndpass: Command) -> None:
    assert ndpass("run", "-q", "--passes", "nd:rank=2", "-o", "nd.onnx").code == 0
    fit, _ = fit_and_measured()
    quantised = quantise(Path("nd.onnx"), fit, OpenVINO(Path("nd.onnx")).inputs)
    depthwise = [op for op in quantised.get_ops() if op.get_type_name() == "GroupConvolution"]
    assert depthwise
    for op in depthwise:
        weight = op.input_value(1).get_node()
        while weight.get_type_name() != "Multiply":  # scales of compressed weights
            weight = weight.input_value(0).get_node()
        scale = weight.input_value(1).get_node()
        assert scale.get_output_shape(0)[0] == op.get_input_shape(1)[0] > 1


@pytest.mark.usefixtures("few_samples")
def test_what_is_written_is_what_is_reported(ndpass: Command) -> None:
    done = ndpass("run", "--passes", "sd", "--int8", "--macs", 0.6, "--threads", 1, "--json", "r.json")
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path().iterdir()) == ["digits.ndpass.bin", "digits.ndpass.xml", "r.json"]
    report = Report.model_validate_json(Path("r.json").read_text())
    written = Path("digits.ndpass.xml")
    assert "FakeQuantize" in kinds(ov.Core().read_model(written))
    _, measured = fit_and_measured()
    found = Judge(digits.model_path(), measured, threads=1)(written, "int8")
    assert report.metric is not None
    assert found.after is not None
    assert report.metric.after == pytest.approx(found.after.value)
    assert report.target.precision == "int8"
    names = ["original", "original int8", "rewritten", "rewritten int8"]
    assert [row.name for row in report.variants] == names
    assert [row.precision == "int8" for row in report.variants] == [False, True, False, True]
    assert report.variants[0].metric == report.metric.before
    assert report.variants[3].metric == report.metric.after
    assert all(row.latency_ms > 0 for row in report.variants)
    assert report.variants[1].latency_ms == pytest.approx(report.latency_ms.before if report.latency_ms else 0)
    assert "original int8: " in done.out
    assert "rewritten int8: " in done.out


@pytest.mark.usefixtures("few_samples")
def test_from_ir_to_int8(ndpass: Command) -> None:
    ov.save_model(ov.Core().read_model(digits.model_path()), "digits.xml", compress_to_fp16=False)
    images, labels = digits.images()[1]
    np.savez("data.npz", images=images, labels=labels)
    done = ndpass(
        "run",
        "digits.xml",
        "--passes",
        "cd",
        "--int8",
        "--macs",
        0.6,
        "--calibration",
        "data.npz",
        "-o",
        "out.xml",
        "--json",
        "r.json",
    )
    assert done.code == 0, done.err
    assert "FakeQuantize" in kinds(ov.Core().read_model("out.xml"))
    report = Report.model_validate_json(Path("r.json").read_text())
    assert [row.metric is not None for row in report.variants] == [True] * 4


@pytest.mark.usefixtures("few_samples")
def test_drop_is_that_of_the_quantised_model(ndpass: Command) -> None:
    done = ndpass("run", "--int8", "--max-drop", 1.0, "--threads", 1, "--json", "r.json")
    if done.code == 4:  # on this CPU no layer so small is faster in int8
        assert "faster" in done.err
        assert not list(Path().glob("*.xml"))
        return
    assert done.code == 0, done.err
    metric = json.loads(Path("r.json").read_text())["metric"]
    assert metric["before"] - metric["after"] <= 1.0


def test_samples_are_spread_over_classes() -> None:
    """Calibration sets are often sorted by class; the ranges of the first 300 would be those of one class."""
    onnx.save(small_network(), "net.onnx")
    images = np.random.default_rng(0).standard_normal((900, 3, 8, 8)).astype(np.float32)
    images[600:] *= 100
    inputs = OpenVINO(Path("net.onnx")).inputs
    quantised = quantise(Path("net.onnx"), open_feeds(images, inputs), inputs)
    (feed,) = quantised.get_parameters()
    (first,) = [i.get_node() for i in feed.output(0).get_target_inputs()]
    assert first.get_type_name() == "FakeQuantize"
    assert first.input_value(2).get_node().data.max() > 50


def test_recipe_of_the_guide(ndpass: Command) -> None:
    page = ROOT / "docs" / "guides" / "int8.md"
    (recipe,) = [block.text for block in blocks(page, "python") if "nncf.quantize" in block.text]
    assert ndpass("run", "-q", "--passes", "nd:rank=3", "-o", "fast.onnx").code == 0
    np.save("images.npy", digits.images()[0][0][:50])
    exec(compile(recipe, page.name, "exec"), {})
    _, measured = fit_and_measured()
    found = Judge(Path("fast.onnx"), measured, threads=1)(Path("fast_int8.xml"), "int8")
    assert found.before is not None
    assert found.after is not None
    assert found.after.value == pytest.approx(found.before.value, abs=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "out.onnx"), "-o out.xml"),
        (("-o", "out.xml", "--precision", "bf16"), "--precision"),
        (("net.onnx", "-o", "out.xml"), "--calibration"),
    ],
)
def test_what_does_not_go_with_int8(options: tuple[str, ...], words: str, ndpass: Command, folder: Path) -> None:
    onnx.save(small_network(), folder / "net.onnx")
    done = ndpass("run", "--int8", "--macs", 0.5, *options)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") <= 3


def test_without_nncf(ndpass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    done = ndpass("run", "-q", "--int8", "-o", "out.xml")
    assert done.code == 2
    assert "pip install 'ndpass[int8]'" in done.err
    assert not list(Path().iterdir())
