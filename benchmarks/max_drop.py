"""`python -m benchmarks.max_drop`: how much faster each pipeline gets at one point of accuracy, by precision.

    python -m benchmarks.max_drop vgg16_cifar10.onnx --calibration A.npz --validation B.npz --precisions f32 bf16 int8

Each row is `ndpass run --max-drop` (or with `--budget` another one) as a process of its own: the speedup is that of the
written file beside the original at the same precision, in turns, the drop that on the validation data; int8 rows are
runs with --int8, their original is the int8 one and their drop that below the original in f32. --cold: with a cache of
latencies that is empty at first. Rows are added to benchmarks/results/max_drop_<model>.json; those there are not run
again. `--quick`: sd in f32 on 200 digits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import options, plots, rows
from benchmarks.rows import Row


def main() -> None:
    args = arguments()
    name = f"max_drop_{args.model.stem}{args.suffix}"
    for precision, pipeline in itertools.product(args.precisions, args.pipelines):
        key = {
            "precision": precision,
            "pipeline": pipeline,
            "budget": args.budget,
            "threads": args.threads,
            "cold": args.cold,
            "seed": args.seed,
            "cpu": rows.cpu(),
        }
        if not rows.known(name, key):
            rows.add(name, {**key, **one(args, precision, pipeline)})
        print(line(rows.known(name, key)[-1]), flush=True)
    plots.draw(name)


def line(row: Row) -> str:
    head = f"{row['precision']:5} {row['pipeline']:10} "
    if row["refused"]:
        return f"{head}{row['refused']}"
    low, high = row["spread"]
    drop = "" if row["drop"] is None else f"drop {row['drop']:5.2f}, "
    stages = ", ".join(f"{name} {s:.0f} s" for name, s in row["seconds"].items() if s is not None)
    return (
        f"{head}{row['speedup']:5.2f} times as fast ({low:.2f} to {high:.2f}), {drop}"
        f"{row['macs'][0] / row['macs'][1]:.2f} times fewer MACs, {stages}"
    )


def one(args: argparse.Namespace, precision: str, pipeline: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        kind = ["--int8"] if precision == "int8" else ["--precision", precision]
        preprocess = args.preprocess if args.calibration or args.validation else None
        given = {
            "calibration": args.calibration,
            "validation": args.validation,
            "preprocess": preprocess,
            "threads": args.threads,
            "samples": args.samples,
            "seed": args.seed,
            "jobs": args.jobs,
        }
        given_options = [str(x) for key, value in given.items() if value is not None for x in (f"--{key}", value)]
        command = [
            sys.executable,
            "-m",
            "ndpass",
            "run",
            str(args.model),
            "-q",
            "--passes",
            pipeline,
            *kind,
            *args.budget.split(),
            *given_options,
            "--json",
            str(report),
            "-o",
            f"{folder}/out.xml",
        ]
        around = os.environ | ({"NDPASS_CACHE": folder} if args.cold else {})
        start = time.perf_counter()
        done = subprocess.run(command, env=around, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - start
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1]
            return {
                "refused": rows.by_name(said, args.model, report, args.calibration, args.validation),
                "whole_s": whole,
            }
        return {"refused": "", "whole_s": whole, **figures(json.loads(report.read_text()))}


def figures(report: Row) -> Row:
    """What is kept of a report."""
    metric, latency = report["metric"], report["latency_ms"]
    return {
        "speedup": latency["speedup"],
        "spread": latency["spread"],
        "ms": [latency["before"], latency["after"]],
        "drop": metric and metric["before"] - metric["after"],
        "kl": report["verified"].get("the original", {}).get("kl"),  # which needs data
        "macs": report["model"]["macs"],
        "variants": report["variants"],
        "seconds": report["seconds"],
        "target": report["target"],
        "layers": [{k: row[k] for k in ("name", "status", "setting", "latency_us")} for row in report["layers"]],
    }


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?")
    options.with_data(parser)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--pipelines", nargs="+", default=["auto", "sd", "cd", "nd"])
    parser.add_argument("--budget", default="--max-drop 1.0", help="of ndpass run")
    parser.add_argument("--jobs", type=int, help="of ndpass run; the plan is that of one, planning is quicker")
    parser.add_argument("--cold", action="store_true", help="remember no latencies from other runs")
    return options.parse(parser, precisions=["f32"], pipelines=["sd"], samples=200)


if __name__ == "__main__":
    main()
