"""Outputs that are scores of classes: which ones they are, and their probabilities.

A model may have several heads, as a reader of captchas has one for each digit: whoever uses it takes the answers of
all. Outputs that say the same as another one, as logits beside their softmax or an auxiliary head, are no heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
ALIKE = 0.6  # Cohen's kappa above which two outputs answer one question (Landis & Koch 1977: substantial)
TOLD = 10  # samples that tell it
UNIT = 1e-3  # by which the length of a unit vector may differ from one

Floats = NDArray[np.float64]
Values = Callable[[str], Sequence[NDArray[Any]]]


def check_classes(labels: NDArray[np.int64], classes: int) -> None:
    """Raise InputError for labels (n,) that number no class of the model."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        found = f"labels go from {labels.min()} to {labels.max()}"
        raise InputError(f"a label is the number of a class, 0 to {classes - 1} in this model; {found}")


def class_count(labels: NDArray[np.int64]) -> int:
    """The least number of classes that labels (n,) are of."""
    return int(labels.max(initial=-1)) + 1


def score_output(outputs: Outputs, feed: Feed, labelled: bool = False, classes: int = 0) -> str | None:
    """The output that is class scores, as far as one batch tells: of those (samples, classes), the `likeliest`.

    feed: what the outputs are of; labelled: whether there are labels, classes: how many they are of. Boxes
    (detections, 4) are no class scores: there are not as many as samples.
    """
    return likeliest(_tables(outputs, feed), lambda name: [outputs[name]], labelled, classes)


def score_outputs(outputs: Outputs, feed: Feed, labels: NDArray[np.int64] | None) -> list[str]:
    """All outputs that are class scores of the likeliest kind; with labels the one that these are of."""
    if labels is None:
        return of_one_kind(_tables(outputs, feed), lambda name: [outputs[name]])
    name = score_output(outputs, feed, True, class_count(labels))
    return [] if name is None else [name]


def _tables(outputs: Outputs, feed: Feed) -> list[str]:
    samples = {len(value) for value in feed.values() if value.ndim}
    return [name for name, value in outputs.items() if is_table(value) and len(value) in samples]


def likeliest(tables: Sequence[str], values: Values, labelled: bool = False, classes: int = 0) -> str | None:
    """Which of these outputs is class scores: the first `of_one_kind`, with labels of so many classes one of as many.

    An output that has no class for some label is taken only where none has.
    """
    enough = [name for name in tables if values(name)[0].shape[1] >= classes] or tables
    kind = of_one_kind(enough, values, labelled)
    return next(iter([*(name for name in kind if values(name)[0].shape[1] == classes), *kind]), None)


def of_one_kind(tables: Sequence[str], values: Values, labelled: bool = False) -> list[str]:
    """Those that are class scores: the probabilities; else those named like classes; else those that can be, of as many
    numbers as the first of them, for others may as well be measures.

    tables: names of outputs (N, C), in their order; values: what an output gave, in batches. labelled: every table can
    be class scores; otherwise none of fewer than FEWEST numbers, or that is of unit length, or as long as embeddings
    are, or is named like something else, or falls along every row as what a TopK gives.
    """
    tables = [name for name in tables if labelled or not are_sorted(values(name))]
    probabilities = [name for name in tables if are_probabilities(values(name))]
    likely = [name for name in tables if CLASSES.search(name)]
    possible = tables if labelled else [name for name in tables if not _are_other_numbers(name, values(name))]
    lengths = {name: values(name)[0].shape[1] for name in possible}
    return probabilities or likely or [name for name in possible if labelled or lengths[name] == lengths[possible[0]]]


def heads_of(best: Mapping[str, tuple[NDArray[np.intp], int]]) -> list[str]:
    """Outputs without those that answer nearly as an earlier one of as many classes does.

    best: of each output the best classes (n,) of all samples, and how many classes there are.
    """
    found: list[str] = []
    for name, (own, classes) in best.items():
        if not any(classes == best[other][1] and _kappa(own, best[other][0]) > ALIKE for other in found):
            found.append(name)
    return found


def _kappa(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
    """Cohen's kappa of answers (n,): agreement beyond chance; 0 where samples are few or the answers always the same.

    κ = (p − e) / (1 − e)        p: share of equal answers, e: of those that would be equal by chance
    """
    if len(a) < TOLD:
        return 0.0
    shares = [np.bincount(x, minlength=int(max(a.max(), b.max())) + 1) / len(a) for x in (a, b)]
    chance = float(shares[0] @ shares[1])
    return float((np.mean(a == b) - chance) / (1 - chance)) if chance < 1 else 0.0


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
