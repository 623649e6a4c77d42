"""`python -m benchmarks.prediction`: how well the table of candidates' latencies predicts the whole model's.

    python -m benchmarks.prediction vgg16_cifar10.onnx vgg16_224.onnx --precisions f32 bf16 --plans 20

Random plans are predicted from the table (`ndpass/planning/candidate_times.py`) and timed in place on a stand-in, in
turns with the original. Each plan replaces a share of the layers, drawn first, by candidates of nd, cd, sd or a pair:
if all layers were replaced, chance would make all plans about as fast. A row is a model and a precision: Spearman's
rank correlation, the median of |predicted − measured| / measured, and the seconds that the table took. With --speedup
the plan of least damage at that speedup is searched, too. Rows go to benchmarks/results/prediction.json with every
plan's figures; those there are not measured again, unless `--cold` asks for it. `--quick`: five plans for the digits,
f32.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks import options
from benchmarks.plans import searched
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.latency_cache import cache_folder
from ndpass.measuring.machine import ThisMachine
from ndpass.measuring.runtime import Precision
from ndpass.measuring.target import Target
from ndpass.planning.candidate import Choice

MINUTES = 30


def main() -> None:
    args = arguments()
    name = f"prediction{args.suffix}"
    for model in args.models:
        for precision in args.precisions:
            key = {
                "model": model.stem,
                "precision": precision,
                "threads": args.threads,
                "passes": args.passes,
                "wanted": args.speedup,
                "seed": args.seed,
                "cpu": rows.cpu(),
            }
            if args.cold or not rows.known(name, key):
                rows.add(name, {**key, **one(model, precision, args)})
            row = rows.known(name, key)[-1]
            print(
                "{model:16} {precision:5} rank correlation {rank_correlation:.3f}, median error {median_error:.1%}, "
                "table {table_s:.0f} s, {whole_ms:.2f} ms".format(**row),
                flush=True,
            )
            if "speedup" in row:
                print("    --speedup {wanted:g}: {speedup:.2f} ({seconds:.0f} s)".format(**row["speedup"]), flush=True)
    plots.draw(name)


def one(path: Path, precision: Precision, args: argparse.Namespace) -> Row:
    """Predicts and times random plans of a model at a precision."""
    machine = ThisMachine(Target(precision, args.threads))
    latencies = Latencies(machine, None if args.cold else cache_folder())
    search, table_s = searched(path, args.passes, latencies)
    table = search.table
    rng, plans = np.random.default_rng(args.seed), []
    for _ in range(args.plans):
        share = rng.random()
        picked = {
            name: ways[rng.integers(len(ways))] if rng.random() < share else ways[0]
            for name, ways in table.candidates.items()
        }
        timed = search.timed({name: Choice(c) for name, c in picked.items()})
        plans.append({"predicted_ms": 1e3 * table.predicted(picked), "measured_ms": 1e3 * timed.seconds})
    predicted, measured = (np.array([p[key] for p in plans]) for key in ("predicted_ms", "measured_ms"))
    row: Row = {
        "rank_correlation": float(spearmanr(predicted, measured).statistic),
        "median_error": float(np.median(np.abs(predicted / measured - 1))),
        "table_s": table_s,
        "whole_ms": 1e3 * table.whole,
        "candidates": sum(map(len, table.candidates.values())),
        "noisy": latencies.noisy,
        "plans": plans,
    }
    if args.speedup:
        start = time.perf_counter()
        settled = search.for_speedup(args.speedup)
        row["speedup"] = {"wanted": args.speedup, "speedup": settled.speedup, "seconds": time.perf_counter() - start}
    return row


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("models", type=options.existing, nargs="*")
    parser.add_argument("--passes", default="cd,sd,nd")
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--speedup", type=float)
    parser.add_argument("--cold", action="store_true", help="measure all latencies anew, remember none")
    return options.parse(parser, passes="sd", precisions=["f32"], plans=5)


if __name__ == "__main__":
    main()
