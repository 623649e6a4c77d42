"""Runs of ndpass as processes of their own that begin at once: forks of one process that has imported everything.

A run may be killed at its n-th moment. A moment is what it does to the file system in its folders, or a step that it
tells its listeners of. So a moment means the same on every machine, however busy it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
TEMP, CACHE, TOLD = "temp", "cache", "told"  # folders beside that of the outputs


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: as of `subprocess`, a signal's number below 0. moments: "stage: what happened"."""

    code: int
    out: str
    err: str
    moments: list[str]


@dataclass(frozen=True)
class Place:
    """Where a run works: `work` is its working folder; beside it are the cache and the folder for temporary files."""

    root: Path

    @classmethod
    def made(cls, root: Path) -> Place:
        for name in ("work", TEMP, CACHE, TOLD):
            (root / name).mkdir(parents=True, exist_ok=True)
        return cls(root)

    @property
    def work(self) -> Path:
        return self.root / "work"

    def strays(self, wanted: Sequence[str]) -> list[str]:
        """What lies about besides the files that are wanted, as paths below the root."""
        roots = [self.work, self.root / TEMP, self.root / CACHE]
        found = [path for root in roots for path in root.rglob("*")]
        names = [str(path.relative_to(self.root)) for path in found if path.is_symlink() or not path.is_dir()]
        empty = [str(path.relative_to(self.root)) for path in found if path.is_dir() and not any(path.iterdir())]
        known = {f"work/{name}" for name in wanted}  # torch makes a cache of its own, empty here
        return sorted(
            n
            for n in names + empty
            if n not in known and not n.startswith((f"{CACHE}/latency-v", f"{TEMP}/torchinductor_"))
        )


class Forks:
    """A process that forks once for each run, until it is closed."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(TESTS), str(TESTS / "faults"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "-B", "-m", "forked"]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)

    def run(self, place: Place, args: Sequence[object], **how: Any) -> Ended:
        """`ndpass ARGS` in the place. how: see `forked.Order`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order: Mapping[str, Any] = {"root": str(place.root), "args": [str(a) for a in args], **how}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        out, err, moments = ((place.root / TOLD / n).read_text() for n in ("out", "err", "moments"))
        return Ended(code, out, err, moments.splitlines())

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
