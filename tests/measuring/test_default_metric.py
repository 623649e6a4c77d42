"""Which metric is the default, and why, for outputs of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_outputs as outputs
import pytest
from planted_outputs import seen

from ndpass.errors import UsageError
from ndpass.measuring.metrics import default_metric, named_metric

IMAGE = (3, 320, 320)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def softmax(x: Any, axis: int = 1) -> Any:
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("found", "samples", "expected"),
    [
        (outputs.yolov8(), 1, "detection: output 'output0' (batch, 7, 2100) looks like YOLOv8 boxes and scores"),
        (outputs.yolov8(logits=True), 1, "detection: output 'output0' (batch, 7, 2100) looks like YOLOv8"),
        (outputs.yolov5(), 1, "detection: output 'out' (batch, 6300, 8) looks like YOLOv5"),
        (outputs.ssd(), 1, "detection: outputs 'boxes' (batch, 3000, 4) and 'scores'"),
        ({"r": outputs.finals()}, 1, "detection: output 'r' (batch, 20, 6) looks like boxes after non-maximum"),
        ({"output0": normal(2, 84, 2100)}, 2, "detection: output 'output0' (batch, 84, 2100) looks like YOLOv8"),
        ({"out": sigmoid(normal(1, 6300, 85))}, 1, "detection: output 'out' (batch, 6300, 85)"),
        ({"y": normal(8, 10)}, 8, "agreement: no labels, output 'y' (batch, 10) is class scores"),
        ({"y": softmax(normal(8, 512))}, 8, "agreement: no labels, output 'y' (batch, 512) is class scores"),
        ({"transpose_1": normal(8, 10)}, 8, "agreement: no labels, output 'transpose_1'"),
        ({"stage4": normal(8, 10)}, 8, "agreement: no labels, output 'stage4'"),
        ({"head_pose": normal(8, 3)}, 8, "explained: 'head_pose'"),
        ({"y": normal(8, 3)}, 8, "explained: 'y' (batch, 3): neither class scores (--metric agreement where they are"),
        ({"y": softmax(normal(8, 3))}, 8, "agreement: no labels, output 'y' (batch, 3) is class scores"),
        ({"y": np.log(softmax(normal(8, 3)))}, 8, "agreement: no labels, output 'y' (batch, 3) is class scores"),
        ({"logits": normal(8, 3)}, 8, "agreement: no labels, output 'logits'"),
        ({"scores": -np.sort(-normal(8, 32, 1), axis=1)}, 8, "explained: 'scores' (batch, 32, 1)"),
        ({"y": normal(8, 896, 1)}, 8, "explained: 'y' (batch, 896, 1)"),
        ({"scores": normal(8, 896, 1)}, 8, "explained: 'scores' (batch, 896, 1)"),
        ({"y": softmax(normal(8, 10, 1))}, 8, "agreement: no labels, output 'y' (batch, 10, 1) is class scores"),
        ({"y": sigmoid(9 * normal(8, 900, 1))}, 8, "iou: output 'y' (batch, 900, 1) is a map of 1 channel in 0..1"),
        ({"y": outputs.reading(8, 40, 97)}, 8, "agreement: output 'y' (batch, 40, 97) is class scores at each"),
        ({"y": outputs.reading(8, 40, 97, blank=96)}, 8, "agreement: output 'y' (batch, 40, 97)"),
        ({"y": outputs.reading(8, 40, 97).swapaxes(0, 1)}, 8, "agreement: output 'y' (40, batch, 97) is class scores"),
        ({"logits": normal(20, 8, 37)}, 8, "agreement: output 'logits' (20, batch, 37) is class scores at each"),
        ({"y": normal(8, 40, 97)}, 8, "explained: 'y' (batch, 40, 97)"),
        ({"tokens": outputs.tokens(8, 50, 384)}, 8, "explained: 'tokens' (batch, 50, 384)"),
        ({"y": outputs.reading(8, 40, 5)}, 8, "explained: 'y' (batch, 40, 5)"),
        ({"y": normal(8, 10, 1, 1)}, 8, "agreement: no labels, output 'y' (batch, 10, 1, 1) is class scores"),
        ({"a": normal(8, 4), "b": normal(8, 10), "c": softmax(normal(8, 2))}, 8, "agreement: no labels, output 'c'"),
        ({"y": softmax(normal(3, 40, 97), 2)}, 3, "agreement: output 'y' (batch, 40, 97) is class scores at each"),
        ({"y": normal(2, 21, 80, 80)}, 2, "iou: output 'y' (batch, 21, 80, 80) is a map of 21 class scores"),
        ({"y": softmax(normal(2, 2, 80, 80))}, 2, "iou: output 'y' (batch, 2, 80, 80) is a map of 2 classes"),
        ({"y": RNG.integers(0, 9, (2, 64, 64))}, 2, "iou: output 'y' (batch, 64, 64) is a map of class numbers"),
        (
            {"map": sigmoid(9 * normal(2, 1, 320, 320))},
            2,
            "iou: output 'map' (batch, 1, 320, 320) is a map of 1 channel",
        ),
        ({"y": sigmoid(9 * normal(2, 160, 160, 2))}, 2, "iou: output 'y' (batch, 160, 160, 2) is 2 maps in 0..1"),
        ({"notes": sigmoid(9 * normal(2, 172, 88))}, 2, "iou: output 'notes' (batch, 172, 88) is a map of 1 channel"),
        ({"y": 255 * sigmoid(normal(2, 3, 640, 640))}, 2, "psnr: output 'y' (batch, 3, 640, 640) is a picture"),
        ({"y": sigmoid(normal(2, 3, 320, 320))}, 2, "psnr: output 'y' (batch, 3, 320, 320) is a picture"),
        ({"y": 4 * normal(2, 1, 320, 320)}, 2, "iou: output 'y' (batch, 1, 320, 320) is a map of 1 channel in logits"),
        ({"y": 4 * normal(2, 160, 160)}, 2, "iou: output 'y' (batch, 160, 160) is a map of 1 channel in logits"),
        ({"y": np.tanh(normal(2, 1, 320, 320))}, 2, "psnr: output 'y'"),
        ({"depth": 10 + normal(2, 1, 320, 320)}, 2, "psnr: output 'depth'"),
        ({"y": unit(normal(8, 100))}, 8, "explained: 'y' (batch, 100): neither"),
        ({"y": normal(8, 512)}, 8, "explained: 'y' (batch, 512): neither"),
        ({"embedding": normal(8, 96)}, 8, "explained: 'embedding' (batch, 96)"),
        ({"age": normal(8, 1)}, 8, "explained: 'age' (batch, 1)"),
        ({"y": np.maximum(normal(2, 256, 10, 10), 0)}, 2, "explained: 'y' (batch, 256, 10, 10)"),
    ],
)
def test_default(found: dict[str, Any], samples: int, expected: str) -> None:
    assert str(default_metric(seen(found, samples, IMAGE))).startswith(expected)


def test_labels_make_it_top1() -> None:
    labels = np.arange(8)
    metric = default_metric(seen({"features": normal(8, 512), "y": normal(8, 10)}, 8, IMAGE, labels))
    assert str(metric) == "top1: the data have labels, output 'features' (batch, 512) is class scores"
    assert default_metric(seen({"boxes": normal(8, 4), "y": normal(8, 10)}, 8, IMAGE, labels)).reason.startswith(
        "the data have labels, output 'y' (batch, 10)"
    )


def test_few_numbers_and_sequences_are_classes_where_that_is_asked() -> None:
    for shape in ((8, 3), (8, 40, 97)):
        assert named_metric("agreement", seen({"y": normal(*shape)}, 8)).name == "agreement"


def test_labels_of_a_detector_do_not_stand_in_the_way() -> None:
    assert default_metric(seen(outputs.yolov8(), 1, IMAGE, np.zeros(1, int))).name == "detection"
    assert default_metric(seen({"y": normal(2, 21, 80, 80)}, 2, IMAGE, np.zeros(2, int))).name == "iou"


def digits(samples: int, count: int = 5, classes: int = 10) -> dict[str, Any]:
    return {f"digit_{i}": normal(samples, classes) for i in range(count)}


def test_all_heads_count() -> None:
    """As of a reader of captchas, whose user takes the whole word."""
    assert str(default_metric(seen(digits(40, 3), 40, IMAGE))) == (
        "agreement: no labels, outputs 'digit_0' (batch, 10), 'digit_1' (batch, 10) and 'digit_2' (batch, 10) "
        "are class scores, and a sample counts where all agree"
    )


@pytest.mark.parametrize("samples", [3, 40])
def test_labels_are_of_one_head_and_the_others_are_named(samples: int) -> None:
    labels = np.arange(samples) % 10
    assert str(default_metric(seen(digits(samples, 3), samples, IMAGE, labels))) == (
        "top1: the data have labels, output 'digit_0' (batch, 10) is class scores; "
        "'digit_1', 'digit_2' are too and not measured"
    )


def test_labels_of_as_many_classes_as_an_output_has_are_of_that_one() -> None:
    found = {"age": softmax(normal(40, 100)), "gender": softmax(normal(40, 2))}
    assert "output 'gender' (batch, 2)" in default_metric(seen(found, 40, IMAGE, np.arange(40) % 2)).reason
    assert "output 'age' (batch, 100)" in default_metric(seen(found, 40, IMAGE, np.arange(40) % 7)).reason


def test_outputs_that_answer_alike_are_no_heads() -> None:
    logits = 3 * normal(40, 10)
    for found in (
        {"main": logits, "aux": logits + normal(40, 10)},
        {"main_logits": logits, "aux_logits": 0.5 * logits},
        {"main": softmax(logits), "copy": softmax(2 * logits)},
    ):
        first, second = found
        text = str(default_metric(seen(found, 40, IMAGE)))
        assert text == f"agreement: no labels, output '{first}' (batch, 10) is class scores; '{second}' answers alike"
    both = {"logits": logits, "softmax": softmax(logits)}
    assert str(default_metric(seen(both, 40, IMAGE))).endswith(
        "no labels, output 'softmax' (batch, 10) is class scores"
    )


def test_heads_that_always_answer_the_same_are_kept() -> None:
    """As attributes that these data seldom have: what they say of others is their own."""
    found = {name: softmax(normal(40, 2) + np.array([9, 0])) for name in ("hat", "beard")}
    assert "outputs 'hat' (batch, 2) and 'beard' (batch, 2)" in default_metric(seen(found, 40, IMAGE)).reason


def test_unnamed_numbers_of_another_length_are_no_heads() -> None:
    found = {"y": normal(40, 10), "z": normal(40, 136)}
    assert str(default_metric(seen(found, 40, IMAGE))).endswith("no labels, output 'y' (batch, 10) is class scores")


def test_labels_make_no_classes_of_one_number_for_each_moment() -> None:
    labels = np.arange(8)
    found = {"segmentation": normal(8, 900, 1), "detection": normal(8, 30, 3)}
    assert default_metric(seen(found, 8, (), labels)).name == "explained"
    with pytest.raises(UsageError, match=r"--metric top1 needs class scores.*use --metric explained"):
        named_metric("top1", seen(found, 8, (), labels))


def test_only_models_of_images_detect() -> None:
    assert default_metric(seen(outputs.yolov8(), 1)).name != "detection"


def test_every_metric_can_be_printed_in_a_line() -> None:
    for found in (outputs.yolov8(), outputs.ssd(), {"y": normal(1, 10)}, {"y": normal(1, 5, 5)}):
        assert "\n" not in str(default_metric(seen(found, 1, IMAGE)))
