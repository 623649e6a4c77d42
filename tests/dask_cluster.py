"""A Dask scheduler and workers as processes of this machine, to be killed at will."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 60.0  # seconds for a process to be there
SEEN = {"PYTHONPATH": str(Path(__file__).parent)}  # so that workers find what is here
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def process_of(_call: object, _now: object) -> float:
    """A turn that tells which process takes it."""
    return float(os.getpid())


class DaskCluster:
    """On loopback. engine: what --engine takes."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.engine = f"dask://{self.file}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        where = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file)]
        self._start("scheduler", "distributed.cli.dask_scheduler", *where, "--no-dashboard")
        for number in range(workers):
            self.add(f"worker{number}")
        self.wait(workers)

    def add(self, name: str, **env: str) -> None:
        """One more worker, with these variables in its environment."""
        where = ["--scheduler-file", str(self.file), "--local-directory", str(self.folder)]
        own = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--name", name]
        self._start(name, "distributed.cli.dask_worker", *where, *own, **env)

    def wait(self, workers: int) -> None:
        """Until so many workers are there."""
        from distributed import Client

        end = time.monotonic() + PATIENCE
        while not self.file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        with Client(scheduler_file=str(self.file), set_as_default=False, timeout=PATIENCE) as client:
            if workers:
                client.wait_for_workers(workers, timeout=PATIENCE)

    def kill(self, name: str) -> None:
        """At once, as a machine that is switched off."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def _start(self, name: str, module: str, *args: str, **env: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                stdout=log,
                stderr=log,
                env={**os.environ, **ALONE, **SEEN, **env},
            )
