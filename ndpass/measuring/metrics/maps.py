"""iou: how well the masks of the model cover those of the original.

    IoU = |A ∩ B| / |A ∪ B|        A: places of a class in the original's maps, B: in the other model's

counted over all samples and averaged over the classes that the original shows, times 100. A map of classes is taken
apart by the best class of each place; independent maps, as of text or hair, by a threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.metrics.classes import best_class
from ndpass.measuring.own_metric import Metric
from ndpass.measuring.runtime import Outputs

Counts = NDArray[np.int64]


class MeanIou:
    """Mean IoU ×100 of the masks in one output against the original's.

    axis: the one that holds classes or maps; None where the output has none, as (N, H, W) of class numbers or of one
    map. threshold: what belongs to a map; None: every place is of its best class, or of the class whose number it is.
    """

    def __init__(self, output: str, axis: int | None, threshold: float | None) -> None:
        self._output, self._axis, self._threshold = output, axis, threshold
        self._samples = 0
        self._common: Counts = np.zeros(0, np.int64)
        self._union: Counts = np.zeros(0, np.int64)
        self._shown: Counts = np.zeros(0, np.int64)  # places of each class in the original's maps

    def add(self, original: Outputs, other: Outputs) -> None:
        a, b = original[self._output], other[self._output]
        self._samples += len(a)
        common, union, shown = self._masks(a, b) if self._threshold is not None else self._classes(a, b)
        self._common, self._union = _sum(self._common, common), _sum(self._union, union)
        self._shown = _sum(self._shown, shown)

    def _masks(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[Counts, Counts, Counts]:
        axis = self._axis
        places = tuple(i for i in range(a.ndim) if i != axis)
        with np.errstate(invalid="ignore"):
            p, q = a > self._threshold, b > self._threshold
        counts = ((p & q).sum(axis=places), (p | q).sum(axis=places), p.sum(axis=places))
        common, union, shown = (np.atleast_1d(count).astype(np.int64) for count in counts)
        return common, union, shown

    def _classes(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[Counts, Counts, Counts]:
        p, q = (self._numbers(values) for values in (a, b))
        count = int(max(p.max(initial=0), q.max(initial=0))) + 1
        shown, others = (np.bincount(x[x >= 0], minlength=count) for x in (p, q))
        common = np.bincount(p[(p == q) & (p >= 0)], minlength=count)
        return common, shown + others - common, shown

    def _numbers(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """(places,) number of the class at each; -1 where there is none."""
        best = values if self._axis is None else best_class(values, self._axis)
        return best.astype(np.int64).ravel()

    def values(self) -> tuple[Metric, Metric] | None:
        shown = self._shown > 0
        if not shown.any():
            return None
        after = 100 * float((self._common[shown] / self._union[shown]).mean())
        return Metric("iou", 100.0, self._samples), Metric("iou", after, self._samples)

    def warnings(self) -> list[str]:
        if (self._shown > 0).any():
            return []
        return [
            f"iou has no value: the original's '{self._output}' is nowhere above {self._threshold:g} on these data: "
            "give other data, or does --preprocess fit?"
        ]


def _sum(a: Counts, b: Counts) -> Counts:
    """Counts of classes, of which the longer list knows more."""
    if len(a) < len(b):
        a, b = b, a
    return a + np.pad(b, (0, len(a) - len(b)))
