"""What feeds a model: samples from a folder, a file or arrays, batch by batch, with their labels.

`open_feeds` takes any of the sources that a user has and gives `Feeds`: lazily read, in the same order each time,
divisible into parts. It reads the first sample, so that what does not fit the model is refused at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndpass.calibration.archives import load_arrays, load_inputs
from ndpass.calibration.images import list_images
from ndpass.calibration.preprocess import Preprocess
from ndpass.calibration.sources import Arrays, Feed, ImageFiles, Source, Tensors
from ndpass.calibration.tensors import check_labels, require, with_channels
from ndpass.errors import InputError, UsageError
from ndpass.graph.input_spec import InputSpec

__all__ = ["Feed", "Feeds", "open_feeds"]


@dataclass(frozen=True, eq=False)
class Feeds:
    """Samples of a source, in the order of `indices`.

    labels: (N,) class index of each sample, or None. class_names: of a folder with class subfolders, else None.
    noun, origin: what the samples are and where they come from, for `description`.
    """

    source: Source
    indices: NDArray[np.intp]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None
    noun: str
    origin: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def description(self) -> str:
        """One line for the log: '100 of 400 images from photos/ (10 classes)'."""
        total = len(self.source)
        count = f"{total}" if len(self) == total else f"{len(self)} of {total}"
        text = f"{count} {self.noun if total == 1 else self.noun + 's'} from {self.origin}"
        if self.labels is None:
            return text
        classes = len(self.class_names or np.unique(self.labels))
        return f"{text} ({classes} {'class' if classes == 1 else 'classes'})"

    def name_of(self, sample: int) -> str:
        """The file of the sample with this number, or its number in the source."""
        place = int(self.indices[sample])
        return str(self.source.paths[place]) if isinstance(self.source, ImageFiles) else f"{self.noun} {place}"

    def batches(self, size: int) -> Iterator[Feed]:
        """Batches of `size` samples, the last one smaller where they do not divide.

        Raises UsageError when size is below 1, InputError when a sample cannot be read or does not fit the model.
        """
        if size < 1:
            raise UsageError(f"a batch has at least one sample; got {size}; give 1 or more")
        return (self.source.read(self.indices[start : start + size]) for start in range(0, len(self), size))

    def take(self, indices: ArrayLike) -> Feeds:
        """The samples with these numbers, (n,) integers counted in these feeds, in this order and with their labels."""
        chosen = np.asarray(indices, dtype=np.intp)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, indices=self.indices[chosen], labels=labels)

    def draw(self, count: int, seed: int) -> Feeds:
        """So many of the samples, 1 to all, drawn at random, in their order."""
        return self.take(_draw(len(self), count, seed))

    def alone(self) -> Feeds:
        """These samples without all others, to be sent somewhere: files by their paths, arrays in memory as they are.

        Without labels, which nothing is fitted to.
        """
        source = self.source.part(self.indices)
        return replace(self, source=source, indices=np.arange(len(self)), labels=None, class_names=None)

    def in_memory(self) -> Feeds:
        """The same, read now as the model gets them."""
        (read,) = self.batches(len(self))
        return replace(self, source=Tensors(read), indices=np.arange(len(self)))

    @property
    def nbytes(self) -> int:
        """That the source takes in memory."""
        return self.source.nbytes

    def split(self, fraction: float, seed: int) -> tuple[Feeds, Feeds]:
        """(fit, held-out), disjoint: `fraction` of the samples, drawn at random, is held out; both keep the order.

        Neither is empty. Raises UsageError for a fraction outside 0..1, InputError when there is one sample only.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"the part that is held out is between 0 and 1; got {fraction}; give for example 0.2")
        if len(self) < 2:
            raise InputError(
                f"holding out a part needs two samples; {self.origin} has {len(self)}; give more: a few hundred"
            )
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        held_out = _draw(len(self), count, seed)
        return self.take(np.setdiff1d(np.arange(len(self)), held_out)), self.take(held_out)


