"""Outputs that are scores of classes: which one it is, and its probabilities."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.runtime import Feed, Outputs

SMALLEST = 1e-12  # a smaller probability counts as this, so that KL stays finite
SUM = 1e-3  # by which the sum of probabilities may differ from one

Floats = NDArray[np.float64]


def score_output(outputs: Outputs, feed: Feed) -> str | None:
    """The first output that can be class scores: (samples, classes) with two classes or more, trailing ones allowed.

    feed: what the outputs are of. Boxes (detections, 4) are no class scores: there are not as many as samples.
    """
    samples = {len(value) for value in feed.values() if value.ndim}
    return next((name for name, value in outputs.items() if is_table(value) and len(value) in samples), None)


def is_table(value: NDArray[Any]) -> bool:
    """Whether it is floats (N, C, 1, ...) with C of two or more."""
    return value.dtype.kind == "f" and value.ndim > 1 and value.shape[1] > 1 and math.prod(value.shape[2:]) == 1


def class_scores(value: NDArray[Any]) -> Floats:
    """(N, C) or (N, C, 1, ...) -> (N, C) in float64."""
    return value.reshape(value.shape[:2]).astype(np.float64)


def log_probabilities(scores: Floats, *, logits: bool) -> Floats:
    """(N, C) logits or probabilities -> (N, C) logarithms of probabilities, none below log SMALLEST."""
    if logits:
        shifted = scores - scores.max(axis=1, keepdims=True)
        scores = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return cast(Floats, np.log(np.maximum(scores, SMALLEST)))


def are_logits(scores: NDArray[Any], axis: int = 1) -> bool:
    """Whether scores along an axis are not already probabilities: negative somewhere, or of another sum than one."""
    return bool(scores.min() < 0 or np.abs(scores.sum(axis=axis, dtype=np.float64) - 1).max() > SUM)
