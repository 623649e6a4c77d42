"""The samples that a network is trained on: drawn anew in each epoch, moved and mirrored where they are images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.feeds import Feed, Feeds

SHIFT = 8  # an image moves by at most its side over this, to each direction
SMALLEST = 8  # pixels a side, from which on an input can be an image
COLOURS = 3


@dataclass(frozen=True)
class Batch:
    """Samples of a step. labels: (n,) class indices, None without."""

    feed: Feed
    labels: NDArray[np.int64] | None


class Samples:
    """Batches of the feeds in the order of an epoch, each a function of seed, epoch and place alone.

    size: of a batch; what does not fill one waits for another epoch. memory: bytes up to which samples are kept as the
    network takes them, so that files are read once.
    """

    def __init__(self, feeds: Feeds, size: int, seed: int, memory: int) -> None:
        self.feeds, self.size, self.seed = feeds, min(size, len(feeds)), seed
        first = next(feeds.batches(1))
        self.images = {name: axes for name, value in first.items() if (axes := image_axes(value, feeds.noun))}
        needed = sum(value.nbytes for value in first.values()) * len(feeds)
        self._kept: Feed | None = next(feeds.batches(len(feeds))) if needed <= memory else None

    def sized(self, size: int) -> Samples:
        """The same in batches of another size."""
        other = copy.copy(self)
        other.size = min(size, len(self.feeds))
        return other

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return max(1, len(self.feeds) // self.size)

    def batch(self, step: int) -> Batch:
        """The samples of this step, counted from the first epoch on."""
        epoch, place = divmod(step, self.steps)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.feeds))
        chosen = order[place * self.size : (place + 1) * self.size]
        if self._kept is not None:
            feed = {name: value[chosen] for name, value in self._kept.items()}
        else:
            feed = next(self.feeds.take(chosen).batches(len(chosen)))
        rng = np.random.default_rng([self.seed, epoch, place])
        labels = None if self.feeds.labels is None else self.feeds.labels[chosen]
        return Batch(augmented(feed, self.images, rng), labels)


def image_axes(sample: NDArray[Any], noun: str) -> tuple[int, int] | None:
    """The axes of height and width of a batch of images, None where it is of something else.

    noun: what the data call a sample. What came as pixels is an image; of other arrays what has three colours.
    """
    if sample.ndim != 4 or sample.dtype.kind != "f":
        return None
    channels = (1, COLOURS, COLOURS + 1) if noun == "image" else (COLOURS,)
    for axis, (height, width) in ((1, (2, 3)), (3, (1, 2))):
        if sample.shape[axis] in channels and min(sample.shape[height], sample.shape[width]) >= SMALLEST:
            return height, width
    return None


def augmented(feed: Feed, images: Mapping[str, tuple[int, int]], rng: np.random.Generator) -> Feed:
    """Images mirrored half of the time and moved by a few pixels, with their edges repeated; all else as it is."""
    return {name: _moved(value, images[name], rng) if name in images else value for name, value in feed.items()}


def _moved(batch: NDArray[Any], axes: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
    most = [batch.shape[axis] // SHIFT for axis in axes]
    made = np.empty_like(batch)
    for i, image in enumerate(batch):
        rows, columns = (
            (np.arange(batch.shape[axis]) + rng.integers(-m, m + 1)).clip(0, batch.shape[axis] - 1)
            for axis, m in zip(axes, most, strict=True)
        )
        if rng.random() < 0.5:
            columns = columns[::-1]
        made[i] = image.take(rows, axes[0] - 1).take(columns, axes[1] - 1)
    return made


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch in parts of at most `size` samples, which fit the memory."""
    count = len(next(iter(batch.feed.values())))
    for start in range(0, count, size):
        here = slice(start, start + size)
        labels = None if batch.labels is None else batch.labels[here]
        yield Batch({name: value[here] for name, value in batch.feed.items()}, labels)
