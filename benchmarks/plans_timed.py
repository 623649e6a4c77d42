"""`python -m benchmarks.plans_timed`: milliseconds of plans that were chosen by MACs.

    python -m benchmarks.plans_timed vgg16_cifar10.onnx --precisions f32 bf16 int8

Takes the plans of benchmarks/results/compression_<model>.json whose drop is at most `--drop` points, the one with the
fewest MACs for each pipeline, and times each in the whole network, on a stand-in of its shapes, in turns with the
original at the same precision. Beside `benchmarks.max_drop`, which chooses by milliseconds, this shows what measuring
buys. Rows go to benchmarks/results/plans_timed_<model>.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx

from benchmarks import rows
from benchmarks.rows import Row
from ndpass.bench import percentiles, time_in_turns
from ndpass.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planner import Candidate, Choice
from ndpass.pricing import Table, feed_of
from ndpass.search import Search
from ndpass.target import Target, inference

SECONDS = 8.0
ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--drop", type=float, default=1.3)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    chosen = rows.read(f"compression_{args.model.stem}")
    chosen = [r for r in chosen if r["compensated"] and r["slopes"] and r["drop"] <= args.drop]
    best = {r["pipeline"]: r for r in sorted(chosen, key=lambda r: float(r["times_fewer"]))}
    name = f"plans_timed_{args.model.stem}"
    for precision in args.precisions:
        for row in best.values():
            key = {"precision": precision, "threads": args.threads, "batch": args.batch,
                   **{k: row[k] for k in ("pipeline", "times_fewer", "drop", "kl")}}  # fmt: skip
            if not rows.known(name, key):
                rows.add(name, {**key, **one(args.model, row, Target(precision, args.threads, args.batch))})
            print(
                "{precision:5} {pipeline:10} {times_fewer:5.2f} times fewer MACs, drop {drop:5.2f}: {ms:.3f} ms, "
                "{speedup:.2f} times as fast ({spread[0]:.2f} to {spread[1]:.2f})".format(**rows.known(name, key)[-1]),
                flush=True,
            )


def one(model: Path, row: Row, target: Target, seconds: float = SECONDS) -> Row:
    """Of a plan as rows have it: `pipeline`, and in `layers` the name and setting of each."""
    passes, proto = parse(row["pipeline"]), onnx.load(model)
    settings = {layer["name"]: layer["setting"] for layer in row["layers"]}
    original = Graph(proto)
    names = [s.name for s in original.sites() if isinstance(s, Site)]
    plan = {name: Choice(Candidate(0, 0.0, settings.get(name, {}))) for name in names}
    search = Search(lambda: Graph(proto), passes, Table({}, 0.0, {}), None, target)
    feed = feed_of(original.inputs(), original.sizes, target)
    models = [original.runnable(), search.stand_in(Graph(proto), plan).runnable()]
    a, b = time_in_turns([inference(m, target, feed) for m in models], seconds=seconds, min_rounds=ROUNDS)
    speedups = [x / y for x, y in zip(a, b, strict=True)]
    before, after = (1e3 * float(np.median(x)) for x in (a, b))
    return {
        "ms": after,
        "original_ms": before,
        "speedup": float(np.median(speedups)),
        "spread": percentiles(speedups),
    }


if __name__ == "__main__":
    main()
