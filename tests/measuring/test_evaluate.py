"""Metrics against the naive formulas on all samples at once, however they are cut into batches."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import SHARED
from scipy.special import log_softmax

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.errors import InputError, UsageError
from ndpass.measuring.evaluate import accuracy, compare, evaluate, score_output, stored
from ndpass.measuring.metrics.values import Explained
from ndpass.measuring.own_metric import measure, resolve_metric
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO
from ndpass.measuring.top1 import at_chance

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
TOLERANCE = 1e-5  # f32 inference against NumPy in f64
CLASSES = 12


def linear(weight: np.ndarray, tail: str = "y = Identity(z)", signature: str = "float[N, 12] y") -> OnnxRuntime:
    """x (N, 6) -> z = x @ weight (N, 12) -> whatever `tail` makes of it."""
    proto = onnx.parser.parse_model(f"{HEADER} g (float[N, 6] x) => ({signature}) {{ z = MatMul(x, w) {tail} }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    return OnnxRuntime(proto.SerializeToString())


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, CLASSES))


def inputs(count: int = 23) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, 6), dtype=np.float32)


def data(x: np.ndarray, labels: np.ndarray | None, runner: OnnxRuntime, folder: Path) -> Feeds:
    if labels is None:
        return open_feeds(x, runner.inputs)
    np.savez(folder / "data.npz", images=x, labels=labels)
    return open_feeds(folder / "data.npz", runner.inputs)


@pytest.mark.parametrize("batch", [1, 5, 23, 40])
def test_accuracy_counts_right_answers_whatever_the_batch(batch: int, tmp_path: Path) -> None:
    x, labels = inputs(), np.arange(23) % CLASSES
    runner = linear(weight())
    expected = 100 * np.mean((x @ weight()).argmax(axis=1) == labels)
    assert accuracy(runner, data(x, labels, runner, tmp_path), batch) == pytest.approx(expected)


def test_accuracy_reads_scores_with_trailing_ones(tmp_path: Path) -> None:
    tail = "s = Constant<value_ints = [0, 12, 1, 1]>() y = Reshape(z, s)"
    runner = linear(weight(), tail, "float[N, 12, 1, 1] y")
    labels = (inputs() @ weight()).argmax(axis=1)
    assert accuracy(runner, data(inputs(), labels, runner, tmp_path), 4) == 100


def test_accuracy_without_labels_or_scores_or_with_other_classes_is_refused(tmp_path: Path) -> None:
    runner = linear(weight())
    with pytest.raises(UsageError, match="the data have none"):
        accuracy(runner, data(inputs(), None, runner, tmp_path), 4)
    with pytest.raises(InputError, match="0 to 11 in this model; labels go from 0 to 22"):
        accuracy(runner, data(inputs(), np.arange(23), runner, tmp_path), 23)
    scalar = linear(weight(), "y = ReduceSum(z)", "float[1, 1] y")
    with pytest.raises(InputError, match="needs an output"):
        accuracy(scalar, data(inputs(), np.zeros(23, int), scalar, tmp_path), 4)


@pytest.mark.parametrize("batch", [1, 5, 23])
@pytest.mark.parametrize("tail", ["y = Identity(z)", "y = Softmax(z)"], ids=["logits", "probabilities"])
def test_agreement_equals_the_formulas(batch: int, tail: str, tmp_path: Path) -> None:
    before, after = linear(weight(), tail), linear(weight() + 0.2 * weight(1), tail)
    found = compare(before, after, data(inputs(), None, before, tmp_path), batch)
    x = inputs().astype(np.float64)
    p, q = log_softmax(x @ weight(), axis=1), log_softmax(x @ (weight() + 0.2 * weight(1)), axis=1)
    a, b = (x @ weight(), x @ (weight() + 0.2 * weight(1))) if tail == "y = Identity(z)" else (np.exp(p), np.exp(q))
    assert found.samples == 23
    assert found.top1_agreement == pytest.approx(100 * np.mean(a.argmax(axis=1) == b.argmax(axis=1)))
    assert found.relative_error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=TOLERANCE)
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=1e-3)
    assert found.worst_output == "y"


@pytest.mark.parametrize("batch", [1, 5, 23])
def test_agreement_of_several_heads_is_that_of_all(batch: int, tmp_path: Path) -> None:
    """Their divergences add up."""
    tail = "k = Constant<value_ints = [6, 6]>() l, r = Split<axis = 1>(z, k) left = Softmax(l) right = Softmax(r)"
    both = "float[N, 6] left, float[N, 6] right"
    before, after = linear(weight(), tail, both), linear(weight() + 0.2 * weight(1), tail, both)
    found = compare(before, after, data(inputs(), None, before, tmp_path), batch)
    x, same, kl = inputs().astype(np.float64), np.ones(23, bool), 0.0
    for half in (slice(0, 6), slice(6, 12)):
        p, q = (log_softmax((x @ w)[:, half], axis=1) for w in (weight(), weight() + 0.2 * weight(1)))
        same &= p.argmax(axis=1) == q.argmax(axis=1)
        kl += (np.exp(p) * (p - q)).sum(axis=1).mean()
    assert found.top1_agreement == pytest.approx(100 * same.mean())
    assert found.kl == pytest.approx(kl, rel=1e-3)


def test_a_model_agrees_with_itself_in_the_other_runtime(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(f"{HEADER} g (float[N, 6] x) => (float[N, 6] y) {{ y = Softmax(x) }}")
    a, b = OnnxRuntime(proto.SerializeToString()), OpenVINO(proto.SerializeToString())
    found = compare(a, b, data(inputs(), None, a, tmp_path), 8)
    assert found.relative_error < TOLERANCE
    assert found.top1_agreement == 100
    assert found.kl is not None
    assert found.kl < TOLERANCE


def test_the_worst_output_is_named_with_the_error_of_each(tmp_path: Path) -> None:
    both = "float[N, 12] same, float[N, 12] far"
    a, b = (
        linear(weight(), f"same = Identity(z) k = Constant<value_float = {k}>() far = Mul(z, k)", both)
        for k in (1.0, 1.5)
    )
    found = compare(a, b, data(inputs(), None, a, tmp_path), 8)
    assert found.worst_output == "far"
    assert found.distances == pytest.approx({"same": 0.0, "far": 0.5})
    assert found.relative_error == pytest.approx(0.5 / math.sqrt(2))


def test_each_output_has_an_error_relative_to_its_own_variance(tmp_path: Path) -> None:
    both = "float[N, 12] small, float[N, 12] large"
    a, b = (
        linear(
            weight(),
            "h = Constant<value_float = 1000.0>() k = Constant<value_float = "
            f"{k}>() small = Mul(z, k) large = Mul(z, h)",
            both,
        )
        for k in (1.0, 0.5)
    )
    found = compare(a, b, data(inputs(), None, a, tmp_path), 8)
    z = inputs().astype(np.float64) @ weight()
    expected = np.square(0.5 * z).sum() / np.square(z - z.mean(axis=0)).sum()
    assert found.relative_error < 1e-3
    assert found.worst == ("small", pytest.approx(expected, rel=TOLERANCE))
    assert found.outputs["large"].error == 0


def test_without_class_scores_only_the_error_is_known(tmp_path: Path) -> None:
    tail = "u = Constant<value_ints = [1]>() a = Unsqueeze(z, u) y = Concat<axis = 1>(a, a)"
    runner = linear(weight(), tail, "float[N, 2, 12] y")
    found = compare(runner, runner, data(inputs(), None, runner, tmp_path), 8)
    assert (found.top1_agreement, found.kl, found.relative_error) == (None, None, 0)


@pytest.mark.parametrize("tail", ["k = Constant<value_float = 0.0>() y = Div(z, k)", "y = Log(z)"])
def test_what_is_not_finite_is_infinitely_far_and_never_nan(tail: str, tmp_path: Path) -> None:
    good, bad = linear(weight()), linear(weight(), tail)
    found = compare(good, bad, data(inputs(), None, good, tmp_path), 8)
    assert found.relative_error == math.inf
    assert found.kl is not None
    assert not math.isnan(found.kl)


def test_a_stored_reference_gives_the_same_as_one_run_beside(tmp_path: Path) -> None:
    before, after = linear(weight()), linear(weight() + 0.1 * weight(1))
    feeds = data(inputs(), np.arange(23) % CLASSES, before, tmp_path)
    assert evaluate(stored(before, feeds, 7), after, feeds, 7) == evaluate(before, after, feeds, 7)


def test_outputs_stored_with_another_batch_size_are_refused(tmp_path: Path) -> None:
    runner = linear(weight())
    feeds = data(inputs(), None, runner, tmp_path)
    kept = stored(runner, feeds, 10)
    with pytest.raises(UsageError, match="too few"):
        compare(kept[:1], runner, feeds, 10)
    with pytest.raises(UsageError, match="too many"):
        compare(kept, runner, feeds.take(range(10)), 10)
    with pytest.raises(InputError, match=r"\(10, 12\).*\(7, 12\)"):
        compare(kept, runner, feeds, 7)


def test_a_metric_is_of_the_samples_whatever_rows_the_outputs_have() -> None:
    """An output of 6 rows a sample made "30 samples" of 5."""
    tail = "s = Constant<value_ints = [-1, 2]>() y = Reshape(z, s)"
    runner = linear(weight(), tail, "float[M, 2] y")
    found = evaluate(runner, runner, open_feeds(inputs(5), runner.inputs), 2, Explained({}))
    assert found.before is not None
    assert found.after is not None
    assert (found.before.samples, found.after.samples, found.after.value) == (5, 5, 100.0)


def test_outputs_of_other_rows_than_the_original_s_are_left_out_of_what_is_explained() -> None:
    """As a choice behind rewritten layers gives: it was a ValueError after everything had been fitted."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((40, 3)).astype(np.float32)
    off = (0.1 * rng.standard_normal((40, 3))).astype(np.float32)
    chosen = rng.standard_normal((9, 2)).astype(np.float32)
    metric = Explained({})
    metric.add({"y": y[:20], "chosen": chosen}, {"y": (y + off)[:20], "chosen": -chosen})
    metric.add({"y": y[20:], "chosen": chosen}, {"y": (y + off)[20:], "chosen": chosen[:4]})
    found = metric.values()
    assert found is not None
    variance = ((y.astype(np.float64) - y.mean(0)) ** 2).sum()
    assert found[1].value == pytest.approx(100 * (1 - (off.astype(np.float64) ** 2).sum() / variance), rel=1e-4)
    assert metric.warnings() == ["output 'chosen' has other rows than the original's: the metric is without it"]


