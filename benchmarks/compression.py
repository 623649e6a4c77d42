"""`python -m benchmarks.compression`: fewer MACs against accuracy for each pipeline of the paper's Tables 1 and 2.

    python -m benchmarks.compression vgg16.onnx --calibration A.npz --validation B.npz --pipelines nd cd,nd --macs 0.2

The candidates of all layers are computed once for `--passes` and kept beside the results; every pipeline then chooses
among those of its own passes, exactly, and rewrites the model layer after layer on the calibration data. Rows are
appended to benchmarks/results/compression_<model>.json as they come; those already there are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import onnx

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.evaluate import accuracy
from ndpass.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planner import Budget, Candidate, choose
from ndpass.rewriting import Calibration, Rewriter, refused
from ndpass.runtime import OpenVINO

RESULTS = Path(__file__).parent / "results"
MEMORY = 1 << 30


def main() -> None:
    args = arguments()
    model = onnx.load(args.model)
    graph = Graph(model)
    spec = Preprocess.parse(args.preprocess)
    fit = open_feeds(args.calibration, graph.inputs(), spec, samples=args.samples)
    measured = open_feeds(args.validation, graph.inputs(), spec)
    before = accuracy(OpenVINO(args.model, threads=args.threads), measured, 100)
    candidates = all_candidates(args, graph, fit)
    out = RESULTS / f"compression_{args.model.stem}.json"
    for pipeline in args.pipelines:
        for fraction in args.macs:
            key = {"pipeline": pipeline, "macs": fraction, "compensated": not args.no_compensation}
            rows = json.loads(out.read_text()) if out.exists() else []
            if any(all(row[k] == v for k, v in key.items()) for row in rows):
                continue
            row = {**key, **one(model, candidates, pipeline, fraction, fit, measured, args)}
            row |= {"before": before, "drop": before - row["accuracy"], "samples": len(fit)}
            print(f"{pipeline:10} {row['times_fewer']:5.2f} times fewer MACs, drop {row['drop']:5.2f} points, "
                  f"{row['seconds']:.0f} s", flush=True)  # fmt: skip
            rows = json.loads(out.read_text()) if out.exists() else []
            out.write_text(json.dumps([*rows, row], indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--preprocess", default="cifar10")
    parser.add_argument("--passes", default="cd,sd,nd", help="whose candidates are computed")
    parser.add_argument("--pipelines", nargs="+", default=["nd", "cd", "sd", "cd,nd", "sd,nd", "cd,sd", "cd,sd,nd"])
    parser.add_argument("--macs", nargs="+", type=float, default=[0.28, 0.2, 0.15])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-compensation", action="store_true", help="fit on the original's own activations")
    return parser.parse_args()


def sites_of(graph: Graph, pipeline: str) -> list[Site]:
    return [f for f in graph.sites() if isinstance(f, Site) and refused(graph, f, parse(pipeline), True) is None]


def all_candidates(args: argparse.Namespace, graph: Graph, fit: Feeds) -> dict[str, list[Candidate]]:
    """Site name -> candidates, from the original's own activations; kept in a file."""
    kept = RESULTS / f"candidates_{args.model.stem}_{args.passes.replace(',', '-')}.json"
    if not kept.exists():
        passes = parse(args.passes)
        sites = sites_of(graph, args.passes)
        start = time.perf_counter()
        rewriter = Rewriter(graph, passes, Budget("macs", 1.0), calibrate(graph, sites, fit, args.threads))
        found = rewriter.candidates(sites, lambda stage, i, n: print(f"  {stage} {i}/{n}", flush=True))
        print(f"candidates in {time.perf_counter() - start:.0f} s")
        kept.parent.mkdir(exist_ok=True)
        plain = {name: [[c.macs, c.error, c.setting] for c in ways] for name, ways in found.items()}
        kept.write_text(json.dumps(plain))
    return {name: [Candidate(*c) for c in ways] for name, ways in json.loads(kept.read_text()).items()}


def calibrate(graph: Graph, sites: Sequence[Site], fit: Feeds, threads: int | None) -> Calibration:
    return Calibration.of(graph, sites, fit, threads, 0, MEMORY)


def one(
    model: onnx.ModelProto,
    candidates: dict[str, list[Candidate]],
    pipeline: str,
    fraction: float,
    fit: Feeds,
    measured: Feeds,
    args: argparse.Namespace,
) -> dict[str, object]:
    """Choose, rewrite and measure one pipeline at one share of the MACs."""
    start = time.perf_counter()
    graph = Graph(model)
    found, sites, total = graph.sites(), sites_of(graph, pipeline), graph.macs()
    names = set(pipeline.split(","))
    own = {s.name: [c for c in candidates[s.name] if set(c.setting) <= names] for s in sites}
    plan = choose(own, Budget("macs", fraction), total)
    rewriter = Rewriter(graph, parse(pipeline), Budget("macs", fraction), calibrate(graph, sites, fit, args.threads))
    untouched = Graph(model) if args.no_compensation else None
    layers = rewriter.rewrite(found, sites, plan, lambda *_: None, untouched)
    graph.tidy()
    after = accuracy(OpenVINO(graph.to_model().SerializeToString(), threads=args.threads), measured, 100)
    return {
        "accuracy": after,
        "times_fewer": total / graph.macs(),
        "seconds": time.perf_counter() - start,
        "layers": [
            layer.model_dump(include={"name", "setting", "error_predicted", "error_measured"}) for layer in layers
        ],
    }


if __name__ == "__main__":
    main()
