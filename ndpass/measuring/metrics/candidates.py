"""From what a detector says of every anchor to its detections."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.metrics.boxes import MOST_CANDIDATES, SCORE, Detections, Form, corners, suppressed


def detections(boxes: NDArray[Any], scores: NDArray[Any], form: Form) -> Detections:
    """Boxes (A, 4) of a form and probabilities (A, C) of the anchors of one image -> its detections.

    Every anchor counts with its best class. What is not a number is no detection.
    """
    best = scores.argmax(axis=1)
    top = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):
        chosen = np.flatnonzero((top > SCORE) & np.isfinite(boxes).all(axis=1))
    chosen = chosen[np.argsort(-top[chosen], kind="stable")[:MOST_CANDIDATES]]
    placed = corners(boxes[chosen].astype(np.float64), form, chosen)
    return suppressed(Detections(placed, top[chosen].astype(np.float64), best[chosen].astype(np.int64)))


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """Logits -> probabilities; large ones do not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    """Logits -> probabilities along the last axis."""
    powers: NDArray[Any] = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def on_grid(image: tuple[int, ...], boxes: int) -> int:
    """How many boxes a cell has if all cells of YOLO's grids together have this many boxes, else 0.

    image: height, width and channels of the input in any order; the grids are 8, 16 and 32 times as coarse, or also 64
    times, or only 16 and 32.
    """
    sides = [side for side in image if side > 4]
    for steps in ((8, 16, 32), (8, 16, 32, 64), (16, 32)):
        cells = sum(int(np.prod([-(-side // step) for side in sides])) for step in steps)
        if len(sides) == 2 and boxes in (cells, 3 * cells):
            return boxes // cells
    return 0
