"""Move files to their places: all of them, or none.

A file that is replaced is first linked (or, where the file system has no hard links, moved) to a path beside it, and
comes back from there when a later move fails. Ctrl-C and a request to end wait until all files are in place, so that
they find either everything or nothing. A kill between two renames leaves a part, which the next process takes back by
the journal; a power cut may leave one for good.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from ndpass.errors import writing
from ndpass.files.journal import Move, write_down

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PLACING = threading.Lock()  # held while files take their places: who ends the process at once waits for it


def place_all(moves: Sequence[Move]) -> None:
    """Make all moves in their order, or undo those that were made; missing folders are made.

    Raises OutputError naming the output that cannot be written.
    """
    if not moves:
        return
    begun: list[Move] = []
    missing = {folder for move in moves for folder in move.place.parents if not folder.exists()}
    with uninterrupted(), PLACING:
        try:
            with writing(moves[0].output):
                journal = write_down(moves, list(missing))
            for move in moves:
                begun.append(move)
                with writing(move.output):
                    move.place.parent.mkdir(parents=True, exist_ok=True)
                    _make(move)
            journal.unlink()  # from here on all is in place
        except BaseException:
            for move in reversed(begun):
                with suppress(OSError):  # the others come back all the same
                    _undo(move)
            for folder in sorted(missing, reverse=True):  # the innermost first
                with suppress(OSError):
                    folder.rmdir()
            raise
    for folder in dict.fromkeys(move.place.parent for move in moves):
        with suppress(OSError):  # everything is in place; a file system may refuse to sync folders
            sync(folder)


def _make(move: Move) -> None:
    if os.path.lexists(move.place) and not move.place.is_dir():
        try:
            os.link(move.place, move.aside, follow_symlinks=False)
        except OSError:  # no hard links here: for a moment there is no file at the place
            move.place.replace(move.aside)
    if move.source is None:
        move.place.unlink(missing_ok=True)
    else:
        move.source.replace(move.place)


def _undo(move: Move) -> None:
    if os.path.lexists(move.aside):
        move.aside.replace(move.place)
    elif move.source is not None and not os.path.lexists(move.source):
        move.place.replace(move.source)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block has ended. Only the main thread ever receives them."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    main = threading.current_thread() is threading.main_thread()
    handlers = {sign: signal.getsignal(sign) for sign in SIGNALS if main}
    ours = {sign: handler for sign, handler in handlers.items() if handler is not None}  # None: not set from Python
    try:
        for sign in ours:
            signal.signal(sign, note)
        yield
    finally:
        for sign, handler in ours.items():
            signal.signal(sign, handler)
        if came and callable(handler := ours[signal.Signals(came[0])]):
            handler(came[0], None)  # not raised anew: it would count as a second one
        elif came:
            signal.raise_signal(came[0])


def sync(path: Path) -> None:
    """Have the file or folder written to the disk itself. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
