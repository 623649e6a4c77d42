"""What kind of outputs a model has: class scores, detections, masks, pictures or plain numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.class_scores import (
    FEWEST,
    are_logits,
    are_probabilities,
    class_count,
    class_scores,
    heads_of,
    is_table,
    likeliest,
    of_one_kind,
)
from ndpass.measuring.metrics import final_boxes, ssd, yolo
from ndpass.measuring.metrics.classes import best_class
from ndpass.measuring.metrics.detection import Layout
from ndpass.measuring.metrics.seen import Seen

MAP_SLACK = 0.15  # by which a map that was trained towards 0 and 1 leaves this range
SURE = 1.5  # logits of a mask reach further to both sides; pictures between -1 and 1 do not
SEQUENCE = re.compile(r"logit|ctc|log_?prob", re.IGNORECASE)
BLANK = 0.3  # share of the places of a sequence at which a reader says nothing
SEVERAL = 3  # classes that it says at all
MOST_CHANNELS = 4  # of an image
UNDECIDED = 0.25  # share of a map's values between 0.2 and 0.8 above which it is a picture and no mask


def layout(seen: Seen) -> Layout | None:
    """How the outputs hold detections, None where they hold none; only models of images have them."""
    if not seen.image:
        return None
    readers = (final_boxes.final_boxes, yolo.table, ssd.pairs, yolo.heads, final_boxes.triples)
    return next((found for reader in readers if (found := reader(seen)) is not None), None)


def class_output(seen: Seen, asked: bool = False) -> str | None:
    """The output that is class scores (N, C): the `likeliest`; with labels those first that have a class for each.

    asked: whether any table is to be taken for class scores.
    """
    labelled, classes = asked or seen.labels is not None, 0 if seen.labels is None else class_count(seen.labels)
    return likeliest(tables(seen), lambda name: list(seen.all(name)), labelled, classes)


def class_heads(seen: Seen, output: str) -> tuple[list[str], list[str]]:
    """The outputs that are class scores beside this one, and those among them that answer as others do."""
    kind = of_one_kind(tables(seen), lambda name: list(seen.all(name)))
    if output not in kind:
        return [output], []
    ordered = [output, *(name for name in kind if name != output)]
    best = {name: np.concatenate([class_scores(v).argmax(axis=1) for v in seen.all(name)]) for name in ordered}
    heads = heads_of({name: (own, seen.first(name).shape[1]) for name, own in best.items()})
    return heads, [name for name in ordered if name not in heads]


def tables(seen: Seen) -> list[str]:
    """The outputs (N, C)."""
    return [name for name in seen.names if is_table(seen.first(name)) and seen.is_batched(name)]


def _sum_to_one(seen: Seen, name: str, axis: int = 1) -> bool:
    return not any(are_logits(value, axis) for value in seen.all(name) if value.size)


def sequence_output(seen: Seen) -> str | None:
    """The output (N, T, C) or (T, N, C) that has scores of classes at every place: probabilities, or a reader's logits.

    Logits are told by what readers of text and speech do (Graves et al. 2006): where there is nothing to say, which is
    often, they answer with a blank, which is the first class or the last; elsewhere with several others. Or by name.
    """
    probable = [name for name in _triples(seen) if are_probabilities([*seen.all(name)], 2)]
    read = [name for name in _triples(seen) if SEQUENCE.search(name) or _has_a_blank(seen, name)]
    return next(iter([*probable, *read]), None)


def _has_a_blank(seen: Seen, name: str) -> bool:
    classes = seen.first(name).shape[2]
    best = np.concatenate([best_class(value, 2).reshape(-1) for value in seen.all(name)])
    blank = max(float(np.mean(best == edge)) for edge in (0, classes - 1)) if len(best) else 0.0
    return classes >= FEWEST and blank >= BLANK and len(np.unique(best)) >= SEVERAL


def any_sequence_output(seen: Seen) -> str | None:
    """The first output of three axes that may have scores of classes along the last."""
    return next(iter(_triples(seen)), None)


def _triples(seen: Seen) -> list[str]:
    own = [name for name in seen.names if seen.is_float(name) and seen.first(name).ndim == 3]
    return [name for name in own if seen.first(name).shape[2] > 1]


@dataclass(frozen=True)
class Map:
    """An output of masks. axis: of classes or maps, or None; threshold: of a mask, None for maps of classes."""

    output: str
    axis: int | None
    threshold: float | None
    what: str


def mask_output(seen: Seen) -> Map | None:
    """The first output that is masks, a map of classes or maps between 0 and 1."""
    found = (_mask(seen, name) for name in seen.names if seen.is_batched(name))
    return next((one for one in found if one is not None), None)


def _mask(seen: Seen, name: str) -> Map | None:
    shape = seen.first(name).shape
    if seen.first(name).dtype.kind in "iub":
        if len(shape) < 3 or math.prod(shape[-2:]) < 16:
            return None
        return Map(name, None, None, f"output '{name}' {seen.shape(name)} is a map of class numbers")
    if len(shape) not in (3, 4) or not seen.is_float(name):
        return None
    axis = map_axis(shape)
    count = 1 if axis is None else shape[axis]
    if axis is not None and count > 1 and _sum_to_one(seen, name, axis):
        return Map(name, axis, None, f"output '{name}' {seen.shape(name)} is a map of {count} classes")
    low, high = seen.range(name)
    if low >= -MAP_SLACK and high <= 1 + MAP_SLACK and _undecided(seen, name) <= UNDECIDED:
        several = "a map of 1 channel" if count == 1 else f"{count} maps"
        what = f"output '{name}' {seen.shape(name)} is {several} in 0..1, cut at 0.5"
        return Map(name, axis, 0.5, what)
    shaped = axis is not None or _has_the_shape_of_the_image(seen, shape)  # else it may be anything along a sequence
    if count == 1 and shaped and low < -SURE and high > SURE:
        return Map(name, axis, 0.0, f"output '{name}' {seen.shape(name)} is a map of 1 channel in logits, cut at 0")
    if axis is not None and count > 1 and low < 0 and not _is_picture(seen, shape, axis):
        return Map(name, axis, None, f"output '{name}' {seen.shape(name)} is a map of {count} class scores")
    return None


def _has_the_shape_of_the_image(seen: Seen, shape: tuple[int, ...]) -> bool:
    """Whether (N, H, W) is as wide for its height as the input image."""
    image = [side for side in seen.image if side > MOST_CHANNELS]
    return len(image) == 2 and abs(image[0] * shape[2] - image[1] * shape[1]) <= max(image)


def map_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of (N, C, H, W) or (N, H, W, C) holds the maps; None of (N, H, W)."""
    if len(shape) == 3:
        return None
    square = shape[1] == shape[2] != shape[3]
    return 3 if square or 4 * shape[3] <= min(shape[1:3]) else 1


def _undecided(seen: Seen, name: str) -> float:
    return float(np.mean([_between(value) for value in seen.all(name)]))


def _between(value: NDArray[Any]) -> float:
    return float(((value > 0.2) & (value < 0.8)).mean())


def picture_outputs(seen: Seen) -> list[str]:
    """The outputs (N, 1|3, H, W) or (N, H, W, 1|3) that are at least as large as the input: pictures, depths."""
    return [
        name
        for name in seen.names
        if seen.is_float(name)
        and len(shape := seen.first(name).shape) == 4
        and seen.is_batched(name)
        and _is_picture(seen, shape, map_axis(shape))
    ]


def _is_picture(seen: Seen, shape: tuple[int, ...], axis: int | None) -> bool:
    """Whether there are one or three maps which are at least as large as the input image."""
    if axis is None or shape[axis] not in (1, 3) or not seen.image:
        return False
    sides = [side for i, side in enumerate(shape[1:], 1) if i != axis]
    return min(sides) >= min(side for side in seen.image if side > 4)
