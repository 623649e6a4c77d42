"""Detectors that give boxes (N, A, 4) and scores (N, A, C) of A anchors in outputs of their own, as SSD does.

There may be several such pairs, one for each size of anchors, and one dimension of length one more; without a batch
axis, (A, 4) and (A, C), they are those of one image. Boxes may be corners, centre and size, or relative to anchors;
scores may be probabilities or logits, with or without a class for the background. Where there are several sizes of
anchors, a box may also be four distributions over BINS distances (N, A, 4 · bins), of which the mean counts. Beside
scores of one class, points may stand behind the box, (N, A, 4 + 2 · points), as BlazeFace has the eyes: they are not
looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.metrics.boxes import Detections, Form, are_shifts, form_of
from ndpass.measuring.metrics.candidates import detections, sigmoid, softmax
from ndpass.measuring.metrics.seen import Seen
from ndpass.measuring.runtime import Outputs

FEWEST = 50  # anchors
ENOUGH = 16  # samples that tell what the numbers mean
BACKGROUND = 0.5  # share of the anchors that the background takes at least
BINS = (8, 16, 17)  # of NanoDet and PicoDet, YOLOv8, GFL
NAMES = re.compile(r"score|conf|cls|class|prob|logit|heat", re.IGNORECASE)

Function = Literal["none", "sigmoid", "softmax"]


@dataclass(frozen=True)
class Pairs:
    """pairs: names of boxes and scores; background: the class that is none, or None."""

    pairs: Sequence[tuple[str, str]]
    reason: str
    form: Form
    function: Function
    background: int | None
    one_by_one: bool

    def __call__(self, outputs: Outputs) -> list[Detections]:
        boxes, scores = self.joined(outputs)
        return [detections(b, self._probabilities(s), self.form) for b, s in zip(boxes, scores, strict=True)]

    def joined(self, outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
        """Boxes (N, A, 4) and scores (N, A, C) as they are, of all pairs end to end."""
        parts = [_rows(outputs[a], outputs[b]) for a, b in self.pairs]
        boxes, scores = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
        return boxes, scores

    def _probabilities(self, scores: NDArray[Any]) -> NDArray[Any]:
        """(A, C), the background's column set to zero."""
        if self.function != "none":
            scores = sigmoid(scores) if self.function == "sigmoid" else softmax(scores)
        if self.background is not None:
            scores = scores.copy()
            scores[:, self.background] = 0
        return scores


def pairs(seen: Seen) -> Pairs | None:
    """The outputs that are boxes and scores of the same anchors, if there are any."""
    floats = [name for name in seen.names if seen.is_float(name)]
    found: list[tuple[str, str]] = []
    for boxes in sorted(floats, key=lambda name: (seen.first(name).shape[-1:] != (4,), NAMES.search(name) is not None)):
        scores = _scores(seen, boxes, floats) if _anchors(seen, boxes) else None
        if scores is not None and not any(boxes in pair or scores in pair for pair in found):
            found.append((boxes, scores))
    found = found or _with_points(seen, floats)
    if not found:
        return None
    reason = " and ".join(f"'{name}' {seen.shape(name)}" for name in found[0])
    more = f" (and {len(found) - 1} more pairs)" if len(found) > 1 else ""
    alone = not seen.is_batched(found[0][0])
    raw = Pairs(found, f"outputs {reason}{more} look like SSD boxes and scores", "corners", "none", None, alone)
    numbers, scored = (part[:ENOUGH].reshape(-1, part.shape[-1]) for part in raw.joined(seen.outputs[0]))
    function, background = _reading(scored)
    spread = any(seen.first(boxes).shape[-1] in [4 * bins for bins in BINS] for boxes, _ in found)
    form = _relative_form(numbers) if spread or len(found) > 1 else form_of(numbers)
    return Pairs(found, raw.reason, form, function, background, alone)


def _with_points(seen: Seen, floats: Sequence[str]) -> list[tuple[str, str]]:
    """The outputs (N, A, 4 + 2 · points) beside which one of (N, A, 1) or (N, A) scores as many anchors."""
    rows = [name for name in floats if seen.is_batched(name)]
    boxes = [name for name in rows if _points(seen.first(name)) and seen.first(name).shape[1] >= FEWEST]
    shapes = {name: seen.first(name).shape[1:] for name in rows}
    single = {shape[0]: name for name, shape in shapes.items() if len(shape) == 1 or shape[1:] == (1,)}
    return [(name, single[shapes[name][0]]) for name in boxes if shapes[name][0] in single]


