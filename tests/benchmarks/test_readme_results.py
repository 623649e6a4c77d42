"""README's Results are those of benchmarks/results, and no figure can change in one alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import errors, options, plans_timed, plots, readme, rows, same_latency, summary

SPEED = [
    {
        "network": "vgg16",
        "condition": condition,
        "threads": threads,
        "batch": 1,
        "pipeline": pipeline,
        "times_fewer": 2.0 if pipeline else 1.0,
        "ms": 1.0,
        "speedup": speedup,
        "spread": [speedup, speedup],
    }
    for condition, threads, pipeline, speedup in (
        ("f32", 1, "", 1.0),
        ("f32", 1, "sd", 1.5),
        ("f32", 2, "sd", 2.5),
        ("int8", 1, "sd", 0.75),
    )
]
TIMED = [
    {
        "precision": precision,
        "pipeline": "sd",
        "times_fewer": 4.0,
        "drop": 0.5,
        "speedup": 3.0,
        "spread": [2.5, 3.25],
        "threads": threads,
        "batch": 1,
    }
    for threads in (None, 1)
    for precision in ("f32", "bf16")
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of benchmarks/results, and of the models that benchmarks make."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(options, "MODELS", tmp_path / "built")
    return tmp_path


def test_readme_is_drawn_from_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    readme.main()


def test_a_figure_that_changed_is_noticed() -> None:
    found = readme.read(rows.RESULTS)
    found["cost"] = [{**row, "seconds": 2 * row["seconds"]} for row in found["cost"]]
    now = readme.README.read_text(encoding="utf-8")
    assert readme.updated(now, readme.render(found)) != now


def test_check_fails_where_readme_differs(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # a folder without rows
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match=r"run python -m benchmarks\.readme"):
        readme.main()
    assert not any(results.iterdir())


def test_everything_that_readme_points_at_is_there() -> None:
    targets = re.findall(r"\]\((benchmarks/[^)]+)\)", readme.README.read_text(encoding="utf-8"))
    assert len(targets) > 5
    assert [t for t in targets if not (readme.README.parent / t).exists()] == []


def test_tables_are_even() -> None:
    assert_tables_are_even(readme.README.read_text(encoding="utf-8"))


def assert_tables_are_even(text: str) -> None:
    """As many cells in every row of a table, and no row that ran into another one."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_sections_without_rows_are_left_out() -> None:
    assert re.findall("^#+ .*", readme.render({}), re.MULTILINE) == ["## Results"]
    text = readme.render({"speed": SPEED, "plans_timed_net": TIMED})
    assert re.findall("^### (.*)", text, re.MULTILINE) == [
        "Plans chosen by MACs, in milliseconds",
        "The paper's pipelines in milliseconds",
    ]
    assert_tables_are_even(text)
    assert "| sd | 2.00 | 1.50–2.50 | 0.75 |" in text
    assert (
        "Of 3 measurements 2 gain less than the MACs say and 1 are slower than the original: VGG16 with sd (int8)"
        in text
    )
    assert "| sd | 4.00 | 0.50 | 3.00 (2.50–3.25) | 3.00 (2.50–3.25) |" in text


def test_quick_figures_never_lie_among_the_others(results: Path) -> None:
    (results / "speed_quick.json").write_text(json.dumps(SPEED))
    (results / "candidates_net.json").write_text("{}")
    assert readme.read(results) == {}
    ignored = (readme.README.parent / ".gitignore").read_text().splitlines()
    assert "benchmarks/results/*_quick.*" in ignored


