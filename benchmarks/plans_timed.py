"""`python -m benchmarks.plans_timed`: milliseconds of plans that were chosen by MACs, and of those chosen by time.

    python -m benchmarks.plans_timed vgg16_cifar10.onnx --precisions f32 bf16 int8
    python -m benchmarks.plans_timed vgg16_cifar10.onnx --precisions f32 bf16 int8 --budget "--max-drop 1.0" --threads 2

Takes the plans of benchmarks/results/compression_<model>.json whose drop is at most `--drop` points, for each pipeline
the one with the fewest MACs, and times each in the whole network, on a stand-in of its shapes, in turns with the
original at the same precision. `benchmarks.max_drop` chooses by milliseconds instead: the difference is what measuring
gains. Rows go to benchmarks/results/plans_timed_<model>.json. `--quick`: the plans of `compression --quick`, f32 alone.

With `--budget` the plans are those that `benchmarks.max_drop` found with this budget, at the same precision and number
of threads on this kind of CPU. They are timed all in turns: runs of different hours do not tell which pipeline is the
faster one. Their rows go to benchmarks/results/budget_timed_<model>.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import options
from benchmarks.engine import Condition
from benchmarks.plans import SECONDS, one, together
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row

MINUTES = 6


def main() -> None:
    args = arguments()
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
                "cpu": rows.cpu(),
                **{k: row[k] for k in ("pipeline", "times_fewer", "drop", "kl")},
            }
            if not rows.known(name, key):
                rows.add(name, {**key, **one(args.model, row, condition(precision, args), args.seconds)})
            print(
                "{precision:5} {pipeline:10} {times_fewer:5.2f} times fewer MACs, drop {drop:5.2f}: {ms:.3f} ms, "
                "{speedup:.2f} times as fast ({spread[0]:.2f} to {spread[1]:.2f})".format(**rows.known(name, key)[-1]),
                flush=True,
            )
    plots.draw(name)


def beside_each_other(precision: str, args: argparse.Namespace) -> None:
    """The plans of one budget, precision and number of threads, that of auto first; measured again if one is new."""
    key = {"precision": precision, "threads": args.threads, "budget": args.budget, "cpu": rows.cpu()}
    known = rows.latest(rows.known(f"max_drop_{args.model.stem}{args.suffix}", key), ["pipeline"])
    chosen = sorted((row for row in known if not row["refused"]), key=lambda row: bool(row["pipeline"] != "auto"))
    name = f"budget_timed_{args.model.stem}{args.suffix}"
    key |= {"batch": args.batch, "asked": [row["pipeline"] for row in chosen]}
    if len(chosen) < 2:
        print(f"{precision}: {len(chosen)} plans with {args.budget}, none to compare: benchmarks.max_drop makes them")
        return
    if not rows.known(name, key):
        found = together(args.model, chosen, condition(precision, args), args.seconds)
        pairs = zip(chosen, found, strict=True)
        rows.add(name, *({**key, "pipeline": row["pipeline"], "drop": row["drop"], **timed} for row, timed in pairs))
    for row in rows.latest(rows.known(name, key), ["pipeline"]):
        print(
            "{precision:5} {pipeline:10} drop {drop:5.2f}: {ms:.3f} ms, {speedup:.2f} times as fast ({spread[0]:.2f} "
            "to {spread[1]:.2f}), {over_first[1]:.2f} of the time of the first ({over_first[0]:.2f} to "
            "{over_first[2]:.2f})".format(**row),
            flush=True,
        )


def condition(precision: str, args: argparse.Namespace) -> Condition:
    return Condition(precision=precision, threads=args.threads, batch=args.batch)


def plans(source: str, drop: float, quick: bool) -> list[Row]:
    """For every pipeline the row with the fewest MACs at no more than `drop` points; --quick makes those it needs."""
    if quick and not rows.read(source):
        subprocess.run([sys.executable, "-m", "benchmarks.compression", "--quick"], check=True)
    chosen = [r for r in rows.read(source) if r["compensated"] and r["slopes"] and r["drop"] <= drop]
    if not chosen:
        raise SystemExit(f"{source}.json has no plan at {drop:g} points or less: run benchmarks.compression first")
    return list({r["pipeline"]: r for r in sorted(chosen, key=lambda r: float(r["times_fewer"]))}.values())


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?")
    parser.add_argument("--drop", type=float, default=1.3)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each plan at each precision")
    parser.add_argument("--budget", help="of ndpass run: the plans of benchmarks.max_drop, in turns")
    return options.parse(parser, precisions=["f32"], drop=100.0, seconds=2.0)


if __name__ == "__main__":
    main()
