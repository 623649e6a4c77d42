"""Pictures: the same rows give the same bytes, what was measured last is in them, and each CPU has its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_rows import SPEED, on_intel

from benchmarks.results import page, plots, rows

pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
COMMITTED = Path(page.__file__).parent


@pytest.mark.parametrize("name", ["cost", "detection"])
def test_what_was_measured_last_is_in_the_picture(name: str, results: Path) -> None:
    found = json.loads((COMMITTED / f"{name}.json").read_text(encoding="utf-8"))
    (results / f"{name}.json").write_text(json.dumps(found))
    whole = drawn(name, results)
    (results / f"{name}.json").write_text(json.dumps(found[:-1]))
    assert drawn(name, results) != whole
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in results.glob(f"{name}*.png"))


def drawn(name: str, results: Path) -> dict[str, bytes]:
    """The pictures of the rows that there are, one for each kind of CPU."""
    for old in results.glob(f"{name}*.svg"):
        old.unlink()
    plots.draw(name)
    found = {path.name: path.read_bytes() for path in results.glob(f"{name}*.svg")}
    assert found
    return found


def test_each_cpu_has_a_picture_of_its_own(results: Path) -> None:
    """The same rows give the same bytes, also beside rows of another CPU, which have a picture of their own."""
    (results / "speed.json").write_text(json.dumps(SPEED))
    plots.draw("speed")
    first = [(results / f"speed.{kind}").read_bytes() for kind in ("svg", "png")]
    (results / "speed.json").write_text(json.dumps([*on_intel(SPEED, 2.0), *SPEED]))
    plots.draw("speed")
    assert [(results / f"speed.{kind}").read_bytes() for kind in ("svg", "png")] == first
    assert (results / "speed_intel_avx512.svg").read_bytes() != first[0]
    assert sorted(path.name for path in results.glob("*.png")) == ["speed.png", "speed_intel_avx512.png"]


def test_a_picture_of_one_cpu_alone_is_named_after_it(results: Path) -> None:
    rows.add("speed", *on_intel(SPEED, 1.0))
    plots.draw("speed")
    assert [path.name for path in results.glob("*.svg")] == ["speed_intel_avx512.svg"]


def test_a_condition_has_one_colour_in_all_panels() -> None:
    """Whatever the order in which the rows of a network came."""
    from benchmarks.results.time_plots import speed

    conditions = ("OpenVINO f32", "OpenVINO int8")
    rows_of = [
        {
            "network": network,
            "condition": c,
            "threads": 2,
            "batch": 1,
            "pipeline": "nd",
            "times_fewer": 2.0,
            "speedup": 1.5,
            "spread": [1.4, 1.6],
        }
        for network, order in (("a", conditions), ("b", conditions[::-1]))
        for c in order
    ]
    panels = speed(rows_of).axes
    found = [{c.get_label(): c.lines[0].get_color() for c in panel.containers} for panel in panels]
    assert found[0] == found[1]
    assert len(set(found[0].values())) == len(conditions)
