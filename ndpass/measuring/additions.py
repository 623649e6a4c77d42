"""What a network adds to the picture that it is given.

An upscaler or a denoiser gives its input again, larger or cleaner: nearly all of the variance of its output is that of
its input. An error relative to that variance says little of it. So what the network adds is told apart, as what is left
of its output y after regression on the input,

    r = y − (A x↑ + b)

x↑ (channels of the input) is the input at the size of the output, by cubic convolution (Keys 1981); A and b are found
by least squares over all samples and places. E|y − ŷ|² / E|r|² is then the share of what the network adds that another
model loses: at 1 it is no better than plain interpolation.

An output is a picture of the input where x↑ explains EXPLAINED of its variance. Signals (N, C, T) and volumes
(N, C, D, H, W) count as pictures, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.runtime import Feed, Outputs

EXPLAINED = 0.9  # of the variance of an output that is a picture of the input
HOPELESS = 0.5  # of its variance, explained in the first batch: with less an output is looked at no further
NOTHING = 1e-9  # of its variance, that is rounding
MOST_CHANNELS = 4
SHARPNESS = -0.5  # Keys' a

Floats = NDArray[np.float64]
Spread = Sequence[Floats]  # for each axis the matrix (output, input) that enlarges it


class Additions:
    """Gathers batch by batch what a network adds to its input."""

    def __init__(self) -> None:
        self._fits: dict[str, list[_Fit]] | None = None

    def add(self, feed: Feed, outputs: Outputs) -> None:
        """The inputs of a batch and what the network gives for them."""
        first = self._fits is None
        if self._fits is None:
            self._fits = {name: list(_ways(_pictures(feed, y), y)) for name, y in outputs.items()}
        for name, fits in self._fits.items():
            for fit in fits:
                fit.add(_pictures(feed, outputs[name]), outputs[name])
            if first:
                self._fits[name] = [fit for fit in fits if fit.explained >= HOPELESS]

    @property
    def is_open(self) -> bool:
        """Whether any output may still be a picture of the input."""
        return self._fits is None or any(self._fits.values())

    def squares(self) -> dict[str, float]:
        """Output name -> Σ|r|² over all samples, of the outputs that are pictures of the input and more than that."""
        best = {name: max(fits, key=lambda fit: fit.explained) for name, fits in (self._fits or {}).items() if fits}
        return {name: fit.left for name, fit in best.items() if EXPLAINED <= fit.explained < 1 - NOTHING}


def additions_of(feeds: Iterable[Feed], outputs: Iterable[Outputs]) -> dict[str, float]:
    """Output name -> Σ|r|² of a network whose outputs are stored; feeds are read as far as they are needed."""
    found = Additions()
    for feed, given in zip(feeds, outputs, strict=True):
        found.add(feed, given)
        if not found.is_open:
            return {}
    return found.squares()


def _axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of a picture holds its channels: the second or the last; None of what is no picture."""
    if not 3 <= len(shape) <= 5:
        return None
    return next((i for i in (1, len(shape) - 1) if shape[i] <= MOST_CHANNELS), None)


