"""Metrics of outputs that are numbers as such: psnr of images, and the explained variance of anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ndpass.measuring.output_errors import OutputErrors, worst
from ndpass.measuring.own_metric import Metric
from ndpass.measuring.runtime import Outputs

EQUAL = 100.0  # dB that stand for images without a difference; in float32 there are hardly more


class Psnr:
    """Peak signal-to-noise ratio in dB of each output against the original's; the lowest counts.

    10 log₁₀(peak² / E|y − ŷ|²)        peak: largest minus smallest value of the original's output y
    """

    def __init__(self, outputs: Sequence[str]) -> None:
        self._names = outputs
        self._samples = 0
        self._sums = {name: np.array([0.0, 0.0]) for name in outputs}  # squared differences, values
        self._ranges = dict.fromkeys(outputs, (math.inf, -math.inf))

    def add(self, original: Outputs, other: Outputs) -> None:
        self._samples += max((len(original[name]) for name in self._names if original[name].ndim), default=1)
        for name in self._names:
            y = original[name].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                self._sums[name] += (np.square(y - other[name]).sum(), y.size)
            low, high = self._ranges[name]
            self._ranges[name] = min(low, float(y.min(initial=low))), max(high, float(y.max(initial=high)))

    def values(self) -> tuple[Metric, Metric] | None:
        ratios = [self._ratio(name) for name in self._names if self._sums[name][1]]
        if not ratios:
            return None
        return Metric("psnr", EQUAL, self._samples), Metric("psnr", min(ratios), self._samples)

    def _ratio(self, name: str) -> float:
        """In dB, between 0 and EQUAL; 0 where there is no number."""
        (off, count), (low, high) = self._sums[name], self._ranges[name]
        return decibels(float(off), float(count), low, high)

    def warnings(self) -> list[str]:
        return []


def decibels(off: float, count: float, low: float, high: float) -> float:
    """Of a sum of `count` squared differences to values from low to high; between 0 and EQUAL."""
    if off == 0:
        return EQUAL
    peak = (high - low) ** 2 * count / off
    return float(np.clip(10 * math.log10(peak), 0, EQUAL)) if math.isfinite(peak) and peak > 0 else 0.0


class Explained:
    """100 × (1 − error): the share of the outputs' variance that the model still gives, at the worst output.

    error: E|y − ŷ|² / Var(y) of the output or group of channels that is furthest off, see `output_errors`. added: Σ|r|²
    over all samples of outputs that are pictures of the input, whose error is that of what the network adds to it.
    Outputs that ever have other numbers of rows than the original's, as those of a choice may, are left out.
    """

    def __init__(self, added: Mapping[str, float]) -> None:
        self._errors, self._added = OutputErrors(), added
        self._apart: dict[str, None] = {}  # outputs that cannot be compared, in their order
        self._samples = 0

    def add(self, original: Outputs, other: Outputs) -> None:
        self._samples += max((len(value) for value in original.values() if value.ndim), default=1)
        self._apart |= dict.fromkeys(name for name, y in original.items() if y.shape != other[name].shape)
        self._errors.add({name: y for name, y in original.items() if name not in self._apart}, other)

    def values(self) -> tuple[Metric, Metric] | None:
        found = {k: error for k, error in self._errors.errors(self._added).items() if k not in self._apart}
        if self._apart and not found:
            return None
        _, error = worst(found)
        after = 100 * max(1 - error, 0.0)
        return Metric("explained", 100.0, self._samples), Metric("explained", after, self._samples)

    def warnings(self) -> list[str]:
        return [f"output '{name}' has other rows than the original's: the metric is without it" for name in self._apart]
