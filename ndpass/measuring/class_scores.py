"""Outputs that are scores of classes: which one it is, and its probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.measuring.runtime import Feed, Outputs

SMALLEST = 1e-12  # a smaller probability counts as this, so that KL stays finite
SUM = 1e-3  # by which the sum of probabilities may differ from one
NOT_CLASSES = re.compile(
    r"embed|feature|descriptor|vector|landmark|keypoint|coord|offset|(?<![a-z])(b?box|pose|angle|age)", re.IGNORECASE
)
CLASSES = re.compile(r"class|cls|prob|logit|softmax|score|label", re.IGNORECASE)
FEWEST = 10  # numbers without a name that are taken for classes: fewer may as well be measures, as of quality or gaze
VECTORS = (128, 256, 512, 1024, 2048)  # lengths of embeddings; classes seldom come in such numbers
UNIT = 1e-3  # by which the length of a unit vector may differ from one

Floats = NDArray[np.float64]


def check_classes(labels: NDArray[np.int64], classes: int) -> None:
    """Raise InputError for labels (n,) that number no class of the model."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        found = f"labels go from {labels.min()} to {labels.max()}"
        raise InputError(f"a label is the number of a class, 0 to {classes - 1} in this model; {found}")


def score_output(outputs: Outputs, feed: Feed, labelled: bool = False) -> str | None:
    """The output that is class scores, as far as one batch tells: of those (samples, classes), the `likeliest`.

    feed: what the outputs are of; labelled: whether there are labels. Boxes (detections, 4) are no class scores: there
    are not as many as samples.
    """
    samples = {len(value) for value in feed.values() if value.ndim}
    tables = [name for name, value in outputs.items() if is_table(value) and len(value) in samples]
    return likeliest(tables, lambda name: [outputs[name]], labelled)


def likeliest(
    tables: Sequence[str], values: Callable[[str], Sequence[NDArray[Any]]], labelled: bool = False
) -> str | None:
    """Which of these outputs is class scores: probabilities first, then by its name, then the first that can be.

    tables: names of outputs (N, C), in their order; values: what an output gave, in batches. labelled: every table can
    be class scores; otherwise none of fewer than FEWEST numbers, or that is of unit length, or as long as embeddings
    are, or is named like something else, or falls along every row as what a TopK gives.
    """
    tables = [name for name in tables if labelled or not are_sorted(values(name))]
    probabilities = [name for name in tables if are_probabilities(values(name))]
    likely = [name for name in tables if CLASSES.search(name)]
    possible = tables if labelled else [name for name in tables if not _are_other_numbers(name, values(name))]
    return next(iter([*probabilities, *likely, *possible]), None)


def are_sorted(values: Sequence[NDArray[Any]]) -> bool:
    """Whether every row of FEWEST numbers or more falls, from the first on: that one would always be the best."""
    rows = [value.reshape(len(value), -1) for value in values]
    falls = all(bool((value[:, 1:] <= value[:, :-1]).all()) for value in rows)
    return rows[0].shape[1] >= FEWEST and falls and any(bool((value[:, 0] > value[:, -1]).any()) for value in rows)


def _are_other_numbers(name: str, values: Sequence[NDArray[Any]]) -> bool:
    return values[0].shape[1] < FEWEST or _is_vector(name, values)


def _is_vector(name: str, values: Sequence[NDArray[Any]]) -> bool:
    lengths = np.concatenate([np.linalg.norm(v.reshape(len(v), -1), axis=1) for v in values])
    unit = bool(np.abs(lengths - 1).max(initial=0) < UNIT)
    return unit or values[0].shape[1] in VECTORS or NOT_CLASSES.search(name) is not None


def is_table(value: NDArray[Any]) -> bool:
    """Whether it is floats (N, C) or (N, C, 1, 1, ...) with C of two or more.

    (N, A, 1) is one number for each of A anchors or moments, and scores of classes only where these sum to one.
    """
    if value.dtype.kind != "f" or value.ndim < 2 or value.shape[1] < 2 or math.prod(value.shape[2:]) != 1:
        return False
    return value.ndim != 3 or are_probabilities([value])


def class_scores(value: NDArray[Any]) -> Floats:
    """(N, C) or (N, C, 1, ...) -> (N, C) in float64."""
    return value.reshape(value.shape[:2]).astype(np.float64)


def log_probabilities(scores: Floats, *, logits: bool) -> Floats:
    """(N, C) logits or probabilities -> (N, C) logarithms of probabilities, none below log SMALLEST."""
    if logits:
        shifted = scores - scores.max(axis=1, keepdims=True)
        scores = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return cast(Floats, np.log(np.maximum(scores, SMALLEST)))


def are_probabilities(values: Sequence[NDArray[Any]], axis: int = 1) -> bool:
    """Whether all scores along an axis are probabilities, or their logarithms as of a LogSoftmax."""
    found = [value for value in values if value.size]
    return not any(are_logits(value, axis) for value in found) or all(_are_logarithms(value, axis) for value in found)


def _are_logarithms(scores: NDArray[Any], axis: int) -> bool:
    with np.errstate(over="ignore"):
        sums = np.exp(scores.astype(np.float64)).sum(axis=axis)
    return bool(np.abs(sums - 1).max() <= SUM)


def are_logits(scores: NDArray[Any], axis: int = 1) -> bool:
    """Whether scores along an axis are not already probabilities: negative somewhere, or of another sum than one."""
    return bool(scores.min() < 0 or np.abs(scores.sum(axis=axis, dtype=np.float64) - 1).max() > SUM)
