"""Commands that time plans: what they ask for and keep, on recorded times; and the stand-ins that are timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from benchmark_rows import INTEL, assert_tables_are_even
from conftest import small_network
from paper_machine import EACH, PER_MAC, PaperMachine
from planned_times import PlannedTimes

from benchmarks import plans, plans_timed, same_latency
from benchmarks.engine import Condition, Timed
from benchmarks.networks.paper import Built
from benchmarks.results import page, plots, rows
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate
from ndpass.planning.candidates import refused
from ndpass.planning.latency_table import LatencyTable
from ndpass.planning.plan import Planner
from ndpass.planning.timed_search import TimedSearch
from ndpass.run import digits

SETTING = {"sd": {"rank": 4, "order": "vh"}}
LAYER = "block1.conv2"


def recorded_search(path: Path, passes: str) -> TimedSearch:
    """All that the passes can make of the model's layers; plans take a second for every MAC: no clock decides."""
    graph, rules = Graph(onnx.load(path)), parse(passes)
    sites = [s for s in graph.sites() if isinstance(s, Site) and refused(graph, s, rules, False) is None]
    found = Planner(graph, rules, None).candidates(sites, lambda *_: None)
    candidates = {
        name: [Candidate(c.macs, c.error, c.setting, float(c.macs), weighed=c.weighed) for c in own]
        for name, own in found.items()
    }
    in_place = {name: float(own[0].macs) for name, own in candidates.items()}
    table = LatencyTable(candidates, float(graph.macs()), in_place)
    return TimedSearch(table, PlannedTimes(table), [rule.name for rule in rules])


def recorded_times(models: Sequence[Path], _: Condition, __: float) -> list[Timed]:
    """The first takes 6 ms, the second 3, the third 2."""
    return [Timed([6.0 / i, 12.0 / i], [6.0, 12.0]) for i in range(1, len(models) + 1)]


def test_a_stand_in_has_the_shapes_of_its_plan(tmp_path: Path) -> None:
    """A k×1 and a 1×k convolution with 4 channels between; the other layers are as they were."""
    plans.write_stand_in(digits.model_path(), tmp_path / "plan.onnx", "sd", {LAYER: SETTING})
    model = onnx.load(tmp_path / "plan.onnx")
    onnx.checker.check_model(model, full_check=True)
    before, after = ({s.name: s for s in Graph(m).sites()} for m in (onnx.load(digits.model_path()), model))
    inner = [s.outline.weight.shape for name, s in after.items() if name.startswith(LAYER) and isinstance(s, Site)]
    assert inner == [(4, 32, 3, 1), (32, 4, 1, 3)]
    assert {name for name in before if name != LAYER} == {name for name in after if not name.startswith(LAYER)}


