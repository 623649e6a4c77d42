"""`python -m benchmarks.lazy`: what plans cost where only what they ask for is fitted, beside a table of everything.

    python -m benchmarks.lazy resnet20_cifar10.onnx vgg16_cifar10.onnx --calibration A.npz --samples 300

For each model and share of the MACs: the plan from a table in which all compositions of passes are fitted (`table_s`,
once a model), and the plan of `ndpass run --macs`. Shown are the fits of compositions that each took, their CPU seconds
without those of reading and calibrating, and the predicted damage of the second plan over that of the first, which the
planner promises to be 1.01 at most where its bounds hold. Layers narrower than `plan.NARROW` are fitted at once by
both, so that a ResNet-20 shows no difference. Rows are appended to benchmarks/results/lazy.json; those there are not
measured again. `--quick`: 100 digits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import onnx

from benchmarks import options
from benchmarks.candidate_cache import calibrated, sites_of
from benchmarks.results import rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph
from ndpass.passes import parse
from ndpass.planning.candidate import Budget, Choice, damage
from ndpass.planning.ledger import Ledger
from ndpass.planning.plan import Planner
from ndpass.planning.shelf import Shelf

MINUTES = 40
MEMORY = 1 << 30  # bytes of activations that calibration may keep

Plan = Mapping[str, Choice]
T = TypeVar("T")


def main() -> None:
    args = arguments()
    name = f"lazy{args.suffix}"
    for model in args.models:
        key = {"model": model.stem, "passes": args.passes, "most": args.most, "samples": args.samples}
        keys = [{**key, "macs": macs, "seed": args.seed, "cpu": rows.cpu()} for macs in args.macs]
        todo = [key for key in keys if not rows.known(name, key)]
        if todo:
            compare(model, args, name, todo)
        for found in (rows.known(name, key)[-1] for key in keys):
            print(
                "{model:16} --macs {macs:.2f}  fits {fits:4} of {all_fits:4}  CPU {cpu_s:6.1f} s of {table_s:6.1f} s  "
                "damage {damage_ratio:.4f}  layers alike {alike} of {layers}".format(**found),
                flush=True,
            )


def compare(model: Path, args: argparse.Namespace, name: str, keys: list[Row]) -> None:
    """Adds a row for each key."""
    graph, passes = Graph(onnx.load(model)), parse(args.passes)
    spec = Preprocess.parse(args.preprocess)
    feeds = open_feeds(args.calibration, graph.inputs(), spec, samples=args.samples, seed=args.seed)
    sites = sites_of(graph, args.passes)
    calibration = calibrated(graph, sites, feeds, args.threads, args.seed)

    def planner() -> Planner:
        return Planner(graph, passes, calibration, args.most, shelf=Shelf(None, MEMORY))

    def silent(*_: object) -> None:
        pass

    def lazy(budget: Budget) -> tuple[Ledger, Plan]:
        one = planner()
        ledger = one.ledger(sites, silent)
        return ledger, one.plan_with(ledger, sites, budget)

    def table() -> Ledger:
        ledger = planner().ledger(sites, silent, fitted=True)
        ledger.table()
        return ledger

    full, table_s = cpu_seconds(table)
    for key in keys:
        budget = Budget("macs", key["macs"])
        (ledger, plan), cpu_s = cpu_seconds(partial(lazy, budget))
        exact, choice_s = cpu_seconds(partial(planner().plan_with, full, sites, budget))
        row = {
            "fits": fits(ledger),
            "all_fits": fits(full),
            "cpu_s": cpu_s,
            "table_s": table_s + choice_s,
            "damage_ratio": damage(plan) / damage(exact),
            "alike": sum(plan[name].candidate.setting == choice.candidate.setting for name, choice in exact.items()),
            "layers": len(exact),
        }
        rows.add(name, {**key, **row})


def fits(ledger: Ledger) -> int:
    """How often a pass was fitted behind others."""
    return sum(len(estimates.known.fitted) for estimates in ledger.estimates.values())


def cpu_seconds(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and the CPU seconds of all threads that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("models", type=options.existing, nargs="*")
    options.with_data(parser, measured=False)
    parser.add_argument("--passes", default=options.AUTO)
    parser.add_argument("--most", type=int, help="passes that are composed in a layer; default: all")
    parser.add_argument("--macs", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    return options.parse(parser, samples=100, passes="cd,sd,nd")


if __name__ == "__main__":
    main()
