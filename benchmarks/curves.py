"""`python -m benchmarks.curves`: accuracy against MACs and against milliseconds, a curve for each pipeline.

    python -m benchmarks.curves vgg16_cifar10.onnx --calibration A.npz --validation B.npz

The plans are those of benchmarks/results/compression_<model>.json and peers_<model>.json (`benchmarks.compression` and
`benchmarks.peers --stage build`), which are not fitted again: nd with and without data, cd, sd, cp, their compositions
and auto; and those that `benchmarks.max_drop` has chosen by milliseconds in f32. `--stage build` adds a comparison as a
choice of plans: nd at one rank in all convolutions, what the planner makes of nd at the same MACs (a hybrid of layers
kept and layers at several ranks), and the original, none; rows go to curves_<model>.json. `--stage time` times every
plan in the whole network in turns with the original, on a stand-in of its shapes (`benchmarks.plans_timed`), on a
machine that does nothing else; rows go to curves_timed_<model>.json. `--stage plot` draws curves_<model>.png and .svg.
Without --stage: all three; what is there is not run again. --quick: one rank, few images and short times, in two
minutes for ResNet-20.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import options, pictures, rows
from benchmarks.peer_tools import RefusedError, Task, with_data
from benchmarks.peers import QUICK_SAMPLES, evaluated
from benchmarks.plans_timed import SECONDS, one
from benchmarks.rows import Row
from ndpass.graph.graph import Graph
from ndpass.measuring.target import Target

ALL, HYBRID = "all convolutions, nd", "hybrid, nd"
MARKERS = {ALL: "s", HYBRID: "D"}
FREE = ("nd without data (Guo)", "DAC")
NEAR = 6.0  # points below the original that are shown
LABELS = ("% of MACs left", "milliseconds, batch 1")


def main() -> None:
    args = arguments()
    for model in args.model:
        name = f"{model.stem}{'_quick' if args.quick else ''}"
        if "build" in args.stage:
            build(model, name, args)
        if "time" in args.stage:
            measure(model, name, args)
        if "plot" in args.stage:
            plot(name, Graph(onnx.load(model)).macs(), args.threads)


def build(model: Path, name: str, args: argparse.Namespace) -> None:
    """nd in all layers at each rank, and the planner's choice at the MACs of that."""
    for rank in args.ranks:
        key = {"curve": ALL, "setting": f"--passes nd:rank={rank}"}
        whole = found(model, name, key, args)
        if whole["refused"]:
            continue
        share = whole["macs"][1] / whole["macs"][0] + 1e-4  # so that rounding leaves the same plan in reach
        found(model, name, {"curve": HYBRID, "setting": f"--passes nd --macs {share:.4f}"}, args)


def found(model: Path, name: str, key: Row, args: argparse.Namespace) -> Row:
    """The row of a plan, run where there is none."""
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


def plans(name: str) -> Iterator[Row]:
    """Every plan that there is: curve, pipeline, layers, accuracy, drop, before and the share of the MACs left."""
    for row in rows.read(f"compression_{name}"):
        if row["compensated"] and row["slopes"]:
            yield _plan(row["pipeline"], row, 1 / row["times_fewer"])
    for row in rows.read(f"peers_{name}"):
        if not row["refused"] and "layers" in row and row["macs"][1] and "--macs" in row["setting"] + _fixed(row):
            yield _plan(_curve(row), row, row["macs"][1] / row["macs"][0])
    for row in rows.read(f"curves_{name}"):
        if not row["refused"]:
            yield _plan(row["curve"], row, row["macs"][1] / row["macs"][0])
    before = next((row["before"] for row in rows.read(f"compression_{name}")), None)
    for row in rows.read(f"max_drop_{name}"):
        if before is not None and row["precision"] == "f32" and not row["refused"] and row["drop"] is not None:
            scores = {"accuracy": before - row["drop"], "before": before}
            yield _plan(f"{row['pipeline']}, by ms", row | scores, row["macs"][1] / row["macs"][0])


