"""`python -m benchmarks.cost`: what a run of ndpass costs beside the least that any rewrite does: read, an SVD, write.

    python -m benchmarks.cost [vgg16_224.onnx] [--rounds 3] [--quick]

Each round runs in turn, each in a process of its own:

    ndpass          ndpass run MODEL --passes nd:rank=3, from the command to the verified file
    svd of convs    onnx.load, numpy.linalg.svd of the matrix (n_o, n_i * K) of every convolution, onnx.save
    svd of all      the same with the linear layers as well, in the first round only

Times are medians over the rounds, memory is the most that a process held in any of them. Rows are appended to
benchmarks/results/cost.json as they come; those there are not measured again. `--quick`: one round on the digits
network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks import options
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from benchmarks.results.summary import LEAST, ONCE, OURS, costs

MINUTES = 4
TIME_LIMIT = 3.0  # times the baseline
MEMORY_LIMIT = 4.0  # times the model's bytes
BASELINES = {LEAST: (4,), ONCE: (2, 4)}  # name -> how many axes the weights have that are decomposed


def main() -> None:
    """Measures on the model given, else on VGG16 at 224x224, which is written to a temporary folder."""
    args = arguments()
    if args.baseline:
        baseline(args.model, args.output, BASELINES[args.baseline])
    elif args.model:
        report(args.model, args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "vgg16_224.onnx"
            # in a process of its own: the memory that this one once held would count as that of the processes it starts
            run_once([sys.executable, "-m", "benchmarks.models", "vgg16", str(model)])
            report(model, args)


def report(model: Path, args: argparse.Namespace) -> None:
    """Measures what has no row yet. Rounds are interleaved, so that a slow minute of the machine meets all commands."""
    name = f"cost{args.suffix}"
    with tempfile.TemporaryDirectory(dir=None if args.quick else model.parent) as folder:
        for number in range(args.rounds):
            for what, command in commands(model, Path(folder)).items():
                key = {"model": model.stem, "what": what, "round": number, "cpu": rows.cpu()}
                if (number and what == ONCE) or rows.known(name, key):
                    continue
                seconds, peak = run_once(command)
                print(f"round {number + 1}: {what} {seconds:.1f} s, {peak / 1e6:.0f} MB", flush=True)
                rows.add(name, {**key, "seconds": seconds, "peak_bytes": peak, "model_bytes": model.stat().st_size})
    print(table(rows.known(name, {"model": model.stem, "cpu": rows.cpu()})))
    plots.draw(name)


def baseline(model: Path, output: Path, axes: Sequence[int]) -> None:
    """Reads the model, decomposes every weight with one of these numbers of axes, and writes the model again."""
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) in axes:
            np.linalg.svd(numpy_helper.to_array(tensor).reshape(tensor.dims[0], -1), full_matrices=False)
    onnx.save(proto, output)


def run_once(command: list[str]) -> tuple[float, int]:
    """Wall seconds and largest resident set (bytes) of a process. Raises SystemExit where it fails."""
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed with {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def commands(model: Path, folder: Path) -> dict[str, list[str]]:
    """The commands that are compared, by name."""
    here = [sys.executable, "-m", "benchmarks.cost", str(model), "--output", str(folder / "svd.onnx")]
    ndpass = [sys.executable, "-m", "ndpass", "run", str(model)]
    return {
        OURS: [*ndpass, "--passes", "nd:rank=3", "--quiet", "--output", str(folder / "ndpass.onnx")],
        **{name: [*here, "--baseline", name] for name in BASELINES},
    }


def table(found: Sequence[Row]) -> str:
    """Seconds, those of ndpass over each baseline's, and memory over the model's bytes."""
    seconds, peaks = costs(found)
    size = found[0]["model_bytes"]
    lines = [f"{'':14}{'seconds':>9}{'ndpass takes':>14}{'memory':>11}{'of the model':>14}"]
    for name in seconds:
        ratio = "" if name == OURS else f"{seconds[OURS] / seconds[name]:.2f} x"
        lines.append(f"{name:14}{seconds[name]:9.1f}{ratio:>14}{peaks[name] / 1e6:8.0f} MB{peaks[name] / size:12.2f} x")
    met = seconds[OURS] <= TIME_LIMIT * seconds[LEAST], peaks[OURS] <= MEMORY_LIMIT * size
    verdicts = ["met" if m else "MISSED" for m in met]
    lines.append(f"limits: {TIME_LIMIT:g} x {LEAST} {verdicts[0]}, {MEMORY_LIMIT:g} x the bytes {verdicts[1]}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?", help="an ONNX file; default: VGG16 at 224x224")
    parser.add_argument("--rounds", type=int, default=3)
    options.add_quick(parser, "one round on the digits network")
    parser.add_argument("--baseline", choices=BASELINES, help=argparse.SUPPRESS)  # how this module runs itself
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    return options.parse(parser, model_needed=False, rounds=1)


if __name__ == "__main__":
    main()
