"""What the original model gives on the data, from which the kind of its outputs is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.additions import additions_of
from ndpass.measuring.evaluate import Samples
from ndpass.measuring.runtime import Outputs

WITHIN = 1e-3  # by which a probability may leave 0..1 through rounding


@dataclass(frozen=True)
class Seen:
    """The original's outputs, batch by batch, but for inputs that it hands on: no model is worth anything by these.

    counts: samples of each batch; image: height and width (or width and channels) of the input, in the model's order;
    labels: (N,) class indices, or None. added: Σ|r|² of the outputs that are pictures of the input, which is what the
    network adds to it (`ndpass.measuring.additions`).
    """

    outputs: Sequence[Outputs]
    counts: Sequence[int]
    image: tuple[int, ...]
    labels: NDArray[np.int64] | None
    added: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, outputs: Sequence[Outputs], feeds: Samples, batch: int) -> Seen:
        """outputs: as `evaluate.stored` gives them for these feeds and this batch size."""
        starts = range(0, len(feeds), batch)
        images = [value.shape[1:] for value in next(feeds.batches(1)).values() if value.ndim == 4]
        counts, image = [min(batch, len(feeds) - s) for s in starts], images[0] if images else ()
        computed = _computed(outputs, feeds, batch)
        return cls(computed, counts, image, feeds.labels, additions_of(feeds.batches(batch), computed))

    @property
    def names(self) -> list[str]:
        """Of all outputs that are computed, in the model's order."""
        return list(self.outputs[0])

    def first(self, name: str) -> NDArray[Any]:
        """The output of the first batch."""
        return self.outputs[0][name]

    def all(self, name: str) -> Iterator[NDArray[Any]]:
        """The output of every batch."""
        return (outputs[name] for outputs in self.outputs)

    def is_float(self, name: str) -> bool:
        """Whether the output is of floating point."""
        return self.first(name).dtype.kind == "f"

    def is_batched(self, name: str) -> bool:
        """Whether the output has one row for each sample."""
        return all(v.ndim > 0 and len(v) == n for v, n in zip(self.all(name), self.counts, strict=True))

    def batch_axis(self, name: str) -> int | None:
        """The axis that counts samples: the first, or the second of three, as where time comes first; None: neither."""
        if self.is_batched(name):
            return 0
        behind = (v.ndim == 3 and v.shape[1] == n for v, n in zip(self.all(name), self.counts, strict=True))
        return 1 if all(behind) else None

    def shape(self, name: str) -> str:
        """(batch, 84, 2100), or (40, batch, 97); (?, 7) where the first axis counts something else."""
        axes: list[object] = [*self.first(name).shape]
        if axes:
            axes[self.batch_axis(name) or 0] = "?" if self.batch_axis(name) is None else "batch"
        return f"({', '.join(map(str, axes))})"

    def range(self, name: str, index: Any = ...) -> tuple[float, float]:
        """The smallest and the largest value of an output, or of a part of it; (inf, -inf) where it is empty."""
        parts = [value[index] for value in self.all(name)]
        lows, highs = ([float(f(p)) for p in parts if p.size] for f in (np.min, np.max))
        return min(lows, default=np.inf), max(highs, default=-np.inf)

    def is_probable(self, name: str, index: Any = ...) -> bool:
        """Whether all values are within 0 to 1."""
        low, high = self.range(name, index)
        return low >= -WITHIN and high <= 1 + WITHIN

    def is_whole(self, name: str, index: Any = ...) -> bool:
        """Whether all values are whole numbers from 0."""
        parts = [value[index] for value in self.all(name)]
        return all(bool(((p >= 0) & (np.floor(p) == p)).all()) for p in parts)


def _computed(outputs: Sequence[Outputs], feeds: Samples, batch: int) -> Sequence[Outputs]:
    """Without those that have the values of an input in every batch; all, where none is left."""
    handed = set(outputs[0]) if outputs else set[str]()
    for feed, found in zip(feeds.batches(batch), outputs, strict=True):
        handed = {name for name in handed if any(np.array_equal(found[name], x) for x in feed.values())}
        if not handed:
            return outputs
    return [{k: v for k, v in found.items() if k not in handed} or found for found in outputs]
