"""How much memory there is, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

import os
from contextlib import suppress


def memory_here() -> int | None:
    """Bytes that this process may have at most: the machine's, or less where a limit is set; None: nobody knows."""
    found: list[int] = []
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] * (limit != resource.RLIM_INFINITY)
    return min((size for size in found if size > 0), default=None)
