"""The metric of a run: the default by the kind of the outputs, one by its name, one of the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command, assert_refused, small_network
from models import network, normal, run_options

from ndpass import passes
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.natural_inputs import natural_feeds
from ndpass.errors import UsageError
from ndpass.graph.input_spec import InputSpec
from ndpass.measuring.runtime import OpenVINO
from ndpass.planning.candidate import Budget
from ndpass.run import digits
from ndpass.run.job import drop_warnings, read
from ndpass.run.judge import Judge, drop_of
from ndpass.run.options import Data

pytestmark = pytest.mark.usefixtures("folder")

TOP2 = """
import numpy as np
from ndpass.run import digits

def top2(compiled):
    images, labels = digits.images()[1]
    scores = next(iter(compiled({"image": images}).values()))
    return 100 * float((np.argsort(scores, axis=1)[:, -2:] == labels[:, None]).any(axis=1).mean())

def misses(compiled):
    return 100 - top2(compiled)

misses.higher_is_better = False
"""


def top2(compiled: Any) -> float:
    images, labels = digits.images()[1]
    (scores,) = compiled({"image": images}).values()
    return 100 * float((np.argsort(scores, axis=1)[:, -2:] == labels[:, None]).any(axis=1).mean())


def noise(count: int = 8) -> Feeds:
    images = np.random.default_rng(0).random((count, 1, 28, 28)).astype(np.float32)
    inputs = OpenVINO(digits.model_path()).inputs
    return open_feeds(images[(slice(None), *map(slice, (i or count for i in inputs[0].shape[1:])))], inputs)


def test_own_metric_stands_in_the_place_of_accuracy() -> None:
    found = Judge(digits.model_path(), noise(), 1, top2)(digits.model_path())
    assert found.before == found.after
    assert found.before is not None
    assert found.before.name == "top2"
    assert found.before.value == pytest.approx(top2(OpenVINO(digits.model_path()).compiled))


def test_drop_of_a_metric_that_should_be_low() -> None:
    def size(compiled: Any) -> float:
        return float(next(iter(compiled(np.ones((1, 3, 8, 8), np.float32)).values())).sum())

    size.higher_is_better = False  # type: ignore[attr-defined]
    onnx.save(small_network(), "a.onnx")
    model = small_network()
    (bias,) = [t for t in model.graph.initializer if t.name == "b1"]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, "b1"))
    onnx.save(model, "b.onnx")
    inputs = OpenVINO(Path("a.onnx")).inputs
    feeds = open_feeds(np.ones((2, 3, 8, 8), np.float32), inputs)
    found = Judge(Path("a.onnx"), feeds, 1, size)(Path("b.onnx"))
    assert found.before is not None
    assert found.after is not None
    assert drop_of(found) == pytest.approx(found.after.value - found.before.value)


def test_metric_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no function"):
        Judge(digits.model_path(), noise(), 1, "math:nothing")


@pytest.mark.parametrize(("name", "better"), [("top2", True), ("misses", False)])
def test_report_shows_the_own_metric(name: str, better: bool, ndpass: Command) -> None:
    Path(f"own_{name}.py").write_text(TOP2)
    done = ndpass(
        "run", "-q", "--passes", "nd:rank=2", "--metric", f"own_{name}:{name}", "-o", "out.onnx", "--json", "r.json"
    )
    assert done.code == 0, done.err
    metric = json.loads(Path("r.json").read_text())["metric"]
    assert (metric["name"], metric["higher_is_better"]) == (name, better)
    right = top2(OpenVINO(Path("out.onnx")).compiled)
    assert metric["after"] == pytest.approx(right if better else 100 - right, abs=1e-6)


def test_metric_that_raises(ndpass: Command) -> None:
    Path("own_raising.py").write_text("def broken(compiled):\n    return 1 / 0\n")
    done = ndpass("run", "-q", "--passes", "nd:rank=2", "--metric", "own_raising:broken", "-o", "out.onnx")
    assert done.code == 2
    assert "ZeroDivisionError" in done.err
    assert not Path("out.onnx").exists()


SEGMENTER = """(float[N,3,16,16] image) => (float[N,1,16,16] mask) {
    a = Conv<pads = [1,1,1,1]>(image, W1)  r = Relu(a)
    b = Conv<pads = [1,1,1,1]>(r, W2)  END
}"""


def segmenter(end: str = "mask = Sigmoid(b)", **more: Any) -> onnx.ModelProto:
    return network(SEGMENTER.replace("END", end), **more, W1=normal(8, 3, 3, 3), W2=20 * normal(1, 8, 3, 3))


def pictures(count: int = 30, side: int = 16) -> np.ndarray:
    specs = [InputSpec("image", (None, 3, side, side), np.dtype(np.float32))]
    return next(natural_feeds(specs, {"image": (1, 3, side, side)}, 0, samples=count).batches(count))["image"]


def test_masks_are_measured_by_iou_and_the_report_says_why(ndpass: Command) -> None:
    onnx.save(segmenter(), "mask.onnx")
    np.save("data.npy", pictures())
    done = ndpass(
        "run", "mask.onnx", "--passes", "nd:rank=2", "--calibration", "data.npy", "-o", "o.onnx", "--json", "r"
    )
    assert done.code == 0, done.err
    report = json.loads(Path("r").read_text())
    metric = report["metric"]
    assert (metric["name"], metric["before"], metric["samples"]) == ("iou", 100, 6)
    assert 0 < metric["after"] < 100
    assert metric["reason"] == "output 'mask' (batch, 1, 16, 16) is a map of 1 channel in 0..1, cut at 0.5"
    assert f"metric: iou: {metric['reason']}" in done.out
    (error,) = report["verified"]["the original"]["outputs"].values()
    assert f"worst output: 'mask', {error:.2g} of its variance" in done.out


def test_iou_of_a_run_is_that_of_the_masks() -> None:
    onnx.save(segmenter(), "a.onnx")
    model = segmenter()
    (weight,) = [t for t in model.graph.initializer if t.name == "W2"]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + normal(1, 8, 3, 3, seed=1), "W2"))
    onnx.save(model, "b.onnx")
    x = pictures()
    judge = Judge(Path("a.onnx"), open_feeds(x, OpenVINO(Path("a.onnx")).inputs), 1, by_kind=True)
    found = judge(Path("b.onnx"))
    p, q = (OpenVINO(Path(name))({"image": x})["mask"] > 0.5 for name in ("a.onnx", "b.onnx"))
    assert drop_of(found) == pytest.approx(100 - 100 * (p & q).sum() / (p | q).sum())
    assert judge.undefined() == ""
    same = judge(Path("a.onnx"))
    assert drop_of(same) == 0


SELECTOR = """(float[1,3,8,8] image) => (int64[k,3] selected) {
    a = Conv(image, W1)  s = Sigmoid(a)  shape = Constant<value_ints = [1, 2, 64]>()  scores = Reshape(s, shape)
    most = Constant<value_ints = [64]>()  overlap = Constant<value_float = 0.5>()  least = Constant<value_float = 0.7>()
    selected = NonMaxSuppression(boxes, scores, most, overlap, least)
}"""


def selector(shift: float) -> onnx.ModelProto:
    """Each pixel is a box of its own; `shift` is added to the weights of the second class."""
    corners = np.stack([np.arange(64), 0 * np.arange(64), np.arange(64) + 1, 0 * np.arange(64) + 1], axis=1)
    weight = normal(2, 3, 1, 1)
    weight[1] += np.float32(shift)
    return network(SELECTOR, W1=weight, boxes=corners[None].astype(np.float32))


def test_detections_after_suppression_are_matched_sample_by_sample() -> None:
    """What is compared are the scores; the metric is about the boxes that are selected, of each sample."""
    for name, shift in (("a.onnx", 0.0), ("b.onnx", 0.2)):
        onnx.save(selector(shift), name)
    x = pictures(5, 8)
    judge = Judge(Path("a.onnx"), open_feeds(x, OpenVINO(Path("a.onnx")).inputs), 1, compared=["scores"], by_kind=True)
    found = judge(Path("b.onnx"))
    rows = [
        [{tuple(row[1:]) for row in OpenVINO(Path(name))({"image": one[None]})["selected"] if row[0] == 0} for one in x]
        for name in ("a.onnx", "b.onnx")
    ]
    again = sum(len(a & b) for a, b in zip(*rows, strict=True))
    assert found.after is not None
    assert (found.after.name, found.after.samples) == ("detection", 5)
    assert found.after.value == pytest.approx(200 * again / sum(len(r) for part in rows for r in part))
    assert 0 < found.after.value < 100


def test_an_original_that_shows_nothing_has_no_metric() -> None:
    onnx.save(segmenter("s = Sigmoid(b)  tenth = Constant<value_float = 0.1>()  mask = Mul(s, tenth)"), "a.onnx")
    judge = Judge(Path("a.onnx"), open_feeds(pictures(), OpenVINO(Path("a.onnx")).inputs), 1, "iou")
    found = judge(Path("a.onnx"))
    assert (found.before, found.after) == (None, None)
    assert "nowhere above 0.5 on these data: give other data" in judge.undefined()
    assert any("nowhere above" in text for text in found.warnings)


def test_max_drop_without_a_value_is_refused_before_anything_is_fitted(ndpass: Command) -> None:
    onnx.save(segmenter("s = Sigmoid(b)  tenth = Constant<value_float = 0.1>()  mask = Mul(s, tenth)"), "a.onnx")
    np.save("data.npy", pictures())
    done = ndpass("run", "a.onnx", "-q", "--calibration", "data.npy", "--max-drop", "1", "-o", "out.onnx")
    assert_refused(done, 2, "--max-drop: iou has no value", "nowhere above 0.5", "--speedup")


def test_a_metric_by_its_name(ndpass: Command) -> None:
    onnx.save(segmenter(), "mask.onnx")
    np.save("data.npy", pictures())
    how = ["run", "mask.onnx", "-q", "--passes", "nd:rank=2", "--calibration", "data.npy", "-o", "o.onnx"]
    done = ndpass(*how, "--metric", "psnr", "--json", "r.json")
    assert done.code == 0, done.err
    metric = json.loads(Path("r.json").read_text())["metric"]
    assert (metric["name"], metric["before"]) == ("psnr", 100)
    assert 0 < metric["after"] < 100
    assert_refused(ndpass(*how, "--metric", "detection"), 2, "--metric detection needs boxes", "use --metric iou")
    assert_refused(ndpass(*how, "--metric", "top5"), 2, "top5 needs labels")
    assert_refused(ndpass(*how, "--metric", "detektion"), 2, "did you mean 'detection'?", "module:function")


def test_a_named_metric_needs_data(ndpass: Command) -> None:
    onnx.save(segmenter(), "mask.onnx")
    done = ndpass("run", "mask.onnx", "-q", "--passes", "nd:rank=2", "--metric", "iou", "-o", "o.onnx")
    assert_refused(done, 2, "--metric iou is measured on data", "--calibration")


def test_without_data_there_is_no_metric(ndpass: Command) -> None:
    onnx.save(segmenter(), "mask.onnx")
    done = ndpass("run", "mask.onnx", "-q", "--passes", "nd:rank=2", "-o", "o.onnx", "--json", "r.json")
    assert done.code == 0, done.err
    report = json.loads(Path("r.json").read_text())
    assert report["metric"] is None
    assert report["verified"]["the original on random inputs"]["samples"] == 16


def test_few_samples_are_few_answers_but_not_few_masks(folder: Path) -> None:
    """A drop of a point is resolved by 300 answers; of masks every place counts."""
    onnx.save(segmenter(), "mask.onnx")
    onnx.save(small_network(), "net.onnx")
    for name, side in (("mask.onnx", 16), ("net.onnx", 8)):
        options = run_options(passes.parse("nd"), Budget("max_drop", 1.0))
        images = pictures(40, side)
        asked = replace(options, data=Data(validation=lambda inputs, images=images: open_feeds(images, inputs)))
        job = read(folder / name, asked, lambda *_: None)
        if name == "mask.onnx":
            assert drop_warnings(job) == []
        else:
            with pytest.raises(UsageError, match=r"one of the 40 validation samples is 2\.5 points"):
                drop_warnings(job)


READER = """(float[n,3,8,8] x) => (float[t,n,5] logits) {
    a = Conv<pads=[1,1,1,1]>(x, W) b = ReduceMean<axes=[2], keepdims=0>(a) logits = Transpose<perm=[2,0,1]>(b) }"""


def test_places_of_a_sequence_are_answers(folder: Path) -> None:
    """40 samples of 8 places resolve a point; 24 of 8 a point roughly. Time comes first, as CTC has it."""
    onnx.save(network(READER, W=normal(5, 3, 3, 3)), folder / "reader.onnx")
    for count, said in ((40, []), (24, ["192 answers in 24 validation samples tell a drop of 1 points only roughly"])):
        options = run_options(passes.parse("nd"), Budget("max_drop", 1.0))
        images = normal(count, 3, 8, 8)
        asked = replace(options, data=Data(validation=lambda inputs, images=images: open_feeds(images, inputs)))
        job = read(folder / "reader.onnx", asked, lambda *_: None)
        assert [warning.partition(":")[0] for warning in drop_warnings(job)] == said
        assert job.judge.metric is not None
        assert "output 'logits' (8, batch, 5) is class scores at each place" in job.judge.metric.reason


def test_evaluate_against_another_model_says_how_far_the_masks_are(ndpass: Command) -> None:
    onnx.save(segmenter(), "a.onnx")
    onnx.save(segmenter("c = Mul(b, half)  mask = Sigmoid(c)  ", half=np.array(0.5, np.float32)), "b.onnx")
    np.save("data.npy", pictures())
    done = ndpass("evaluate", "b.onnx", "--data", "data.npy", "--against", "a.onnx")
    assert done.code == 0, done.err
    assert "iou        100.00 beside a.onnx: output 'mask' (batch, 1, 16, 16) is a map of 1 channel" in done.out
    assert "worst      'mask', 0." in done.out