def test_metrics_before_and_after_come_from_the_same_pass(tmp_path: Path) -> None:
    before, after = linear(weight()), linear(weight(3))
    labels = (inputs() @ weight()).argmax(axis=1)
    feeds = data(inputs(), labels, before, tmp_path)
    found = evaluate(before, after, feeds, 8)
    assert found.before is not None
    assert found.after is not None
    assert (found.before.name, found.before.value, found.before.samples) == ("accuracy", 100, 23)
    assert found.after.value == pytest.approx(accuracy(after, feeds, 8))
    assert found.warnings == []
    assert evaluate(before, after, data(inputs(), None, before, tmp_path), 8).before is None


def test_accuracy_at_chance_is_warned_of(tmp_path: Path) -> None:
    runner = linear(weight())
    x = inputs(400)
    labels = np.random.default_rng(1).integers(0, CLASSES, 400)
    (warning,) = evaluate(runner, runner, data(x, labels, runner, tmp_path), 100).warnings
    assert "does --preprocess fit" in warning
    assert "guessing among 12 classes gives 8.33 %" in warning


@pytest.mark.parametrize(
    ("per_cent", "samples", "classes", "expected"),
    [
        (10, 1000, 10, True),
        (12.8, 1000, 10, True),
        (12.9, 1000, 10, False),
        (0, 1000, 10, True),
        (100, 1, 2, False),
        (100, 50, 1, False),
        (50, 10_000, 2, True),
        (52, 10_000, 2, False),
    ],
)
def test_chance_is_three_standard_deviations_around_one_over_classes(
    per_cent: float, samples: int, classes: int, expected: bool
) -> None:
    assert at_chance(per_cent, samples, classes) is expected