def _points(value: NDArray[Any]) -> int:
    """How many points (N, A, 4 + 2 · points) has behind the box."""
    return max(value.shape[2] - 4, 0) // 2 if value.ndim == 3 and value.shape[2] % 2 == 0 else 0


def _anchors(seen: Seen, name: str) -> int:
    """How many boxes an output (N, A, 4), (A, 4), (N, 4, A) or (N, A, 4 · bins) has of each image; 0 if it has none."""
    shape = _squeezed(seen.first(name)).shape
    if len(shape) == 3 and shape[2] in [4 * bins for bins in BINS] and seen.is_batched(name):
        return int(shape[1])
    if len(shape) == 2 and shape[1] == 4 and not seen.is_batched(name):
        return shape[0] if shape[0] >= FEWEST else 0
    if len(shape) != 3 or 4 not in shape[1:] or not seen.is_batched(name):
        return 0
    return max(shape[1:]) if max(shape[1:]) >= FEWEST else 0


def _scores(seen: Seen, boxes: str, floats: Sequence[str]) -> str | None:
    """The output with a row of scores for each of these boxes: probabilities rather than logits, then by its name."""
    anchors, batched = _anchors(seen, boxes), seen.is_batched(boxes)
    fitting = [
        name
        for name in floats
        if name != boxes and seen.is_batched(name) == batched and anchors in _lengths(seen.first(name), batched)
    ]
    order = [(not seen.is_probable(name), NAMES.search(name) is None, i) for i, name in enumerate(fitting)]
    return fitting[min(order)[2]] if fitting else None


def _lengths(value: NDArray[Any], batched: bool) -> tuple[int, ...]:
    shape = _squeezed(value).shape[1:] if batched else _squeezed(value).shape
    return shape if len(shape) <= 2 else ()


def _squeezed(value: NDArray[Any]) -> NDArray[Any]:
    """(N, 1, A, 4) and (N, A, 1, 4) -> (N, A, 4)."""
    inner = next((i for i in range(1, value.ndim - 1) if value.shape[i] == 1), None) if value.ndim == 4 else None
    return value if inner is None else value.squeeze(inner)


def _rows(boxes: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(N, A, 4) and (N, A, C) of what has the batch first or none, the anchors before or behind, or one class."""
    boxes, scores = _squeezed(boxes), _squeezed(scores)
    if boxes.ndim == 2:
        boxes, scores = boxes[None], scores[None]
    if boxes.shape[2] in [4 * bins for bins in BINS]:
        boxes = _means(boxes)
    if 4 not in boxes.shape[1:]:
        boxes = boxes[..., :4]  # points stand behind
    boxes = boxes if boxes.shape[2] == 4 else boxes.swapaxes(1, 2)
    scores = scores[..., None] if scores.ndim == 2 else scores
    return boxes, scores if scores.shape[1] == boxes.shape[1] else scores.swapaxes(1, 2)


def _means(boxes: NDArray[Any]) -> NDArray[Any]:
    """(N, A, 4 · bins) logits of distances 0, 1, ... -> their means (N, A, 4)."""
    chances = softmax(boxes.reshape(*boxes.shape[:2], 4, -1))
    return chances @ np.arange(chances.shape[-1])


def _relative_form(boxes: NDArray[Any]) -> Form:
    """Of boxes (k, 4) that are left relative to their anchors, as those of several sizes and distributions are."""
    if are_shifts(boxes):
        return "shifts"
    return "distances" if (boxes >= 0).mean() >= 0.95 else "offsets"


def _reading(scores: NDArray[Any]) -> tuple[Function, int | None]:
    """What scores (k, C) have to go through, and the class that is the background: the first or the last one."""
    k, classes = scores.shape
    best = np.bincount(scores.argmax(axis=1), minlength=classes) / k
    common = next((i for i in (0, classes - 1) if classes > 1 and best[i] >= BACKGROUND), None)
    if scores.min() >= -1e-3 and scores.max() <= 1 + 1e-3:
        sums = np.abs(scores.sum(axis=1) - 1).max()
        return "none", common if sums < 1e-2 else None
    if common is not None and np.median(scores.max(axis=1)) > 0:
        return "softmax", common
    return "sigmoid", None
