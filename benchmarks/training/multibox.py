"""Which prior box learns which object, and the loss of SSD (Liu et al. 2016, section 2.2).

    L = (Σ smooth L1 of the matched priors' offsets + Σ cross entropy of these and of the hardest others, 3 for each)
        / number of matched priors

A prior is matched to the object that it overlaps most, if by more than 0.5, and an object also to its best prior.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.networks.ssd300 import VARIANCES

MATCHED = 0.5  # overlap of a prior and its object
NEGATIVES = 3  # for each matched prior

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def matched(priors: Floats, boxes: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Offsets (8732, 4) and labels (8732,), 0 for the background, that each prior is to predict.

    priors: centre and size; boxes: (objects, 4) corners; labels: (objects,).
    """
    offsets, wanted = np.zeros_like(priors), np.zeros(len(priors), np.int64)
    if not len(boxes):
        return offsets, wanted
    overlap = overlaps(priors, boxes)  # (8732, objects)
    best = overlap.argmax(axis=1)
    hit = overlap.max(axis=1) > MATCHED
    own = overlap.argmax(axis=0)  # an object's best prior is its own whatever the overlap
    best[own], hit[own] = np.arange(len(boxes)), True
    box = boxes[best[hit]]
    centre, size = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 2:] - box[:, :2], 1e-3)
    prior = priors[hit]
    offsets[hit, :2] = (centre - prior[:, :2]) / prior[:, 2:] / VARIANCES[0]
    offsets[hit, 2:] = np.log(size / prior[:, 2:]) / VARIANCES[1]
    wanted[hit] = labels[best[hit]]
    return offsets, wanted


def overlaps(priors: Floats, boxes: Floats) -> Floats:
    """Intersection over union: centre and size (n, 4), corners (m, 4) -> (n, m)"""
    low, high = priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2
    common = np.minimum(high[:, None], boxes[None, :, 2:]) - np.maximum(low[:, None], boxes[None, :, :2])  # (n, m, 2)
    inner = np.prod(common.clip(0), axis=2)
    areas = np.prod(priors[:, 2:], axis=1)[:, None] + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[None]
    return np.asarray(inner / (areas - inner), np.float32)


def multibox(offsets: Any, logits: Any, wanted_offsets: Any, wanted: Any) -> Any:
    """The loss L of the module docstring: (N, 8732, 4), (N, 8732, classes), (N, 8732, 4), (N, 8732) -> ()"""
    positive = wanted > 0
    regression = functional.smooth_l1_loss(offsets[positive], wanted_offsets[positive], reduction="sum")
    each = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").reshape(wanted.shape)
    hardness = each.detach().masked_fill(positive, 0.0)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    negative = rank < NEGATIVES * positive.sum(dim=1, keepdim=True)
    return (regression + each[positive | negative].sum()) / positive.sum().clamp(min=1)
