"""Detectors that end with non-maximum suppression, and what their detections are in.

    one output     (N, k, 6) x1, y1, x2, y2, score, class (or class, score); (1, 1, k, 7) or (k, 7) with the image first
    three outputs  boxes (N, k, 4) or (k, 4), scores (N, k) or (k), classes (N, k) or (k); or boxes with scores (.., 5)
    triples        (k, 3) image, class, number of the box: what ONNX's NonMaxSuppression gives

k: detections, or places for them. Boxes after triples have no coordinates of their own: the same box has to be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.metrics.boxes import APART, SCORE, Detections
from ndpass.measuring.metrics.seen import Seen
from ndpass.measuring.runtime import Outputs

MOST = 5_000  # rows; more are anchors, not detections


@dataclass(frozen=True)
class Rows:
    """One output (N, k, 6), or (N, 1, k, 7) or (k, 7) with the image's number, -1 behind the last detection, first.

    box, score, label: where the corners begin, the columns of score and class; image: whether the first column is its
    number.
    """

    output: str
    reason: str
    box: int
    score: int
    label: int
    image: bool
    one_by_one: bool = False

    def __call__(self, outputs: Outputs) -> list[Detections]:
        found = outputs[self.output]
        images = found[None] if found.ndim == 2 else found.reshape(len(found), -1, found.shape[-1])
        return [self._of(rows) for rows in images]

    def _of(self, rows: NDArray[Any]) -> Detections:
        rows = rows[rows[:, 0] >= 0] if self.image else rows
        return _above(rows[:, self.box : self.box + 4], rows[:, self.score], rows[:, self.label])


@dataclass(frozen=True)
class Separate:
    """Outputs of their own; scores: None where they are the fifth column of the boxes; labels: None for one class."""

    boxes: str
    scores: str | None
    labels: str | None
    reason: str
    one_by_one: bool

    def __call__(self, outputs: Outputs) -> list[Detections]:
        boxes = outputs[self.boxes]
        scores = boxes[..., 4] if self.scores is None else outputs[self.scores].reshape(boxes.shape[:-1])
        labels = np.zeros(scores.shape) if self.labels is None else outputs[self.labels].reshape(scores.shape)
        if boxes.ndim == 2:
            boxes, scores, labels = boxes[None], scores[None], labels[None]
        return [_above(b[:, :4], s, c) for b, s, c in zip(boxes, scores, labels, strict=True)]


@dataclass(frozen=True)
class Triples:
    """Image, class and number of the box that were selected, (k, 3)."""

    output: str
    reason: str
    one_by_one: bool = True

    def __call__(self, outputs: Outputs) -> list[Detections]:
        rows = outputs[self.output].astype(np.float64)
        places = np.repeat(rows[:, 2:] * APART, 4, axis=1)  # a box of size one for each number
        places[:, 2:] += 1
        return [_above(places, np.ones(len(rows)), rows[:, 1])]


def _above(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> Detections:
    """Those with a score above SCORE."""
    with np.errstate(invalid="ignore"):
        kept = (scores > SCORE) & np.isfinite(boxes).all(axis=1)
    return Detections(boxes[kept].astype(np.float64), scores[kept].astype(np.float64), labels[kept].astype(np.int64))


def final_boxes(seen: Seen) -> Rows | Separate | None:
    """The outputs that are detections with their boxes, if there are any."""
    return _rows(seen) or _with_image(seen) or _separate(seen)


def _rows(seen: Seen) -> Rows | None:
    for name in seen.names:
        shape = seen.first(name).shape
        if len(shape) == 3 and shape[2] == 6 and shape[1] <= MOST and seen.is_float(name) and seen.is_batched(name):
            for label, score in ((5, 4), (4, 5)):
                if seen.is_whole(name, (..., label)) and seen.is_probable(name, (..., score)):
                    return Rows(name, _looks(seen, [name]), 0, score, label, False)
    return None


def _with_image(seen: Seen) -> Rows | None:
    for name in seen.names:
        value = seen.first(name)
        batched = seen.is_batched(name)
        if value.ndim not in (2, 4) or value.shape[-1] != 7 or not seen.is_float(name):
            continue
        if (value.ndim == 4 and value.shape[1] != 1) or (value.ndim == 2 and batched):
            continue
        for box, score, label in ((3, 2, 1), (1, 6, 5)):
            if seen.is_probable(name, (..., score)) and seen.is_whole(name, (..., label)) and _is_image(seen, name):
                return Rows(name, _looks(seen, [name]), box, score, label, True, not batched)
    return None


def _is_image(seen: Seen, name: str) -> bool:
    """Whether the first column is the number of an image, or -1 behind the last detection."""
    return all(bool((np.floor(v[..., 0]) == v[..., 0]).all() and (v[..., 0] >= -1).all()) for v in seen.all(name))


def _separate(seen: Seen) -> Separate | None:
    for name in seen.names:
        value = seen.first(name)
        batched = seen.is_batched(name)
        if not seen.is_float(name) or value.shape[-1:] not in ((4,), (5,)) or value.ndim not in (2, 3):
            continue
        if (value.ndim == 2 and batched) or value.shape[-2] > MOST:
            continue
        beside = [other for other in seen.names if other != name and _one_each(seen, other, name)]
        labels = next((other for other in beside if _is_label(seen, other)), None)
        scores = next((other for other in beside if other != labels and seen.is_probable(other)), None)
        if value.shape[-1] == 5 and labels and seen.is_probable(name, (..., 4)):
            return Separate(name, None, labels, _looks(seen, [name, labels]), value.ndim == 2)
        if value.shape[-1] == 4 and scores and (labels or value.ndim == 2):
            named = [name, scores, *([labels] if labels else [])]
            return Separate(name, scores, labels, _looks(seen, named), value.ndim == 2)
    return None


def _one_each(seen: Seen, other: str, boxes: str) -> bool:
    """Whether an output has one number for each box, in every batch."""
    return all(
        a.ndim > 0 and a.size * b.shape[-1] == b.size for a, b in zip(seen.all(other), seen.all(boxes), strict=True)
    )


def _is_label(seen: Seen, name: str) -> bool:
    """Integers, or whole numbers that are not all 0 or 1, as saturated scores are."""
    return seen.first(name).dtype.kind in "iu" or (seen.is_whole(name) and "score" not in name.lower())


def triples(seen: Seen) -> Triples | None:
    """The output that is what NonMaxSuppression selects, if there is one."""
    for name in seen.names:
        value = seen.first(name)
        if value.ndim == 2 and value.shape[1] == 3 and value.dtype.kind == "i" and not seen.is_batched(name):
            return Triples(name, f"output '{name}' {seen.shape(name)} looks like what NonMaxSuppression selects")
    return None


def _looks(seen: Seen, names: Sequence[str]) -> str:
    outputs = " and ".join(f"'{name}' {seen.shape(name)}" for name in names)
    several = len(names) > 1
    return f"output{'s' * several} {outputs} look{'s' * (not several)} like boxes after non-maximum suppression"
