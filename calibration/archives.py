"""Arrays in files: .npz with `images` and perhaps `labels`, or .npy, memory-mapped. Pickles are never loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.files.model_path import check_data_path
from ndpass.measuring.memory import memory_here


def load_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The images (N, ...) of a file, and its labels as they are.

    In a .npz the images are called `images`, or are the only array that is not called `labels`.
    Raises InputError when the file is missing, damaged or of another kind.
    """
    if not path.exists():
        raise InputError(f"{path}: data must exist; there is no such file or folder; check the path")
    check_data_path(path)
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path}: data are a folder of images, .npz or .npy; this is neither; convert it")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        _check_room(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # numpy leaves damaged ones open
            return _from_archive(archive, path)
    except InputError:
        raise
    except Exception as e:  # zip, zlib, header and pickle each have errors of their own
        raise InputError(f"{path}: cannot be read as arrays ({e}); save it again with numpy.savez or numpy.save") from e


def _from_archive(archive: Mapping[str, NDArray[Any]], path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    others = [name for name in archive if name != "labels"]
    name = "images" if "images" in others else others[0] if len(others) == 1 else None
    if name is None:
        law = "an archive has `images`, or one array beside `labels`"
        raise InputError(f"{path}: {law}; found {', '.join(archive) or 'nothing'}; name one array `images`")
    images, labels = archive[name], archive.get("labels")
    for found in (images, labels):
        if found is not None and not isinstance(found, np.ndarray):  # numpy gives what is no array as bytes
            raise InputError(f"{path}: holds something that is no array; save it again with numpy.savez")
    return images, labels


def _check_room(path: Path) -> None:
    """Raise InputError where the archive would fill the memory: a few megabytes can unpack to terabytes."""
    room = memory_here()
    with zipfile.ZipFile(path) as archive:
        most = max((entry.file_size for entry in archive.infolist()), default=0)
    if room is not None and most > room:
        law = f"holds an array of {most / 1e9:.0f} GB, this machine has {room / 1e9:.0f} GB of memory"
        raise InputError(f"{path}: {law}; give a .npy, which is read piece by piece, or fewer samples")
