"""How much memory there is, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # of a container, a number or "max"
SHARE = 4  # what layers that are planned side by side hold is at most this part of the machine's memory


def memory_here() -> int | None:
    """Bytes that this process may have at most: the machine's, or less where a limit is set; None: nobody knows."""
    found: list[int] = []
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] * (limit != resource.RLIM_INFINITY)
    with suppress(OSError, ValueError):
        found.append(int(CONTAINER.read_text()))
    return min((size for size in found if size > 0), default=None)


def room_beside(memory: int) -> int:
    """Bytes that layers which are planned side by side may hold together: `memory`, or a part of the machine's."""
    return max(memory, (memory_here() or 0) // SHARE)
