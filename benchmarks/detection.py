"""`python -m benchmarks.detection`: fewer MACs against mAP on a detector, the paper's Table 3.

    python -m benchmarks.detection_data FOLDER --train cifar10_train.npz --test cifar10_test.npz
    python -m benchmarks.detection FOLDER [--pipelines cd nd cd,nd auto] [--scopes backbone network] [--macs 0.5 0.35]

The detector is benchmarks/networks/ssd300_quarter.onnx, which `benchmarks.training.ssd300` trained on this set, or
`--model`. It is fitted to the first `--samples` training images without their boxes; the mAP is that of
`benchmarks.mean_ap` on all test images, in f32. The scope `backbone` is conv1_1 to conv7, which VGG16 gave; `network`
is every convolution. `--macs` is the share of the whole model's MACs that is left, in both scopes; auto is cp,cd,sd,nd,
as `ndpass run` has it.

What every layer could become is computed once, for all passes; a pipeline then chooses among its own, exactly as
`ndpass run --passes ... --macs ... --ignore ...` does, and is fitted layer after layer. Rows are added to
benchmarks/results/detection.json as they come; those there are not run again. `--table` prints what is there. --quick:
pipelines on the backbone alone with ten images to fit to and twenty to measure, under two minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from benchmarks import options
from benchmarks.candidate_cache import CandidateCache, calibrated, sites_of
from benchmarks.detection_data import Example, read
from benchmarks.mean_ap import points_of
from benchmarks.networks import ssd300
from benchmarks.networks.ssd300 import EXTRA, SIZE
from benchmarks.options import AUTO
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.rewriting.rewriter import Rewriter

MINUTES = 40
MODEL = Path(ssd300.__file__).with_name("ssd300_quarter.onnx")
SCOPES = ("backbone", "network")


def main() -> None:
    args = arguments()
    name = f"detection{args.suffix}"
    if not args.table:
        run(args, name)
    print_table(rows.read(name))
    plots.draw(name)


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    parser.add_argument("folder", type=options.existing, help="what benchmarks.detection_data wrote")
    parser.add_argument("--model", type=options.existing, default=MODEL)
    parser.add_argument("--pipelines", nargs="+", type=pipeline, default=["cd", "nd", "cd,nd", "auto"])
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=SCOPES)
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.35])
    parser.add_argument("--samples", type=int, default=100, help="training images to fit to")
    parser.add_argument("--images", type=int, help="test images to measure on; default: all")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    options.add_quick(parser, "two pipelines on the backbone, few images")
    return options.parse(
        parser, on_digits=False, pipelines=["cd", "nd"], scopes=["backbone"], macs=[0.5], samples=10, images=20
    )


def pipeline(text: str) -> str:
    """auto, or passes in the order of AUTO, in which they are composed. Raises ArgumentTypeError for another order."""
    if text != "auto" and text.split(",") != [name for name in AUTO.split(",") if name in text.split(",")]:
        raise argparse.ArgumentTypeError(f"'{text}' is not auto, nor some of {AUTO} in this order")
    return text


def run(args: argparse.Namespace, name: str) -> None:
    """Measures the original, then every pipeline in every scope at every budget that has no row yet."""
    tested = read(args.folder, "test")[: args.images]
    common = {"model": args.model.name, "digest": digest(args.model), "images": len(tested)}
    if not rows.known(name, {**common, "pipeline": "original"}):
        model = onnx.load(args.model)
        rows.add(
            name,
            {
                **common,
                "pipeline": "original",
                "macs_left": Graph(model).macs(),
                "map50": points_of(model, tested, args.threads),
            },
        )
    print(line(rows.known(name, {**common, "pipeline": "original"})[-1]), flush=True)
    detector = None
    for macs, scope, pipeline in itertools.product(args.macs, args.scopes, args.pipelines):
        key = {**common, "pipeline": pipeline, "scope": scope, "macs": macs, "samples": args.samples}
        if not rows.known(name, key):
            detector = detector or Detector(args)
            rows.add(name, {**key, **detector.row(pipeline, scope, macs, tested)})
        print(line(rows.known(name, key)[-1]), flush=True)


def line(row: Row) -> str:
    if row["pipeline"] == "original":
        return f"original             mAP {row['map50']:5.2f}, {row['macs_left'] / 1e6:.0f} MMAC"
    head = f"{row['scope']:8} {row['pipeline']:11} "
    if row["refused"]:
        return f"{head} {row['refused']}"
    return (
        f"{head} mAP {row['map50']:5.2f}, {row['macs_left'] / 1e6:.0f} MMAC, {row['times_fewer']:.2f} times fewer, "
        f"{row['seconds']:.0f} s"
    )


def print_table(found: Sequence[Row]) -> None:
    """Prints mAP by pipeline, a column for each scope and budget."""
    rewritten = [row for row in found if row["pipeline"] != "original"]
    columns = list(dict.fromkeys((row["scope"], row["macs"]) for row in rewritten))
    print("mAP@0.5       " + "".join(f"{scope} {1 / macs:.2f} times fewer".rjust(28) for scope, macs in columns))
    for row in found:
        if row["pipeline"] == "original":
            print("original      " + f"{row['map50']:.2f}".rjust(28))
    for pipeline in dict.fromkeys(row["pipeline"] for row in rewritten):
        own = {(row["scope"], row["macs"]): row for row in rewritten if row["pipeline"] == pipeline}
        print(f"{pipeline:14}" + "".join(_cell(own.get(column)).rjust(28) for column in columns))


def _cell(row: Row | None) -> str:
    if row is None or row["refused"]:
        return "-"
    return f"{row['map50']:.2f} ({row['times_fewer']:.2f})"


def digest(path: Path) -> str:
    """Tells a model's file apart from others: rows and candidates are those of its weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def in_scope(name: str, scope: str) -> bool:
    """Whether the layer is one of the scope: heads are named after the map that they read, `conv7.loc`."""
    return scope == "network" or not ("." in name or name.startswith(tuple(f"{extra}_" for extra, *_ in EXTRA)))


