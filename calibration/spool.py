"""Activations on disk, where memory has no room for them, in files without a name: they end with the process.

A text detector of 384×384 pixels has 2 GB of activations alive between its first layers for 60 images, and as much
along the whole of its backbone, for its head reads the early maps. Running the network again for each of its 27 layers
took 220 of the 283 seconds that the walk of planning took.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Array

SPARE = 2  # times as many bytes as are put there must be free: what is pruned later is written once more


class Spool:
    """A file for the tensors that are alive at one place of a network; it goes with the last array that is in it."""

    def __init__(self, folder: Path, size: int) -> None:
        """size: bytes that there will be at most. Raises OSError where the folder has no room for them."""
        if shutil.disk_usage(folder).free < SPARE * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when the object goes
        weakref.finalize(self, self._file.close)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, size)  # else the disk might be full before the end
        self._end = 0

    def put(self, array: Array) -> Place:
        """Write an array behind the others."""
        place = Place(self, self._end, array.dtype, array.shape)
        self._file.seek(self._end)
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._end += array.nbytes
        return place

    def read(self, place: Place) -> Array:
        """An array that was put there."""
        array: NDArray[Any] = np.empty(place.shape, place.dtype)
        self._file.seek(place.start)
        if self._file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
            raise OSError(errno.EIO, "activations that were put on disk cannot be read again")
        return array


@dataclass(frozen=True, eq=False)
class Place:
    """An array in a spool."""

    spool: Spool
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> Array:
        """The array, in memory."""
        return self.spool.read(self)


class Batch(Mapping[str, Array]):
    """The tensors of a batch by name; those on disk are read when they are asked for. parts: as they are kept."""

    def __init__(self, parts: Mapping[str, Array | Place]) -> None:
        self.parts = dict(parts)

    def __getitem__(self, name: str) -> Array:
        part = self.parts[name]
        return part.read() if isinstance(part, Place) else part

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def of(self, names: tuple[str, ...], spool: Spool | None) -> Batch:
        """Some of the tensors, to be kept: on disk where there is a spool, what is there already as it is."""
        if spool is None:
            return Batch({name: self[name] for name in names})
        parts = {name: self.parts[name] for name in names}
        return Batch({name: p if isinstance(p, Place) else spool.put(p) for name, p in parts.items()})

    def narrowed(self, kept: Mapping[str, tuple[int, NDArray[np.intp]]], spool: Spool | None) -> Batch:
        """The same where tensors have lost all but some positions of an axis."""
        parts = dict(self.parts)
        for name in kept.keys() & parts.keys():
            axis, stay = kept[name]
            whole = parts[name]
            less = np.take(whole.read() if isinstance(whole, Place) else whole, stay, axis)
            parts[name] = spool.put(less) if spool and isinstance(whole, Place) else less
        return Batch(parts)
