"""Sampled positions of a layer: which, and the input patches and responses there.

Positions are drawn for all images of a layer at once, from the seed and the layer's number, so that neither the batch
size nor the other layers change them. A patch is (n_i·K,) with the channel as the slow index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Array, Conv
from ndpass.measuring.sample_order import IN_TURN, Order

# Patches for each element of a patch, and limits. Measured on VGG16 with nd at 0.3 of the MACs, 5,000 images: 10 within
# 20,000 to 40,000 instead of 4 within 5,000 to 20,000 lowered the KL divergence of the outputs from 0.035 to 0.029.
ROWS_PER_UNKNOWN = 10
FEWEST, MOST = 20_000, 40_000

Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Sample:
    """Positions (images, per image) of one layer, as flat numbers of its output map, or of its k maps of an image.

    order: where the images are in the layer's input and output.
    """

    positions: Positions
    order: Order = IN_TURN

    @classmethod
    def draw(cls, conv: Conv, places: int, images: int, seed: int, layer: int, order: Order = IN_TURN) -> Sample:
        """places: how many positions the output maps of one image have; all are taken where that is few enough."""
        wanted = min(max(ROWS_PER_UNKNOWN * conv.unknowns, FEWEST), MOST)
        each = min(places, math.ceil(wanted / images))
        if each == places:
            return cls(np.broadcast_to(np.arange(places), (images, places)), order)
        rng = np.random.default_rng([seed, layer])
        return cls(rng.integers(0, places, (images, each)), order)

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
        return replace(self, positions=self.positions[:, spread(self.each, every)])

    def thin(self, rows: Array, every: int) -> Array:
        """Of (rows, n_o) at these positions those at `thinned(every)`."""
        return rows.reshape(-1, self.each, rows.shape[1])[:, spread(self.each, every)].reshape(-1, rows.shape[1])


def spread(count: int, step: int, start: int = 0) -> Positions:
    """Of `count` numbers from `start` on one in each run of `step`, the first run beginning at 0; less `start`.

    Not each `step`-th: where all positions of a map are taken, one row after another, these lie in a few columns if
    `step` divides the width. They are drawn, alike for each run whatever part of it is asked for.
    """
    first, end = start // step, -(-(start + count) // step)
    drawn = (step * np.random.default_rng(step).random(end)[first:]).astype(np.intp)
    if first == 0:
        drawn[:1] = 0  # so that there is one of a few positions, too
    found = np.arange(first, end) * step + drawn - start
    chosen: Positions = found[(found >= 0) & (found < count)]
    return chosen


def responses(y: Array, positions: Positions, channels_last: bool) -> Array:
    """Responses (images·per image, n_o) at the positions of y, (images·k, n_o, *hw) or, channels last, (..., n_o).

    The images are in their order, the k maps of each together.
    """
    images = len(positions)
    if channels_last:
        flat = y.reshape(images, -1, y.shape[-1])
        return flat[np.arange(images)[:, None], positions].reshape(-1, y.shape[-1])
    flat = y.reshape(len(y), y.shape[1], -1)
    image, place = _in_maps(positions, len(y), flat.shape[2])
    return flat[image, :, place].reshape(-1, y.shape[1])


def patches(conv: Conv, x: Array, positions: Positions) -> Array:
    """Input patches (images·per image, n_i·K) at output positions.

    x: (images·k, n_i, *hw), or (images, ..., n_i) for a matrix product, as of `responses`.
    """
    if not conv.kernel:
        return responses(x, positions, channels_last=True)
    axes, in_hw = len(conv.kernel), x.shape[2:]
    out_hw = conv.out_hw(tuple(in_hw))
    numbers, place = _in_maps(positions, len(x), math.prod(out_hw))
    where = np.unravel_index(place, out_hw)
    index = [_taps(conv, a, axes, where[a]) for a in range(axes)]
    image = numbers.reshape(*numbers.shape, *(1,) * axes)
    inside = [np.clip(i, 0, size - 1) for i, size in zip(index, in_hw, strict=True)]
    which: tuple[Any, ...] = (image, slice(None), *inside)
    taken = x[which]  # (images, each, *kernel, n_i): the sliced axis comes last
    for i, clipped in zip(index, inside, strict=True):
        if any(conv.pads):  # only what is read is padded: a map may be large and its patches few
            taken[np.broadcast_to(i != clipped, taken.shape[:-1])] = 0
    flat: Array = np.moveaxis(taken, -1, 2).reshape(positions.size, -1)
    return flat


def _in_maps(positions: Positions, maps: int, places: int) -> tuple[Positions, Positions]:
    """Positions (images, each), counted through all maps of an image, as numbers of maps and positions in them."""
    images = len(positions)
    inside, place = np.divmod(positions, places)
    return np.arange(images)[:, None] * (maps // images) + inside, place


def _taps(conv: Conv, a: int, axes: int, out: Positions) -> Positions:
    """Input coordinates along axis a, (images, each, 1, …, k_a, …, 1); those of the padding lie outside."""
    offsets = np.arange(conv.kernel[a]) * conv.dilations[a] - conv.pads[a]
    along = offsets.reshape([-1 if b == a else 1 for b in range(axes)])
    return out.reshape(*out.shape, *(1,) * axes) * conv.strides[a] + along
