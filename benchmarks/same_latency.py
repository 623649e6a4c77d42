"""`python -m benchmarks.same_latency`: what the planner finds at the milliseconds of the paper's pipelines.

    python -m benchmarks.speed --threads 2 --batches 1
    python -m benchmarks.same_latency [--networks vgg16] [--precisions f32 bf16 int8] [--passes cd,sd,nd]

Reads the rows of benchmarks/results/speed.json with these threads and batch 1. For each it finds the plan of least
damage that is as fast, chosen by measured latency among all that `--passes` can do (the default is what `auto` is
without data). A row has the plan's MACs, and its damage beside that of the paper's pipeline, which ndpass chooses by
MACs. Damage is the sum of the layers' relative errors by their weights, and what either is chosen by. At the end the
original, the pipeline and the plan are timed in turns (`beside`). The networks are those of `benchmarks.speed`: seeded
weights say nothing of accuracy. Rows go to benchmarks/results/same_latency.json as they come; those there are not
searched again. `--quick`: the slowest row of `benchmarks.speed --quick`, for sd alone at one rank.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import onnx

from benchmarks import options
from benchmarks.engine import Condition, time_models
from benchmarks.networks.paper import PAPER, built, planned
from benchmarks.plans import searched, write_stand_in
from benchmarks.results import plots, rows, summary
from benchmarks.results.rows import Row
from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.latency_cache import cache_folder
from ndpass.measuring.machine import ThisMachine
from ndpass.measuring.runtime import Precision
from ndpass.measuring.target import Target
from ndpass.planning.candidate import damage
from ndpass.planning.timed_search import TimedSearch

MINUTES = 100
LABEL = "OpenVINO {}"  # a condition of benchmarks.speed


def main() -> None:
    args = arguments()
    name = f"same_latency{args.suffix}"
    for network in args.networks:
        original = built(args.models, network).path
        for precision in args.precisions:
            key = {
                "network": network,
                "precision": precision,
                "threads": args.threads,
                "passes": args.passes,
                "cpu": rows.cpu(),
            }
            search: TimedSearch | None = None
            for row in wanted(network, precision, args):
                own = {**key, "pipeline": row["pipeline"]}
                if not rows.known(name, own):
                    search = search or timed(original, precision, args)
                    rows.add(name, {**own, **one(search, original, row, Target(precision, args.threads), args)})
                print(line(rows.known(name, own)[-1]), flush=True)
    plots.draw(name)


def timed(path: Path, precision: Precision, args: argparse.Namespace) -> TimedSearch:
    """All that the passes can make of the network, with latencies: takes minutes, so only where a row is missing."""
    latencies = Latencies(ThisMachine(Target(precision, args.threads)), cache_folder())
    search, seconds = searched(path, args.passes, latencies)
    print(f"{path.stem} {precision}: candidates timed in {seconds:.0f} s", flush=True)
    return search


def wanted(network: str, precision: str, args: argparse.Namespace) -> list[Row]:
    """The rows of benchmarks.speed on this kind of CPU, the slowest pipeline first."""
    key = {
        "network": network,
        "condition": LABEL.format(precision),
        "threads": args.threads,
        "batch": 1,
        "cpu": rows.cpu(),
    }
    found = [r for r in summary.timed(rows.known(f"speed{args.suffix}", key)) if r["speedup"] > 1]
    if not found:
        raise SystemExit(f"no times of {network} in {precision} with {args.threads} threads: run benchmarks.speed")
    ordered = sorted(found, key=lambda row: float(row["speedup"]))
    return ordered[:1] if args.quick else ordered


def one(search: TimedSearch, path: Path, row: Row, target: Target, args: argparse.Namespace) -> Row:
    """The planner's plan at the speedup of a row. What was learnt in place for one plan is not kept for the next."""
    graph = Graph(onnx.load(path))
    paper = damage(planned(graph, row["pipeline"], PAPER[row["network"]][row["pipeline"]]).plan)
    asked = {"asked": row["speedup"], "paper_times_fewer": row["times_fewer"], "paper_damage": paper}
    own = copy.deepcopy(search)
    try:
        settled = own.for_speedup(row["speedup"])
    except BudgetError as e:
        return {**asked, "refused": str(e)}
    saved = sum(own.table.candidates[name][0].macs - choice.candidate.macs for name, choice in settled.plan.items())
    settings = {name: choice.candidate.setting for name, choice in settled.plan.items() if choice.candidate.setting}
    return {
        **asked,
        "refused": "",
        "speedup": settled.speedup,
        "times_fewer": graph.macs() / (graph.macs() - saved),
        "damage": settled.damage,
        "layers": [{"name": name, "setting": setting} for name, setting in settings.items()],
        "beside": beside(path, row, settings, target, args),
    }


def beside(path: Path, row: Row, settings: Row, target: Target, args: argparse.Namespace) -> Row:
    """How many times as fast as the original the pipeline and the plan are, in turns: median, 10th, 90th percentile."""
    pipeline = built(args.models, row["network"], row["pipeline"]).path
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.onnx"
        write_stand_in(path, plan, args.passes, settings)
        condition = Condition(precision=target.precision, threads=target.threads)
        _, *found = (timed.figures() for timed in time_models([path, pipeline, plan], condition, args.seconds))
    return {
        name: {key: figures[key] for key in ("speedup", "spread")}
        for name, figures in zip(("pipeline", "plan"), found, strict=True)
    }


def line(row: Row) -> str:
    head = (
        "{network:7} {precision:5} {pipeline:12} {asked:5.2f} times as fast, {paper_times_fewer:.2f} times fewer MACs"
    )
    tail = "; the planner: {speedup:.2f}, {times_fewer:.2f}, {ratio:.2f} of the damage"
    if row["refused"]:
        return f"{head.format(**row)}; {row['refused']}"
    return (head + tail).format(ratio=row["damage"] / row["paper_damage"], **row)


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(PAPER), default=["vgg16"])
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--passes", default="cd,sd,nd")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model that is timed in turns")
    parser.add_argument("--models", type=Path, default=options.MODELS, help="folder of benchmarks.speed's networks")
    options.add_quick(parser, "one plan")
    return options.parse(parser, on_digits=False, precisions=["f32"], passes="sd:rank=64:order=vh", seconds=1.0)


if __name__ == "__main__":
    main()
