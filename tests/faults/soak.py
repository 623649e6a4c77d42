"""Thirty runs in one process: `python -m tests.faults.soak`. Minutes; prints what grows from one round to the next.

Ten networks and three budgets, in three rounds of ten runs, so that each round has every network once.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import network, normal
from quick_command import time_briefly

import ndpass
from ndpass.errors import NdpassError

BUDGETS: tuple[dict[str, float], ...] = ({"macs": 0.6}, {"energy": 0.9}, {"max_drop": 20.0})
NETWORKS = 10


@dataclass(frozen=True)
class Held:
    """What this process holds. memory: bytes in RAM; threads of the system's and of Python's; files: open ones;
    temporary: files and folders among the temporary ones."""

    memory: int
    threads: int
    python_threads: int
    files: int
    temporary: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        about = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        left = list(Path(tempfile.gettempdir()).iterdir())
        return cls(
            memory=int(about["VmRSS"].split()[0]) * 1024,
            threads=int(about["Threads"]),
            python_threads=threading.active_count(),
            files=len(list(Path("/proc/self/fd").iterdir())),
            temporary=len(left),
        )

    def __str__(self) -> str:
        return (
            f"{self.memory / 1e6:7.1f} MB, {self.threads} threads, {self.python_threads} of Python, "
            f"{self.files} open files, {self.temporary} temporary"
        )


def model(number: int) -> onnx.ModelProto:
    """Two convolutions; widths and sizes go with the number."""
    wide, size = 16 + 8 * (number % 5), 12 + 4 * (number // 5)
    text = f"""(float[batch,3,{size},{size}] image) => (float[batch,5] scores) {{
        a = Conv<pads = [1,1,1,1]>(image, w1, b1)  r = Relu(a)
        b = Conv<pads = [1,1,1,1]>(r, w2)  s = Relu(b)
        p = GlobalAveragePool(s)  f = Flatten(p)  scores = Gemm(f, w3)
    }}"""
    weights = {"w1": normal(16, 3, 3, 3), "b1": normal(16), "w2": normal(wide, 16, 3, 3), "w3": normal(wide, 5)}
    return network(text, **weights)


def rounds(count: int = 3, networks: int = NETWORKS) -> Iterator[Held]:
    """What is held after each round."""
    for turn in range(count):
        for number in range(networks):
            net = model(number)
            size = net.graph.input[0].type.tensor_type.shape.dim[2].dim_value
            images = np.random.default_rng(number).standard_normal((24, 3, size, size), dtype=np.float32)
            budget: dict[str, Any] = dict(BUDGETS[(turn + number) % len(BUDGETS)])
            try:
                ndpass.run(net, "cp,nd", calibration=images, **budget)
            except NdpassError as e:
                print(f"  network {number}, {budget}: {e}", flush=True)
        yield Held.now()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="soak-") as own:
        os.environ.update(NDPASS_CACHE=str(Path(own, "cache")), TMPDIR=str(Path(own, "temp")))
        Path(own, "temp").mkdir()
        tempfile.tempdir = None  # it is looked up anew
        time_briefly()  # what a run holds does not depend on it
        logging.disable(logging.WARNING)
        print("before", Held.now(), flush=True)
        held = []
        for number, found in enumerate(rounds(), 1):
            print(f"after round {number}", found, flush=True)
            held.append(found)
    print("threads of Python:", ", ".join(thread.name for thread in threading.enumerate()))
    growth = (held[-1].memory - held[0].memory) / NETWORKS / (len(held) - 1)
    print(f"growth after the first round: {growth / 1e3:.0f} kB a run")


if __name__ == "__main__":
    main()
