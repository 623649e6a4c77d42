"""Arrays in files: .npz with `images` or one array for each input, and perhaps `labels`, or .npy, memory-mapped.

Pickles are never loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.files.model_path import check_data_path
from ndpass.measuring.memory import memory_here

T = TypeVar("T")
Labelled = tuple[T, NDArray[Any] | None]


def load_arrays(path: Path, inputs: Sequence[str] = ()) -> Labelled[NDArray[Any]]:
    """The images (N, ...) of a file, and its labels as they are.

    In a .npz the images are called `images`, or are the only array that is not called `labels`. inputs: names to give
    where there is neither. Raises InputError when the file is missing, damaged or of another kind.
    """
    found: Labelled[NDArray[Any]] = _loaded(path, lambda archive: _from_archive(archive, path, inputs))
    return found


def load_inputs(path: Path, inputs: Sequence[str]) -> Labelled[dict[str, NDArray[Any]]] | None:
    """{input name: (N, ...)} of a .npz that has an array under each of these names, and its labels; else None."""
    if path.suffix != ".npz" or not path.is_file():
        return None

    def read(archive: Mapping[str, NDArray[Any]]) -> Labelled[dict[str, NDArray[Any]]] | None:
        if not all(name in archive for name in inputs):
            return None
        return {name: _array(archive, name, path) for name in inputs}, _labels(archive, path)

    found: Labelled[dict[str, NDArray[Any]]] | None = _loaded(path, read)
    return found


def _loaded(path: Path, read: Callable[[Mapping[str, NDArray[Any]]], Any]) -> Any:
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
            return read(archive)
    except InputError:
        raise
    except Exception as e:  # zip, zlib, header and pickle each have errors of their own
        raise InputError(f"{path}: cannot be read as arrays ({e}); save it again with numpy.savez or numpy.save") from e


def _from_archive(archive: Mapping[str, NDArray[Any]], path: Path, inputs: Sequence[str]) -> Labelled[NDArray[Any]]:
    others = [name for name in archive if name != "labels"]
    name = "images" if "images" in others else others[0] if len(others) == 1 else None
    if name is None:
        law = "an archive has `images`, or one array beside `labels`"
        wanted = "name one array `images`"
        if len(inputs) > 1:
            law, wanted = "an archive has an array for each input of the model", f"name them {', '.join(inputs)}"
        raise InputError(f"{path}: {law}; found {', '.join(archive) or 'nothing'}; {wanted}")
    return _array(archive, name, path), _labels(archive, path)


def _labels(archive: Mapping[str, NDArray[Any]], path: Path) -> NDArray[Any] | None:
    return _array(archive, "labels", path) if "labels" in archive else None


def _array(archive: Mapping[str, NDArray[Any]], name: str, path: Path) -> NDArray[Any]:
    found = archive[name]
    if not isinstance(found, np.ndarray):  # numpy gives what is no array as bytes
        raise InputError(f"{path}: holds something that is no array; save it again with numpy.savez")
    return found


def _check_room(path: Path) -> None:
    """Raise InputError where the archive would fill the memory: a few megabytes can unpack to terabytes."""
    room = memory_here()
    with zipfile.ZipFile(path) as archive:
        most = max((entry.file_size for entry in archive.infolist()), default=0)
    if room is not None and most > room:
        law = f"holds an array of {most / 1e9:.0f} GB, this machine has {room / 1e9:.0f} GB of memory"
        raise InputError(f"{path}: {law}; give a .npy, which is read piece by piece, or fewer samples")
