"""Sampled positions of a layer: which, and the input patches and responses there.

Positions are drawn for all images of a layer at once, from the seed and the layer's number, so that neither the batch
size nor the other layers change them. A patch is (n_i·K,) with the channel as the slow index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Array, Conv

# Patches for each element of a patch, and limits. Measured on VGG16 with nd at 0.3 of the MACs, 5,000 images: 10 within
# 20,000 to 40,000 instead of 4 within 5,000 to 20,000 lowered the KL divergence of the outputs from 0.035 to 0.029.
ROWS_PER_UNKNOWN = 10
FEWEST, MOST = 20_000, 40_000

Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Sample:
    """Positions (images, per image) of one layer, as flat numbers of its output map."""

    positions: Positions

    @classmethod
    def draw(cls, conv: Conv, places: int, images: int, seed: int, layer: int) -> Sample:
        """places: how many positions the output map of one image has; all are taken where that is few enough."""
        wanted = min(max(ROWS_PER_UNKNOWN * conv.unknowns, FEWEST), MOST)
        each = min(places, math.ceil(wanted / images))
        if each == places:
            return cls(np.broadcast_to(np.arange(places), (images, places)))
        rng = np.random.default_rng([seed, layer])
        return cls(rng.integers(0, places, (images, each)))

    @property
    def rows(self) -> int:
        return int(self.positions.size)

    @property
    def each(self) -> int:
        """How many there are in an image."""
        return int(self.positions.shape[1])

    def of(self, start: int, images: int) -> Positions:
        """Positions of the images from number `start` on."""
        return self.positions[start : start + images]

    def thinned(self, every: int) -> Sample:
        """One of `every` positions of each image, at most as many as there are."""
        return Sample(self.positions[:, ::every])

    def thin(self, rows: Array, every: int) -> Array:
        """Of (rows, n_o) at these positions those at `thinned(every)`."""
        return rows.reshape(-1, self.each, rows.shape[1])[:, ::every].reshape(-1, rows.shape[1])


def responses(y: Array, positions: Positions, channels_last: bool) -> Array:
    """Responses (images·per image, n_o) at the positions of y, (images, n_o, *hw) or, channels last, (..., n_o)."""
    images = len(positions)
    if channels_last:
        flat = y.reshape(images, -1, y.shape[-1])
        return flat[np.arange(images)[:, None], positions].reshape(-1, y.shape[-1])
    flat = y.reshape(images, y.shape[1], -1)
    return flat[np.arange(images)[:, None], :, positions].reshape(-1, y.shape[1])


def patches(conv: Conv, x: Array, positions: Positions) -> Array:
    """Input patches (images·per image, n_i·K) at output positions.

    x: (images, n_i, *hw), or (images, ..., n_i) for a matrix product.
    """
    images = len(positions)
    if not conv.kernel:
        return responses(x, positions, channels_last=True)
    axes, in_hw = len(conv.kernel), x.shape[2:]
    where = np.unravel_index(positions, conv.out_hw(tuple(in_hw)))
    index = [_taps(conv, a, axes, where[a]) for a in range(axes)]
    image = np.arange(images).reshape(-1, *(1,) * (axes + 1))
    inside = [np.clip(i, 0, size - 1) for i, size in zip(index, in_hw, strict=True)]
    which: tuple[Any, ...] = (image, slice(None), *inside)
    taken = x[which]  # (images, each, *kernel, n_i): the sliced axis comes last
    for i, clipped in zip(index, inside, strict=True):
        if any(conv.pads):  # only what is read is padded: a map may be large and its patches few
            taken[np.broadcast_to(i != clipped, taken.shape[:-1])] = 0
    flat: Array = np.moveaxis(taken, -1, 2).reshape(positions.size, -1)
    return flat


def _taps(conv: Conv, a: int, axes: int, out: Positions) -> Positions:
    """Input coordinates along axis a, (images, each, 1, …, k_a, …, 1); those of the padding lie outside."""
    offsets = np.arange(conv.kernel[a]) * conv.dilations[a] - conv.pads[a]
    along = offsets.reshape([-1 if b == a else 1 for b in range(axes)])
    return out.reshape(*out.shape, *(1,) * axes) * conv.strides[a] + along
