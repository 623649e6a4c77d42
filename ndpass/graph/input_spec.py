"""What a model's input is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InputSpec:
    """An input of the model; shape includes the batch axis, None is a dynamic dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"input {self.name!r} takes ({', '.join(str(d or '?') for d in ('batch', *self.shape[1:]))})"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be fed; the number of samples is not looked at."""
        wanted = self.shape[1:]
        return len(shape) == len(self.shape) and all(w in (None, g) for w, g in zip(wanted, shape[1:], strict=True))


class StaticBatch(NamedTuple):
    """The input that shows it and the number of samples that the model takes at once."""

    name: str
    size: int


def static_batch(inputs: Sequence[InputSpec]) -> StaticBatch | None:
    """The batch if it is fixed: axis 0 of the first input that has more axes than that; None if it is free."""
    spec = next((spec for spec in inputs if len(spec.shape) > 1), None)
    return StaticBatch(spec.name, spec.shape[0]) if spec and spec.shape[0] is not None else None


def filled(part: NDArray[Any], size: int) -> NDArray[Any]:
    """(n, ...) -> (size, ...): the last sample repeated, so that a static batch runs on real values."""
    return part if len(part) == size else np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
