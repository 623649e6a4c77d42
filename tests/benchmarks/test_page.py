"""README's figures and the pages of results are those of the rows, none can change alone; each CPU has its page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from benchmark_rows import INTEL, PLANS_TIMED, SPEED, assert_tables_are_even, on_intel

from benchmarks import readme
from benchmarks.results import headline, page, plots, rows, summary
from benchmarks.results.pictures import named as picture_of

README, RESULTS_PAGE = readme.ROOT / "README.md", readme.ROOT / "docs" / "results.md"
COST = {"model": "vgg16_224", "model_bytes": 1, "seconds": 30.0, "peak_bytes": 1}


def test_readme_is_drawn_from_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    readme.main()


def test_a_figure_that_changed_is_noticed() -> None:
    found = page.read(rows.RESULTS)
    found["cost"] = [{**row, "seconds": 2 * row["seconds"]} for row in found["cost"]]
    assert page.results_page(found) != RESULTS_PAGE.read_text(encoding="utf-8")


def test_a_figure_of_readme_that_changed_is_noticed() -> None:
    found = page.read(rows.RESULTS)
    now = README.read_text(encoding="utf-8")
    assert headline.updated(now, found) == now
    found["peers_timed_vgg16_cifar10"][-1]["original"]["ms"] *= 2
    assert headline.updated(now, found) != now
    with pytest.raises(SystemExit, match="drawn: headline"):
        headline.updated("# ndpass\n", found)


def test_check_fails_where_readme_differs(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # a folder without rows
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match=r"run python -m benchmarks\.readme"):
        readme.main()
    assert not any(results.iterdir())


def test_every_picture_of_the_results_is_there() -> None:
    targets = re.findall(r"!\[[^]]+\]\(([^)]+)\)", RESULTS_PAGE.read_text(encoding="utf-8"))
    assert len(targets) > 15
    assert [t for t in targets if not (RESULTS_PAGE.parent / t).exists()] == []


def test_tables_are_even() -> None:
    assert_tables_are_even(RESULTS_PAGE.read_text(encoding="utf-8"))
    assert_tables_are_even(README.read_text(encoding="utf-8"))


def test_sections_without_rows_are_left_out() -> None:
    assert re.findall("^#+ .*", page.results_page({}), re.MULTILINE) == ["# Results"]
    assert page.others_page({}) == ""
    text = page.results_page({"speed": SPEED, "plans_timed_net": PLANS_TIMED})
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
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


def test_cpus_do_not_mix() -> None:
    """One page shows the first kind alone, as if there were no other; another kind has a section on a second one."""
    alone = {"speed": SPEED, "plans_timed_net": PLANS_TIMED}
    both = {name: [*found, *on_intel(found, 2.0)] for name, found in alone.items()}
    said = "Milliseconds are those of AMD AVX-512 CPUs; [those of Intel AVX-512](results_other_cpus.md) have"
    assert said not in page.results_page(alone)
    assert said in page.results_page(both)
    assert page.results_page(both).replace(f" {said} a page of their own.", "") == page.results_page(alone)
    assert page.others_page(alone) == ""
    text = page.others_page(both)
    assert re.findall("^#+ (.*)", text, re.MULTILINE) == [
        "Times on other kinds of CPU",
        "Intel AVX-512",
        "Plans chosen by MACs, in milliseconds",
        "The paper's pipelines in milliseconds",
    ]
    assert "| sd | 2.00 | 3.00–5.00 | 1.50 |" in text
    assert "\n\n![plans timed net](../benchmarks/results/plans_timed_net_intel_avx512.svg)\n\n" in text
    assert "\n\n![speed](../benchmarks/results/speed_intel_avx512.svg)\n\n" in text
    assert_tables_are_even(text)


def test_every_table_of_times_has_a_page_on_another_cpu() -> None:
    """The rows that there are, as if another CPU had measured all of them: the same tables, and no accuracy."""
    found = page.read(rows.RESULTS)
    timed = {name: own for name, own in found.items() if name.startswith(rows.TIMED)}
    first = {name: [row for row in own if rows.cpu_of(row) == rows.FIRST_CPU] for name, own in timed.items()}
    moved = {**found, **{name: [{**row, "cpu": INTEL} for row in own] for name, own in first.items()}}
    text = page.others_page(moved)
    assert_tables_are_even(text)
    headings = re.findall("^### (.*)", text, re.MULTILINE)
    assert {"Accuracy in milliseconds", "Curves in milliseconds", "Milliseconds predicted"} <= set(headings)
    assert not {"Fewer MACs against accuracy", "nd layer by layer", "Detection"} & set(headings)
    tables = set(re.findall(r"^\|.*\|$", text, re.MULTILINE))
    assert tables <= set(page.results_page(found).splitlines())


def test_peers_that_choose_by_milliseconds_are_those_of_their_cpu() -> None:
    row = {"setting": "s", "drop": 1.0, "refused": "", "macs": [2, 1], "pipeline": "sd"}
    peers = [{**row, "peer": "DAC"}, {**row, "peer": "ndpass by ms"}]
    peers.append({**row, "peer": "ndpass by ms", "drop": 2.0, "cpu": INTEL})
    run = {"models": [["DAC", "s"], ["ndpass by ms", "s"]], "times": [{"speedup": 3.0}, {"speedup": 4.0}]}
    found = {"peers_net": peers, "peers_timed_net": [run, {**run, "cpu": INTEL}]}
    assert "| ndpass by ms | sd 1.00 at 50 % (4.00) |" in page.results_page(found)
    assert "| ndpass by ms | sd 2.00 at 50 % (4.00) |" in page.others_page(found)
    assert page.others_page(found).count("| DAC | 1.00 at 50 % (3.00) |") == 1


def test_all_pages_are_written_and_checked(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's places are filled, the pages of results appear; nothing changes the second time."""
    root = results / "own"
    (root / "docs").mkdir(parents=True)
    readme_file, pages = root / "README.md", [root / "docs" / f"results{more}.md" for more in ("", "_other_cpus")]
    readme_file.write_text("# n\n\n<!-- drawn: takes -->\nwhat stood here\n<!-- /drawn -->\n", encoding="utf-8")
    monkeypatch.setattr(readme, "ROOT", root)
    monkeypatch.setattr(plots, "draw", lambda _: None)
    (results / "speed.json").write_text(json.dumps([*SPEED, *on_intel(SPEED, 2.0)]))
    (results / "cost.json").write_text(json.dumps([{**COST, "what": what} for what in ("ndpass", "svd of convs")]))
    monkeypatch.setattr(sys, "argv", ["readme"])
    names = "README.md and docs/results.md and docs/results_other_cpus.md"
    for said in (f"wrote {names}\n", "the pages are as they would be written\n"):
        readme.main()
        assert capsys.readouterr().out == said
    assert "<!-- drawn: takes -->\n| data |" in readme_file.read_text(encoding="utf-8")
    assert "| none | VGG16 at 224×224 | `nd:rank=3` | 0.5 |" in readme_file.read_text(encoding="utf-8")
    assert pages[0].read_text(encoding="utf-8").startswith("# Results\n\n")
    assert pages[1].read_text(encoding="utf-8").startswith("# Times on other kinds of CPU\n\n## Intel AVX-512\n")
    pages[1].unlink()
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match=r"results_other_cpus\.md: not what .*run python -m benchmarks\.readme"):
        readme.main()


