"""Loaded by the workers of dask://local:N as they start: Ctrl-C and what Dask says are for the process that asks."""

from __future__ import annotations

import logging
import signal

from ndpass.engine.address import LOGGERS


def dask_setup(worker: object) -> None:
    """Dask calls it in the worker's main thread. A terminal sends Ctrl-C to all processes, of which one has to hear."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] in LOGGERS]:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
