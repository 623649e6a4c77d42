"""Plans as networks that can be timed before anything is fitted: their shapes decide the time, not their numbers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from benchmarks.engine import Condition, ratios, time_models
from benchmarks.options import AUTO
from benchmarks.results.rows import Row
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.candidate_times import timed_table
from ndpass.planning.candidates import refused
from ndpass.planning.plan import Planner
from ndpass.planning.stand_in import StandIns, stand_in
from ndpass.planning.timed_search import TimedSearch

SECONDS = 8.0  # of timing for each plan


def searched(path: Path, spec: str, latencies: Latencies) -> tuple[TimedSearch, float]:
    """A search among all that the passes can make of the model's layers, and the seconds that timing those took.

    Candidates are fitted to the weights alone: how long they take does not depend on it.
    """
    passes, graph = parse(spec), Graph(onnx.load(path))
    sites = [s for s in graph.sites() if isinstance(s, Site) and refused(graph, s, passes, False) is None]
    found = Planner(graph, passes, None, most=2).candidates(sites, lambda *_: None)
    start = time.perf_counter()
    table = timed_table(graph, sites, found, passes, latencies)
    seconds = time.perf_counter() - start
    timer = StandIns(lambda: Graph(onnx.load(path)), passes, latencies.machine)
    return TimedSearch(table, timer, [rule.name for rule in passes]), seconds


def one(model: Path, row: Row, condition: Condition, seconds: float) -> Row:
    """A plan as rows have it (`pipeline`, and in `layers` the name and setting of each) in turns with the original."""
    (found,) = together(model, [row], condition, seconds)
    return {key: value for key, value in found.items() if key != "over_first"}


def together(model: Path, chosen: Sequence[Row], condition: Condition, seconds: float) -> list[Row]:
    """Plans in turns with the original and with each other, `seconds` for each.

    over_first: 10th percentile, median and 90th of a plan's time over that of the first plan in the same round.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.onnx" for i in range(len(chosen))]
        for path, row in zip(paths, chosen, strict=True):
            settings = {layer["name"]: layer["setting"] for layer in row["layers"]}
            write_stand_in(model, path, AUTO if row["pipeline"] == "auto" else row["pipeline"], settings)
        original, *own = time_models([model, *paths], condition, seconds)
    before = original.figures()["ms"]
    return [
        {
            **{key: timed.figures()[key] for key in ("ms", "speedup", "spread")},
            "original_ms": before,
            "over_first": list(ratios(timed.times_ms, own[0].times_ms)),
        }
        for timed in own
    ]


def write_stand_in(model: Path, out: Path, passes: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes a network of the plan's shapes with random weights; settings: of the rewritten layers, by name."""
    graph, rules = Graph(onnx.load(model)), parse(passes)
    names = [site.name for site in graph.sites() if isinstance(site, Site)]
    plan = {name: Choice(Candidate(0, 0.0, dict(settings.get(name, {})))) for name in names}
    onnx.save(stand_in(graph, plan, rules).to_model(), out)