def test_plans_of_one_budget_are_timed_in_turns(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of this CPU that were not refused, auto first; the second time nothing is measured."""
    key = {"precision": "f32", "threads": 1, "budget": "--max-drop 1.0", "refused": "", "drop": 0.5}
    runs = [
        {**key, "pipeline": "sd", "layers": [{"name": LAYER, "setting": SETTING}]},
        {**key, "pipeline": "auto", "layers": [{"name": LAYER, "setting": {"cd": {"rank": 8}}}]},
    ]
    runs += [{**key, "pipeline": "cd", "refused": "not reachable"}, {**runs[0], "precision": "bf16"}]
    runs += [{**runs[0], "pipeline": "nd", "cpu": INTEL}]
    (results / "max_drop_digits.json").write_text(json.dumps(runs), encoding="utf-8")
    monkeypatch.setattr(rows, "cpu", lambda: rows.FIRST_CPU)
    monkeypatch.setattr(plans, "time_models", recorded_times)
    given = ["--budget", "--max-drop 1.0", "--precisions", "f32", "bf16", "--threads", "1"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["plans_timed", str(digits.model_path()), *given])
        plans_timed.main()
    assert "bf16: 1 plans" in capsys.readouterr().out
    found = rows.read("budget_timed_digits")
    assert [row["pipeline"] for row in found] == ["auto", "sd"]
    assert [row["ms"] for row in found] == [4.5, 3.0]
    assert [row["speedup"] for row in found] == [2.0, 3.0]
    assert [row["original_ms"] for row in found] == [9.0, 9.0]
    assert [row["over_first"] for row in found] == [[1, 1, 1], pytest.approx([2 / 3] * 3)]
    for row in runs:
        row |= {
            "cold": False,
            "speedup": 2.0,
            "spread": [1, 3],
            "ms": [2, 1],
            "macs": [2, 1],
            "whole_s": 60,
            "variants": [],
            "seconds": {"plan": 30},
        }
    text = page.results_page({"max_drop_digits": runs, "budget_timed_digits": found})
    assert "| f32, 1 threads | auto | 0.50 |" in text
    assert_tables_are_even(text)


def test_plans_by_macs_are_timed_once_on_each_cpu(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every pipeline the fewest MACs within the drop."""
    usual = {"compensated": True, "slopes": True, "pipeline": "sd", "kl": 0.1}
    layers = [{"name": LAYER, "setting": SETTING}]
    plans_made = [{**usual, "times_fewer": t, "drop": d, "layers": layers} for t, d in ((2.0, 0.1), (3.0, 0.9), (4, 2))]
    (results / "compression_digits.json").write_text(json.dumps(plans_made))
    monkeypatch.setattr(plans, "time_models", recorded_times)
    monkeypatch.setattr(plots, "draw", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["plans_timed", str(digits.model_path()), "--precisions", "f32"])
    for cpu in (rows.FIRST_CPU, INTEL, INTEL):
        monkeypatch.setattr(rows, "cpu", lambda cpu=cpu: cpu)
        plans_timed.main()
    found = rows.read("plans_timed_digits")
    assert [(row["cpu"], row["times_fewer"], row["speedup"]) for row in found] == [
        (rows.FIRST_CPU, 3.0, 2.0),
        (INTEL, 3.0, 2.0),
    ]


def test_the_planner_is_asked_for_the_milliseconds_of_each_pipeline(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digits, sd at half the MACs, and a speedup that nothing reaches; rows of another CPU are left aside."""
    gmacs = Graph(onnx.load(digits.model_path())).macs() / 2e9
    original = Built(digits.model_path(), "", 1, 1.0, None)
    monkeypatch.setattr(same_latency, "PAPER", {"vgg16": {"sd": gmacs, "cd": gmacs}})
    monkeypatch.setattr(same_latency, "built", lambda *_, **__: original)
    monkeypatch.setattr(same_latency, "timed", lambda path, *_: recorded_search(path, "sd"))
    monkeypatch.setattr(same_latency, "time_models", recorded_times)
    monkeypatch.setattr(plots, "draw", lambda _: None)
    monkeypatch.setattr(rows, "cpu", lambda: INTEL)
    same = {"network": "vgg16", "condition": "OpenVINO f32", "threads": 1, "batch": 1, "times_fewer": 2.0}
    asked = [{**same, "pipeline": p, "speedup": s, "cpu": INTEL} for p, s in (("sd", 1.25), ("cd", 1000.0))]
    asked.append({**same, "pipeline": "sd", "speedup": 9.0})
    (results / "speed.json").write_text(json.dumps(asked), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["same_latency", "--precisions", "f32", "--passes", "sd", "--threads", "1"])
    same_latency.main()
    reached, unreached = rows.read("same_latency")
    assert unreached["refused"].startswith("--speedup 1000 cannot be reached")
    assert 1.25 <= reached["speedup"] == pytest.approx(reached["times_fewer"])
    assert reached["asked"] == 1.25
    assert reached["cpu"] == INTEL
    assert 0 < reached["damage"] < reached["paper_damage"]  # fewer layers are rewritten than at half the MACs
    assert {layer["name"] for layer in reached["layers"]} <= {s.name for s in Graph(onnx.load(original.path)).sites()}
    assert [reached["beside"][name]["speedup"] for name in ("pipeline", "plan")] == [2.0, 3.0]
    assert "1000.00 times as fast" in capsys.readouterr().out


def test_no_times_of_this_cpu_are_said(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / "speed.json").write_text(json.dumps([{"network": "vgg16", "condition": "OpenVINO f32", "threads": 2}]))
    monkeypatch.setattr(rows, "cpu", lambda: INTEL)
    monkeypatch.setattr(sys, "argv", ["same_latency"])
    with pytest.raises(SystemExit, match=r"no times of vgg16 in f32 with 2 threads: run benchmarks\.speed"):
        same_latency.wanted("vgg16", "f32", same_latency.arguments())


def test_a_search_is_among_what_the_passes_can_make_of_the_layers(tmp_path: Path) -> None:
    """Candidates of sd alone, and of pairs where there are two passes; each is timed with the block that it makes."""
    path = tmp_path / "net.onnx"
    onnx.save(small_network(), path)
    search, seconds = plans.searched(path, "sd", Latencies(PaperMachine(), tmp_path))
    dense, *split = search.table.candidates["b"]
    assert seconds >= 0
    assert dense.seconds == pytest.approx(EACH + dense.macs * PER_MAC)
    assert {tuple(c.setting) for c in split} == {("sd",)}
    assert [c.seconds for c in split] == pytest.approx([2 * EACH + c.macs * PER_MAC for c in split])
    search, _ = plans.searched(path, "cd,nd", Latencies(PaperMachine(), tmp_path))
    assert {tuple(c.setting) for c in search.table.candidates["b"]} == {(), ("cd",), ("nd",), ("cd", "nd")}
