"""`python -m benchmarks.compression`: fewer MACs against accuracy for each pipeline of the paper's Tables 1 and 2.

    python -m benchmarks.compression vgg16.onnx --calibration A.npz --validation B.npz --pipelines nd sd --damage 0.05

The candidates of all layers are computed once for `--passes` and kept beside the results. Every pipeline then chooses
among those of its own passes, exactly, and rewrites the model layer after layer on the calibration data: at shares of
the MACs (`--macs`), or at the fewest MACs whose predicted damage is no more than asked (`--damage`), which brings all
pipelines near the same accuracy. Rows are appended to benchmarks/results/compression_<model>.json as they come; those
already there are not run again. `--table` prints, of all rows there, the MACs at `--drop` points between the nearest.
`--quick`: nd and sd on 200 digits.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence

import onnx

from benchmarks import options
from benchmarks.candidate_cache import CandidateCache, calibrated, sites_of
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from benchmarks.results.summary import between
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph
from ndpass.measuring.evaluate import evaluate
from ndpass.measuring.runtime import OpenVINO
from ndpass.passes import parse
from ndpass.planning.candidate import damage
from ndpass.rewriting.rewriter import Rewriter

MINUTES = 120


def main() -> None:
    args = arguments()
    name = f"compression_{args.model.stem}{args.suffix}"
    if not args.table:
        run(args, name)
    print_table(rows.read(name), args.drop)
    plots.draw(name)


def run(args: argparse.Namespace, name: str) -> None:
    """Measures every pipeline at every budget that has no row yet."""
    bench = Bench(args)
    budgets = [{"damage": d} for d in args.damage] if args.damage else [{"macs": m} for m in args.macs]
    for budget, pipeline in itertools.product(budgets, args.pipelines):
        key = {
            "pipeline": pipeline,
            **budget,
            "compensated": not args.no_compensation,
            "slopes": not args.no_slopes,
            "samples": len(bench.fit),
            "seed": args.seed,
        }
        if rows.known(name, key):
            continue
        row = {**key, **bench.row(pipeline, budget)}
        print(line(row), flush=True)
        rows.add(name, row)


def line(row: Row) -> str:
    return (
        f"{row['pipeline']:10} {row['times_fewer']:5.2f} times fewer MACs, drop {row['drop']:5.2f} points, "
        f"KL {row['kl']:.4f}, {row['seconds']:.0f} s"
    )


def print_table(found: Sequence[Row], drop: float) -> None:
    """Prints times fewer MACs at `drop` points, on the line between the nearest rows; `?` where there is none."""
    kinds = list(dict.fromkeys((r["pipeline"], r["samples"], r["compensated"], r["slopes"]) for r in found))
    print(f"pipeline    images  times fewer MACs at {drop:g} points    rows (times fewer: points)")
    for kind in kinds:
        own = sorted(
            (r["times_fewer"], r["drop"])
            for r in found
            if (r["pipeline"], r["samples"], r["compensated"], r["slopes"]) == kind
        )
        name = kind[0] + ("" if kind[2] else " *") + ("" if kind[3] else " =")
        meets = between(own, drop)
        print(
            f"{name:11} {kind[1]:6} {'?' if meets is None else f'{meets:.2f}':>10}      "
            + "  ".join(f"{t:.2f}: {d:.2f}" for t, d in own)
        )
    print("* every layer fitted to the original's own activations   = errors of all layers count alike")


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?")
    options.with_data(parser)
    parser.add_argument("--passes", default="cp,cd,sd,nd", help="whose candidates are computed")
    parser.add_argument("--pipelines", nargs="+", default=["nd", "cd", "sd", "cd,nd", "sd,nd", "cd,sd", "cd,sd,nd"])
    parser.add_argument("--macs", nargs="+", type=float, default=[0.28, 0.2, 0.15])
    parser.add_argument(
        "--damage", nargs="+", type=float, help="predicted divergence of the outputs, in the place of --macs"
    )
    parser.add_argument("--no-slopes", action="store_true", help="count errors of all layers alike")
    parser.add_argument("--no-compensation", action="store_true", help="fit on the original's own activations")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--drop", type=float, default=1.0)
    return options.parse(parser, passes="sd,nd", pipelines=["nd", "sd", "sd,nd"], macs=[0.5, 0.35], samples=200)


class Bench:
    """The model, the data and what the layers could become."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.model = args, onnx.load(args.model)
        graph, spec = Graph(self.model), Preprocess.parse(args.preprocess)
        self.total = graph.macs()
        self.fit = open_feeds(args.calibration, graph.inputs(), spec, samples=args.samples, seed=args.seed)
        self.measured = open_feeds(args.validation, graph.inputs(), spec)
        sites = sites_of(graph, args.passes)
        self.calibration = calibrated(graph, sites, self.fit, args.threads, args.seed)
        kind = f"{args.passes.replace(',', '-')}_{len(self.fit)}-{args.seed}"  # other images give other errors
        kept = rows.RESULTS / f"candidates_{args.model.stem}_{kind}.json"
        self.candidates = CandidateCache(graph, sites, args.passes, self.calibration, kept)

    def row(self, pipeline: str, budget: Mapping[str, float]) -> Row:
        """Chooses a plan, rewrites and measures: one pipeline at one budget."""
        start = time.perf_counter()
        graph = Graph(self.model)
        found, sites = graph.sites(), sites_of(graph, pipeline)
        plan = self.candidates.plan(graph, sites, pipeline, budget, alike=self.args.no_slopes)
        predicted = damage(plan)
        rewriter = Rewriter(graph, parse(pipeline), self.calibration)
        untouched = Graph(self.model) if self.args.no_compensation else None
        layers = rewriter.rewrite(found, sites, plan, lambda *_: None, untouched)
        graph.tidy()
        original, rewritten = (
            OpenVINO(m.SerializeToString(), threads=self.args.threads) for m in (self.model, graph.to_model())
        )
        seen = evaluate(original, rewritten, self.measured, 100)
        assert seen.before is not None
        assert seen.after is not None
        return {
            "accuracy": seen.after.value,
            "before": seen.before.value,
            "drop": seen.before.value - seen.after.value,
            "kl": seen.agreement.kl,
            "top1_agreement": seen.agreement.top1_agreement,
            "measured_on": len(self.measured),
            "predicted": predicted,
            "times_fewer": self.total / graph.macs(),
            "seconds": time.perf_counter() - start,
            "layers": [
                layer.model_dump(include={"name", "setting", "error_predicted", "error_measured"}) for layer in layers
            ],
        }


if __name__ == "__main__":
    main()
