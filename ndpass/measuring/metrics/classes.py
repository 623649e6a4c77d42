"""Metrics of class scores: top-1 and top-5 accuracy against labels, and agreement with the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.measuring.class_scores import check_classes
from ndpass.measuring.own_metric import Metric
from ndpass.measuring.runtime import Outputs
from ndpass.measuring.top1 import at_chance, chance_warning


class Accuracy:
    """Per cent of samples whose label is among the k classes with the highest scores.

    labels: (N,) class indices in the order of the samples. output: name of the class scores (N, C, 1, ...).
    """

    def __init__(self, name: str, output: str, k: int, labels: NDArray[np.int64]) -> None:
        self._name, self._output, self._k, self._labels = name, output, k, labels
        self._seen, self._right = 0, np.zeros(2, int)  # of the original, of the other model
        self._classes = 0

    def add(self, original: Outputs, other: Outputs) -> None:
        """One batch. Raises InputError where the labels are not those of these samples or not classes of the model."""
        scores = original[self._output]
        count, classes = scores.shape[:2]
        labels = self._labels[self._seen : self._seen + count]
        if len(labels) != count:
            raise InputError(f"a sample has one label and one row of scores: {len(labels)} labels, {count} rows")
        check_classes(labels, classes)
        self._seen, self._classes = self._seen + count, classes
        for i, outputs in enumerate((original, other)):
            self._right[i] += int(among_best(outputs[self._output].reshape(count, classes), labels, self._k).sum())

    @property
    def answers(self) -> int:
        """How many samples there are, each of which is one answer."""
        return self._seen

    def values(self) -> tuple[Metric, Metric] | None:
        if not self._seen:
            return None
        before, after = (Metric(self._name, 100 * int(right) / self._seen, self._seen) for right in self._right)
        return before, after

    def warnings(self) -> list[str]:
        before = 100 * int(self._right[0]) / max(self._seen, 1)
        if self._k > 1 or not self._seen or not at_chance(before, self._seen, self._classes):
            return []
        return [chance_warning(before, self._seen, self._classes)]


def among_best(scores: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """(N,) whether the label (N,) is one of the k best classes of scores (N, C); of equal ones the first is better.

    Never where the label's score is not a number.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    better = (scores > own) | ((scores == own) & earlier)
    return np.asarray((better.sum(axis=1) < k) & ~np.isnan(own[:, 0]))


class SameClass:
    """Agreement: per cent of samples whose best class is that of the original, in all of these outputs (N, C, ...)."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = outputs
        self._samples = self._same = 0

    def add(self, original: Outputs, other: Outputs) -> None:
        same = np.all([self._equal(original[name], other[name]) for name in self._outputs], axis=0)
        self._samples += len(same)
        self._same += int(same.sum())

    @property
    def answers(self) -> int:
        """How many samples there are, each of which is one answer."""
        return self._samples

    def _equal(self, a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(N,)"""
        return np.asarray(best_class(a, 1).reshape(len(a)) == best_class(b, 1).reshape(len(b)))

    def values(self) -> tuple[Metric, Metric] | None:
        if not self._samples:
            return None
        after = 100 * self._same / self._samples
        return Metric("agreement", 100.0, self._samples), Metric("agreement", after, self._samples)

    def warnings(self) -> list[str]:
        return []


class SameReading:
    """Agreement of a sequence: per cent of the places that say anything whose class is that of the original.

    A recogniser of text or sound answers most places with one class that stands for nothing. Where one class has more
    than half of all places, places count at which either model answers another one: all of the others agree anyway.
    output: name of the scores (N, T, C) or (T, N, C); axis: that of the samples.
    """

    def __init__(self, output: str, axis: int = 0) -> None:
        self._output, self._axis = output, axis
        self._samples = 0
        self._found: list[NDArray[np.intp]] = []  # (2, places): classes of the original and of the other model

    def add(self, original: Outputs, other: Outputs) -> None:
        a, b = (best_class(outputs[self._output], 2) for outputs in (original, other))
        self._samples += a.shape[self._axis]
        self._found.append(np.stack([a.reshape(-1), b.reshape(-1)]))

    @property
    def answers(self) -> int:
        """How many places count."""
        return int(self._said()[0].sum()) if any(found.size for found in self._found) else 0

    def _said(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(places,) whether either model says anything at it, and whether both say the same."""
        a, b = np.concatenate(self._found, axis=1)
        classes, counts = np.unique(a, return_counts=True)
        nothing = classes[counts.argmax()] if 2 * counts.max() > len(a) else None
        return np.ones(len(a), bool) if nothing is None else (a != nothing) | (b != nothing), a == b

    def values(self) -> tuple[Metric, Metric] | None:
        if not any(found.size for found in self._found):
            return None
        said, same = self._said()
        after = 100 * float(np.mean(same[said])) if said.any() else 100.0
        return Metric("agreement", 100.0, self._samples), Metric("agreement", after, self._samples)

    def warnings(self) -> list[str]:
        return []


def best_class(scores: NDArray[np.floating], axis: int) -> NDArray[np.intp]:
    """The index of the highest score along an axis; -1 where it is not a number."""
    best = scores.argmax(axis=axis)
    return np.where(np.isnan(np.take_along_axis(scores, np.expand_dims(best, axis), axis)).squeeze(axis), -1, best)
