"""Keeps what C code prints off stdout; Python's own stdout and file descriptor 1 are not touched.

HiGHS, which scipy's `milp` runs, prints a line with C's `printf` now and then, whatever its options say. `printf`
writes to libc's variable `stdout`, which may be set like any other (GNU C Library manual, "Standard Streams"). For as
long as somebody wants silence it is another stream, to the null device. File descriptor 1 stays what it is, so other
threads can print meanwhile and child processes inherit the right one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def c_stdout_silent() -> Iterator[None]:
    """Nothing that C code prints reaches stdout meanwhile. Calls may overlap: the last one to end turns it on again.

    Where libc is not glibc nothing is changed and such a line can be seen.
    """
    _switch.silence()
    try:
        yield
    finally:
        _switch.restore()


class _Switch:
    """Counts who wants silence. The null stream is opened once and stays open: another thread may still print to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent = 0
        self._own: int | None = None  # libc's stream while it is replaced

    def silence(self) -> None:
        with self._lock:
            self._silent += 1
            stream = _stdout()
            if self._silent == 1 and stream is not None:
                self._own, stream.value = stream.value, _null_stream() or stream.value

    def restore(self) -> None:
        with self._lock:
            self._silent -= 1
            stream = _stdout()
            if self._silent == 0 and stream is not None:
                stream.value = self._own


_switch = _Switch()


@cache
def _stdout() -> ctypes.c_void_p | None:
    """libc's variable `stdout`, or None where it is no variable that may be set."""
    if platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stdout")


@cache
def _null_stream() -> int | None:
    """A stream to the null device, as `fopen` gives it."""
    fopen = ctypes.CDLL(None).fopen
    fopen.restype = ctypes.c_void_p
    stream: int | None = fopen(os.devnull.encode(), b"w")
    return stream
