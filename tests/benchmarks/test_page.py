"""README's Results are those of benchmarks/results, and no figure can change in one alone; each CPU has its page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from benchmark_rows import INTEL, PLANS_TIMED, SPEED, assert_tables_are_even, on_intel

from benchmarks import readme
from benchmarks.results import page, plots, rows, summary
from benchmarks.results.pictures import named as picture_of


def test_readme_is_drawn_from_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    readme.main()


def test_a_figure_that_changed_is_noticed() -> None:
    found = page.read(rows.RESULTS)
    found["cost"] = [{**row, "seconds": 2 * row["seconds"]} for row in found["cost"]]
    now = readme.README.read_text(encoding="utf-8")
    assert page.updated(now, page.section(found)) != now


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


def test_sections_without_rows_are_left_out() -> None:
    assert re.findall("^#+ .*", page.section({}), re.MULTILINE) == ["## Results"]
    assert page.others_page({}) == ""
    text = page.section({"speed": SPEED, "plans_timed_net": PLANS_TIMED})
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


def test_cpus_do_not_mix() -> None:
    """README shows the first kind alone, as if there were no other; another kind has a section on a page of its own."""
    alone = {"speed": SPEED, "plans_timed_net": PLANS_TIMED}
    both = {name: [*found, *on_intel(found, 2.0)] for name, found in alone.items()}
    said = "Milliseconds are those of AMD AVX-512 CPUs; [those of Intel AVX-512](benchmarks/results/README.md) have"
    assert said not in page.section(alone)
    assert said in page.section(both)
    assert page.section(both).replace(f" {said} a page of their own.", "") == page.section(alone)
    assert page.others_page(alone) == ""
    text = page.others_page(both)
    assert re.findall("^#+ (.*)", text, re.MULTILINE) == [
        "Times on other kinds of CPU",
        "Intel AVX-512",
        "Plans chosen by MACs, in milliseconds",
        "The paper's pipelines in milliseconds",
    ]
    assert "| sd | 2.00 | 3.00–5.00 | 1.50 |" in text
    assert "([plot](plans_timed_net_intel_avx512.svg))" in text
    assert "[plot](speed_intel_avx512.svg)" in text
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
    plain = {re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row) for row in tables}
    readme_rows = {re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row) for row in page.section(found).splitlines()}
    assert plain <= readme_rows


def test_peers_that_choose_by_milliseconds_are_those_of_their_cpu() -> None:
    row = {"setting": "s", "drop": 1.0, "refused": "", "macs": [2, 1], "pipeline": "sd"}
    peers = [{**row, "peer": "DAC"}, {**row, "peer": "ndpass by ms"}]
    peers.append({**row, "peer": "ndpass by ms", "drop": 2.0, "cpu": INTEL})
    run = {"models": [["DAC", "s"], ["ndpass by ms", "s"]], "times": [{"speedup": 3.0}, {"speedup": 4.0}]}
    found = {"peers_net": peers, "peers_timed_net": [run, {**run, "cpu": INTEL}]}
    assert "| ndpass by ms | sd 1.00 at 50 % (4.00) |" in page.section(found)
    assert "| ndpass by ms | sd 2.00 at 50 % (4.00) |" in page.others_page(found)
    assert page.others_page(found).count("| DAC | 1.00 at 50 % (3.00) |") == 1


def test_both_pages_are_written_and_checked(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's section is replaced, the page of the other CPU appears; nothing changes the second time."""
    readme_file, page_file = results / "own" / "README.md", results / "README.md"
    readme_file.parent.mkdir()
    readme_file.write_text("# ndpass\n\n## Results\n\nwhat stood here\n\n## Layout\n", encoding="utf-8")
    monkeypatch.setattr(readme, "README", readme_file)
    monkeypatch.setattr(plots, "draw", lambda _: None)
    (results / "speed.json").write_text(json.dumps([*SPEED, *on_intel(SPEED, 2.0)]))
    monkeypatch.setattr(sys, "argv", ["readme"])
    for said in ("wrote README.md and benchmarks/results/README.md\n", "the pages are as they would be written\n"):
        readme.main()
        assert capsys.readouterr().out == said
    assert "what stood here" not in readme_file.read_text(encoding="utf-8")
    assert page_file.read_text(encoding="utf-8").startswith("# Times on other kinds of CPU\n\n## Intel AVX-512\n")
    page_file.unlink()
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match=r"run python -m benchmarks\.readme"):
        readme.main()


def test_quick_figures_never_lie_among_the_others(results: Path) -> None:
    (results / "speed_quick.json").write_text(json.dumps(SPEED))
    (results / "candidates_net.json").write_text("{}")
    assert page.read(results) == {}
    ignored = (readme.README.parent / ".gitignore").read_text().splitlines()
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
    text = page.section({"same_latency": [{**more, **r} for r in found]})
    assert "In 2 of these 4 searches" in text
    assert "VGG16 with cd in f32 (1.10), VGG16 with nd in f32 (1.20)." in text


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
    text = page.section({"peers_net": found, "peers_timed_net": runs})
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
    assert said in page.section({**rows_of, "peers_timed_vgg16_cifar10": runs})
    assert "Quantised" not in page.section(rows_of)
