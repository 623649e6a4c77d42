"""What a model's input is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError

NO_TYPE: np.dtype[Any] = np.dtype(np.void)
MOST_DRAWN = 1 << 29  # elements of an input that is made up, 4 GiB in float64

Bounds = tuple[int, int | None]  # the least and the most that an axis may have; None: any length from the least on


@dataclass(frozen=True)
class InputSpec:
    """An input of the model; shape has all its axes, None is a dynamic one.

    bounds: of each axis, where the model declares them; empty if it does not.
    batched: whether axis 0 counts samples. It does not in a scalar, or where a single image comes as (C, H, W).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    bounds: tuple[Bounds, ...] = ()
    batched: bool = True

    @property
    def sample(self) -> tuple[int | None, ...]:
        """The shape of one sample."""
        return self.shape[1:] if self.batched else self.shape

    @property
    def channels_last(self) -> bool:
        """Whether height and width are open and colours come behind them, as Keras has them."""
        return len(self.shape) == 4 and self.shape[3] in (1, 3, 4) and self.shape[1:3] == (None, None)

    def __str__(self) -> str:
        return f"input {self.name!r} takes ({', '.join(['batch', *map(self._axis_text, range(len(self.sample)))])})"

    def _axis_text(self, axis: int) -> str:
        size, bounds = self.sample[axis], self._sample_bounds()
        if size is not None or not bounds or bounds[axis] == (0, None):
            return str(size or "?")
        least, most = bounds[axis]
        return f"{least}..{'' if most is None else most}"

    def _sample_bounds(self) -> tuple[Bounds, ...]:
        return self.bounds[1:] if self.batched else self.bounds

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether samples (n, *sample) of this shape can be fed; how many there are is not looked at."""
        if len(shape) != len(self.sample) + 1:
            return False
        bounds = self._sample_bounds() or ((0, None),) * len(self.sample)
        return all(
            size == given if size is not None else least <= given and (most is None or given <= most)
            for size, given, (least, most) in zip(self.sample, shape[1:], bounds, strict=True)
        )

    def fed(self, samples: int, size: Sequence[int]) -> tuple[int, ...]:
        """The shape that the model is fed with. size: of all axes of the input, the first one being replaced."""
        return (samples, *size[1:]) if self.batched else tuple(size)

    def clamped(self, axis: int, size: int) -> int:
        """The size nearest to `size` that this axis may have."""
        if not self.bounds:
            return size
        least, most = self.bounds[axis]
        return max(least, size if most is None else min(size, most))


def numpy_type(declared: Any) -> np.dtype[Any]:
    """The NumPy type of an input that is declared with this one; void where NumPy has none, as for bfloat16."""
    try:
        return NO_TYPE if declared is None else np.dtype(declared)
    except TypeError:
        return NO_TYPE


def check_fed(inputs: Sequence[InputSpec]) -> None:
    """Raise InputError for an input of a type that NumPy does not have, which no data can feed."""
    for spec in inputs:
        if spec.dtype.kind == NO_TYPE.kind:
            raise InputError(f"input '{spec.name}' takes a type that NumPy does not have: export it as float32")


def check_drawn(name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
    """Raise InputError for an input that cannot be made up: one of strings, or one too large to be meant."""
    if dtype.kind not in "biuf":
        raise InputError(f"input '{name}' takes {dtype}, which cannot be made up: give samples as --calibration")
    if math.prod(shape) > MOST_DRAWN:
        size = "x".join(map(str, shape))
        raise InputError(f"input '{name}' takes {size} numbers, more than can be made up: export the model for less")


class StaticBatch(NamedTuple):
    """The input that shows it and the number of samples that the model takes at once."""

    name: str
    size: int


def static_batch(inputs: Sequence[InputSpec]) -> StaticBatch | None:
    """The batch if it is fixed: axis 0 of the first input that has more axes than that; None if it is free.

    A model with an input that has no axis for samples takes one sample at a time. Raises InputError for a batch of 0.
    """
    alone = next((spec for spec in inputs if not spec.batched), None)
    if alone is not None:
        return StaticBatch(alone.name, 1)
    spec = next((spec for spec in inputs if len(spec.shape) > 1), None)
    if spec and spec.shape[0] == 0:
        raise InputError(f"input '{spec.name}' takes batches of 0 samples: export the model with 1 or an open batch")
    return StaticBatch(spec.name, spec.shape[0]) if spec and spec.shape[0] is not None else None


def largest_batch(inputs: Sequence[InputSpec]) -> StaticBatch | None:
    """The most samples that the model declares to take at once; None if it sets no limit."""
    limits = [StaticBatch(s.name, s.bounds[0][1]) for s in inputs if s.batched and s.bounds and s.bounds[0][1]]
    return min(limits, key=lambda limit: limit.size, default=None)


def single(feed: dict[str, NDArray[Any]], inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """A feed of one sample as the model takes it: inputs that have no axis for samples lose it."""
    alone = {spec.name for spec in inputs if not spec.batched}
    return {name: value[0] if name in alone else value for name, value in feed.items()}


def filled(part: NDArray[Any], size: int) -> NDArray[Any]:
    """(n, ...) -> (size, ...): the last sample repeated, so that a static batch runs on real values."""
    return part if len(part) == size else np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
