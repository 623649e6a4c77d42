"""Metrics by name on planted outputs, against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planted_outputs import gathered, reading, seen
from sklearn.metrics import jaccard_score, top_k_accuracy_score

from ndpass.errors import InputError, UsageError
from ndpass.measuring.evaluate import Counting, Gathering
from ndpass.measuring.metrics import NAMES, named_metric

RNG = np.random.default_rng(0)
IMAGE = (3, 32, 32)


def scores(count: int = 40, classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, classes)).astype(np.float32)


def both(metric: Gathering, *batches: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> tuple[float, float]:
    for original, other in batches:
        metric.add(original, other)
    values = metric.values()
    assert values is not None
    return values[0].value, values[1].value


@pytest.mark.parametrize(("name", "k"), [("top1", 1), ("top5", 5)])
@pytest.mark.parametrize("shape", [(10,), (10, 1, 1)])
def test_accuracy_is_that_of_scikit_learn_over_batches(name: str, k: int, shape: tuple[int, ...]) -> None:
    labels = RNG.integers(0, 10, 40)
    a, b = scores(), scores(seed=1)
    parts = [({"y": a[p].reshape(-1, *shape)}, {"y": b[p].reshape(-1, *shape)}) for p in (slice(0, 25), slice(25, 40))]
    metric = named_metric(name, seen(parts[0][0], 25, IMAGE, labels))
    assert metric.name == name
    assert both(metric.begin(), *parts) == pytest.approx(
        tuple(100 * top_k_accuracy_score(labels, s, k=k, labels=np.arange(10)) for s in (a, b))
    )


def test_scores_that_are_equal_or_no_numbers_are_not_right_by_chance() -> None:
    labels = np.array([0, 7, 3])
    even = np.zeros((3, 10), np.float32)
    metric = named_metric("top5", seen({"y": even}, 3, IMAGE, labels)).begin()
    assert both(metric, ({"y": even}, {"y": even * np.nan})) == (pytest.approx(200 / 3), 0)


def test_labels_that_are_no_classes_are_refused() -> None:
    metric = named_metric("top1", seen({"y": scores(3)}, 3, IMAGE, np.array([0, 1, 9]))).begin()
    with pytest.raises(InputError, match="0 to 4 in this model; labels go from 0 to 9"):
        metric.add({"y": scores(3, 5)}, {"y": scores(3, 5)})
    with pytest.raises(InputError, match="3 labels, 4 rows"):
        metric.add({"y": scores(4)}, {"y": scores(4)})


def test_agreement_of_several_heads_is_that_of_the_whole_answer() -> None:
    a = {f"digit_{i}": scores(seed=i) for i in range(3)}
    b = {name: value.copy() for name, value in a.items()}
    b["digit_1"][:8] = np.roll(a["digit_1"][:8], 1, axis=1)
    b["digit_2"][4:14] = np.roll(a["digit_2"][4:14], 1, axis=1)
    metric = named_metric("agreement", seen(a, 40, IMAGE)).begin()
    parts = [tuple({k: v[p] for k, v in found.items()} for found in (a, b)) for p in (slice(0, 25), slice(25, 40))]
    assert both(metric, *parts) == (100, 100 * (40 - 14) / 40)


@pytest.mark.parametrize("time_first", [False, True])
def test_a_sequence_has_as_many_answers_as_places_that_say_anything(time_first: bool) -> None:
    a = reading(8, 40, 97)
    said = int((a.argmax(axis=2) != 0).sum())
    found = {"y": a.swapaxes(0, 1) if time_first else a}
    metric = named_metric("agreement", seen(found, 8)).begin()
    assert isinstance(metric, Counting)
    metric.add(found, found)
    values = metric.values()
    assert values is not None
    assert (values[1].samples, metric.answers) == (8, said)


def test_an_accuracy_of_guessing_is_warned_of() -> None:
    labels, guesses = np.arange(200) % 10, np.zeros((200, 10), np.float32)
    metric = named_metric("top1", seen({"y": guesses}, 200, IMAGE, labels)).begin()
    metric.add({"y": guesses}, {"y": guesses})
    (warning,) = metric.warnings()
    assert warning.startswith("accuracy before is 10 % on 200 samples and guessing among 10 classes gives 10 %")


@pytest.mark.parametrize(
    ("name", "output"),
    [("top1", scores()), ("agreement", scores()), ("psnr", RNG.random((40, 3, 32, 32)).astype(np.float32))],
)
def test_without_a_sample_there_is_no_value(name: str, output: np.ndarray) -> None:
    metric = named_metric(name, seen({"y": output}, 40, IMAGE, np.zeros(40, int))).begin()
    assert metric.values() is None
    assert metric.warnings() == []


def test_accuracy_without_labels_is_refused() -> None:
    with pytest.raises(UsageError, match="top5 needs labels and the data have none: give labels, or use --metric agr"):
        named_metric("top5", seen({"y": scores()}, 40, IMAGE))


def test_agreement_is_the_share_of_equal_best_classes() -> None:
    a, b = scores(), scores(seed=1)
    expected = 100 * np.mean(a.argmax(1) == b.argmax(1))
    assert gathered(named_metric("agreement", seen({"y": a}, 40)).begin(), {"y": a}, {"y": b}) == expected
    assert gathered(named_metric("agreement", seen({"y": a}, 40)).begin(), {"y": a}, {"y": b * np.nan}) == 0


def test_agreement_of_a_sequence_is_counted_at_every_place() -> None:
    a, b = (np.exp(scores(6 * 7, 5, seed)).reshape(6, 7, 5) for seed in (0, 1))
    a, b = (x / x.sum(axis=2, keepdims=True) for x in (a, b))
    expected = 100 * np.mean(a.argmax(2) == b.argmax(2))
    metric = named_metric("agreement", seen({"y": a}, 6))
    assert gathered(metric.begin(), {"y": a}, {"y": b}) == pytest.approx(expected)


def test_agreement_of_a_reading_is_of_the_places_that_say_anything() -> None:
    """Nine places of ten are blank in both: a text of which half is read otherwise does not agree by 95 %."""
    a = np.zeros((2, 20, 5), np.float32)
    a[:, :, 0] = 0.9
    a[:, [4, 12], 0], a[:, 4, 1], a[:, 12, 2] = 0.0, 0.9, 0.9
    b = a.copy()
    b[:, 12, 2], b[:, 12, 3] = 0.0, 0.9
    a, b = (x + 0.1 / 5 for x in (a, b))
    metric = named_metric("agreement", seen({"y": a}, 2))
    assert gathered(metric.begin(), {"y": a}, {"y": b}) == 50
    b[:, 0], b[:, 0, 4] = 0.0, 1.0  # a letter where there was none counts, too
    assert gathered(metric.begin(), {"y": a}, {"y": b}) == pytest.approx(100 / 3)
    assert gathered(metric.begin(), {"y": a}, {"y": a}) == 100


def test_scores_of_a_sequence_that_do_not_sum_to_one_are_classes_where_that_is_asked() -> None:
    """As PyTorch exports recognisers of text: logits."""
    a, b = (scores(6 * 7, 5, seed).reshape(7, 6, 5) for seed in (0, 1))
    metric = named_metric("agreement", seen({"y": a}, 6))
    assert "is taken for class scores, as asked," in metric.reason
    assert gathered(metric.begin(), {"y": a}, {"y": b}) == pytest.approx(100 * np.mean(a.argmax(2) == b.argmax(2)))


def masks(count: int, maps: int, seed: int) -> np.ndarray:
    """(count, maps, 16, 16) near 0 and 1."""
    values = np.random.default_rng(seed).random((count, maps, 16, 16))
    return np.where(values > 0.6, 0.95, 0.05).astype(np.float32)


@pytest.mark.parametrize("last", [False, True])
def test_iou_of_maps_cut_by_a_threshold(last: bool) -> None:
    a, b = masks(4, 2, 0), masks(4, 2, 1)
    expected = 100 * np.mean([jaccard_score((a[:, i] > 0.5).ravel(), (b[:, i] > 0.5).ravel()) for i in range(2)])
    a, b = (np.moveaxis(x, 1, 3) if last else x for x in (a, b))
    metric = named_metric("iou", seen({"y": a}, 4, IMAGE))
    assert metric.reason.endswith("is 2 maps in 0..1, cut at 0.5")
    parts = [({"y": a[:1]}, {"y": b[:1]}), ({"y": a[1:]}, {"y": b[1:]})]
    assert both(metric.begin(), *parts) == (100, pytest.approx(expected))


def test_iou_of_one_square_that_moved() -> None:
    a, b = (np.zeros((1, 1, 20, 20), np.float32) for _ in range(2))
    a[..., 2:12, 2:12] = 0.9
    b[..., 2:12, 7:17] = 0.7
    metric = named_metric("iou", seen({"map": a}, 1, IMAGE))
    assert gathered(metric.begin(), {"map": a}, {"map": b}) == pytest.approx(100 * 50 / 150)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "numbers"])
def test_iou_of_maps_of_classes_counts_those_that_the_original_shows(kind: str) -> None:
    a, b = (scores(2 * 12 * 12, 5, seed).reshape(2, 12, 12, 5).transpose(0, 3, 1, 2) for seed in (0, 1))
    a[:, 3] -= 100  # class 3 is nowhere in the original
    p, q = a.argmax(1), b.argmax(1)
    expected = 100 * jaccard_score(p.ravel(), q.ravel(), labels=[0, 1, 2, 4], average="macro")
    if kind == "probabilities":
        a, b = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    a, b = (p, q) if kind == "numbers" else (a, b)
    metric = named_metric("iou", seen({"y": a}, 2, IMAGE))
    assert gathered(metric.begin(), {"y": a}, {"y": b}) == pytest.approx(expected)


def test_iou_where_the_original_shows_nothing_has_no_value() -> None:
    a = np.full((2, 1, 16, 16), 0.1, np.float32)
    metric = named_metric("iou", seen({"y": a}, 2, IMAGE)).begin()
    metric.add({"y": a}, {"y": 1 - a})
    assert metric.values() is None
    assert "the original's 'y' is nowhere above 0.5 on these data: give other data" in metric.warnings()[0]


def test_psnr_is_the_range_over_the_mean_square_in_decibels() -> None:
    a = np.zeros((2, 3, 8, 8), np.float32)
    a[:, :, ::2] = 200
    metric = named_metric("psnr", seen({"y": a}, 2, (3, 8, 8)))
    parts = [({"y": a[:1]}, {"y": a[:1] + 2}), ({"y": a[1:]}, {"y": a[1:]})]
    assert both(metric.begin(), *parts) == (100, pytest.approx(20 * math.log10(200 / math.sqrt(2))))


def test_psnr_of_equal_and_of_broken_outputs() -> None:
    a = scores()
    metric = named_metric("psnr", seen({"y": a}, 40))
    assert gathered(metric.begin(), {"y": a}, {"y": a}) == 100
    assert gathered(metric.begin(), {"y": a}, {"y": a * np.nan}) == 0
    assert gathered(metric.begin(), {"y": a}, {"y": a + 1e9}) == 0


def test_the_lowest_psnr_of_several_outputs_counts() -> None:
    a = {"x": scores(), "y": scores(seed=1)}
    b = {"x": a["x"], "y": a["y"] + np.ptp(a["y"]) / 100}
    assert gathered(named_metric("psnr", seen(a, 40)).begin(), a, b) == pytest.approx(40, abs=1e-3)


def test_explained_is_what_the_worst_output_leaves_of_its_variance() -> None:
    a = {"x": scores(), "y": scores(seed=1)}
    b = {"x": a["x"], "y": a["y"] + 0.3}
    y = a["y"].astype(np.float64)
    expected = 100 * (1 - 0.09 * y.size / np.square(y - y.mean(axis=0)).sum())
    assert gathered(named_metric("explained", seen(a, 40)).begin(), a, b) == pytest.approx(expected, rel=1e-5)
    assert gathered(named_metric("explained", seen(a, 40)).begin(), a, {"x": a["x"], "y": a["y"] * np.inf}) == 0


def test_names() -> None:
    assert NAMES == ("top1", "top5", "agreement", "iou", "psnr", "detection", "explained")
