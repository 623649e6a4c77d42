"""`python -m benchmarks.peers`: ndpass beside other ways to a faster network without training.

    pip install -e '.[peers]'
    python -m benchmarks.peers resnet20_cifar10.onnx vgg16_cifar10.onnx --calibration A.npz --validation B.npz

Accuracy against milliseconds of nd without data (Guo et al. 2018), DAC at rank 1 to 5 (Li et al. 2018), int8 by NNCF,
channel pruning by Torch-Pruning and by onnxsim, each by the best of its criteria, and ndpass fitted to data
(`benchmarks.peer_tools`). `--stage build` makes the models, kept in `--models`, and measures their accuracy, a row each
in benchmarks/results/peers_<model>.json; it may run beside other work, but for the peers named "by ms", which choose by
latency. `--stage time` times all of them in turns in one run, on a machine that does nothing else (a row in
peers_timed_<model>.json with the figures of all); `--stage plot` draws peers_<model>.png and .svg and prints the table.
Without --stage: all three. What is there is not made or measured again. A peer that is not installed is left out, with
its reason. --quick: one setting of each peer and few images, two minutes for ResNet-20.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from benchmarks import options, pictures, rows
from benchmarks.peer_tools import PEERS, Peer, RefusedError, Task
from benchmarks.rows import Row
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph
from ndpass.measuring.evaluate import evaluate, stored
from ndpass.measuring.runtime import OpenVINO, Outputs

NEAR = 6.0  # points below the original that the second panel shows
QUICK = {
    "NNCF int8": "performance",
    "Torch-Pruning": "macs=0.9",
    "onnxsim": "macs=0.9",
    "ndpass by MACs": "--passes sd --macs 0.7",
}
QUICK_SAMPLES = 500
BATCH = 100


def main() -> None:
    args = arguments()
    for model in args.model:
        name = f"{model.stem}{'_quick' if args.quick else ''}"
        if "build" in args.stage:
            build(model, name, args)
        if "time" in args.stage:
            measure(model, name, args)
        if "plot" in args.stage:
            table(name)
            plot(name)


def build(model: Path, name: str, args: argparse.Namespace) -> None:
    """A model and its accuracy for every setting that has none yet."""
    chosen = [peer for peer in PEERS if peer.name in args.peers]
    for peer in chosen:
        if peer.missing():
            print(f"{peer.name} is left out: {peer.missing()}", flush=True)
    there = [peer for peer in chosen if not peer.missing()]
    every = [(p, s) for p in there for s in settings(p, model, args.quick)]
    for peer, setting in [(p, s) for p, s in every if any(part in s for part in args.settings)]:
        key = {"peer": peer.name, "setting": setting}
        out = args.models / name / file_of(peer, setting)
        if any(row["refused"] or out.exists() for row in known(name, key)):
            continue
        task = Task(model, out, setting, args.calibration, args.validation, args.preprocess, args.samples, args.threads)
        found = one(peer, task, QUICK_SAMPLES if args.quick else None)
        rows.add(f"peers_{name}", {**key, **found})  # where only the file was gone too: it may be another model
        print(line(known(name, key)[-1]), flush=True)


def settings(peer: Peer, model: Path, quick: bool) -> Sequence[str]:
    if not quick:
        return peer.of(model.stem)
    return [QUICK[peer.name]] if peer.name in QUICK else peer.of(model.stem)[1:2] if not by_ms(peer) else []


def by_ms(peer: Peer) -> bool:
    """Whether it chooses by latency: to be built on a machine that does nothing else."""
    return peer.name.endswith("by ms")


def file_of(peer: Peer, setting: str) -> str:
    """A name for each setting of each peer."""
    plain = "".join(c if c.isalnum() or c in ".=" else "_" for c in f"{peer.name} {setting}")
    return "_".join(filter(None, plain.split("_"))) + peer.suffix


def known(name: str, key: Row) -> list[Row]:
    return rows.known(f"peers_{name}", key)


def one(peer: Peer, task: Task, samples: int | None) -> Row:
    """Build and measure, on `samples` validation images."""
    task.out.parent.mkdir(exist_ok=True, parents=True)
    start = time.perf_counter()
    try:
        kept = peer.build(task)
    except RefusedError as e:
        return {"refused": str(e)}
    return {"refused": "", "build_s": time.perf_counter() - start, **evaluated(task, samples), **kept}


def evaluated(task: Task, samples: int | None) -> Row:
    """The written model beside the original. Of an int8 one, which is IR, no MACs are counted."""
    feeds, outputs, macs = original(task.model, task.validation, task.preprocess, samples, task.threads)
    int8 = task.out.suffix == ".xml"
    runner = OpenVINO(task.out, precision="int8" if int8 else "f32", threads=task.threads)
    seen = evaluate(outputs, runner, feeds, BATCH)
    if seen.before is None or seen.after is None:
        raise SystemExit(f"{task.validation}: accuracy needs labels")
    return {
        "before": seen.before.value,
        "accuracy": seen.after.value,
        "samples": len(feeds),
        "drop": seen.before.value - seen.after.value,
        "kl": seen.agreement.kl,
        "macs": [macs, None if int8 else Graph(onnx.load(task.out)).macs()],
    }


@cache
def original(
    model: Path, validation: Path, preprocess: str, samples: int | None, threads: int | None
) -> tuple[Feeds, list[Outputs], int]:
    """The data, what the original gives for them and its MACs: once for all settings of a run."""
    graph = Graph(onnx.load(model))
    feeds = open_feeds(validation, graph.inputs(), Preprocess.parse(preprocess), samples=samples)
    return feeds, stored(OpenVINO(model, threads=threads), feeds, BATCH), graph.macs()


def line(row: Row) -> str:
    head = f"{row['peer']:20} {row['setting']:38} "
    if row["refused"]:
        return head + row["refused"]
    before, after = row["macs"]
    left = f"{100 * after / before:5.1f} % of MACs" if after else "int8          "
    return (
        f"{head}{row['accuracy']:6.2f} %, drop {row['drop']:6.2f}, {left}, {row['build_s']:.0f} s"
        f"{', ' + row['criterion'] if 'criterion' in row else ''}"
    )


def measure(model: Path, name: str, args: argparse.Namespace) -> None:
    """All models that are there, in turns in one run; a set that was timed so already is not timed again."""
    found = dict(built(name, args.models))
    key = {"threads": args.threads, "batch": 1, "models": [list(k) for k in found]}
    if not found or rows.known(f"peers_timed_{name}", key):
        return
    print(f"timing {len(found)} models and the original, {args.seconds * (len(found) + 1):.0f} s", flush=True)
    times = in_turns([model, *found.values()], args.threads, args.seconds)
    rows.add(f"peers_timed_{name}", {**key, "original": times[0], "times": times[1:]})


def built(name: str, models: Path) -> Iterator[tuple[tuple[str, str], Path]]:
    """(peer, setting) and file of every model that has a row and is there, in the order of PEERS."""
    peers = {peer.name: peer for peer in PEERS}
    for row in latest(name):
        path = models / name / file_of(peers[row["peer"]], row["setting"])
        if not row["refused"] and path.exists():
            yield (row["peer"], row["setting"]), path


def latest(name: str) -> list[Row]:
    """The last row of each setting, in the order of PEERS."""
    order = [peer.name for peer in PEERS]
    last = {(row["peer"], row["setting"]): row for row in rows.read(f"peers_{name}") if row["peer"] in order}
    return sorted(last.values(), key=lambda row: order.index(row["peer"]))


def in_turns(paths: Sequence[Path], threads: int, seconds: float) -> list[Row]:
    """OpenVINO, f32 but for what is quantised, batch 1; ratios are to the first."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "bench.json"
        command = [
            sys.executable,
            "-m",
            "ndpass",
            "bench",
            *map(str, paths),
            "--runtime",
            "openvino",
            "--precision",
            "f32",
            "--threads",
            str(threads),
            "--seconds",
            str(seconds * len(paths)),
            "--json",
            str(report),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(report.read_text())["rows"]
    return [
        {
            "ms": r["median_ms"],
            "spread_ms": r["spread_ms"],
            "speedup": r["speedup"],
            "spread": r["speedup_spread"],
            "rounds": r["rounds"],
        }
        for r in found
    ]


def timed(name: str) -> tuple[Row | None, list[Row]]:
    """The original and the rows with their times, of the last run that timed them; None if there was none."""
    runs = rows.read(f"peers_timed_{name}")
    if not runs:
        return None, []
    times = {tuple(key): figures for key, figures in zip(runs[-1]["models"], runs[-1]["times"], strict=True)}
    found = [row for row in latest(name) if not row["refused"]]
    return runs[-1]["original"], [
        {**row, **times[key]} for row in found if (key := (row["peer"], row["setting"])) in times
    ]


def table(name: str) -> None:
    """Printed; without times before the first run of that stage."""
    original, found = timed(name)
    times = {(row["peer"], row["setting"]): row for row in found}
    if original:
        print(f"original: {original['ms']:.3f} ms")
    for row in latest(name):
        t = times.get((row["peer"], row["setting"]))
        ms = f"  {t['ms']:.3f} ms, {t['speedup']:.2f} ({t['spread'][0]:.2f} to {t['spread'][1]:.2f})" if t else ""
        print(line(row) + ms)


def plot(name: str) -> None:
    """Accuracy against milliseconds, a marker a peer; bars from the 10th to the 90th percentile of the rounds."""
    original, found = timed(name)
    if original is None:
        print(f"{name}: no times yet, so no plot: --stage time")
        return
    drawn = pictures.figure(13, 5.5)
    panels = drawn.subplots(1, 2)
    top = max(row["before"] for row in found)
    for panel in panels:
        for number, peer in enumerate(PEERS):
            points(panel, peer, f"C{number}", sorted((r for r in found if r["peer"] == peer.name), key=_ms))
        panel.plot([original["ms"]], [top], marker="o", color="black", linestyle="", label="original", zorder=3)
        panel.axhline(top, color="grey", linestyle=":", linewidth=1)
        panel.set(ylabel="accuracy, %")
        pictures.logarithmic(panel, "milliseconds, batch 1")
    panels[0].set_title(name)
    panels[1].set_title(f"down to {NEAR:g} points below the original")
    panels[1].set_ylim(top - NEAR, top + 0.06 * NEAR)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    pictures.save(drawn, f"peers_{name}")


def points(panel: Any, peer: Peer, colour: str, found: Sequence[Row]) -> None:
    if not found:
        return
    bars = [[r["ms"] - r["spread_ms"][0] for r in found], [r["spread_ms"][1] - r["ms"] for r in found]]
    panel.errorbar(
        [r["ms"] for r in found],
        [r["accuracy"] for r in found],
        xerr=bars,
        fmt=peer.marker,
        color=colour,
        elinewidth=0.6,
        markersize=6,
        label=peer.name,
    )


def _ms(row: Row) -> float:
    return float(row["ms"])


def arguments() -> argparse.Namespace:
    parser = options.staged(__doc__, "peers", 4.0)
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=[peer.name for peer in PEERS],
        default=[peer.name for peer in PEERS],
        help="that are built",
    )
    parser.add_argument("--settings", nargs="+", default=[""], help="parts of settings: no others are built")
    args = options.parse_staged(parser)
    if args.quick:
        args.samples, args.seconds = QUICK_SAMPLES, 0.3
    return args


if __name__ == "__main__":
    main()
