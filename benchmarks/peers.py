"""`python -m benchmarks.peers`: ndpass beside other ways to a faster network without training.

    pip install -e '.[peers]'
    python -m benchmarks.peers resnet20_cifar10.onnx vgg16_cifar10.onnx --calibration A.npz --validation B.npz

Accuracy against milliseconds of nd without data (Guo et al. 2018), DAC at rank 1 to 5 (Li et al. 2018), int8 by NNCF,
channel pruning by Torch-Pruning and by onnxsim, each by the best of its criteria, and ndpass fitted to data
(`benchmarks.peer_tools`).

`--stage build` makes the models, kept in `--models`, and measures their accuracy, a row each in
benchmarks/results/peers_<model>.json. Other work may run beside it, except for the peers named "by ms", which choose by
latency. `--stage time` times all of them in turns in one run, on a machine that does nothing else; a row in
peers_timed_<model>.json has the figures of all. `--stage plot` draws peers_<model>.png and .svg and prints the table.
Without --stage: all three. What is there is not made or measured again. A peer that is not installed is left out, with
its reason. --quick: one setting of each peer and few images, two minutes for ResNet-20.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import onnx

from benchmarks import options
from benchmarks.engine import Condition, time_models
from benchmarks.ndpass_command import RefusedError
from benchmarks.peer_tools.catalogue import PEERS, Peer
from benchmarks.peer_tools.task import Task
from benchmarks.results import peer_table, rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph
from ndpass.measuring.evaluate import evaluate, stored
from ndpass.measuring.runtime import OpenVINO, Outputs

MINUTES = 290
QUICK = {
    "NNCF int8": "performance",
    "Torch-Pruning": "macs=0.9",
    "onnxsim": "macs=0.9",
    "ndpass by MACs": "--passes sd --macs 0.7",
}
QUICK_SAMPLES = 500
BATCH = 100


def main() -> None:
    options.run_stages(arguments(), build=build, time=measure, plot=show)


def build(model: Path, name: str, args: argparse.Namespace) -> None:
    """Builds a model for every setting that has no row yet, and measures its accuracy."""
    chosen = [peer for peer in PEERS if peer.name in args.peers]
    for peer in chosen:
        if peer.missing():
            print(f"{peer.name} is left out: {peer.missing()}", flush=True)
    there = [peer for peer in chosen if not peer.missing()]
    every = [(p, s) for p in there for s in settings(p, model, args.quick)]
    for peer, setting in [(p, s) for p, s in every if any(part in s for part in args.settings)]:
        key = {"peer": peer.name, "setting": setting} | ({"cpu": rows.cpu()} if peer.by_ms else {})
        out = args.models / name / file_of(peer, setting)
        if any(row["refused"] or out.exists() for row in known(name, key)):
            continue
        task = Task(model, out, setting, args.calibration, args.validation, args.preprocess, args.samples, args.threads)
        found = one(peer, task, QUICK_SAMPLES if args.quick else None)
        rows.add(f"peers_{name}", {**key, **found})  # where only the file was gone too: it may be another model
        print(peer_table.line(known(name, key)[-1]), flush=True)


def settings(peer: Peer, model: Path, quick: bool) -> Sequence[str]:
    """The peer's settings; with `quick` one of them, and none if it chooses by latency."""
    if not quick:
        return peer.of(model.stem)
    return [QUICK[peer.name]] if peer.name in QUICK else [] if peer.by_ms else peer.of(model.stem)[1:2]


def file_of(peer: Peer, setting: str) -> str:
    """A file name for each setting of each peer."""
    plain = "".join(c if c.isalnum() or c in ".=" else "_" for c in f"{peer.name} {setting}")
    return "_".join(filter(None, plain.split("_"))) + peer.suffix


def known(name: str, key: Row) -> list[Row]:
    return rows.known(f"peers_{name}", key)


def one(peer: Peer, task: Task, samples: int | None) -> Row:
    """Builds one model and measures it on `samples` validation images."""
    task.out.parent.mkdir(exist_ok=True, parents=True)
    start = time.perf_counter()
    try:
        kept = peer.build(task)
    except RefusedError as e:
        return {"refused": str(e)}
    return {"refused": "", "build_s": time.perf_counter() - start, **evaluated(task, samples), **kept}


def evaluated(task: Task, samples: int | None) -> Row:
    """Accuracy and MACs of the written model beside the original. An int8 model is IR: its MACs are not counted."""
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
    """The data, the original's outputs for them and its MACs, computed once for all settings of a run."""
    graph = Graph(onnx.load(model))
    feeds = open_feeds(validation, graph.inputs(), Preprocess.parse(preprocess), samples=samples)
    return feeds, stored(OpenVINO(model, threads=threads), feeds, BATCH), graph.macs()


def measure(model: Path, name: str, args: argparse.Namespace) -> None:
    """Times all models that are there in turns, unless the same set was timed on this kind of CPU already."""
    found = dict(built(name, args.models))
    key = {"threads": args.threads, "batch": 1, "cpu": rows.cpu(), "models": [list(k) for k in found]}
    if not found or rows.known(f"peers_timed_{name}", key):
        return
    print(f"timing {len(found)} models and the original, {args.seconds * (len(found) + 1):.0f} s", flush=True)
    models = [model, *found.values()]
    times = [timed.figures() for timed in time_models(models, Condition(threads=args.threads), args.seconds)]
    rows.add(f"peers_timed_{name}", {**key, "original": times[0], "times": times[1:]})


def built(name: str, models: Path) -> Iterator[tuple[tuple[str, str], Path]]:
    """(peer, setting) and file of every model that has a row and is there, in the order of PEERS."""
    peers = {peer.name: peer for peer in PEERS}
    for row in peer_table.latest(name, rows.cpu()):
        path = models / name / file_of(peers[row["peer"]], row["setting"])
        if not row["refused"] and path.exists():
            yield (row["peer"], row["setting"]), path


def show(_: Path, name: str, __: argparse.Namespace) -> None:
    """Prints the table of this kind of CPU and draws the pictures of all."""
    peer_table.print_table(name, rows.cpu())
    peer_table.plot(name)


def arguments() -> argparse.Namespace:
    parser = options.staged(__doc__, "peers", 4.0)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="that are built")
    parser.add_argument("--settings", nargs="+", default=[""], help="parts of settings: no others are built")
    return options.parse_staged(parser, samples=QUICK_SAMPLES, seconds=0.3)


if __name__ == "__main__":
    main()
