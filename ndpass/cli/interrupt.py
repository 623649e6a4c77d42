"""Ctrl-C and requests to end: what is said then is what is on the disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ndpass.files.output_paths import resume_folder


class Interrupted(BaseException):
    """Ctrl-C or a request to end; no library swallows it. Its text says what that leaves, if anything."""


def listen_for_signals() -> None:
    """From here on SIGINT and SIGTERM raise Interrupted."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _interrupt)


@contextmanager
def truth_when_interrupted(output: Path, resume: bool) -> Iterator[None]:
    """Have an Interrupted of the block say whether the model was written, and how to go on where it was not.

    output: where the model goes. All outputs appear together, so the model stands for all of them. resume: whether the
    run goes on with what an earlier one has left; otherwise only what it leaves itself counts.
    """
    begun = resume_folder(output) / "run.json"
    before, earlier = _stamp(output), None if resume else _stamp(begun)
    try:
        yield
    except Interrupted as e:
        if _stamp(output) != before:
            raise Interrupted(f"after {output} was written, verified and whole") from e
        rest = f"; {begun.parent} keeps what was done: go on with --resume" if _stamp(begun) != earlier else ""
        raise Interrupted(f"no model was written{rest}") from e


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that has taken its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted, but not inside an import: a compiled module would swallow it or turn it into ImportError."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            later = threading.Timer(0.05, signal.raise_signal, (number,))
            later.daemon = True
            later.start()
            return
        frame = frame.f_back
    raise Interrupted