def test_a_quick_run_needs_no_files_goes_on_and_draws(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --quick and nothing else; what there is already is not measured again, more is added."""
    _run(monkeypatch, "--quick", "--ranks", "1")
    first = rows.read("errors_digits_quick")
    assert len(first) == 12  # six convolutions, two forms
    assert all(row["seed"] == 0 and row["samples"] == 200 and "OpenVINO" in row["about"] for row in first)
    picture = (results / "errors_digits_quick.svg").read_bytes()
    _run(monkeypatch, "--quick", "--ranks", "1", "2")
    assert rows.read("errors_digits_quick")[:12] == first
    assert len(rows.read("errors_digits_quick")) == 24
    assert (results / "errors_digits_quick.svg").read_bytes() != picture
    assert not (results / "errors_digits.json").exists()


def test_the_same_rows_give_the_same_picture(results: Path) -> None:
    (results / "speed.json").write_text(json.dumps(SPEED))
    plots.draw("speed")
    first = (results / "speed.svg").read_bytes(), (results / "speed.png").read_bytes()
    plots.draw("speed")
    assert ((results / "speed.svg").read_bytes(), (results / "speed.png").read_bytes()) == first


@pytest.mark.parametrize("name", ["cost", "detection"])
def test_what_was_measured_last_is_in_the_picture(name: str, results: Path) -> None:
    found = json.loads((readme.FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))
    (results / f"{name}.json").write_text(json.dumps(found))
    plots.draw(name)
    whole = (results / f"{name}.svg").read_bytes()
    (results / f"{name}.json").write_text(json.dumps(found[:-1]))
    plots.draw(name)
    assert (results / f"{name}.svg").read_bytes() != whole
    assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_no_model_and_no_quick_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _run(monkeypatch)
    assert "give an ONNX model, or --quick for the digits network" in capsys.readouterr().err


def test_rows_are_known_by_their_key_and_the_last_ones_count(results: Path) -> None:
    """Rows from before seeds were written had seed 0."""
    old = {"model": "a", "ms": 1}
    (results / "some.json").write_text(json.dumps([old]))
    rows.add("some", {"model": "a", "seed": 1, "ms": 2}, {"model": "a", "seed": 0, "ms": 3})
    assert [row["ms"] for row in rows.known("some", {"model": "a", "seed": 0})] == [1, 3]
    assert [row["ms"] for row in rows.latest(rows.read("some"), ("model",))] == [3]


@pytest.mark.parametrize(
    ("points", "at"), [([(3.0, 0.5), (5.0, 1.5)], "4.0"), ([(3.0, 1.5)], "under 3.0"), ([(3.0, 0.5)], "3.0 or more")]
)
def test_macs_at_a_drop(points: list[tuple[float, float]], at: str) -> None:
    usual: dict[str, Any] = {"pipeline": "sd", "samples": 9, "compensated": True, "slopes": True}
    found = [{**usual, "macs": 1 / t, "times_fewer": t, "drop": d} for t, d in points]
    fewer_images = {**usual, "samples": 5, "macs": 0.1, "times_fewer": 10.0, "drop": 0.0}
    (curve,) = summary.curves([*found, fewer_images])
    assert curve.at(1.0) == at


def test_gains_leave_out_what_is_exact() -> None:
    """At full rank both errors are rounding, and their ratio says nothing."""
    errors_of = {"a": (0.5, 0.1), "b": (0.3, 0.2), "full rank": (1e-8, 1e-7)}
    found = [
        {"layer": layer, "form": "pw-dw", "rank": 1, "data_free": free, "calibrated": fitted}
        for layer, (free, fitted) in errors_of.items()
    ]
    assert summary.gains(found, 1) == (pytest.approx(1.5), pytest.approx(5.0))


def _run(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["errors", *args])
    errors.main()


def test_the_planner_is_asked_for_the_milliseconds_of_each_pipeline(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digits, sd at half the MACs in convolutions, and a speedup that nothing reaches."""
    from ndpass.graph.graph import Graph
    from ndpass.run import digits

    gmacs = Graph(onnx.load(digits.model_path())).macs() / 2e9
    monkeypatch.setenv("NDPASS_CACHE", str(results / "cache"))
    monkeypatch.setattr(same_latency, "PAPER", {"vgg16": {"sd": gmacs, "cd": gmacs}})
    monkeypatch.setattr(same_latency, "built", lambda *_, **__: {"path": str(digits.model_path())})
    same = {"network": "vgg16", "condition": "OpenVINO f32", "threads": 1, "batch": 1}
    asked = [{**same, "pipeline": p, "times_fewer": 2.0, "speedup": s} for p, s in (("sd", 1.05), ("cd", 1000.0))]
    (results / "speed.json").write_text(json.dumps(asked), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["same_latency", "--precisions", "f32", "--passes", "sd", "--threads", "1"])
    same_latency.main()
    reached, refused = rows.read("same_latency")
    assert refused["refused"].startswith("--speedup 1000 cannot be reached")
    if not reached["refused"]:  # else the machine was too loaded for 5 %
        assert reached["speedup"] >= 1.05
        assert reached["times_fewer"] > 1
        assert reached["damage"] > 0
        assert reached["paper_damage"] > 0
    assert "1000.00 times as fast" in capsys.readouterr().out


def test_plans_that_the_planner_missed_are_those_of_its_own_passes() -> None:
    row = {"passes": "cd,sd,nd", "paper_damage": 1.0}
    found = [{**row, "pipeline": p, "damage": d} for p, d in (("cd", 1.1), ("cp,cd", 1.5), ("sd", 1.005), ("nd", 1.2))]
    assert [r["pipeline"] for r in summary.missed(found)] == ["cd", "nd"]
    more = {
        "network": "vgg16",
        "precision": "f32",
        "threads": 2,
        "refused": "",
        "times_fewer": 2.0,
        "paper_times_fewer": 2.0,
    }
    text = readme.render({"same_latency": [{**more, **r} for r in found]})
    assert "In 2 of these 4 searches" in text
    assert "VGG16 with cd in f32 (1.10), VGG16 with nd in f32 (1.20)." in text


def test_of_each_curve_the_fastest_plan_inside_the_drop_counts() -> None:
    plans = [("sd", 0.5, 4.0), ("sd", 0.2, 2.0), ("sd", 1.5, 9.0), ("cd", 1.0, 5.0), ("nd", 2.0, 8.0)]
    found = [{"curve": curve, "drop": drop, "speedup": speedup} for curve, drop, speedup in plans]
    assert [(row["curve"], row["speedup"]) for row in summary.fastest(found, 1.0)] == [("cd", 5.0), ("sd", 4.0)]


def test_plans_of_one_budget_are_timed_in_turns(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digits as sd and as auto at another rank; of a third run nothing is known but that it was refused."""
    from ndpass.run import digits

    key = {"precision": "f32", "threads": 1, "budget": "--max-drop 1.0", "refused": "", "drop": 0.5}
    ranks = {"sd": {"sd": {"rank": 4, "order": "vh"}}, "auto": {"cd": {"rank": 8}}}
    runs = [{**key, "pipeline": p, "layers": [{"name": "block1.conv2", "setting": s}]} for p, s in ranks.items()]
    runs += [{**key, "pipeline": "cd", "refused": "not reachable"}, {**runs[0], "precision": "bf16"}]
    (results / "max_drop_digits.json").write_text(json.dumps(runs), encoding="utf-8")
    given = ["--budget", "--max-drop 1.0", "--precisions", "f32", "bf16", "--threads", "1", "--seconds", "0.2"]
    for _ in range(2):  # the second time nothing is measured
        monkeypatch.setattr(sys, "argv", ["plans_timed", str(digits.model_path()), *given])
        plans_timed.main()
    assert "bf16: 1 plans" in capsys.readouterr().out
    found = rows.read("budget_timed_digits")
    assert [row["pipeline"] for row in found] == ["auto", "sd"]
    assert found[0]["over_first"] == [1, 1, 1]
    assert found[1]["over_first"][1] == pytest.approx(found[1]["ms"] / found[0]["ms"], rel=0.5)
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
    text = readme.render({"max_drop_digits": runs, "budget_timed_digits": found})
    assert "| f32, 1 threads | auto | 0.50 |" in text
    assert_tables_are_even(text)


def test_what_a_peer_does_better_stands_in_readme() -> None:
    """Losing no more and as fast; one that is faster but loses more, and one that is slower, are not better."""
    drops = {"ndpass by MACs": 1.0, "better": 0.5, "faster": 1.5, "slower": 0.5}
    found = [
        {"peer": peer, "setting": "s", "drop": drop, "refused": "", "macs": [2, 1], "pipeline": "sd"}
        for peer, drop in drops.items()
    ]
    ratios = {"ndpass by MACs": 2.0, "better": 2.0, "faster": 3.0, "slower": 1.9}
    runs = [{"models": [[peer, "s"] for peer in ratios], "times": [{"speedup": r} for r in ratios.values()]}]
    assert summary.behind(runs, found) == [(found[0], ["better"])]
    assert summary.behind(None, found) == []
    text = readme.render({"peers_net": found, "peers_timed_net": runs})
    assert "Behind a peer that loses no more and is as fast or faster: ndpass by MACs with `s` (better).\n\n" in text


def test_what_is_quantised_stands_first_once_it_was_timed() -> None:
    kinds = {"NNCF int8": 2.0, "ndpass int8 by ms": 8.0, "DAC": 3.0}
    found = [
        {"peer": peer, "setting": "s", "drop": 0.5, "refused": "", "macs": [2, None], "pipeline": "sd"}
        for peer in kinds
    ]
    runs = [{"models": [[peer, "s"] for peer in kinds], "times": [{"speedup": r} for r in kinds.values()]}]
    rows_of = {"peers_vgg16_cifar10": found}
    said = (
        "2.00 times as fast by NNCF int8 with `s`, with 0.50 points lost; "
        "8.00 times as fast by ndpass int8 by ms with `s`, with 0.50 points lost.\n"
    )
    assert said in readme.render({**rows_of, "peers_timed_vgg16_cifar10": runs})
    assert "Quantised" not in readme.render(rows_of)


def test_rows_name_files_and_not_their_folders(tmp_path: Path) -> None:
    said = f"ndpass: {tmp_path}/a.onnx: not there, {tmp_path / 'b'}/c.npz neither"
    assert rows.by_name(said, tmp_path / "a.onnx", tmp_path / "b" / "c.npz", Path("d.onnx"), None) == (
        "ndpass: a.onnx: not there, c.npz neither"
    )
