"""Where the samples of a batch lie in a tensor, which a run tells in which one sample is another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

ROUNDING = 1e-3  # of the largest value of a tensor: what may change where nothing changes


@dataclass(frozen=True)
class Order:
    """Samples lie along `axis`, each with one entry or with k of its own.

    by_map: the first entries of all samples come before the second ones, as where left and right pictures are put one
    behind the other; else all of a sample lie together, as its frames do. told: False where that is not known.
    """

    axis: int = 0
    by_map: bool = False
    told: bool = True

    def by_sample(self, x: NDArray[T], samples: int) -> NDArray[T]:
        """The tensor with all that is of one sample together, (samples·k, ...), the samples in their order."""
        rows: NDArray[T] = np.moveaxis(x, self.axis, 0)
        if self.by_map:
            rows = rows.reshape(-1, samples, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)
        return rows

    def as_given(self, rows: NDArray[T], samples: int) -> NDArray[T]:
        """What `by_sample` makes into these rows."""
        if self.by_map:
            rows = rows.reshape(samples, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)
        return np.moveaxis(rows, 0, self.axis)


IN_TURN = Order()  # one sample after the other, as most often


def axes_of(shape: Sequence[int], samples: int) -> list[int]:
    """The axes that may be that of so many samples."""
    return [axis for axis, size in enumerate(shape) if size and size % samples == 0]


def end_to_end(parts: Sequence[NDArray[T]], counts: Sequence[int] | NDArray[np.intp]) -> NDArray[T]:
    """Outputs of runs over so many samples each as one: along the axis that counts them, else along the first.

    A number that a run gives is that of each of its samples.
    """
    if not parts[0].ndim:
        return np.repeat(np.stack(parts), counts)
    shapes = [part.shape for part in parts]
    counted = (a for a in range(parts[0].ndim) if all(s[a] == n for s, n in zip(shapes, counts, strict=True)))
    return np.concatenate(parts, next(counted, 0))


def another_first(feed: Mapping[str, NDArray[Any]], size: int) -> dict[str, NDArray[Any]]:
    """The first `size` samples of a feed, in the place of the first the one that is least like it."""
    apart = sum((_distances(rows) for rows in feed.values()), np.zeros(1))
    other = int(np.argmax(apart))
    return {name: np.concatenate([rows[other : other + 1], rows[1:size]]) for name, rows in feed.items()}


def _distances(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Of each sample (n, ...) to the first, relative to the furthest."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    found = np.square(flat - flat[:1]).sum(axis=1)
    relative: NDArray[np.float64] = found / max(found.max(initial=0), 1e-30)
    return relative


def told(one: NDArray[Any], other: NDArray[Any], axes: Iterable[int], samples: int) -> Order | None:
    """The first order along one of these axes in which only the first sample differs; None where there is none.

    one, other: a tensor of two runs, in the second of which the first sample was another. It is not told where they
    differ so little that another order would do, too.
    """
    if one.dtype.kind in "fiub":
        limit = ROUNDING * max(float(np.abs(one.astype(np.float64)).max(initial=0)), 1e-30)
        moved = np.abs(one.astype(np.float64) - other) > limit
    else:
        moved = np.asarray(one != other)
    ways = [
        Order(axis, by_map)
        for axis in axes
        for by_map in ((False, True) if one.shape[axis] > samples else (False,))
        if not Order(axis, by_map).by_sample(moved, samples).reshape(samples, -1)[1:].any()
    ]
    return replace(ways[0], told=len(ways) == 1) if ways else None
