"""Outputs, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ndpass.errors import OutputError, UsageError


@dataclass(frozen=True)
class Staged:
    """A file being written: `path` is where to write it, in a hidden folder beside its final place.

    compress: whether IR is to have its weights in float16.
    """

    path: Path
    target: Path
    compress: bool = False

    @property
    def onnx(self) -> Path:
        """Where the ONNX model goes, whether it is the result or what the IR is made from."""
        return self.path.with_suffix(".onnx")

    def finish(self) -> None:
        """Make the IR from the ONNX model if an IR was asked for and is not there yet; the ONNX model then goes."""
        if self.path.suffix == ".xml" and self.onnx.exists():
            if not self.path.exists():
                from ndpass.files.ir_file import write_file

                write_file(self.onnx, self.path, self.compress)
            for part in list(self.path.parent.iterdir()):
                if part.name.startswith(self.onnx.name):
                    part.unlink()

    def commit(self) -> None:
        """Move everything in the staging folder to its place, the model itself last.

        An older model is removed before its data is replaced: no moment leaves a model beside another's weights.
        """
        extras = [p for p in self.path.parent.iterdir() if p != self.path]
        for source in [*extras, self.path]:
            shutil.copymode(self.path, source)  # onnx lets only the owner read external data
            _sync(source)
        if extras:
            self.target.unlink(missing_ok=True)
        elif self.target.exists():
            data_file(self.target).unlink(missing_ok=True)  # of the model that is replaced
        for source in [*extras, self.path]:  # after all that takes time: an interrupt finds hardly a gap
            source.replace(self.target.parent / source.name)
        _sync(self.target.parent)


@contextmanager
def staged(target: Path, compress: bool = False) -> Iterator[Staged]:
    """A staging folder beside `target`, removed at the end whatever happens.

    Raises OutputError at once where the folder is missing or cannot be written, and later where the disk is full.
    """
    if target.is_dir():
        raise OutputError(f"{target} is a folder: name a file in it")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as e:
        raise OutputError(f"{target}: cannot write into {target.parent.resolve()}: {e.strerror}") from e
    try:
        yield Staged(folder / target.name, target, compress)
    except OSError as e:
        raise OutputError(f"{target}: cannot be written: {e.strerror or e}") from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(target: Path, text: str) -> None:
    """Write a small file whole or not at all. Raises OutputError."""
    write_bytes(target, lambda file: file.write(text.encode()))


def write_bytes(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears whole or not at all. Raises OutputError."""
    with staged(target) as stage:
        with stage.path.open("wb") as file:
            write(file)
        stage.commit()


def check_writable(target: Path, *taken: Path) -> None:
    """Raise UsageError where `target` is one of the files `taken`, OutputError where it cannot be written."""
    if target.resolve() in {path.resolve() for path in taken}:
        raise UsageError(f"{target} is the name of a model: give another name")
    with staged(target):
        pass


def data_file(path: Path) -> Path:
    """Where ndpass puts the weights of the model at `path` that are not in it."""
    return path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")


def stored_bytes(path: Path) -> int:
    """Size on disk of a model with its weights."""
    return sum(p.stat().st_size for p in (path, data_file(path)) if p.exists())
