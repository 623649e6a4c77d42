"""`python -m benchmarks.plans_timed`: milliseconds of plans that were chosen by MACs, and of those chosen by time.

    python -m benchmarks.plans_timed vgg16_cifar10.onnx --precisions f32 bf16 int8
    python -m benchmarks.plans_timed vgg16_cifar10.onnx --precisions f32 bf16 int8 --budget "--max-drop 1.0" --threads 2

Takes the plans of benchmarks/results/compression_<model>.json whose drop is at most `--drop` points, the one with the
fewest MACs for each pipeline, and times each in the whole network, on a stand-in of its shapes, in turns with the
original at the same precision. Beside `benchmarks.max_drop`, which chooses by milliseconds, this shows what measuring
buys. Rows go to benchmarks/results/plans_timed_<model>.json. `--quick`: those of `compression --quick`, f32 alone.
With `--budget` the plans are those that `benchmarks.max_drop` has come to with this budget, at the same precision and
number of threads, and are timed all in turns: runs of different hours do not tell which pipeline is the faster one.
Their rows go to benchmarks/results/budget_timed_<model>.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from benchmarks import options, plots, rows
from benchmarks.options import AUTO
from benchmarks.rows import Row
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.layer_profile import inference
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.runtime import Precision, Runnable
from ndpass.measuring.target import Target
from ndpass.measuring.turns import percentiles, time_anew
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.latency_table import Table
from ndpass.planning.timed_search import Search

SECONDS = 8.0  # of a comparison
ROUNDS = 20


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?")
    parser.add_argument("--drop", type=float, default=1.3)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each plan at each precision")
    parser.add_argument("--budget", help="of ndpass run: the plans of benchmarks.max_drop, beside each other")
    args = options.parse(parser, precisions=["f32"], drop=100.0, seconds=2.0)
    if args.budget is not None:
        for precision in args.precisions:
            beside_each_other(precision, args)
        return
    name = f"plans_timed_{args.model.stem}{args.suffix}"
    for precision in args.precisions:
        for row in plans(f"compression_{args.model.stem}{args.suffix}", args.drop, args.quick):
            key = {
                "precision": precision,
                "threads": args.threads,
                "batch": args.batch,
                **{k: row[k] for k in ("pipeline", "times_fewer", "drop", "kl")},
            }
            if not rows.known(name, key):
                found = one(args.model, row, Target(precision, args.threads, args.batch), args.seconds)
                rows.add(name, {**key, **found})
            print(
                "{precision:5} {pipeline:10} {times_fewer:5.2f} times fewer MACs, drop {drop:5.2f}: {ms:.3f} ms, "
                "{speedup:.2f} times as fast ({spread[0]:.2f} to {spread[1]:.2f})".format(**rows.known(name, key)[-1]),
                flush=True,
            )
    plots.draw(name)


def beside_each_other(precision: Precision, args: argparse.Namespace) -> None:
    """The plans of one budget, precision and number of threads, that of auto first; measured again where one is new."""
    key = {"precision": precision, "threads": args.threads, "budget": args.budget}
    known = rows.latest(rows.known(f"max_drop_{args.model.stem}{args.suffix}", key), ["pipeline"])
    chosen = sorted((row for row in known if not row["refused"]), key=lambda row: bool(row["pipeline"] != "auto"))
    name = f"budget_timed_{args.model.stem}{args.suffix}"
    key |= {"batch": args.batch, "asked": [row["pipeline"] for row in chosen]}
    if len(chosen) < 2:
        print(f"{precision}: {len(chosen)} plans with {args.budget}, none to compare: benchmarks.max_drop makes them")
        return
    if not rows.known(name, key):
        found = together(args.model, chosen, Target(precision, args.threads, args.batch), args.seconds)
        pairs = zip(chosen, found, strict=True)
        rows.add(name, *({**key, "pipeline": row["pipeline"], "drop": row["drop"], **timed} for row, timed in pairs))
    for row in rows.latest(rows.known(name, key), ["pipeline"]):
        print(
            "{precision:5} {pipeline:10} drop {drop:5.2f}: {ms:.3f} ms, {speedup:.2f} times as fast ({spread[0]:.2f} "
            "to {spread[1]:.2f}), {over_first[1]:.2f} of the time of the first ({over_first[0]:.2f} to "
            "{over_first[2]:.2f})".format(**row),
            flush=True,
        )


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
    (found,) = together(model, [row], target, seconds)
    return {key: value for key, value in found.items() if key != "over_first"}


def together(model: Path, chosen: Sequence[Row], target: Target, seconds: float) -> list[Row]:
    """Plans in turns with the original and with each other, `seconds` for each.

    over_first: 10th percentile, median and 90th of a plan's time over that of the first one in the same round.
    """
    original = Graph(onnx.load(model))
    feed = feed_of(original.inputs(), original.sizes, target)
    models = [original.runnable(), *(stand_in(model, row, target) for row in chosen)]
    times = time_anew(
        lambda: [inference(m, target, feed) for m in models], seconds=seconds * len(chosen), min_rounds=ROUNDS
    )
    before, own = np.array(times[0]), np.array(times[1:])
    return [
        {
            "ms": 1e3 * float(np.median(after)),
            "original_ms": 1e3 * float(np.median(before)),
            "speedup": float(np.median(before / after)),
            "spread": percentiles((before / after).tolist()),
            "over_first": np.percentile(after / own[0], (10, 50, 90)).tolist(),
        }
        for after in own
    ]


def stand_in(model: Path, row: Row, target: Target) -> Runnable:
    """A network of the plan's shapes."""
    passes, proto = parse(AUTO if row["pipeline"] == "auto" else row["pipeline"]), onnx.load(model)
    settings = {layer["name"]: layer["setting"] for layer in row["layers"]}
    names = [s.name for s in Graph(proto).sites() if isinstance(s, Site)]
    plan = {name: Choice(Candidate(0, 0.0, settings.get(name, {}))) for name in names}
    search = Search(lambda: Graph(proto), passes, Table({}, 0.0, {}), target)
    return search.stand_in(Graph(proto), plan).runnable()


if __name__ == "__main__":
    main()