def test_quick_figures_never_lie_among_the_others(results: Path) -> None:
    (results / "speed_quick.json").write_text(json.dumps(SPEED))
    (results / "candidates_net.json").write_text("{}")
    assert page.read(results) == {}
    ignored = (readme.ROOT / ".gitignore").read_text().splitlines()
    assert {"benchmarks/results/*_quick.*", "benchmarks/results/*_quick_*"} <= set(ignored)  # pictures name the CPU
    assert picture_of("speed_quick", INTEL) == "speed_quick_intel_avx512"


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
    text = page.results_page({"same_latency": [{**more, **r} for r in found]})
    assert "In 2 of these 4 searches" in text
    assert "VGG16 with cd in f32 (1.10), VGG16 with nd in f32 (1.20)." in text


def test_what_a_peer_does_better_is_said() -> None:
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
    text = page.results_page({"peers_net": found, "peers_timed_net": runs})
    assert "Behind a peer that loses no more and is as fast or faster: ndpass by MACs with `s` (better).\n" in text


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
    assert said in page.results_page({**rows_of, "peers_timed_vgg16_cifar10": runs})
    assert "Quantised" not in page.results_page(rows_of)


def test_bars_are_the_fastest_that_lose_at_most_a_point() -> None:
    """Of one run, the last on the first kind of CPU; a peer that was not timed has no bar."""
    drops = {"NNCF int8": {"a": 0.1, "b": 0.2}, "ndpass by ms": {"a": 0.5, "b": 1.5}, "ndpass int8 by ms": {"a": 0.9}}
    row = {"refused": "", "before": 90.0, "samples": 10}
    peers = [{**row, "peer": p, "setting": s, "drop": drop} for p, own in drops.items() for s, drop in own.items()]
    times = {"a": {"ms": 0.5, "spread_ms": [0.4, 0.6], "speedup": 4.0}, "b": {"ms": 0.4, "spread_ms": [0.3, 0.5]}}
    times["b"]["speedup"] = 5.0
    models = [["NNCF int8", "a"], ["NNCF int8", "b"], ["ndpass by ms", "a"], ["ndpass by ms", "b"]]
    run = {"models": models, "times": [times[s] for _, s in models], "threads": 2, "batch": 1, "about": "A (b), c"}
    run["original"] = {"ms": 2.0, "spread_ms": [1.0, 3.0], "speedup": 1.0}
    found = {"peers_net": peers, "peers_timed_net": [{**run, "models": [], "times": []}, run, {**run, "cpu": INTEL}]}
    shown = headline.bars(found, "net")
    assert [(bar.name, bar.ms) for bar in shown] == [("original", 2.0), ("ndpass", 0.5), ("NNCF int8", 0.4)]
    assert [headline.said(bar) for bar in shown[::2]] == ["2.00 ms", "0.40 ms, 5.0×, 0.20 points lost"]
    assert headline.bars({}, "net") == []


def test_what_amx_leaves_is_said_once_it_was_measured() -> None:
    row = {"network": "vgg16", "threads": 2, "batch": 1, "cpu": "Intel AMX"}
    kinds = {"f32": 2.0, "bf16": 1.0}
    found = [
        {**row, "pipeline": pipeline, "condition": f"OpenVINO {kind}", "speedup": ratio}
        for pipeline in ("sd", "nd")
        for kind, ratio in kinds.items()
    ]
    said = " ".join(headline.amx({"speed": found}).split())
    assert "sd 2.00× in f32, 1.00× in bf16; nd 2.00× in f32, 1.00× in bf16." in said
    assert headline.amx({"speed": [{**row, "cpu": INTEL} for row in found]}) == ""
    assert headline.amx({}) == ""
