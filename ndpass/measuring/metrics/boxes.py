"""Boxes of detections: their forms, non-maximum suppression, and how many are found again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SCORE = 0.25  # a box with a lower score is no detection
OVERLAP = 0.45  # IoU above which the lower of two boxes of a class is a repetition
FOUND = 0.5  # IoU from which two boxes are the same find
MOST_CANDIDATES = 1_000  # boxes of an image that enter the suppression, the best ones
MOST_FOUND = 300  # detections of an image

APART = 1e4  # between the places where boxes of two unknown anchors are laid out
SSD_UNITS = (0.1, 0.2)  # what offsets and logarithms are multiplied by (Liu et al. 2016, in the authors' code)
NEARLY_ALL = 0.95
BOTH_SIDES = 0.3  # share of centres on either side of zero, at least, where they are relative to anchors

Form = Literal["corners", "centre", "shifts", "offsets", "cells", "distances"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detections:
    """Of one image. boxes: (k, 4) corners x1, y1, x2, y2; scores: (k,); classes: (k,)."""

    boxes: Floats
    scores: Floats
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: NDArray[np.intp]) -> Detections:
        """Those with these numbers, in this order."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


def corners(boxes: Floats, form: Form, anchors: NDArray[np.intp]) -> Floats:
    """Boxes (k, 4) of a form -> corners x1, y1, x2, y2 (k, 4).

    centre: x, y, width, height. The other forms are relative to an anchor, number `anchors` (k,), that is not known:
    shifts: dx, dy, width, height; offsets: dx, dy, log width, log height in the units of SSD; cells: the same in cells
    of YOLO's grid; distances: left, top, right, bottom. These boxes are laid out far apart, so that only those of one
    anchor can overlap.
    """
    if form == "corners":
        return boxes
    if form == "distances":
        shape = np.concatenate([-boxes[:, :2], boxes[:, 2:]], axis=1)
    else:
        place, size = boxes[:, :2], boxes[:, 2:]
        if form in ("offsets", "cells"):
            units = SSD_UNITS if form == "offsets" else (1.0, 1.0)
            place, size = units[0] * place, np.exp(np.clip(units[1] * size, -8, 8))
        shape = np.concatenate([place - size / 2, place + size / 2], axis=1)
    if form == "centre":
        return shape
    placed: Floats = np.clip(shape, -APART / 4, APART / 4) + (anchors * APART)[:, None]
    return placed


def form_of(boxes: Floats) -> Form:
    """What the numbers (k, 4) of all boxes of a detector must be: what nearly all of them allow."""
    if are_shifts(boxes):
        return "shifts"
    if (boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean() >= NEARLY_ALL:
        return "corners"
    return "centre" if (boxes[:, 2:] >= 0).all(axis=1).mean() >= NEARLY_ALL else "offsets"


def are_shifts(boxes: Floats) -> bool:
    """Whether numbers (k, 4) are sizes behind centres to all sides of zero: no picture has so many outside it."""
    sized = (boxes[:, 2:] >= 0).all(axis=1).mean() >= NEARLY_ALL
    return bool(sized and BOTH_SIDES <= (boxes[:, :2] < 0).mean() <= 1 - BOTH_SIDES)


def iou(a: Floats, b: Floats) -> Floats:
    """Corners (n, 4) and (m, 4) -> intersection over union (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    sizes = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b)]
    union = sizes[0][:, None] + sizes[1][None] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def suppressed(found: Detections) -> Detections:
    """Without the lower of two boxes of one class that overlap by more than OVERLAP; best first, at most MOST_FOUND."""
    found = found.take(np.argsort(-found.scores, kind="stable")[:MOST_CANDIDATES])
    same = iou(found.boxes, found.boxes) > OVERLAP
    same &= found.classes[:, None] == found.classes[None]
    left, kept = np.ones(len(found), bool), []
    for i in range(len(found)):
        if left[i]:
            kept.append(i)
            left &= ~same[i]
        if len(kept) == MOST_FOUND:
            break
    return found.take(np.array(kept, np.intp))


def found_again(original: Detections, other: Detections) -> int:
    """How many detections have a partner of the same class with an IoU of FOUND or more; each has at most one.

    Pairs are taken by their IoU, largest first.
    """
    overlap = iou(original.boxes, other.boxes)
    overlap[original.classes[:, None] != other.classes[None]] = 0
    pairs = np.argwhere(overlap >= FOUND)
    order = np.argsort(-overlap[tuple(pairs.T)], kind="stable")
    free, count = (np.ones(len(original), bool), np.ones(len(other), bool)), 0
    for i, j in pairs[order]:
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            count += 1
    return count
