"""Memory for tensors that come and go at every step: what was freed is used again instead of going back to the system.

glibc takes a large array from the system by mmap and gives it back when it is freed, so that the kernel clears the same
pages again at every step of a training: a fifth of the time of a small network. Nothing is changed where the C library
is another one.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # glibc's numbers for mallopt, in malloc.h
KEPT = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}  # never give back, never map
USUAL = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65536}  # where its own thresholds grow to


@contextmanager
def kept_pages() -> Iterator[None]:
    """Freed memory stays with the process in the block, and goes back to the system behind it."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    try:
        for option, value in KEPT.items():
            libc.mallopt(option, value)
        yield
    finally:
        for option, value in USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
