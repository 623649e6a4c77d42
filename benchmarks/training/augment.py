"""Training images of SSD300 as they are seen at one step: enlarged, moved, mirrored and in another light."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.detection_data import Example
from benchmarks.networks.ssd300 import SIZE

VIEW = (0.6, 1.2)  # side of the part of an image that is seen, as a share of the image's

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def lit(rng: np.random.Generator, pixels: NDArray[Any]) -> Floats:
    """An image (height, width, 3) in other light; 0..255."""
    light = rng.uniform(-25, 25) + rng.uniform(-10, 10, 3)
    return np.asarray((pixels * rng.uniform(0.7, 1.3) + light).clip(0, 255), np.float32)


def enlarged(rng: np.random.Generator, image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(32, 32, 3) -> (side, side, 3), what is seen moved by up to 4 pixels along both axes, its width and height too,
    and mirrored in half of the cases.
    """
    left, top, right, bottom = rng.uniform(-4, 4, 4) + np.array([0, 0, 32, 32])
    if rng.random() < 0.5:
        left, right = right, left
    view = Image.fromarray(image).transform(
        (side, side),
        Image.Transform.EXTENT,
        (left, top, right, bottom),
        Image.Resampling.BICUBIC,
        fillcolor=tuple(rng.integers(0, 256, 3).tolist()),
    )
    return np.asarray(view)


def view(rng: np.random.Generator, example: Example) -> tuple[Floats, Floats, Ints]:
    """A part of an image, or more than it, as (300, 300, 3), and the objects whose centre is seen.

    Boxes (objects, 4) are corners in shares of what is seen, clipped to it. Half of the images are seen as they are.
    """
    side, corner = float(SIZE), np.zeros(2)
    if rng.random() < 0.5:
        side = SIZE * rng.uniform(*VIEW)
        corner = rng.uniform(min(0.0, SIZE - side), max(0.0, SIZE - side), 2)
    extent = (*corner, *(corner + side))
    picture = example.pixels().transform(
        (SIZE, SIZE), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR, fillcolor=(123, 117, 104)
    )
    boxes = (example.boxes - np.tile(corner, 2)) / side
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > 0) & (centres < 1)).all(axis=1)
    boxes, pixels = boxes[inside].clip(0, 1), np.asarray(picture)
    if rng.random() < 0.5:
        pixels, boxes = pixels[:, ::-1], boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0)
    return lit(rng, pixels), boxes.astype(np.float32), example.labels[inside]