def test_constant_outputs_are_warned_of_only_if_there_is_more_than_one_sample(tmp_path: Path) -> None:
    runner = linear(np.zeros((6, CLASSES)))
    many, one = (data(inputs(count), None, runner, tmp_path) for count in (5, 1))
    assert ["same output" in text for text in evaluate(runner, runner, many, 2).warnings] == [True]
    assert evaluate(runner, runner, one, 2).warnings == []


def test_an_original_that_overflows_is_warned_of(tmp_path: Path) -> None:
    runner = linear(weight(), "k = Constant<value_float = 1e38>() a = Mul(z, k) y = Mul(a, k)")
    (warning,) = evaluate(runner, runner, data(inputs(), None, runner, tmp_path), 8).warnings
    assert "output 'y' of the original model is not finite" in warning


def test_score_output_is_the_likeliest_of_several_tables() -> None:
    """A face detector's: offsets of the box and landmarks come first, what is a face last."""
    rng = np.random.default_rng(0)
    face = rng.random((6, 1), np.float32)
    arrays = {
        "dense_4": rng.standard_normal((6, 4), np.float32),
        "dense_5": rng.standard_normal((6, 12), np.float32),
        "landmarks": rng.standard_normal((6, 10), np.float32),
        "softmax": np.concatenate([face, 1 - face], axis=1),
    }
    feed = {"x": np.zeros((6, 7), np.float32)}
    assert score_output(arrays, feed) == "softmax"
    del arrays["softmax"]
    assert score_output(arrays, feed) == "dense_5"
    del arrays["dense_5"]
    assert score_output(arrays, feed) is None
    assert score_output(arrays, feed, labelled=True) == "dense_4"


