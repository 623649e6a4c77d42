"""detection: planted boxes that are moved, removed or of another class, in every layout that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import planted_outputs as outputs
import pytest
from planted_outputs import BOXES, CLASSES, finals, gathered, seen

from ndpass.errors import UsageError
from ndpass.measuring.metrics import default_metric, named_metric
from ndpass.measuring.metrics.boxes import MOST_FOUND, Detections, corners, found_again, iou, suppressed

Make = Callable[..., dict[str, Any]]


def separate(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """Without a batch axis, as many rows as detections."""
    scores = np.full(len(boxes), 0.9, np.float32)
    return {"boxes": boxes.astype(np.float32), "scores": scores, "classes": labels.astype(np.int64)}


def padded(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    rows = finals(boxes, labels)
    number = np.array([[len(boxes)]], np.int32)
    return {"num": number, "boxes": rows[..., :4], "scores": rows[..., 4], "labels": rows[..., 5].astype(np.int64)}


def scored(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    rows = finals(boxes, labels)
    return {"dets": rows[..., :5], "labels": rows[..., 5].astype(np.int64)}


def with_image(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """(1, 1, k, 7) image, class, score, corners; image -1 behind the last, where numbers of an earlier run may be."""
    rows = finals(boxes, labels)[0]
    table = np.concatenate([np.zeros((len(rows), 1)), rows[:, 5:], rows[:, 4:5], rows[:, :4]], axis=1)
    table[len(boxes) :] = [-1, 1, 0.99, 0, 0, 10, 10]
    return {"detection_out": table[None, None].astype(np.float32)}


def with_image_first(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """(k, 7) image, corners, class, score."""
    rows = finals(boxes, labels)[0, : len(boxes)]
    table = np.concatenate([np.zeros((len(rows), 1)), rows[:, :4], rows[:, 5:], rows[:, 4:5]], axis=1)
    return {"output": table.astype(np.float32)}


def triples(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """(k, 3) image, class, number of the box: moved boxes are others."""
    numbers = np.round(boxes.sum(axis=1)).astype(int)
    return {"selected": np.stack([0 * labels, labels, numbers], axis=1).astype(np.int64)}


def levels(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """Two sizes of anchors, scores in 0..1 of one class each and distances to the anchor."""
    found = {}
    for count, part in ((800, slice(0, 2)), (200, slice(2, 4))):
        rng = np.random.default_rng(count)
        rows = rng.uniform(2, 4, (1, count, 4))
        scores = rng.uniform(0, 0.01, (1, count, 3))
        for box, label, where in zip(boxes[part], labels[part], (10, 50), strict=False):
            x, y = (BOXES[part][where // 50, i::2].mean() for i in (0, 1))
            rows[0, where] = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / 8
            scores[0, where, label] = 0.9
        found |= {f"bbox_{count}": rows.astype(np.float32), f"score_{count}": scores.astype(np.float32)}
    return found


def distributions(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """As `levels`, each distance as the logits of the distances 0 to 7."""
    found = levels(boxes, labels)
    steps = np.arange(8)
    for name in [name for name in found if name.startswith("bbox")]:
        near = -40 * np.abs(np.clip(found[name], 0, 7)[..., None] - steps)
        found[name] = near.reshape(*near.shape[:2], 32).astype(np.float32)
    return found


def blaze(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """(1, 896, 16) shifts from anchors, sizes and six points, and (1, 896, 1) logits; a class has anchors of its own.

    What is nothing lies to all sides of its anchors; a find has two boxes on one anchor's place, as neighbours have.
    """
    rng = np.random.default_rng(0)
    rows, scores = rng.uniform(-40, 40, (1, 896, 16)), np.full((1, 896, 1), -9.0)
    rows[..., 2:4] = rng.uniform(20, 60, (1, 896, 2))
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        place = 100 * label + 10 * i
        rows[0, place, :4] = outputs.centred(box[None])[0]
        rows[0, place, :2] -= outputs.centred(BOXES[i : i + 1])[0, :2] - 3
        scores[0, place] = 2
    return {"regressors": rows.astype(np.float32), "classificators": scores.astype(np.float32)}


def blaze_levels(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """The same in outputs of 512 and 384 anchors."""
    cuts = {"8": slice(0, 512), "16": slice(512, 896)}
    return {f"{name}_{at}": v[:, cut] for name, v in blaze(boxes, labels).items() for at, cut in cuts.items()}


def heads(boxes: np.ndarray = BOXES, labels: np.ndarray = CLASSES) -> dict[str, Any]:
    """(1, 3·8, 40, 40) and (1, 3·8, 20, 20) in logits, offsets from the original boxes in cells."""
    maps = {"p3": np.full((1, 3, 8, 40, 40), -6.0), "p4": np.full((1, 3, 8, 20, 20), -6.0)}
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        at = maps["p3" if i < 2 else "p4"][0, i % 3, :, 5 * i, 3]
        at[4], at[5 + label] = 4, 4
        shift = outputs.centred(box[None])[0] - outputs.centred(BOXES[i : i + 1])[0]
        size = outputs.centred(BOXES[i : i + 1])[0, 2:]
        at[:4] = [*(shift[:2] / size), *np.log(outputs.centred(box[None])[0, 2:] / size)]
    return {name: value.reshape(1, 24, *value.shape[3:]).astype(np.float32) for name, value in maps.items()}


KINDS = {
    "yolov8": outputs.yolov8,
    "yolov8 logits": lambda *a: outputs.yolov8(*a, logits=True),
    "yolov8 turned": lambda *a: {"o": outputs.yolov8(*a)["output0"].swapaxes(1, 2)},
    "yolov5": outputs.yolov5,
    "yolov5 logits": lambda *a: outputs.yolov5(*a, logits=True),
    "ssd": outputs.ssd,
    "ssd centres": lambda *a: outputs.ssd(*a, form="centre"),
    "ssd logits": lambda *a: outputs.ssd(*a, scores_as="logits"),
    "ssd sigmoid": lambda *a: outputs.ssd(*a, scores_as="sigmoid"),
    "blaze": blaze,
    "blaze levels": blaze_levels,
    "heads": heads,
    "levels": levels,
    "distributions": distributions,
    "rows": lambda *a: {"detections": finals(*a)},
    "class before score": lambda *a: {"detections": finals(*a)[..., [0, 1, 2, 3, 5, 4]]},
    "separate": separate,
    "padded": padded,
    "scored": scored,
    "with image": with_image,
    "with image first": with_image_first,
    "triples": triples,
}
MAKERS = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
IMAGE = (3, 320, 320)


def f1(make: Make, boxes: np.ndarray, labels: np.ndarray) -> float:
    original = make()
    metric = default_metric(seen(original, 1, IMAGE))
    assert metric.name == "detection", str(metric)
    return gathered(metric.begin(), original, make(boxes, labels))


@MAKERS
def test_equal_detections_are_all_found(make: Make) -> None:
    assert f1(make, BOXES, CLASSES) == 100


@MAKERS
def test_a_box_that_is_gone(make: Make) -> None:
    assert f1(make, BOXES[:3], CLASSES[:3]) == pytest.approx(100 * 2 * 3 / (4 + 3))


@MAKERS
def test_a_box_of_another_class_is_another(make: Make) -> None:
    assert f1(make, BOXES, np.array([2, 0, 1, 1])) == pytest.approx(100 * 2 * 3 / (4 + 4))


@MAKERS
def test_a_box_that_moved_far_is_another(make: Make) -> None:
    moved = BOXES.copy()
    moved[1] += (40, 0, 40, 0)
    assert f1(make, moved, CLASSES) == pytest.approx(100 * 2 * 3 / (4 + 4))


@pytest.mark.parametrize("make", [make for name, make in KINDS.items() if name != "triples"])
def test_a_box_that_moved_a_little_is_the_same(make: Make) -> None:
    assert f1(make, BOXES + 2, CLASSES) == 100


def test_the_layout_is_named_with_the_shape_and_the_threshold() -> None:
    reason = str(default_metric(seen(outputs.yolov8(), 1, IMAGE)))
    assert reason == (
        "detection: output 'output0' (batch, 7, 2100) looks like YOLOv8 boxes and scores; "
        "boxes with a score above 0.25 count"
    )
    assert (
        "(batch, 6300, 8) looks like YOLOv5 boxes, objectness"
        in default_metric(seen(outputs.yolov5(), 1, IMAGE)).reason
    )
    assert (
        "outputs 'boxes' (batch, 3000, 4) and 'scores' (batch, 3000, 4)"
        in default_metric(seen(outputs.ssd(), 1, IMAGE)).reason
    )


def test_outputs_without_a_batch_axis_are_asked_for_sample_by_sample() -> None:
    alone = {name: default_metric(seen(make(), 1, IMAGE)).one_by_one for name, make in KINDS.items()}
    assert [name for name, one_by_one in alone.items() if one_by_one] == ["separate", "with image first", "triples"]


def test_several_batches_and_images_add_up() -> None:
    lost = finals(BOXES[:1], CLASSES[:1])
    two = {"d": np.concatenate([finals(), finals(BOXES[:2], CLASSES[:2])])}
    metric = named_metric("detection", seen(two, 2, IMAGE)).begin()
    metric.add(two, {"d": np.concatenate([finals(), lost])})
    metric.add({"d": finals()}, {"d": lost})
    values = metric.values()
    assert values is not None
    assert values[1].value == pytest.approx(100 * 2 * (4 + 1 + 1) / (10 + 6))
    assert values[1].samples == 3


def test_an_original_that_finds_nothing_says_so() -> None:
    nothing = outputs.yolov8(BOXES[:0], CLASSES[:0])
    metric = named_metric("detection", seen(nothing, 1, IMAGE)).begin()
    metric.add(nothing, outputs.yolov8())
    assert metric.values() is None
    (warning,) = metric.warnings()
    assert "the original finds nothing with a score above 0.25 in 1 samples: give data with objects" in warning


def test_few_objects_are_warned_of() -> None:
    original = outputs.yolov8()
    metric = named_metric("detection", seen(original, 1, IMAGE)).begin()
    metric.add(original, original)
    assert "finds only 4 objects in 1 samples, and each is 25.0 points" in metric.warnings()[0]


def test_scores_that_are_not_numbers_are_no_detections() -> None:
    original = outputs.yolov8()
    other = {name: value.copy() for name, value in original.items()}
    other["output0"][:, 4:] = np.nan
    assert gathered(default_metric(seen(original, 1, IMAGE)).begin(), original, other) == 0


def test_a_classifier_has_no_detections() -> None:
    scores = {"scores": np.random.default_rng(0).random((5, 10)).astype(np.float32)}
    with pytest.raises(
        UsageError, match=r"--metric detection needs boxes.*'scores' \(batch, 10\): use --metric agreem"
    ):
        named_metric("detection", seen(scores, 5, IMAGE))


def test_iou_is_the_common_area_over_that_of_both() -> None:
    a, b = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], float), np.array([[1, 1, 3, 3], [0, 0, 2, 2], [1, 1, 1, 1]], float)
    assert iou(a, b) == pytest.approx(np.array([[1 / 7, 1, 0], [0, 0, 0]]))


def test_suppression_leaves_the_best_of_each_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [0, 0, 10, 10]], float)
    found = suppressed(Detections(boxes, np.array([0.5, 0.9, 0.3, 0.4]), np.array([0, 0, 0, 1])))
    assert found.scores.tolist() == [0.9, 0.4, 0.3]  # 0.5 is the same as 0.9; 0.3 overlaps by 0.44


def test_no_more_than_the_best_of_many_boxes_are_detections() -> None:
    count = MOST_FOUND + 20
    boxes = np.arange(count)[:, None] * 10.0 + [0, 0, 9, 9]
    scores = np.linspace(0.5, 0.9, count)
    found = suppressed(Detections(boxes, scores, np.zeros(count, int)))
    assert found.scores.tolist() == scores[::-1][:MOST_FOUND].tolist()


def test_each_detection_has_one_partner() -> None:
    box = np.array([[0, 0, 10, 10]], float)
    one = Detections(box, np.ones(1), np.zeros(1, int))
    two = Detections(np.concatenate([box, box + 1]), np.ones(2), np.zeros(2, int))
    assert found_again(one, two) == found_again(two, one) == 1


def test_boxes_of_unknown_anchors_overlap_only_on_the_same_anchor() -> None:
    offsets = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], float)
    placed = corners(offsets, "offsets", np.array([3, 4, 4]))
    assert iou(placed, placed)[0].tolist() == [1, 0, 0]
    assert iou(placed, placed)[1, 2] == pytest.approx(0.9 / 1.1)  # moved by a tenth of the anchor
