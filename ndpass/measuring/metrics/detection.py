"""detection: how many of the original's detections the model finds again.

    F1 = 2 · found again / (detections of the original + detections of the other model), times 100

A detection is found again by one of the same class whose box has an IoU of FOUND or more with it. Boxes with a score
above SCORE count, after non-maximum suppression at OVERLAP, class by class (`ndpass.measuring.metrics.boxes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ndpass.measuring.metrics.boxes import SCORE, Detections, found_again
from ndpass.measuring.own_metric import Metric
from ndpass.measuring.runtime import Outputs

FEW = 50  # detections that tell two points from each other


class Layout(Protocol):
    """How a detector's outputs hold its detections."""

    @property
    def reason(self) -> str: ...

    @property
    def one_by_one(self) -> bool: ...

    def __call__(self, outputs: Outputs) -> Sequence[Detections]:
        """The detections of every sample of a batch."""
        ...


class F1:
    """F1 ×100 of the detections against the original's."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._samples = self._original = self._other = self._again = 0

    def add(self, original: Outputs, other: Outputs) -> None:
        for a, b in zip(self._layout(original), self._layout(other), strict=True):
            self._samples += 1
            self._original += len(a)
            self._other += len(b)
            self._again += found_again(a, b)

    def values(self) -> tuple[Metric, Metric] | None:
        if not self._original:
            return None
        after = 200 * self._again / (self._original + self._other)
        return Metric("detection", 100.0, self._samples), Metric("detection", after, self._samples)

    def warnings(self) -> list[str]:
        if not self._original:
            return [
                f"detection has no value: the original finds nothing with a score above {SCORE:g} in "
                f"{self._samples} samples: give data with objects that it knows, or does --preprocess fit?"
            ]
        if self._original < FEW:
            return [
                f"the original finds only {self._original} objects in {self._samples} samples, and each is "
                f"{100 / self._original:.1f} points of detection: give more data"
            ]
        return []