def test_few_numbers_are_classes_where_something_says_so() -> None:
    """Three scores of a sound's quality have a largest one, too, always the same."""
    few = np.random.default_rng(0).normal((3.1, 4.0, 2.8), 0.3, (6, 3)).astype(np.float32)
    feed = {"x": np.zeros((6, 7), np.float32)}
    assert score_output({"y": few}, feed) is None
    assert score_output({"y": few}, feed, labelled=True) == "y"
    assert score_output({"logits": few}, feed) == "logits"
    assert score_output({"y": log_softmax(few, axis=1)}, feed) == "y"


def test_score_output_wants_floats_of_two_classes_or_more() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "boxes": np.zeros((2, 3, 4), np.float32),
        "one": np.zeros((2, 1), np.float32),
        "moments": np.ones((2, 30, 1), np.float32),
        "ids": np.zeros((2, 5), np.int64),
        "scores": np.zeros((2, 5), np.float32),
    }
    feed = {"x": np.zeros((2, 7), np.float32)}
    assert score_output(arrays, feed) == "scores"
    assert score_output(arrays, {"x": np.zeros((1, 7), np.float32)}) is None  # two detections in one image
    del arrays["scores"]
    assert score_output(arrays, feed) is None


def write_metric(folder: Path, name: str, text: str) -> str:
    """Modules have names of their own: what is imported once stays for the whole test run."""
    (folder / f"{name}.py").write_text(text)
    return f"{name}:score"


def test_a_metric_of_ones_own_is_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "def score(compiled):\n    return len(compiled.outputs)\nscore.higher_is_better = False\n"
    spec = write_metric(tmp_path, "metric_outputs", text)
    proto = onnx.parser.parse_model(f"{HEADER} g (float[N, 6] x) => (float[N, 6] y) {{ y = Softmax(x) }}")
    found = measure(spec, OpenVINO(proto.SerializeToString()).compiled)
    assert (found.name, found.value, found.samples, found.higher_is_better) == ("score", 1.0, None, False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("score", "written module:function"),
        (":score", "written"),
        ("metric_absent:score", "cannot be imported"),
        ("math:nothing", "no function nothing"),
        ("math:pi", "no function pi"),
    ],
)
def test_a_metric_that_is_not_there_is_a_usage_error(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_metric(spec)


def test_a_metric_that_fails_or_returns_no_number_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="ZeroDivisionError") as error:
        measure(lambda _: 1 / 0, None)
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(UsageError, match="finite number"):
        measure(lambda _: math.nan, None)


def test_a_trained_model_has_its_accuracy_on_real_images() -> None:
    shared = SHARED
    if not shared.exists():
        pytest.skip("../shared with the trained models is not beside this checkout")
    runner = OpenVINO(shared / "models/resnet20_cifar10.onnx")
    with np.load(shared / "data/cifar10_validation.npz") as archive:
        images, labels = archive["images"][:500], archive["labels"][:500]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((images / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    feeds = replace(open_feeds(x, runner.inputs), labels=labels)
    assert accuracy(runner, feeds, 100) > 85
    assert evaluate(runner, runner, feeds, 100).warnings == []
