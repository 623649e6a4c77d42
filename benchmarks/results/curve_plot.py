"""Picture of `benchmarks.curves`: the plans of several commands, against MACs and against milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.results import pictures, rows
from benchmarks.results.rows import Row

ALL, HYBRID = "all convolutions, nd", "hybrid, nd"
MARKERS = {ALL: "s", HYBRID: "D"}
FREE = ("nd without data (Guo)", "DAC")
NEAR = 6.0  # points below the original that are shown
LABELS = ("% of MACs left", "milliseconds, batch 1")


def plans(name: str, cpu: str) -> Iterator[Row]:
    """Every plan that there is: curve, pipeline, layers, accuracy, drop, before and the share of the MACs left.

    cpu: the kind of CPU whose plans by milliseconds count.
    """
    for row in rows.read(f"compression_{name}"):
        if row["compensated"] and row["slopes"]:
            yield _plan(row["pipeline"], row, 1 / row["times_fewer"])
    for row in rows.read(f"peers_{name}"):
        if not row["refused"] and "layers" in row and row["macs"][1] and "--macs" in row["setting"] + _fixed(row):
            yield _plan(_curve(row), row, row["macs"][1] / row["macs"][0])
    for row in rows.read(f"curves_{name}"):
        if not row["refused"]:
            yield _plan(row["curve"], row, row["macs"][1] / row["macs"][0])
    before = next((row["before"] for row in rows.read(f"compression_{name}")), None)
    for row in rows.known(f"max_drop_{name}", {"cpu": cpu, "precision": "f32", "refused": ""}):
        if before is not None and row["drop"] is not None:
            scores = {"accuracy": before - row["drop"], "before": before}
            yield _plan(f"{row['pipeline']}, by ms", row | scores, row["macs"][1] / row["macs"][0])


def _fixed(row: Row) -> str:
    """Lets the peers of fixed ranks through; those that choose by milliseconds are shown by `benchmarks.peers`."""
    return "--macs" if row["peer"] in FREE else ""


def _curve(row: Row) -> str:
    if row["peer"] in FREE:
        return str(row["peer"])
    words = row["setting"].split()
    return str(words[words.index("--passes") + 1])


def _plan(curve: str, row: Row, share: float) -> Row:
    return {"curve": curve, "share": share, **{k: row[k] for k in ("pipeline", "layers", "accuracy", "drop", "before")}}


def key_of(plan: Row, threads: int, cpu: str) -> Row:
    """What tells a plan's times apart in curves_timed_<model>.json."""
    return {"threads": threads, "batch": 1, "cpu": cpu, **{k: plan[k] for k in ("curve", "share", "accuracy")}}


def plot(name: str, macs: int, threads: int) -> None:
    """A picture for each kind of CPU that plans were timed on; before that one with MACs alone."""
    title = f"{name}: {macs / 1e6:.0f} MMAC"
    for cpu in rows.cpus(rows.read(f"curves_timed_{name}")) or [rows.FIRST_CPU]:
        found = [plan for plan in plans(name, cpu) if plan["drop"] <= NEAR]
        if not found:
            print(f"{name}: no plans within {NEAR:g} points: benchmarks.compression and benchmarks.peers make them")
            return
        known = [rows.known(f"curves_timed_{name}", key_of(plan, threads, cpu)) for plan in found]
        times = {i: timed[-1] for i, timed in enumerate(known) if timed}
        pictures.save(picture(title, found, times), f"curves_{name}", cpu)


def picture(title: str, found: Sequence[Row], times: Mapping[int, Row]) -> Any:
    """Two panels: MACs, and milliseconds once there are any; every curve begins at the original, none replaced.

    times: index of a plan in `found` -> its row of curves_timed_<model>.json.
    """
    original = float(np.median([t["original_ms"] for t in times.values()])) if times else 1.0
    before = found[0]["before"]
    drawn = pictures.figure(13, 6)
    panels = drawn.subplots(1, 2, sharey=True)
    for number, curve in enumerate(dict.fromkeys(plan["curve"] for plan in found)):
        own = [i for i, plan in enumerate(found) if plan["curve"] == curve]
        _line(
            panels[0], [(100, before), *((100 * found[i]["share"], found[i]["accuracy"]) for i in own)], curve, number
        )
        timed = [(times[i]["ms"], found[i]["accuracy"]) for i in own if i in times]
        _line(panels[1], [(original, before), *timed], curve, number)
    for panel, x, label in zip(panels, (100, original), LABELS, strict=True):
        panel.plot([x], [before], "k*", markersize=10, label="original: none", zorder=3)
        panel.axhline(before, color="grey", linestyle=":", linewidth=1)
        pictures.logarithmic(panel, label)
    panels[0].set(ylabel="accuracy, %", title=title)
    panels[1].set_title("" if times else "no times yet")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return drawn


def _line(panel: Any, points: Sequence[tuple[float, float]], curve: str, number: int) -> None:
    """Draws one curve in one of twenty colours; dashed: fitted without data."""
    from matplotlib import colormaps

    x, y = zip(*sorted(points), strict=True)
    panel.plot(
        x,
        y,
        "--" if curve in FREE else "-",
        color=colormaps["tab20"](number % 20),
        label=curve,
        marker=MARKERS.get(curve, "."),
        markersize=7 if curve in MARKERS else 6,
    )