def _fixed(row: Row) -> str:
    """Peers that choose by milliseconds are in `benchmarks.peers` alone; those of fixed ranks are in both."""
    return "--macs" if row["peer"] in FREE else ""


def _curve(row: Row) -> str:
    if row["peer"] in FREE:
        return str(row["peer"])
    words = row["setting"].split()
    return str(words[words.index("--passes") + 1])


def _plan(curve: str, row: Row, share: float) -> Row:
    return {"curve": curve, "share": share, **{k: row[k] for k in ("pipeline", "layers", "accuracy", "drop", "before")}}


def measure(model: Path, name: str, args: argparse.Namespace) -> None:
    """Those that are near enough to the original to be drawn."""
    target = Target("f32", args.threads, 1)
    for plan in plans(name):
        key = key_of(plan, args.threads)
        if plan["drop"] > NEAR or rows.known(f"curves_timed_{name}", key):
            continue
        timed = one(model, plan, target, args.seconds)
        rows.add(f"curves_timed_{name}", {**key, "drop": plan["drop"], **timed})
        print(
            "{curve:22} {left:5.1f} % of MACs, drop {drop:5.2f}: {ms:.3f} ms, {speedup:.2f} times as fast "
            "({spread[0]:.2f} to {spread[1]:.2f})".format(left=100 * plan["share"], **plan, **timed),
            flush=True,
        )


def key_of(plan: Row, threads: int) -> Row:
    return {"threads": threads, "batch": 1, **{k: plan[k] for k in ("curve", "share", "accuracy")}}


def plot(name: str, macs: int, threads: int) -> None:
    """Two panels: MACs, and milliseconds once there are any; every curve begins at the original, none replaced."""
    found = [plan for plan in plans(name) if plan["drop"] <= NEAR]
    if not found:
        print(f"{name}: no plans within {NEAR:g} points: benchmarks.compression and benchmarks.peers make them")
        return
    times = {
        i: t[-1] for i, plan in enumerate(found) if (t := rows.known(f"curves_timed_{name}", key_of(plan, threads)))
    }
    original = float(np.median([t["original_ms"] for t in times.values()])) if times else 1.0
    before = found[0]["before"]
    drawn = pictures.figure(13, 6)
    panels = drawn.subplots(1, 2, sharey=True)
    for number, curve in enumerate(dict.fromkeys(plan["curve"] for plan in found)):
        own = [i for i, plan in enumerate(found) if plan["curve"] == curve]
        line(panels[0], [(100, before), *((100 * found[i]["share"], found[i]["accuracy"]) for i in own)], curve, number)
        timed = [(times[i]["ms"], found[i]["accuracy"]) for i in own if i in times]
        line(panels[1], [(original, before), *timed], curve, number)
    for panel, x, label in zip(panels, (100, original), LABELS, strict=True):
        panel.plot([x], [before], "k*", markersize=10, label="original: none", zorder=3)
        panel.axhline(before, color="grey", linestyle=":", linewidth=1)
        pictures.logarithmic(panel, label)
    panels[0].set(ylabel="accuracy, %", title=f"{name}: {macs / 1e6:.0f} MMAC")
    panels[1].set_title("" if times else "no times yet")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    pictures.save(drawn, f"curves_{name}")


def line(panel: Any, points: Sequence[tuple[float, float]], curve: str, number: int) -> None:
    """Twenty colours; dashed: fitted to no data."""
    from matplotlib import colormaps

    x, y = zip(*sorted(points), strict=True)
    panel.plot(
        x,
        y,
        "--" if curve in FREE else "-",
        color=colormaps["tab20"](number % 20),
        label=curve,
        marker=MARKERS.get(curve, "."),
        markersize=7 if curve in MARKERS else 6,
    )


def arguments() -> argparse.Namespace:
    parser = options.staged(__doc__, "curves", SECONDS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 3], help="of nd in all convolutions")
    args = options.parse_staged(parser)
    if args.quick:
        args.samples, args.seconds, args.ranks = QUICK_SAMPLES, 0.3, [3]
    return args


if __name__ == "__main__":
    main()
