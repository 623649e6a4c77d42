"""How far each output is from the original's, and each group of its channels where their scales differ.

    error = E|y − ŷ|² / Var(y)

y is an output of the original and ŷ the same output of the other model. The expectation runs over samples and
positions; Var(y) is taken around the mean of each channel. 0 means equal; 1 means as far off as the mean would be.

One output may hold values of different scales, as a detector's boxes (0 to 320) and scores (0 to 1). Then the larger
ones decide the error of the whole, so neighbouring channels of one scale form a group with an error of its own. All
sums are streamed over batches in float64; the groups are found at the end, from the original's outputs alone.

Where many probabilities never rise, as the scores of a detector on pictures without objects, their variance is rounding
and what they say the same: then it counts as if one value of each sample had risen to PROBABLE.

An output that is a picture of the input, as an upscaler gives, has an error of what the network adds to it, too:
E|y − ŷ|² / E|r|² (`ndpass.measuring.additions`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.runtime import Outputs
from ndpass.report import BEYOND

WIDEST = 10.0  # times the smallest range in a group that the largest may be
MOST_GROUPS = 16  # more are no order of kinds: then the output is one group
PROBABLE = 0.1  # range that a channel of probabilities counts with, even if nothing rises on these data
MANY = 1_000  # probabilities of a sample
CONSTANT = 1e-12  # variance, relative to the mean square, that is rounding
BLOCK = 1 << 20  # values that are turned into float64 at once

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OutputError:
    """E|y − ŷ|² / Var(y) of one output; groups: label, as 'output0[4:84]', -> that of these channels.

    groups is empty where all channels are of one scale. added: the share of what the network adds to its input that is
    lost, None of outputs that are no pictures of it. Infinite where a value is not finite.
    """

    error: float
    groups: Mapping[str, float]
    added: float | None = None

    @property
    def parts(self) -> list[float]:
        """The errors that count: of what is added to the input, of the groups, or else of the whole."""
        return list(self.groups.values()) or [self.error] if self.added is None else [self.added]


def worst(errors: Mapping[str, OutputError]) -> tuple[str, float]:
    """The label and the error of the output, or group of channels, that is furthest off; ('', 0) without outputs."""
    return max(flat(errors).items(), key=lambda item: item[1], default=("", 0.0))


def flat(errors: Mapping[str, OutputError]) -> dict[str, float]:
    """Each output's error by its name, followed by those of its groups by their labels, and that beyond the input."""
    found: dict[str, float] = {}
    for name, output in errors.items():
        added = {} if output.added is None else {name + BEYOND: output.added}
        found |= {name: output.error, **output.groups, **added}
    return found


def distance(off: float, square: float) -> float:
    """√(off / square), as ‖y − ŷ‖ / ‖y‖ is; infinite where a sum is not finite, or nothing stands against `off`."""
    if not (math.isfinite(off) and math.isfinite(square)):
        return math.inf
    if square:
        return math.sqrt(off / square)
    return math.inf if off else 0.0


def channel_axis(shape: tuple[int, ...]) -> int:
    """Which axis of an output holds its channels; axis 0 is the batch.

    Axis 1 in general; the smaller one of a detector's (N, boxes, 85) and (N, 84, boxes); the last of maps whose other
    two axes are equal, or at least four times as long.
    """
    if len(shape) == 3:
        return 2 if shape[2] < shape[1] else 1
    if len(shape) < 3:
        return len(shape) - 1
    *_, high, wide, last = shape
    square = high == wide != last
    return len(shape) - 1 if square or 4 * last <= min(high, wide) else 1


class OutputErrors:
    """Gathers the errors of all outputs, batch by batch."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channels] = {}

    def add(self, original: Outputs, other: Outputs) -> None:
        """Arrays of equal shapes under equal names."""
        for name, y in original.items():
            channels = self._channels.setdefault(name, _Channels(channel_axis(y.shape)))
            for a, b in _blocks(y, other[name]):
                channels.add(a, b)

    def errors(self, added: Mapping[str, float] | None = None) -> dict[str, OutputError]:
        """Output name -> its error and those of its groups. added: Σ|r|² of outputs that are pictures of the input."""
        return {name: channels.errors(name, (added or {}).get(name)) for name, channels in self._channels.items()}

    @property
    def squares(self) -> dict[str, tuple[float, float]]:
        """Output name -> (Σ|y − ŷ|², Σ|y|²)."""
        return {name: channels.squares(slice(None)) for name, channels in self._channels.items()}

    def distances(self) -> dict[str, float]:
        """‖y − ŷ‖ / ‖y‖ under each output's name, followed by those of its groups under their labels."""
        found: dict[str, float] = {}
        for name, channels in self._channels.items():
            parts = {name: slice(None), **channels.groups(name)}
            found |= {label: distance(*channels.squares(part)) for label, part in parts.items()}
        return found