class Detector:
    """The model and what its layers could become by any pass."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.model = args, onnx.load(args.model)
        asked = {name for text in args.pipelines for name in passes_of(text).split(",")}
        passes = ",".join(name for name in AUTO.split(",") if name in asked)
        scope = SCOPES[max(SCOPES.index(scope) for scope in args.scopes)]  # which holds the others
        graph = Graph(self.model)
        self.total = graph.macs()
        pixels = np.stack([np.asarray(e.pixels()) for e in read(args.folder, "train")[: args.samples]])
        feeds = open_feeds(pixels, graph.inputs(), Preprocess.parse(f"size={SIZE}"))
        sites = scoped(graph, passes, scope)
        self.calibration = calibrated(graph, sites, feeds, args.threads)
        kind = f"{digest(args.model)}_{scope}_{passes.replace(',', '-')}_{args.samples}"
        kept = rows.RESULTS / f"candidates_detection_{kind}.json"
        self.candidates = CandidateCache(graph, sites, passes, self.calibration, kept)

    def row(self, pipeline: str, scope: str, macs: float, tested: Sequence[Example]) -> Row:
        """Chooses a plan, rewrites and measures; `refused` says why there is no plan."""
        start, passes = time.perf_counter(), passes_of(pipeline)
        graph = Graph(self.model)
        found, sites = graph.sites(), scoped(graph, passes, scope)
        try:
            plan = self.candidates.plan(graph, sites, passes, {"macs": macs})
        except BudgetError as e:
            return {"refused": str(e), "seconds": time.perf_counter() - start}
        rewriter = Rewriter(graph, parse(passes), self.calibration)
        layers = rewriter.rewrite(found, sites, plan, lambda *_: None)
        graph.tidy()
        kept = [layer.model_dump(include={"name", "setting", "error_measured"}) for layer in layers]
        return {
            "refused": "",
            "map50": points_of(graph.to_model(), tested, self.args.threads),
            "macs_left": graph.macs(),
            "times_fewer": self.total / graph.macs(),
            "seconds": time.perf_counter() - start,
            "layers": [layer for layer in kept if layer["setting"]],
        }


def passes_of(pipeline: str) -> str:
    return AUTO if pipeline == "auto" else pipeline


def scoped(graph: Graph, passes: str, scope: str) -> list[Site]:
    """The layers of the scope that at least one of the passes takes."""
    return [site for site in sites_of(graph, passes) if in_scope(site.name, scope)]


if __name__ == "__main__":
    main()
