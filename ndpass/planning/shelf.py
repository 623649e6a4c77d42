"""Moments of layers, kept on disk while plans are made, so that what a plan asks for can be fitted later.

The moments of a layer with patches of n elements take 8n² bytes: 170 MB at 4,608, over a gigabyte for a VGG16. To get
them again takes a run over the data up to the layer. So they are written once, with the best kernel that was solved for
on the way, and read for fits.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from functools import cached_property
from pathlib import Path

import numpy as np

from ndpass.calibration.moments import Data, Moments
from ndpass.files.own_folder import new_temporary
from ndpass.graph.graph import Site

log = logging.getLogger(__name__)

ARRAYS = ("x_mean", "y_mean", "C", "B", "g", "anchor", "best")  # in the order of the file, of Moments but for the last
OF_DATA = ("diagonal", "B", "g", "noise")  # behind these, of `Moments.alone`
DERIVED = 3  # times the bytes of moments that they take with what fits derive from them
ROOM = 4  # times the memory for activations that all moments together may take on disk


class Shelf:
    """Moments by layer. folder: None for a temporary one, which goes with the object; most: bytes of all together."""

    def __init__(self, folder: Path | None, memory: int) -> None:
        """memory: bytes that a run may take for activations; when these are gone, moments that are read take it."""
        self._given = folder
        self.most, self._taken = ROOM * memory, 0
        self._read: dict[str, Moments] = {}
        self._left = memory

    @cached_property
    def folder(self) -> Path:
        """Where they lie; a temporary one is made when it is asked for."""
        if self._given is not None:
            return self._given
        made = new_temporary()
        weakref.finalize(self, made.remove)
        return made.path

    def has_room(self, site: Site) -> bool:
        """Whether the moments of one more layer find room; asked for in the order of the layers."""
        n, n_o = site.outline.unknowns, site.outline.n_o
        self._taken += 8 * (
            site.outline.group * n * n + 4 * n_o * n
        )  # C; B, with the prior and without; kernel, weight
        return self._taken <= self.most and self.folder.is_dir()  # made here, while there is one thread

    def put(self, layer: str, moments: Moments) -> bool:
        """Keep a layer's moments; False where they cannot be written."""
        part = self._path(layer).with_suffix(".part")
        try:
            with part.open("wb") as file:
                own = [getattr(moments, name) for name in ARRAYS] + [getattr(moments.alone, name) for name in OF_DATA]
                for array in (np.array([moments.count, moments.aimed]), *own):
                    np.save(file, np.zeros(0) if array is None else array)
            part.replace(self._path(layer))
        except OSError as e:
            part.unlink(missing_ok=True)
            log.warning("moments of '%s' cannot be kept (%s): all of its candidates are fitted at once", layer, e)
            return False
        return True

    def get(self, layer: str) -> Moments | None:
        """What was put there, equal in every bit, or None. It stays in memory if there is room."""
        if layer in self._read:
            return self._read[layer]
        try:
            with self._path(layer).open("rb") as file:
                (count, aimed), *arrays = (np.load(file) for _ in range(1 + len(ARRAYS) + len(OF_DATA)))
                count = int(count)
        except Exception as e:  # numpy raises what its parser raises, TokenError for one
            if not isinstance(e, FileNotFoundError):
                log.warning("moments of '%s' cannot be read (%s): they are made again", layer, e)
            return None
        x_mean, y_mean, C, B, g, anchor, best, *alone = arrays
        weight, data = anchor if anchor.size else None, Data(*alone)
        moments = Moments(count, x_mean, y_mean, C, B, g, weight, data=data, aimed=bool(aimed))
        moments.__dict__["best"] = best  # as the cached property leaves it
        size = DERIVED * sum(array.nbytes for array in arrays)
        if size <= self._left:
            self._left -= size
            self._read[layer] = moments
        return moments

    def _path(self, layer: str) -> Path:
        return self.folder / f"{hashlib.blake2b(layer.encode(), digest_size=8).hexdigest()}.npy"
