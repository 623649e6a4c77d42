"""Outputs of a command, written into hidden folders beside their places, which all of them take together or none."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ndpass.errors import NdpassError, OutputError, blamed, writing
from ndpass.files.journal import Move
from ndpass.files.own_folder import OwnFolder, remove_left
from ndpass.files.placing import place_all, sync, uninterrupted
from ndpass.files.weight_files import IR, MODELS, data_file, weight_files


@dataclass(frozen=True)
class Staged:
    """A file, or a folder, being written: `path` is where to write it, in a hidden `folder` beside `target`.

    compress: whether IR is to have its weights in float16.
    """

    folder: OwnFolder
    target: Path
    compress: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path / self.target.name

    @property
    def onnx(self) -> Path:
        """Where the ONNX model goes, whether it is the result or what the IR is made from."""
        return self.path.with_suffix(".onnx")

    def finish(self) -> None:
        """Make the IR from the ONNX model if an IR was asked for and is not there yet; the ONNX model then goes.

        Raises OutputError where the IR cannot be written.
        """
        if self.path.suffix == IR and self.onnx.exists():
            with writing(self.target):
                if not self.path.exists():
                    from ndpass.files.ir_file import write_file

                    write_file(self.onnx, self.path, self.compress)
                for part in self.folder.contents():
                    if part.name.startswith(self.onnx.name):
                        part.unlink()

    def commit(self) -> None:
        """Move everything in the staging folder to its place, or nothing. Raises OutputError."""
        place_all(self.moves())

    def moves(self) -> list[Move]:
        """What brings the file and all that lies beside it to their places, what is written being on the disk itself.

        An older model is removed before its weights are replaced, and its own weights only after it: no moment shows a
        model beside weights of another.
        """
        beside = [path for path in self.folder.contents() if path != self.path]
        with writing(self.target):
            for source in beside:
                shutil.copymode(self.path, source)  # onnx lets only the owner read external data
            for written in self.path.parent.rglob("*"):
                if written.is_file():
                    sync(written)
            aside = Path(tempfile.mkdtemp(prefix=".old.", dir=self.path.parent))
        places = [self.target.parent / p.name for p in beside]
        old = data_file(self.target)
        stale = [old] if old not in places and self._replaces(old) else []
        wanted: list[tuple[Path | None, Path]] = [
            *([(None, self.target)] if beside and self.target.exists() else []),
            *zip(beside, places, strict=True),
            (self.path, self.target),
            *((None, place) for place in stale),
        ]
        return [
            Move(source, place, aside / f"{number}.{place.name}", self.target)
            for number, (source, place) in enumerate(wanted)
        ]

    def _replaces(self, weights: Path) -> bool:
        """Whether these weights belong to the older model at the target, which goes."""
        return self.target.suffix in MODELS and weights.is_file() and weights in weight_files(self.target)


class Outputs:
    """All outputs of a command: each is staged beside its place, and `commit` puts all of them there, or none.

        with Outputs() as outputs:
            stage = outputs.stage(Path("out.onnx"))
            ...  # write stage.path
            outputs.text(Path("report.json"), report)
            outputs.commit()

    Without `commit`, and after any error, nothing is left and nothing that was there has changed. What was staged first
    is put in place last. Errors that name a staged file name the user's instead.
    """

    def __init__(self) -> None:
        self._stages: list[Staged] = []

    def stage(self, target: Path, compress: bool = False) -> Staged:
        """A staging folder beside `target`. Raises OutputError where its folder is missing or cannot be written."""
        if target.is_dir():
            raise OutputError(f"{target} is a folder: name a file in it")
        return self._staged(target, target.parent, compress)

    def stage_folder(self, target: Path) -> Staged:
        """As `stage` for a folder, whose parents are made when it is put in place; `path` is an empty folder."""
        there = next(path for path in target.absolute().parents if path.exists())
        stage = self._staged(target, there, False)
        with writing(target):
            stage.path.mkdir()
        return stage

    def text(self, target: Path, text: str) -> None:
        """Stage a small file. Raises OutputError."""
        self.file(target, lambda file: file.write(text.encode()))

    def file(self, target: Path, write: Callable[[BinaryIO], object]) -> None:
        """Stage a file that `write` fills. Raises OutputError."""
        stage = self.stage(target)
        with writing(target), stage.path.open("wb") as file:
            write(file)

    def commit(self) -> None:
        """Put everything in place, or nothing. Raises OutputError naming what could not be written."""
        place_all([move for stage in reversed(self._stages) for move in stage.moves()])

    def _staged(self, target: Path, folder: Path, compress: bool) -> Staged:
        prefix = f".{target.name}."
        try:
            remove_left(folder, prefix)
            hidden = OwnFolder(folder, prefix)
        except OSError as e:
            missing = isinstance(e, FileNotFoundError)
            remedy = f"; make it: mkdir -p {shlex.quote(str(folder))}" if missing else ""
            raise OutputError(f"{target}: cannot write into {folder.resolve()}: {e.strerror}{remedy}") from e
        stage = Staged(hidden, target, compress)
        self._stages.append(stage)
        return stage

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with uninterrupted():
            for stage in self._stages:
                stage.folder.remove()
        if isinstance(error, OSError):
            raise self._in_words_of_the_user(blamed(error)) from error
        if isinstance(error, NdpassError) and (better := self._in_words_of_the_user(error)) is not error:
            raise better from error

    def _in_words_of_the_user(self, error: NdpassError) -> NdpassError:
        """The error with every staged path replaced by the output that it is for."""
        text = str(error)
        for stage in self._stages:
            for name in (data_file(stage.path), stage.path, data_file(stage.onnx), stage.onnx):
                text = text.replace(str(name), str(stage.target))
            text = re.sub(re.escape(f"{stage.path.parent}{os.sep}") + r"[^\s:,']+", str(stage.target), text)
        return error if text == str(error) else type(error)(text)


@contextmanager
def staged(target: Path, compress: bool = False) -> Iterator[Staged]:
    """A staging folder for one output, removed at the end whatever happens; `commit` of what it gives puts it in place.

    Raises OutputError at once where the folder is missing or cannot be written, and later where the disk is full.
    """
    with Outputs() as outputs:
        yield outputs.stage(target, compress)


def write_text(target: Path, text: str) -> None:
    """Write a small file whole or not at all. Raises OutputError."""
    write_bytes(target, lambda file: file.write(text.encode()))


def write_bytes(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears whole or not at all. Raises OutputError."""
    with Outputs() as outputs:
        outputs.file(target, write)
        outputs.commit()
