"""Pictures with the statistics of natural ones, drawn from nothing but a seed.

Natural pictures have an amplitude spectrum that falls as 1/f, edges where one thing hides another, and channels that
mostly say the same. Leaves of all sizes that fall on each other have the first two (Ruderman 1997; Lee, Mumford and
Huang 2001): their radii r have the density r⁻³, so that every scale covers as much. Each leaf here has a colour, a
shade that changes across it, and its share of a texture whose spectrum falls as 1/f, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAVES = 600  # at most; nearly all of a picture is covered by then
SMALLEST = 32  # radius of the smallest leaf: the picture's shorter side over this, one pixel at least
BARE = 0.005  # share of the picture that may stay ground
CHROMA = 0.35  # standard deviation of what is a channel's own, to that of what all have in common
TEXTURE = 0.5  # of the most textured leaf, in standard deviations of the leaves' brightness
SHADE = 0.4  # change of brightness from a leaf's middle to its edge, likewise
GREY, CONTRAST = 0.45, 0.22  # mean and standard deviation of a picture between 0 and 1

Floats = NDArray[np.float64]


def picture(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> Floats:
    """(height, width, channels) in 0..1."""
    leaves = _blurred(_leaves(rng, height, width, channels))
    leaves = (leaves - leaves.mean()) / (leaves.std() or 1.0)
    brightness, contrast = GREY + 0.08 * rng.standard_normal(), CONTRAST * np.exp(0.3 * rng.standard_normal())
    return np.asarray(np.clip(brightness + contrast * leaves, 0, 1))


def pink(rng: np.random.Generator, sides: tuple[int, ...], power: float) -> Floats:
    """Gaussian noise (sides) of standard deviation one, whose amplitude spectrum falls as f to the minus `power`."""
    steps = [np.fft.fftfreq(side) for side in sides[:-1]] + [np.fft.rfftfreq(sides[-1])]
    f = np.sqrt(sum(np.square(step) for step in np.meshgrid(*steps, indexing="ij")))
    f.flat[0] = np.inf  # no mean
    noise = np.fft.irfftn(np.fft.rfftn(rng.standard_normal(sides)) * f**-power, s=sides, axes=range(len(sides)))
    return np.asarray(noise / (noise.std() or 1.0))


def _leaves(rng: np.random.Generator, height: int, width: int, channels: int) -> Floats:
    """(height, width, channels), drawn from the foremost leaf to the ground."""
    image = np.empty((height, width, channels))
    texture = _texture(rng, height, width, channels)
    bare = np.ones((height, width), bool)
    least, most = max(1.0, min(height, width) / SMALLEST), max(2.0, float(min(height, width)))
    for radius in _radii(rng, least, most):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        rows, columns = _window(y, radius, height), _window(x, radius, width)
        inside = bare[rows, columns]
        if not inside.any():
            continue
        covered, shade = _leaf(rng, rows, columns, (y, x), radius)
        covered &= inside
        colour = _colour(rng, channels) + SHADE * rng.standard_normal() * shade[covered][:, None]
        strength = rng.uniform(0, TEXTURE)
        image[rows, columns][covered] = colour + strength * texture[rows, columns][covered]
        inside[covered] = False
        if bare.mean() < BARE:
            break
    image[bare] = _colour(rng, channels) + TEXTURE * texture[bare]
    return image


def _blurred(image: Floats) -> Floats:
    """As a lens does: each pixel takes a part from either neighbour, along both axes."""
    for axis in (0, 1):
        wide = np.pad(image, [(int(i == axis),) * 2 for i in range(3)], mode="edge")
        before, after = (wide.take(range(start, start + image.shape[axis]), axis) for start in (0, 2))
        image = 0.7 * image + 0.15 * (before + after)
    return image


def _radii(rng: np.random.Generator, least: float, most: float) -> Floats:
    """(LEAVES,) of density r⁻³ between these."""
    u = rng.random(LEAVES)
    return np.asarray((least**-2 - u * (least**-2 - most**-2)) ** -0.5)


def _window(middle: float, radius: float, side: int) -> slice:
    """The rows or columns that a leaf may cover; it may be longer than wide."""
    return slice(max(0, int(middle - 1.5 * radius)), min(side, int(middle + 1.5 * radius) + 2))


def _leaf(
    rng: np.random.Generator, rows: slice, columns: slice, middle: tuple[float, float], radius: float
) -> tuple[NDArray[np.bool_], Floats]:
    """Of a window: which pixels an ellipse or a rectangle covers, turned at random, and how far along it they are."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
    dy = np.arange(rows.start, rows.stop)[:, None] - middle[0]
    dx = np.arange(columns.start, columns.stop)[None] - middle[1]
    along = (np.cos(turn) * dx + np.sin(turn) * dy) / (radius * stretch)
    across = (np.cos(turn) * dy - np.sin(turn) * dx) * stretch / radius
    if rng.random() < 0.5:
        return np.square(along) + np.square(across) <= 1, along
    return np.maximum(np.abs(along), np.abs(across)) <= 0.85, along


def _colour(rng: np.random.Generator, channels: int) -> Floats:
    """(channels,) of which most is in common."""
    return rng.standard_normal() + CHROMA * rng.standard_normal(channels)


def _texture(rng: np.random.Generator, height: int, width: int, channels: int) -> Floats:
    """(height, width, channels)"""
    common = pink(rng, (height, width), 1.0)
    return np.stack([common + CHROMA * pink(rng, (height, width), 1.0) for _ in range(channels)], axis=-1)
