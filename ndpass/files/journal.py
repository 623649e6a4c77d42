"""What is about to take its place, written down first: where a kill came in between, the next process takes it back.

Without that a killed process could leave the weights of a model that is not there, and its older model under a hidden
name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

JOURNAL = "moves.json"


@dataclass(frozen=True)
class Move:
    """One rename. source: the file or folder that goes to `place`; None removes the file at `place`.

    aside: where the file at `place` waits meanwhile, a free path on the same file system. output: what the user calls
    it, for errors.
    """

    source: Path | None
    place: Path
    aside: Path
    output: Path


def write_down(moves: Sequence[Move], made: Sequence[Path]) -> Path:
    """Write down moves that are about to be made; made: folders that are made for them.

    Beside every `aside`, so that whatever is found first leads to all. Returns the first of these files: it holds as
    long as that is there, and goes when all moves are made. Raises OSError.
    """
    rows = [
        {
            "source": None if move.source is None else _absolute(move.source),
            "place": _absolute(move.place),
            "aside": _absolute(move.aside),
            "file": None if move.source is None else _stamp(move.source),
        }
        for move in moves
    ]
    folders = list(dict.fromkeys(move.aside.parent for move in moves))
    first = folders[0] / JOURNAL
    written = {"first": _absolute(first), "moves": rows, "made": [_absolute(path) for path in made]}
    for folder in reversed(folders):
        part = folder / f"{JOURNAL}.part"
        part.write_text(json.dumps(written))
        part.replace(folder / JOURNAL)
    return first


def take_back(folder: Path) -> None:
    """Take back the moves that a process which is dead has written down in a folder of this one, and not finished.

    What somebody else has put to such a place since then stays there.
    """
    for journal in folder.glob(f"*/{JOURNAL}"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged: nothing is known of it
            written = json.loads(journal.read_text())
            rows, first = written["moves"], Path(written["first"])
            if first not in {Path(row["aside"]).parent / JOURNAL for row in rows} or not first.is_file():
                continue
            if not all(_is_beside(Path(row["place"]), Path(row["aside"])) for row in rows):
                continue
            for row in reversed(rows):
                with suppress(OSError):
                    _take_back(Path(row["place"]), Path(row["aside"]), row["file"])
            for path in sorted(written["made"], reverse=True):  # the innermost first
                with suppress(OSError):
                    Path(path).rmdir()  # which only an empty one lets happen
            first.unlink()


def _is_beside(place: Path, aside: Path) -> bool:
    """Whether a process of this tool can have written that down: FOLDER/HIDDEN/OLD/aside for FOLDER/.../place.

    A journal may lie among files that somebody else has sent. One that names places outside the folder that its hidden
    one is in, also by a link or `..`, is not followed: it could put a file anywhere.
    """
    folder = aside.parent.parent.parent.resolve()
    outside = ".." in (*place.parts, *aside.parts) or aside.parent.resolve().parent.parent != folder
    return not outside and place.parent.resolve().is_relative_to(folder)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - `resolve` would follow links


def _stamp(path: Path) -> list[int]:
    """Tells a file from any other, wherever it is moved to on its file system."""
    found = path.lstat()
    return [found.st_ino, found.st_mtime_ns]


def _take_back(place: Path, aside: Path, file: list[int] | None) -> None:
    there = _stamp(place) if os.path.lexists(place) else None
    if os.path.lexists(aside):
        if there in (None, file):
            aside.replace(place)
    elif there is not None and there == file:  # nothing was there before
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
