"""Whether this process may take as much address space as a run needs, asked before anything is done.

Where it may not, libraries do not say so later on: OpenBLAS tries again and again for ever to get its buffers, and
threads that cannot begin end the process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ndpass.errors import InputError

LEAST = 1 << 30  # bytes of address space that runs of the smallest models took on one thread and on two: 0.7 to 1.0 GB
FOR_TRAINING = 1 << 30  # more of them where torch is used
COPIES = 4  # of the weights: `measuring.runtime` says what runtimes take


def check_address_space(weights: int, training: bool, room: Callable[[], int | None] | None = None) -> None:
    """Raise InputError where the limit of this process (`ulimit -v`) leaves too little.

    weights: bytes of the model on disk; training: whether it is to be refined; room: bytes that are left, None: no
    limit.
    """
    left = (room or address_space_left)()
    need = LEAST + COPIES * weights + FOR_TRAINING * training
    if left is not None and left < need:
        raise InputError(
            f"this process may take {_megabytes(left)} MB more of memory, a run on this model needs about "
            f"{_megabytes(need)} MB: raise the limit, as by ulimit -v unlimited"
        )


def address_space_left() -> int | None:
    """Bytes that this process may still map, None where there is no limit or none is known."""
    if sys.platform != "linux":  # elsewhere the limit is not kept, or there is none
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return max(limit - pages * resource.getpagesize(), 0)


def _megabytes(count: int) -> int:
    return round(count / 1e6)