def open_feeds(
    source: str | os.PathLike[str] | NDArray[Any] | Mapping[str, Any] | Iterable[Any],
    inputs: Sequence[InputSpec],
    preprocess: Preprocess | None = None,
    *,
    labels: ArrayLike | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Feeds:
    """Open a folder of images, .npz, .npy, an array, {input name: array}, or any iterable of arrays or such dicts.

    uint8 arrays (N, H, W), (N, H, W, 1|3) or (N, 3, H, W) and image files are pixels and need `preprocess`, and an
    element of an iterable may be one of these pictures; arrays of another dtype have the shape of the input, and
    `preprocess` only scales them. A one-shot iterable is read to its end at once.
    labels: (N,) class indices; by default those that the source brings. samples: how many to draw at random with
    `seed`, in their order; None or too many: all.
    Raises InputError when the data cannot be read or do not fit the inputs, UsageError when samples is below 1.

    >>> from ndpass.graph.input_spec import InputSpec
    >>> feeds = open_feeds(np.zeros((40, 3, 8, 8), np.float32), [InputSpec("x", (None, 3, 8, 8), np.dtype("f4"))])
    >>> len(feeds), [batch["x"].shape for batch in feeds.batches(32)]
    (40, [(32, 3, 8, 8), (8, 3, 8, 8)])
    """
    if samples is not None and samples < 1:
        raise UsageError(f"samples is at least 1; got {samples}; leave it out for all")
    feeds = _open(source, tuple(inputs), preprocess)
    if not len(feeds):
        raise InputError(f"{feeds.origin}: data hold at least one sample; found none; give some")
    if labels is not None:
        feeds = replace(feeds, labels=check_labels(labels, len(feeds), feeds.origin))
    if samples is not None and samples < len(feeds):
        feeds = feeds.draw(samples, seed)
    next(feeds.batches(1))
    return feeds


def _open(source: Any, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None) -> Feeds:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _open_folder(path, inputs, preprocess) if path.is_dir() else _open_file(path, inputs, preprocess)
    if isinstance(source, np.ndarray):
        return _open_stack(source, inputs, preprocess, "an array")
    if isinstance(source, Mapping):
        return _feeds(Arrays([source], inputs, preprocess, "a dict"), "sample", "a dict")
    origin = f"a {type(source).__name__}"
    if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
        law = "data are a folder, .npz, .npy, an array or an iterable of arrays"
        raise InputError(f"{law}; got {origin}; give one of these")
    # What can be indexed stays where it is; an iterator gives its elements only once, so they are kept.
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return _feeds(Arrays(source if indexed else list(source), inputs, preprocess, origin), "sample", origin)


def _open_folder(folder: Path, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None) -> Feeds:
    listing = list_images(folder)
    if len(inputs) != 1:
        law = f"a folder of images feeds a model with one input; this one has {len(inputs)}"
        raise InputError(f"{folder}: {law}; give {{input name: array}} from Python")
    files = ImageFiles(listing.paths, inputs[0], require(preprocess, f"{folder}: image files", inputs[0]))
    return replace(_feeds(files, "image", f"{folder}/"), labels=listing.labels, class_names=listing.class_names)


def _open_file(path: Path, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None) -> Feeds:
    names = [spec.name for spec in inputs]
    several = load_inputs(path, names) if len(names) > 1 else None
    if several is not None:
        arrays, labels = several
        feeds = _feeds(Arrays([arrays], inputs, preprocess, str(path)), "sample", str(path))
    else:
        images, labels = load_arrays(path, names)
        feeds = _open_stack(images, inputs, preprocess, str(path))
    return feeds if labels is None else replace(feeds, labels=check_labels(labels, len(feeds), feeds.origin))


def _open_stack(
    array: NDArray[Any], inputs: tuple[InputSpec, ...], preprocess: Preprocess | None, origin: str
) -> Feeds:
    noun = "image" if array.dtype == np.uint8 else "sample"
    return _feeds(Arrays([with_channels(array, preprocess)], inputs, preprocess, origin), noun, origin)


def _feeds(source: Source, noun: str, origin: str) -> Feeds:
    return Feeds(source, np.arange(len(source)), None, None, noun, origin)


def _draw(total: int, count: int, seed: int) -> NDArray[np.intp]:
    """`count` of 0..total-1 without repetition, sorted."""
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
