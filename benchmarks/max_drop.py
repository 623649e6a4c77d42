"""`python -m benchmarks.max_drop`: how much faster each pipeline gets at one point of accuracy, by precision.

    python -m benchmarks.max_drop vgg16_cifar10.onnx --calibration A.npz --validation B.npz --precisions f32 bf16 int8

Each row is `ndpass run --max-drop` (or with `--budget` another budget) as a process of its own. The speedup is that of
the written file beside the original at the same precision, in turns; the drop is that on the validation data. int8 rows
are runs with --int8: their speedup is over the original in int8, their drop is below the original in f32. With --cold
no latencies are remembered from other runs. Rows are added to benchmarks/results/max_drop_<model>.json; those there are
not run again. `--quick`: sd in f32 on 200 digits.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from benchmarks import ndpass_command, options
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row

MINUTES = 150


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
    return (
        f"{head}{row['speedup']:5.2f} times as fast ({low:.2f} to {high:.2f}), {drop}"
        f"{row['macs'][0] / row['macs'][1]:.2f} times fewer MACs, {ndpass_command.stages_text(row['seconds'])}"
    )


def one(args: argparse.Namespace, precision: str, pipeline: str) -> Row:
    """One run, and the seconds that it took as a whole."""
    options_given = {
        "passes": pipeline,
        "precision": None if precision == "int8" else precision,
        "calibration": args.calibration,
        "validation": args.validation,
        "preprocess": args.preprocess if args.calibration or args.validation else None,
        "threads": args.threads,
        "samples": args.samples,
        "seed": args.seed,
        "jobs": args.jobs,
    }
    words = [*(["--int8"] if precision == "int8" else []), *args.budget.split()]
    with tempfile.TemporaryDirectory() as folder:
        around = {"NDPASS_CACHE": folder} if args.cold else {}
        try:
            report, whole = ndpass_command.run(args.model, Path(folder) / "out.xml", words, options_given, around)
        except ndpass_command.RefusedError as e:
            return {"refused": str(e), "whole_s": e.seconds}
    return {"refused": "", "whole_s": whole, **figures(report)}


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
    parser.add_argument("--jobs", type=int, help="of ndpass run: layers planned side by side, with the same plan")
    parser.add_argument("--cold", action="store_true", help="remember no latencies from other runs")
    return options.parse(parser, precisions=["f32"], pipelines=["sd"], samples=200)


if __name__ == "__main__":
    main()
