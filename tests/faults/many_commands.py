"""Runs many commands in one process, which may die of them: the libraries that read models are native code.

As a script: a line of JSON in for each command, {"folder": where it runs, "argv": [...]}, a line out with what it did.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60  # of CPU, after which a command hangs; a bound on the work and not on a busy machine
MEMORY = 8 << 30  # bytes of addresses; OpenVINO takes some gigabytes of them for nothing


@dataclass(frozen=True)
class Outcome:
    """What a command left. code: negative, the signal that ended the process; traceback: of what was not caught."""

    code: int
    out: str = ""
    err: str = ""
    traceback: str = ""

    @property
    def is_documented(self) -> bool:
        """Whether it is success, or a documented exit code with one line for it."""
        said = self.err.strip().splitlines()
        if self.traceback or "Traceback" in self.err or self.code not in (0, 2, 3, 4, 5):
            return False
        return self.code == 0 or (bool(said) and said[-1].startswith("ndpass: ") and len(said[-1]) < 1_000)

    @property
    def kind(self) -> str:
        return "done" if self.code == 0 else f"exit code {self.code}" if self.code > 0 else f"signal {-self.code}"


class Commands:
    """A process that runs commands; another one takes the place of one that died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, *argv: object) -> Outcome:
        """Run `ndpass ARGV` in a folder."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"folder": str(folder), "argv": [str(a) for a in argv]}), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if answer:
            return Outcome(**json.loads(answer))
        self._process = None
        process.stdin.close()
        process.stdout.close()
        return Outcome(process.wait())

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, __file__]
            single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **single}
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _run(main: Any, folder: str, argv: Sequence[str], streams: tuple[int, int]) -> Outcome:
    os.chdir(folder)
    sys.argv = ["ndpass", *argv]
    for stream in streams:
        os.ftruncate(stream, 0)
        os.lseek(stream, 0, os.SEEK_SET)
    code, trace = 0, ""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        main()
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        code, trace = 1, traceback.format_exc()
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    said = [os.pread(stream, 100_000, 0).decode(errors="replace") for stream in streams]
    return Outcome(code, *said, trace)


def _serve() -> None:
    import tempfile

    from ndpass.cli import app

    answers = os.fdopen(os.dup(1), "w")
    streams = []
    for number in (1, 2):
        file, path = tempfile.mkstemp()
        Path(path).unlink()
        os.dup2(file, number)
        streams.append(file)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        done = _run(app.main, **json.loads(line), streams=(streams[0], streams[1]))
        print(json.dumps(done.__dict__), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
