"""Ctrl-C and requests to end: what is said then is what is on the disk.

The first one unwinds the command. It has to wait where the main thread is inside a library, as OpenVINO is for seconds
when it compiles; the second one ends the process at once, from a thread that waits for nothing else.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ndpass.errors import EngineError
from ndpass.files.output_paths import resume_folder
from ndpass.files.own_folder import remove_all
from ndpass.files.placing import PLACING, SIGNALS

SILENT = 2.0  # seconds after the first signal until it is said that a library holds it up
PATIENCE = 10.0  # seconds that files being put in place are waited for

_REPEATED: list[int] = []  # signals of this process's own, for those that came at a bad moment


class Interrupted(BaseException):
    """Ctrl-C or a request to end; no library swallows it. Its text says what that leaves, if anything."""


@contextmanager
def signals_heard() -> Iterator[None]:
    """In the block SIGINT and SIGTERM raise Interrupted, and a second one ends the process with exit code 130.

    Only for the main thread. Afterwards signals do what they did before.
    """
    handlers = {sign: signal.signal(sign, _interrupt) for sign in SIGNALS}
    came, wake = os.pipe()
    os.set_blocking(wake, False)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_the_second, args=(came,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(wake)  # which ends the thread
        for sign, handler in handlers.items():
            signal.signal(sign, handler)


def _end_at_the_second(came: int) -> None:
    """came: gets a byte from each signal as it comes, even while the main thread is inside a library."""
    seen, own = 0, len(_REPEATED)
    while seen - (len(_REPEATED) - own) < 2:
        if seen and not select.select([came], [], [], SILENT)[0]:
            print("ndpass: waiting for a library to return; Ctrl-C again ends at once", file=sys.stderr, flush=True)
        numbers = os.read(came, 64)
        if not numbers:
            os.close(came)
            return
        seen += sum(number in SIGNALS for number in numbers)
    PLACING.acquire(timeout=PATIENCE)
    remove_all()
    print("ndpass: interrupted twice, ended at once", file=sys.stderr, flush=True)
    os._exit(130)


@contextmanager
def truth_when_interrupted(output: Path, resume: bool) -> Iterator[None]:
    """Have an Interrupted of the block say whether the model was written, and how to go on where it was not; the latter
    of an EngineError, too.

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
    except EngineError as e:
        if _stamp(begun) == earlier:
            raise
        how = "go on with --resume, with --engine or, with as many --shards, without"
        raise EngineError(f"{e}; {begun.parent} keeps what was done: {how}") from e


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that has taken its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _repeat(number: int) -> None:
    _REPEATED.append(number)
    signal.raise_signal(number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted, but not where it would be swallowed or turned into another error: then a little later."""
    while frame is not None:
        if _swallows(frame):
            later = threading.Timer(0.05, _repeat, (number,))
            later.daemon = True
            later.start()
            return
        frame = frame.f_back
    raise Interrupted


def _swallows(frame: FrameType) -> bool:
    """Whether it is of an import, which a compiled module may go on from; or of what Python calls when an object goes,
    whose exceptions it only prints."""
    code = frame.f_code
    return code.co_name == "__del__" or code.co_filename.startswith(("<frozen importlib", weakref.__file__))
