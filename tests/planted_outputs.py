"""Planted outputs of models of every kind, with the input that they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.evaluate import Gathering
from ndpass.measuring.metrics import Seen

Values = NDArray[Any]

BOXES = np.array([[10, 10, 50, 60], [100, 20, 160, 90], [30, 120, 90, 180], [200, 200, 260, 300]], float)  # corners
CLASSES = np.array([2, 0, 2, 1])
NOISE = 1e-3


def seen(outputs: dict[str, Values], samples: int, image: tuple[int, ...] = (), labels: Values | None = None) -> Seen:
    """All in one batch."""
    return Seen([outputs], [samples], image, labels)


def gathered(metric: Gathering, original: dict[str, Values], other: dict[str, Values]) -> float:
    """The metric of `other`; that of the original is 100."""
    metric.add(original, other)
    values = metric.values()
    assert values is not None
    assert values[0].value == 100
    return values[1].value


def centred(corners: Values) -> Values:
    """x1, y1, x2, y2 -> x, y, width, height, (.., 4)."""
    return np.concatenate([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], axis=-1)


def grid(classes: int, boxes: Values, labels: Values, score: float = 0.9, anchors: int = 2100) -> tuple[Values, Values]:
    """Corners (1, anchors, 4) and scores (1, anchors, classes) of these boxes, three anchors for each, in low noise."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 250, (anchors, 2))
    corners = np.concatenate([low, low + rng.uniform(5, 60, (anchors, 2))], axis=1)
    scores = rng.uniform(0, NOISE, (anchors, classes))
    places = np.random.default_rng(1).permutation(anchors)[: 3 * len(BOXES)].reshape(-1, 3)[: len(boxes)]
    for where, box, label in zip(places, boxes, labels, strict=True):
        corners[where] = box + np.array([[0], [1], [-1]])
        scores[where, label] = [score, 0.8 * score, 0.7 * score]
    return corners[None].astype(np.float32), scores[None].astype(np.float32)


def logit(p: Values) -> Values:
    return np.log(p / (1 - p))


def yolov8(boxes: Values = BOXES, labels: Values = CLASSES, *, logits: bool = False) -> dict[str, Values]:
    """(1, 4 + 3, 2100), of a picture of 320x320."""
    corners, scores = grid(3, boxes, labels)
    scores = logit(np.clip(scores, 1e-6, 1)) if logits else scores
    return {"output0": np.concatenate([centred(corners), scores], axis=2).swapaxes(1, 2).astype(np.float32)}


def yolov5(boxes: Values = BOXES, labels: Values = CLASSES, *, logits: bool = False) -> dict[str, Values]:
    """(1, 6300, 5 + 3), of a picture of 320x320: the class may be sure where no object is."""
    corners, scores = grid(3, boxes, labels, 0.95, 6300)
    objects = scores.max(axis=2, keepdims=True)
    sure = np.where(objects > 0.5, (scores > 0.5) * 0.95 + 0.01, 0.6)
    numbers = np.concatenate([objects, sure], axis=2)
    numbers = logit(np.clip(numbers, 1e-6, 1 - 1e-6)) if logits else numbers
    return {"out": np.concatenate([centred(corners), numbers], axis=2).astype(np.float32)}


def ssd(
    boxes: Values = BOXES, labels: Values = CLASSES, *, form: str = "corners", scores_as: str = "softmax"
) -> dict[str, Values]:
    """boxes (1, 3000, 4), scores (1, 3000, 4); class 0 is the background, of a picture of 300x300."""
    corners, scores = grid(3, boxes, labels, anchors=3000)
    scores = np.concatenate([1 - scores.sum(axis=2, keepdims=True), scores], axis=2)
    scores = np.log(np.maximum(scores, 1e-9)) + 12 if scores_as == "logits" else scores
    scores = logit(np.clip(scores[..., 1:], 1e-6, 1 - 1e-6)) if scores_as == "sigmoid" else scores
    return {
        "boxes": {"corners": corners, "centre": centred(corners)}[form].astype(np.float32),
        "scores": scores.astype(np.float32),
    }


def finals(boxes: Values = BOXES, labels: Values = CLASSES, places: int = 20) -> Values:
    """(1, places, 6) corners, score, class; zeros behind the last."""
    rows = np.zeros((1, places, 6), np.float32)
    rows[0, : len(boxes)] = np.concatenate([boxes, np.full((len(boxes), 1), 0.9), labels[:, None]], axis=1)
    return rows


def reading(samples: int, places: int, classes: int, blank: int = 0) -> Values:
    """Logits (samples, places, classes) of a reader, which has nothing to say at two places of three."""
    rng = np.random.default_rng(0)
    said = np.where(rng.random((samples, places)) < 1 / 3, rng.integers(0, classes, (samples, places)), blank)
    found = rng.standard_normal((samples, places, classes)) - 1
    np.put_along_axis(found, said[..., None], 9.0, axis=2)
    return found.astype(np.float32)


def tokens(samples: int, places: int, width: int) -> Values:
    """Features (samples, places, width) of a transformer, one of which is by far the largest everywhere."""
    found = np.random.default_rng(0).standard_normal((samples, places, width))
    found[..., width // 3] += 30
    return found.astype(np.float32)
