"""Runs `ndpass run` as a process of its own, as a user would, and reads its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results.rows import Row, by_name


class RefusedError(Exception):
    """ndpass or another tool gives no model at a setting: its message, the seconds until then and the exit code.

    code: None where there is no process, or where it was stopped at its time limit.
    """

    def __init__(self, message: str, seconds: float = 0.0, code: int | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.code = code


def run(
    model: Path,
    out: Path,
    words: Sequence[str],
    options: Mapping[str, Any],
    around: Mapping[str, str] | None = None,
    limit: float | None = None,
    command: str = "run",
) -> tuple[Row, float]:
    """The report of a run and the seconds of the whole process. Raises RefusedError where it writes no model.

    words: options as they are typed; options: others by name, those that are None are left out; around: environment
    variables besides those of this process; limit: seconds after which it is stopped; command: run or refine.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        given = as_options({**options, "json": report})
        line = [sys.executable, "-m", "ndpass", command, str(model), "-q", "-o", str(out), *words, *given]
        start = time.perf_counter()
        env = {**os.environ, **(around or {})}
        try:
            done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired as e:
            raise RefusedError(f"stopped after {limit:.0f} s", time.perf_counter() - start) from e
        seconds = time.perf_counter() - start
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            files = [model, out, report, *(path for path in options.values() if isinstance(path, Path))]
            raise RefusedError(by_name(said, *files), seconds, done.returncode)
        return json.loads(report.read_text(encoding="utf-8")), seconds


def as_options(given: Mapping[str, Any]) -> list[str]:
    """Options of a command line; those that are None are left out."""
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def stages_text(seconds: Mapping[str, Any]) -> str:
    """The seconds of each stage of a report, in a line; of one from before stages were kept, those of its parts."""
    stages = seconds.get("stages") or seconds
    return ", ".join(f"{name} {s:.1f} s" for name, s in stages.items() if s is not None)
