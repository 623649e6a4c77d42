"""Times models in turns, in a process of its own: what every command that compares milliseconds shares.

A process of its own, because OpenVINO reads the newest instruction set that it may use when it starts, and because what
ran before must not hold memory or threads. It is `ndpass bench`, which says how it warms up, takes turns and counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ndpass_command import as_options
from benchmarks.results.rows import Row


@dataclass(frozen=True)
class Condition:
    """How models are timed.

    precision: f32, bf16 or int8; for int8 a model that is not quantised gets ranges of no meaning. threads: None leaves
    them to the runtime. isa: the newest instruction set that OpenVINO may use, such as AVX2; "" for all that the CPU
    has. size: height and width where the models leave them open, as 320x480.
    """

    runtime: str = "openvino"
    precision: str = "f32"
    threads: int | None = None
    batch: int = 1
    isa: str = ""
    size: str | None = None


@dataclass(frozen=True)
class Timed:
    """One model beside the first one. times_ms: of each round, (rounds,); original_ms: the first model's, (rounds,)."""

    times_ms: Sequence[float]
    original_ms: Sequence[float]

    def figures(self) -> Row:
        """Median milliseconds and speedup over the first model by round, with the 10th and 90th percentile of both."""
        low, speedup, high = ratios(self.original_ms, self.times_ms)
        return {
            "ms": float(np.median(self.times_ms)),
            "spread_ms": np.percentile(self.times_ms, (10, 90)).tolist(),
            "speedup": speedup,
            "spread": [low, high],
            "rounds": len(self.times_ms),
        }


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """10th percentile, median and 90th of one model's time over another's in the same round."""
    low, middle, high = np.percentile(np.array(over) / np.array(under), (10, 50, 90)).tolist()
    return low, middle, high


def time_models(models: Sequence[Path], condition: Condition, seconds: float) -> list[Timed]:
    """The models in turns, `seconds` for each; ratios are to the first. Raises CalledProcessError if one cannot run."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "bench.json"
        options = {
            "runtime": condition.runtime,
            "precision": condition.precision,
            "threads": condition.threads,
            "batch": condition.batch,
            "size": condition.size,
            "seconds": seconds * len(models),
            "json": report,
        }
        command = [sys.executable, "-m", "ndpass", "bench", *map(str, models), *as_options(options)]
        around = os.environ | ({"ONEDNN_MAX_CPU_ISA": condition.isa} if condition.isa else {})
        subprocess.run(command, check=True, env=around, stdout=subprocess.DEVNULL)
        return read(json.loads(report.read_text(encoding="utf-8")))


def read(report: Row) -> list[Timed]:
    """The models of a report that `ndpass bench --json` wrote for one runtime and precision."""
    times = [row["times_ms"] for row in report["rows"]]
    return [Timed(own, times[0]) for own in times]
