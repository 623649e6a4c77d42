"""Detectors that give all of an anchor in one row, as YOLO does, and those that leave it in maps.

    YOLOv8    (N, 4 + C, A)                  x, y, w, h, C scores
    YOLOv5    (N, A, 5 + C)                  x, y, w, h, objectness, C scores; the score is objectness · score
    maps      (N, 3 · (5 + C), H, W), ...    the same in logits, boxes relative to anchors

A: anchors. Masks and points that follow the scores are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.metrics.boxes import Detections, Form
from ndpass.measuring.metrics.candidates import detections, on_grid, sigmoid
from ndpass.measuring.metrics.seen import Seen
from ndpass.measuring.runtime import Outputs

FEWEST = 400  # anchors that an output has which is told by its values alone
ANCHORS = 3  # of each cell, in YOLOv3 to YOLOv7
QUERIES = (100, 300, 900)  # boxes of detectors without anchors, as RT-DETR


@dataclass(frozen=True)
class Table:
    """An output (N, A, columns), or (N, columns, A) where `turned`.

    classes: how many columns of scores there are; objectness: whether one of objectness stands before them;
    logits: whether the scores are still to go through a sigmoid.
    """

    output: str
    shape: str
    turned: bool
    classes: int
    objectness: bool
    logits: bool
    form: Form
    one_by_one: bool = False

    @property
    def reason(self) -> str:
        what = "YOLOv5 boxes, objectness and scores" if self.objectness else "YOLOv8 boxes and scores"
        return f"output '{self.output}' {self.shape} looks like {what}"

    def __call__(self, outputs: Outputs) -> list[Detections]:
        tables = outputs[self.output]
        tables = tables.swapaxes(1, 2) if self.turned else tables
        return [self._of(table) for table in tables]

    def _of(self, table: NDArray[Any]) -> Detections:
        """(A, columns) of one image."""
        first = 4 + self.objectness
        scores = self._probabilities(table[:, first : first + self.classes])
        if self.objectness:
            scores = scores * self._probabilities(table[:, 4:5])
        return detections(table[:, :4], scores, self.form)

    def _probabilities(self, scores: NDArray[Any]) -> NDArray[Any]:
        return sigmoid(scores) if self.logits else scores


def table(seen: Seen) -> Table | None:
    """The output that is a table of boxes and scores, if there is one."""
    found = (_table(seen, name) for name in seen.names if seen.first(name).ndim == 3 and seen.is_float(name))
    return next((one for one in found if one is not None), None)


def _table(seen: Seen, name: str) -> Table | None:
    _, rows, columns = seen.first(name).shape
    turned = rows < columns
    anchors, numbers = (columns, rows) if turned else (rows, columns)
    if numbers < 5 or not seen.is_batched(name):
        return None
    probable = [seen.is_probable(name, _column(i, turned)) for i in range(numbers)]
    logits = not probable[4]
    sized = min(seen.range(name, _column(i, turned))[0] for i in (2, 3)) >= 0
    valued = sized and not logits and not all(probable[:4]) and anchors >= FEWEST
    asked = not turned and all(probable) and anchors in QUERIES and numbers > 5  # boxes are normalised
    cell = on_grid(seen.image, anchors)
    if not (cell or valued or asked):
        return None
    scores = (numbers - 4 - _masks(seen, numbers)) if logits else int(np.argmin([*probable[4:], False]))
    form: Form = "centre" if sized else "cells"
    plain = Table(name, seen.shape(name), turned, scores, False, logits, form)
    if turned or asked or scores < 2:
        return plain
    weighed = Table(name, seen.shape(name), turned, scores - 1, True, logits, form)
    return weighed if cell == ANCHORS or _finds(seen, weighed) or not _finds(seen, plain) else plain


def _column(index: int, turned: bool) -> tuple[Any, ...]:
    return (slice(None), index) if turned else (slice(None), slice(None), index)


def _masks(seen: Seen, columns: int) -> int:
    """How many columns weigh masks, which an output (N, masks, h, w) of half as many columns or fewer holds."""
    maps = (seen.first(name).shape[1] for name in seen.names if seen.first(name).ndim == 4)
    return next((count for count in maps if 2 * count < columns), 0)


def _finds(seen: Seen, layout: Table) -> bool:
    return any(len(found) for outputs in seen.outputs for found in layout(outputs))


@dataclass(frozen=True)
class Heads:
    """Outputs (N, ANCHORS · columns, H, W) or (N, ANCHORS, H, W, columns) of several sizes, in logits."""

    outputs: Sequence[str]
    shapes: Sequence[str]
    one_by_one: bool = False

    @property
    def reason(self) -> str:
        named = ", ".join(f"'{name}' {shape}" for name, shape in zip(self.outputs, self.shapes, strict=True))
        return f"outputs {named} look like YOLO's maps of offsets, objectness and scores"

    def __call__(self, outputs: Outputs) -> list[Detections]:
        parts = [by_anchor(outputs[name]) for name in self.outputs]
        return [self._of(np.concatenate(rows)) for rows in zip(*parts, strict=True)]

    def _of(self, rows: NDArray[Any]) -> Detections:
        return detections(rows[:, :4], sigmoid(rows[:, 4:5]) * sigmoid(rows[:, 5:]), "cells")


def by_anchor(head: NDArray[Any]) -> NDArray[Any]:
    """(N, ANCHORS · columns, H, W) or (N, ANCHORS, H, W, columns) -> (N, A, columns)."""
    if head.ndim == 4:
        n, channels, h, w = head.shape
        head = head.reshape(n, ANCHORS, channels // ANCHORS, h, w).transpose(0, 1, 3, 4, 2)
    return head.reshape(len(head), -1, head.shape[-1])


def heads(seen: Seen) -> Heads | None:
    """The outputs that are maps of boxes, if there are two or more; most of their cells hold no object."""
    found = [name for name in seen.names if _columns(seen.first(name)) >= 6 and seen.is_batched(name)]
    columns, sizes = ({f(seen.first(name)) for name in found} for f in (_columns, np.size))
    if len(found) < 2 or len(columns) > 1 or len(sizes) < len(found):
        return None
    if not all(_coarser(seen, name) and _mostly_empty(seen, name) for name in found):
        return None
    return Heads(found, [seen.shape(name) for name in found])


def _coarser(seen: Seen, name: str) -> bool:
    """Whether the map has the size of the image over one of YOLO's steps."""
    shape = seen.first(name).shape
    cells = shape[2:4]
    return any({-(-s // step) for s in seen.image if s > 4} == set(cells) for step in (8, 16, 32, 64))


def _mostly_empty(seen: Seen, name: str) -> bool:
    """Whether most cells are sure that they hold no object."""
    return all(bool(np.median(by_anchor(value)[..., 4]) < -1) for value in seen.all(name))


def _columns(head: NDArray[Any]) -> int:
    """How many numbers a map has of each anchor; 0 where it cannot be such a map."""
    if head.dtype.kind != "f":
        return 0
    if head.ndim == 5 and head.shape[1] == ANCHORS:
        return int(head.shape[4])
    return int(head.shape[1] // ANCHORS) if head.ndim == 4 and head.shape[1] % ANCHORS == 0 else 0
