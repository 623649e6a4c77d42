"""`python -m benchmarks.plans_timed`: milliseconds of plans that were chosen by MACs.

    python -m benchmarks.plans_timed vgg16_cifar10.onnx --precisions f32 bf16 int8

Takes the plans of benchmarks/results/compression_<model>.json whose drop is at most `--drop` points, the one with the
fewest MACs for each pipeline, and times each in the whole network, on a stand-in of its shapes, in turns with the
original at the same precision. Beside `benchmarks.max_drop`, which chooses by milliseconds, this shows what measuring
buys. Rows go to benchmarks/results/plans_timed_<model>.json. `--quick`: those of `compression --quick`, f32 alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from benchmarks import options, plots, rows
from benchmarks.rows import Row
from ndpass.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planner import Candidate, Choice
from ndpass.pricing import Table, feed_of
from ndpass.profiling import inference
from ndpass.search import Search
from ndpass.target import Target
from ndpass.timing import percentiles, time_anew

SECONDS = 8.0  # of a comparison
ROUNDS = 20


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--drop", type=float, default=1.3)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each plan at each precision")
    args = options.parse(parser, precisions=["f32"], drop=100.0, seconds=2.0)
    name = f"plans_timed_{args.model.stem}{args.suffix}"
    for precision in args.precisions:
        for row in plans(f"compression_{args.model.stem}{args.suffix}", args.drop, args.quick):
            key = {"precision": precision, "threads": args.threads, "batch": args.batch,
                   **{k: row[k] for k in ("pipeline", "times_fewer", "drop", "kl")}}  # fmt: skip
            if not rows.known(name, key):
                found = one(args.model, row, Target(precision, args.threads, args.batch), args.seconds)
                rows.add(name, {**key, **found})
            print(
                "{precision:5} {pipeline:10} {times_fewer:5.2f} times fewer MACs, drop {drop:5.2f}: {ms:.3f} ms, "
                "{speedup:.2f} times as fast ({spread[0]:.2f} to {spread[1]:.2f})".format(**rows.known(name, key)[-1]),
                flush=True,
            )
    plots.draw(name)


def plans(source: str, drop: float, quick: bool) -> list[Row]:
    """Of every pipeline the row with the fewest MACs at no more than `drop` points; --quick makes those it needs."""
    if quick and not rows.read(source):
        subprocess.run([sys.executable, "-m", "benchmarks.compression", "--quick"], check=True)
    chosen = [r for r in rows.read(source) if r["compensated"] and r["slopes"] and r["drop"] <= drop]
    if not chosen:
        raise SystemExit(f"{source}.json has no plan at {drop:g} points or less: run benchmarks.compression first")
    return list({r["pipeline"]: r for r in sorted(chosen, key=lambda r: float(r["times_fewer"]))}.values())


def one(model: Path, row: Row, target: Target, seconds: float = SECONDS) -> Row:
    """Of a plan as rows have it: `pipeline`, and in `layers` the name and setting of each."""
    passes, proto = parse(row["pipeline"]), onnx.load(model)
    settings = {layer["name"]: layer["setting"] for layer in row["layers"]}
    original = Graph(proto)
    names = [s.name for s in original.sites() if isinstance(s, Site)]
    plan = {name: Choice(Candidate(0, 0.0, settings.get(name, {}))) for name in names}
    search = Search(lambda: Graph(proto), passes, Table({}, 0.0, {}), target)
    feed = feed_of(original.inputs(), original.sizes, target)
    models = [original.runnable(), search.stand_in(Graph(proto), plan).runnable()]
    a, b = time_anew(lambda: [inference(m, target, feed) for m in models], seconds=seconds, min_rounds=ROUNDS)
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
