"""What a run of ndpass costs beside the least that any rewrite does: read, one SVD of every layer, write.

    python -m benchmarks.cost [--model vgg16_224.onnx] [--rounds 3] [-o benchmarks/results/cost.json]

Each round runs, in turn and each in a process of its own:

    ndpass          ndpass run MODEL --passes nd:rank=3, from the command to the verified file
    svd of convs    onnx.load, numpy.linalg.svd of the matrix (n_o, n_i * K) of every convolution, onnx.save
    svd of all      the same with the linear layers as well, in the first round only

Times are medians over the rounds, memory is the most that a process held in any of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ndpass.bench import environment

TIME_LIMIT = 3.0  # times the baseline
MEMORY_LIMIT = 4.0  # times the model's bytes
ONCE = "svd of all"  # minutes long, and not what the limits refer to
BASELINES = {"convs": (4,), "all": (2, 4)}  # name -> how many axes the weights have that are decomposed


@dataclass(frozen=True)
class Cost:
    """Wall time of each round and the largest resident set of all."""

    seconds: list[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def baseline(model: Path, output: Path, axes: Sequence[int]) -> None:
    """Read the model, decompose every weight that has so many axes, write it again."""
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) in axes:
            np.linalg.svd(numpy_helper.to_array(tensor).reshape(tensor.dims[0], -1), full_matrices=False)
    onnx.save(proto, output)


def run_once(command: Sequence[str]) -> tuple[float, int]:
    """Wall seconds and largest resident set of a process of its own; SystemExit where it fails."""
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed with {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def commands(model: Path, folder: Path) -> dict[str, list[str]]:
    """What is compared, by name."""
    here = [sys.executable, "-m", "benchmarks.cost", "--model", str(model)]
    return {
        "ndpass": [sys.executable, "-m", "ndpass.cli", "run", str(model), "--passes", "nd:rank=3", "--quiet",
                   "--output", str(folder / "ndpass.onnx")],
        **{f"svd of {name}": [*here, "--baseline", name, "-o", str(folder / f"{name}.onnx")] for name in BASELINES},
    }  # fmt: skip


def measure(model: Path, rounds: int) -> dict[str, Cost]:
    """Cost of every command, the rounds interleaved so that a slow minute of the machine meets all of them."""
    results: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        todo = commands(model, Path(folder))
        for number in range(rounds):
            for name, command in todo.items():
                if number == 0 or name != ONCE:
                    results.setdefault(name, []).append(run_once(command))
    return {name: Cost([s for s, _ in runs], max(m for _, m in runs)) for name, runs in results.items()}


def table(costs: dict[str, Cost], size: int) -> str:
    """Seconds, how many times each baseline ndpass takes, and memory over the model's bytes."""
    ours = costs["ndpass"]
    lines = [f"{'':14}{'seconds':>9}{'ndpass takes':>14}{'memory':>11}{'of the model':>14}"]
    for name, cost in costs.items():
        ratio = "" if cost is ours else f"{ours.median / cost.median:.2f} x"
        lines.append(
            f"{name:14}{cost.median:9.1f}{ratio:>14}{cost.peak_bytes / 1e6:8.0f} MB{cost.peak_bytes / size:12.2f} x"
        )
    met = ours.median <= TIME_LIMIT * costs["svd of convs"].median, ours.peak_bytes <= MEMORY_LIMIT * size
    verdicts = ["met" if m else "MISSED" for m in met]
    lines.append(f"limits: {TIME_LIMIT:g} x svd of convs {verdicts[0]}, {MEMORY_LIMIT:g} x the bytes {verdicts[1]}")
    return "\n".join(lines)


def to_json(costs: dict[str, Cost], size: int) -> str:
    """The figures, and the machine they are from."""
    figures = {name: {"median_seconds": cost.median, **asdict(cost)} for name, cost in costs.items()}
    return json.dumps({"environment": asdict(environment()), "model_bytes": size, "costs": figures}, indent=1) + "\n"


def report(model: Path, rounds: int, output: Path) -> None:
    """Measure, print, write."""
    size = model.stat().st_size
    costs = measure(model, rounds)
    print(table(costs, size))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(to_json(costs, size), encoding="utf-8")


def main() -> None:
    """Measure on the model given, else on VGG16 at 224x224 written to a temporary folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description="What a run costs.")
    parser.add_argument("--model", type=Path, help="an ONNX file; default: VGG16 at 224x224")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", choices=BASELINES, help=argparse.SUPPRESS)  # how this module runs itself
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/cost.json"))
    args = parser.parse_args()
    if args.baseline:
        baseline(args.model, args.output, BASELINES[args.baseline])
    elif args.model:
        report(args.model, args.rounds, args.output)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "vgg16_224.onnx"
            # in a process of its own: the memory that this one once held would count as that of the processes it starts
            run_once([sys.executable, "-m", "benchmarks.models", "vgg16", str(model)])
            report(model, args.rounds, args.output)


if __name__ == "__main__":
    main()