class _Channels:
    """Sums over samples and positions for each channel of an output, (C,) each.

    spread: Σ(y − ȳ)²; square: Σy²; off: Σ(y − ŷ)². The mean and the spread of two parts are joined as in Chan, Golub
    and LeVeque 1979.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count = self._samples = 0
        self._mean = self._spread = self.square = self.off = np.zeros(0)
        self._low = self._high = np.zeros(0)

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """a, b: the values of the original and of the other model, of the same shape."""
        y, z = self._rows(a), self._rows(b)  # (C, values)
        if not y.size:
            return
        self._samples += len(a)
        if self._count and len(y) != len(self._mean):  # an axis of another length in each batch has no channels
            self._axis = -1
            self._pool()
            y, z = self._rows(a), self._rows(b)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = y.mean(axis=1)
            self._join(y.shape[1], mean, np.square(y - mean[:, None]).sum(axis=1))
            square, off = np.square(y).sum(axis=1), np.square(y - z).sum(axis=1)
            low, high = y.min(axis=1), y.max(axis=1)
            if len(self.square):
                square, off = square + self.square, off + self.off
                low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self.square, self.off, self._low, self._high = square, off, low, high

    def _rows(self, values: NDArray[Any]) -> Floats:
        """Any shape -> (C, values of each channel); axis -1: all values are of one channel."""
        x = values.astype(np.float64)
        return x.reshape(1, -1) if self._axis < 1 else np.moveaxis(x, self._axis, 0).reshape(x.shape[self._axis], -1)

    def _join(self, count: int, mean: Floats, spread: Floats) -> None:
        if self._count:
            total, apart = self._count + count, mean - self._mean
            spread = spread + self._spread + np.square(apart) * (self._count * count / total)
            mean = self._mean + apart * (count / total)
        self._count, self._mean, self._spread = self._count + count, mean, spread

    def _pool(self) -> None:
        """All channels become one."""
        mean = self._mean.mean(keepdims=True)
        self._spread = self._spread.sum(keepdims=True) + self._count * np.square(self._mean - mean).sum(keepdims=True)
        self._count, self._mean = self._count * len(self._mean), mean
        self.square, self.off = self.square.sum(keepdims=True), self.off.sum(keepdims=True)
        self._low, self._high = self._low.min(keepdims=True), self._high.max(keepdims=True)

    def errors(self, name: str, added: float | None) -> OutputError:
        groups = {label: self._error(group) for label, group in self.groups(name).items()}
        return OutputError(self._error(slice(None)), groups, self._beyond(added) if added else None)

    def _beyond(self, added: float) -> float:
        off, square = self.squares(slice(None))
        return off / added if math.isfinite(off) and math.isfinite(square) else math.inf

    def groups(self, name: str) -> dict[str, slice]:
        """Label -> channels of one scale; empty where all are of one."""
        found = channel_groups(self._low, self._high)
        return {f"{name}[{g.start}:{g.stop}]": g for g in found} if len(found) > 1 else {}

    def squares(self, channels: slice) -> tuple[float, float]:
        """(Σ|y − ŷ|², Σ|y|²) of these channels."""
        return float(self.off[channels].sum()), float(self.square[channels].sum())

    def _error(self, channels: slice) -> float:
        """Of a constant, which has no variance, relative to its square; infinite where there is no value."""
        (off, square), spread = self.squares(channels), float(self._spread[channels].sum())
        if not (math.isfinite(off) and math.isfinite(square)):
            return math.inf
        scale = max(spread if spread > CONSTANT * square else square, self._silence(channels))
        return off / scale if scale else (math.inf if off else 0.0)

    def _silence(self, channels: slice) -> float:
        """The least spread that many probabilities of which none rises count with; 0 of anything else."""
        low, high = self._low[channels], self._high[channels]
        each = len(low) * self._count / max(self._samples, 1)
        return self._samples * PROBABLE**2 if are_silent(low, high, each) else 0.0


def channel_groups(low: Floats, high: Floats) -> list[slice]:
    """Neighbouring channels whose ranges differ by at most WIDEST. low, high: (C,) smallest and largest values.

    A channel within 0 to 1 counts as at least PROBABLE wide: a class that no sample shows is of the scale of the
    others. One that never changes has no scale and goes with the one before it.
    """
    widths = high - low
    probable = (low >= 0) & (high <= 1)
    scales = np.where(probable, np.maximum(widths, PROBABLE), widths)
    groups, start = [], 0
    least, most = math.inf, 0.0
    for i, scale in enumerate(scales):
        if not scale > 0 or not math.isfinite(scale):
            continue
        if max(most, scale) > WIDEST * min(least, scale):
            groups.append(slice(start, i))
            start, least, most = i, math.inf, 0.0
        least, most = min(least, scale), max(most, scale)
    groups.append(slice(start, len(scales)))
    return groups if len(groups) <= MOST_GROUPS else [slice(0, len(scales))]


def least_variances(values: NDArray[Any]) -> tuple[int, list[tuple[slice, float]]]:
    """The axis of an output's channels (samples, ...), and its neighbouring channels of one scale along that: one group
    where none differ. With each the least variance that it counts with: more than 0 where `are_silent`."""
    axis = channel_axis(values.shape)
    if axis < 1:
        return axis, [(slice(0, 1), 0.0)]
    others = tuple(a for a in range(values.ndim) if a != axis)
    low, high = values.min(others), values.max(others)
    one = values.size / (len(values) * len(low))  # values of a sample in one channel
    found = []
    for group in channel_groups(low, high):
        each = one * (group.stop - group.start)
        found.append((group, PROBABLE**2 / each if are_silent(low[group], high[group], each) else 0.0))
    return axis, found


def are_silent(low: Floats, high: Floats, each: float) -> bool:
    """Whether channels are many probabilities of which none rises. low, high: (C,) smallest and largest values; each:
    values of a sample in all of these channels."""
    return each >= MANY and bool((low >= 0).all() and (high <= 1).all() and (high - low).max() < PROBABLE)


def _blocks(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Both arrays in parts along the first axis, each of about BLOCK values."""
    if not a.ndim:
        yield a.reshape(1), b.reshape(1)
        return
    rows = max(1, BLOCK * len(a) // max(a.size, 1))
    for start in range(0, len(a), rows):
        yield a[start : start + rows], b[start : start + rows]
