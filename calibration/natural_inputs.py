"""Inputs for a model that comes without data: what it might see, as far as its inputs tell.

Inputs of four axes are pictures with natural statistics (`ndpass.calibration.dead_leaves`). All others are sequences
along their longest axis whose power falls as 1/f, louder and quieter in turns; those of five axes are pictures that
drift. White noise is no stand-in: its neighbouring pixels have nothing in common, so most of what a trained filter
looks for never appears, and a network that was ruined for pictures may still answer noise as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.dead_leaves import picture, pink
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.calibration.tensors import cast, check_shape
from ndpass.graph.input_spec import InputSpec, check_drawn

SAMPLES = 16
MOST_CHANNELS = 4  # of pictures whose channels come last
Floats = NDArray[np.float64]


def natural_feeds(
    specs: Sequence[InputSpec],
    sizes: Mapping[str, tuple[int, ...]],
    seed: int,
    preprocess: Preprocess | None = None,
    samples: int = SAMPLES,
) -> Feeds:
    """Seeded inputs with natural statistics.

    sizes: input name -> shape, the batch first if it has one. preprocess: what pixels go through, for a model of one
    picture; without it floats have mean 0 and standard deviation 1, integers of 8 or 16 bits spread over their range,
    wider ones over 0..255 in pictures and over 0 and 1, which index almost anything, elsewhere. Raises InputError for a
    preprocessing that makes pictures of another shape.
    """
    shapes = {spec.name: sizes[spec.name][1:] if spec.batched else sizes[spec.name] for spec in specs}
    arrays = {
        spec.name: _values(spec, shapes[spec.name], np.random.default_rng([seed, i]), preprocess, samples)
        for i, spec in enumerate(specs)
    }
    return open_feeds([{name: a[i] for name, a in arrays.items()} for i in range(samples)], specs)


def _values(
    spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, preprocess: Preprocess | None, samples: int
) -> NDArray[Any]:
    """(samples, *shape) of the input's type."""
    check_drawn(spec.name, spec.dtype, shape)
    if len(shape) == 3 and preprocess is not None:
        pictures = np.stack([_preprocessed(rng, shape, preprocess) for _ in range(samples)])
        check_shape(pictures.shape, spec, preprocess, "--preprocess")
        return cast(pictures, spec, preprocess)
    draw = {3: _picture, 4: _film}.get(len(shape), _sequence)
    return _scaled(np.stack([draw(rng, shape) for _ in range(samples)]), spec.dtype, is_picture=len(shape) in (3, 4))


def _preprocessed(rng: np.random.Generator, shape: tuple[int, ...], preprocess: Preprocess) -> NDArray[np.float32]:
    """One picture as pixels, through everything but the resizing."""
    height, width = shape[1:] if preprocess.layout == "nchw" else shape[:2]
    pixels = np.round(255 * picture(rng, height, width, preprocess.channels)).astype(np.uint8)
    return preprocess.normalise(pixels, white=255)


def _picture(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """(C, H, W), or (H, W, C) where the last axis is that of few channels, in 0..1."""
    first, middle, last = shape
    if last <= MOST_CHANNELS < first:
        return picture(rng, first, middle, last)
    return np.moveaxis(picture(rng, middle, last, first), -1, 0)


def _film(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """(C, T, H, W): one picture that drifts from frame to frame, in 0..1."""
    channels, frames, height, width = shape
    still = np.moveaxis(picture(rng, height, width, channels), -1, 0)
    speed = rng.uniform(-3, 3, 2)
    steps = (tuple(np.round(t * speed).astype(int)) for t in range(frames))
    return np.stack([np.roll(still, step, (1, 2)) for step in steps], axis=1)


def _sequence(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Any other shape: noise whose power falls as 1/f along the longest axis, with a loudness that changes slowly."""
    if not shape:
        return np.asarray(rng.standard_normal())
    axis = int(np.argmax(shape))
    rest = shape[:axis] + shape[axis + 1 :]
    lines = [_line(rng, shape[axis]) for _ in range(int(np.prod(rest)))]
    return np.moveaxis(np.reshape(lines, (*rest, shape[axis])), -1, axis)


def _line(rng: np.random.Generator, length: int) -> Floats:
    if length < 3:  # nothing falls
        return rng.standard_normal(length)
    return pink(rng, (length,), 0.5) * np.exp(0.5 * pink(rng, (length,), 1.0))


def _scaled(values: Floats, dtype: np.dtype[Any], *, is_picture: bool) -> NDArray[Any]:
    """To the range that an input of this type most likely has."""
    if dtype.kind == "f":
        return np.asarray((values - values.mean()) / (values.std() or 1.0), dtype)
    low, high = (0, 1) if dtype.kind == "b" else (int(limit) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if dtype.itemsize > 2:
        low, high = 0, 255 if is_picture else 1
    if not is_picture:
        values = values.argsort(axis=None).argsort().reshape(values.shape) / max(values.size - 1, 1)
    return np.round(low + (high - low) * values).astype(dtype)
