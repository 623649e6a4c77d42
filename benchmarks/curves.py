"""`python -m benchmarks.curves`: accuracy against MACs and against milliseconds, a curve for each pipeline.

    python -m benchmarks.curves vgg16_cifar10.onnx --calibration A.npz --validation B.npz

The plans are those of benchmarks/results/compression_<model>.json and peers_<model>.json (`benchmarks.compression` and
`benchmarks.peers --stage build`), which are not fitted again: nd with and without data, cd, sd, cp, their compositions
and auto; and those that `benchmarks.max_drop` chose by milliseconds in f32 on this kind of CPU.

`--stage build` adds a comparison of all, some or none: nd at one rank in all convolutions, the planner's choice of nd
at the same MACs (a hybrid of layers kept and layers at several ranks), and the original. Rows go to
curves_<model>.json. `--stage time` times every plan in the whole network in turns with the original, on a stand-in of
its shapes, on a machine that does nothing else; rows go to curves_timed_<model>.json. `--stage plot` draws
curves_<model>.png and .svg. Without --stage: all three; what is there is not run again. --quick: one rank, few images
and short times, in two minutes for ResNet-20.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from benchmarks import options
from benchmarks.engine import Condition
from benchmarks.ndpass_command import RefusedError
from benchmarks.peer_tools.catalogue import with_data
from benchmarks.peer_tools.task import Task
from benchmarks.peers import QUICK_SAMPLES, evaluated
from benchmarks.plans import SECONDS, one
from benchmarks.results import curve_plot, rows
from benchmarks.results.curve_plot import ALL, HYBRID, NEAR, key_of, plans
from benchmarks.results.rows import Row
from ndpass.graph.graph import Graph

MINUTES = 35


def main() -> None:
    options.run_stages(arguments(), build=build, time=measure, plot=show)


def build(model: Path, name: str, args: argparse.Namespace) -> None:
    """Builds nd in all layers at each rank, and the planner's choice at the same MACs."""
    for rank in args.ranks:
        key = {"curve": ALL, "setting": f"--passes nd:rank={rank}"}
        whole = found(model, name, key, args)
        if whole["refused"]:
            continue
        share = whole["macs"][1] / whole["macs"][0] + 1e-4  # so that rounding leaves the same plan in reach
        found(model, name, {"curve": HYBRID, "setting": f"--passes nd --macs {share:.4f}"}, args)


def found(model: Path, name: str, key: Row, args: argparse.Namespace) -> Row:
    """The row of a plan; runs it where there is no row."""
    file = f"curves_{name}"
    if not rows.known(file, key):
        out = args.models / name / f"{key['setting'].replace(' ', '_').replace(':', '_')}.onnx"
        out.parent.mkdir(exist_ok=True, parents=True)
        task = Task(
            model, out, key["setting"], args.calibration, args.validation, args.preprocess, args.samples, args.threads
        )
        try:
            kept = with_data(task)
        except RefusedError as e:
            rows.add(file, {**key, "refused": str(e)})
        else:
            measured = evaluated(task, QUICK_SAMPLES if args.quick else None)
            rows.add(file, {**key, "refused": "", **measured, **kept})
    row = rows.known(file, key)[-1]
    print(f"{row['curve']:22} {row['setting']:26} {row['refused'] or figures(row)}", flush=True)
    return row


def figures(row: Row) -> str:
    return f"{row['accuracy']:6.2f} %, drop {row['drop']:5.2f}, {100 * row['macs'][1] / row['macs'][0]:.1f} % of MACs"


def measure(model: Path, name: str, args: argparse.Namespace) -> None:
    """Times the plans that are near enough to the original to be drawn."""
    condition, cpu = Condition(threads=args.threads), rows.cpu()
    for plan in plans(name, cpu):
        key = key_of(plan, args.threads, cpu)
        if plan["drop"] > NEAR or rows.known(f"curves_timed_{name}", key):
            continue
        timed = one(model, plan, condition, args.seconds)
        rows.add(f"curves_timed_{name}", {**key, "drop": plan["drop"], **timed})
        print(
            "{curve:22} {left:5.1f} % of MACs, drop {drop:5.2f}: {ms:.3f} ms, {speedup:.2f} times as fast "
            "({spread[0]:.2f} to {spread[1]:.2f})".format(left=100 * plan["share"], **plan, **timed),
            flush=True,
        )


def show(model: Path, name: str, args: argparse.Namespace) -> None:
    """Draws the pictures."""
    curve_plot.plot(name, Graph(onnx.load(model)).macs(), args.threads)


def arguments() -> argparse.Namespace:
    parser = options.staged(__doc__, "curves", SECONDS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 3], help="of nd in all convolutions")
    return options.parse_staged(parser, samples=QUICK_SAMPLES, seconds=0.3, ranks=[3])


if __name__ == "__main__":
    main()
