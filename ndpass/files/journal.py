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
    """Write down moves that are about to be made, beside the first `aside`; made: folders that are made for them.

    Returns the file, which goes when all moves are made. Raises OSError.
    """
    rows = [
        {
            "source": None if move.source is None else os.path.abspath(move.source),  # noqa: PTH100 - no link followed
            "place": os.path.abspath(move.place),  # noqa: PTH100
            "aside": os.path.abspath(move.aside),  # noqa: PTH100
            "older": os.path.lexists(move.place),
            "file": None if move.source is None else _stamp(move.source),
        }
        for move in moves
    ]
    journal = moves[0].aside.parent / JOURNAL
    part = journal.with_suffix(".part")
    part.write_text(json.dumps({"moves": rows, "made": [os.path.abspath(path) for path in made]}))  # noqa: PTH100
    part.replace(journal)
    return journal


def take_back(folder: Path) -> None:
    """Take back the moves that a process which is dead has written down in a folder of this one, and not finished.

    What somebody else has put to such a place since then stays there.
    """
    for journal in folder.glob(f"*/{JOURNAL}"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged: nothing is known of it
            written = json.loads(journal.read_text())
            for row in reversed(written["moves"]):
                with suppress(OSError):
                    _take_back(Path(row["place"]), Path(row["aside"]), row["file"], row["older"])
            for path in sorted(written["made"], reverse=True):  # the innermost first
                with suppress(OSError):
                    Path(path).rmdir()


def _stamp(path: Path) -> list[int]:
    """Tells a file from any other, wherever it is moved to on its file system."""
    found = path.lstat()
    return [found.st_ino, found.st_mtime_ns]


def _take_back(place: Path, aside: Path, file: list[int] | None, older: bool) -> None:
    there = _stamp(place) if os.path.lexists(place) else None
    if os.path.lexists(aside):
        if there in (None, file):
            aside.replace(place)
    elif there is not None and there == file and not older:
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