def _pictures(feed: Feed, y: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """The inputs that an output may be a picture of, of one size; none where it is no picture."""
    if y.dtype.kind != "f" or _axis(y.shape) is None:
        return []
    found = [x for x in feed.values() if x.ndim == y.ndim and len(x) == len(y) and _axis(x.shape) is not None]
    return [x for x in found if _sides(x) == _sides(found[0])]


def _sides(picture: NDArray[np.generic]) -> tuple[int, ...]:
    axis = _axis(picture.shape)
    return tuple(side for i, side in enumerate(picture.shape[1:], 1) if i != axis)


def _ways(inputs: Sequence[NDArray[np.generic]], y: NDArray[np.generic]) -> Iterator[_Fit]:
    """The input enlarged to the size of the output; and to a multiple of its own, of which the output is the middle."""
    if not inputs:
        return
    given, wanted = _sides(inputs[0]), _sides(y)
    if min(given) < 2 or min(wanted) < 2:
        return
    scale = math.ceil(max(w / g for g, w in zip(given, wanted, strict=True)))
    if all(w >= g for g, w in zip(given, wanted, strict=True)):
        yield _Fit([enlarging(g, w, w / g) for g, w in zip(given, wanted, strict=True)])
    if any(w != scale * g for g, w in zip(given, wanted, strict=True)):
        yield _Fit([enlarging(g, w, scale) for g, w in zip(given, wanted, strict=True)])


def enlarging(given: int, wanted: int, scale: float) -> Floats:
    """The matrix (wanted, given) of cubic convolution along an axis, `scale` times as fine, of which the middle is
    wanted. What lies outside is as the edge."""
    places = (np.arange(wanted) + (scale * given - wanted) / 2 + 0.5) / scale - 0.5
    matrix = np.zeros((wanted, given))
    start = np.floor(places).astype(int)
    for tap in range(-1, 3):
        np.add.at(matrix, (np.arange(wanted), np.clip(start + tap, 0, given - 1)), _cubic(places - start - tap))
    return matrix


def _cubic(distance: Floats) -> Floats:
    """Keys' kernel at these distances, none of which is 2 or more."""
    t, a = np.abs(distance), SHARPNESS
    near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.asarray(np.where(t <= 1, near, far))


def _channels_first(picture: NDArray[np.generic]) -> Floats:
    """(...) of one sample -> (C, *sides)."""
    axis = _axis((1, *picture.shape))
    assert axis is not None
    return np.moveaxis(picture, axis - 1, 0).astype(np.float64, order="C")


@dataclass
class _Fit:
    """The sums of the regression of an output on its input, enlarged in one way.

    spread: the matrix for each axis. With the regressors u = (x↑, 1): gram Σuuᵀ, cross Σuyᵀ, square Σ|y|².
    """

    spread: Spread
    gram: Floats = field(default_factory=lambda: np.zeros(()))
    cross: Floats = field(default_factory=lambda: np.zeros(()))
    square: float = 0.0

    def add(self, inputs: Sequence[NDArray[np.generic]], y: NDArray[np.generic]) -> None:
        """Of pictures of other sizes than those before nothing is known: then no regression explains the output."""
        if not inputs or [m.shape for m in self.spread] != [*zip(_sides(y), _sides(inputs[0]), strict=True)]:
            self.square = math.inf
            return
        for i, wanted in enumerate(y):
            x = np.concatenate([_channels_first(picture[i]) for picture in inputs])
            u = self._enlarged(x).reshape(len(x), -1)
            u = np.concatenate([u, np.ones((1, u.shape[1]))])  # (Cx + 1, places)
            out = _channels_first(wanted).reshape(-1, u.shape[1])
            self.gram = self.gram + u @ u.T
            self.cross = self.cross + u @ out.T
            self.square += float(np.square(out).sum())

    def _enlarged(self, picture: Floats) -> Floats:
        """(C, *sides of the input) -> (C, *sides of the output)."""
        for axis, matrix in enumerate(self.spread, 1):
            picture = np.moveaxis(np.tensordot(picture, matrix, axes=(axis, 1)), -1, axis)
        return picture

    @property
    def left(self) -> float:
        """Σ|r|²; infinite where nothing is known."""
        if not math.isfinite(self.square):
            return math.inf
        weights = np.linalg.lstsq(self.gram, self.cross, rcond=None)[0]
        return max(self.square - float((self.cross * weights).sum()), 0.0)

    @property
    def explained(self) -> float:
        """The share of the output's variance that is the input's; 0 where that cannot be told."""
        if not math.isfinite(self.square):
            return 0.0
        variance = self.square - float(np.square(self.cross[-1]).sum() / self.gram[-1, -1])
        return 1 - self.left / variance if variance > NOTHING * self.square else 0.0
