"""Pictures of times: each function draws the rows of one file, measured on one kind of CPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks.results import pictures
from benchmarks.results.rows import Row, latest
from benchmarks.results.summary import timed

WIDTH = 0.7  # of the bars of one pipeline, as a share of the way to the next pipeline
STAGES = ("calibrate", "plan", "rewrite", "verify")


def cost(found: Sequence[Row]) -> Any:
    """Seconds and memory of the last model measured, one point a round."""
    found = [row for row in found if row["model"] == found[-1]["model"]]
    kinds = list(dict.fromkeys(row["what"] for row in found))
    figure = pictures.figure(8, 0.5 * len(kinds) + 1)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, key, unit, label in zip(panels, ("seconds", "peak_bytes"), (1, 1e9), ("seconds", "GB"), strict=True):
        panel.plot([row[key] / unit for row in found], [kinds.index(row["what"]) for row in found], "o", alpha=0.5)
        panel.set(xlabel=label, ylim=(len(kinds) - 0.5, -0.5))
        panel.set_xlim(left=0)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(kinds)), kinds)
    return figure


def max_drop(found: Sequence[Row]) -> Any:
    """Speedup with its spread, one bar for each pipeline and budget; colours are precisions."""
    found = [row for row in found if not row["refused"]]
    figure = pictures.figure(max(4.0, 0.5 * len(found) + 2), 4.5)
    axes = figure.subplots()
    precisions = list(dict.fromkeys(row["precision"] for row in found))
    for place, row in enumerate(found):
        colour = precisions.index(row["precision"])
        axes.bar(place, row["speedup"], yerr=_bars([row]), color=f"C{colour}", capsize=3)
    axes.axhline(1.0, color="grey", linestyle=":")
    axes.set_xticks(range(len(found)), [row["pipeline"] for row in found], rotation=90)
    axes.set_ylabel("times as fast as the original at its precision")
    _legend(figure, precisions)
    return figure


def plans_timed(found: Sequence[Row]) -> Any:
    """Speedup beside times fewer MACs; colours are precisions."""
    figure = pictures.figure(7, 5)
    axes = figure.subplots()
    _ratios(axes, found, "precision", list(dict.fromkeys(row["precision"] for row in found)))
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def prediction(found: Sequence[Row]) -> Any:
    """Measured against predicted milliseconds, one panel for each model, precision and number of threads."""
    found = latest(found, ("model", "precision", "threads"))
    figure = pictures.figure(4.0 * min(len(found), 4), 4.0 * -(-len(found) // 4))
    panels = figure.subplots(-(-len(found) // 4), min(len(found), 4), squeeze=False).flat
    for panel, row in zip(panels, found, strict=False):
        predicted, measured = ([plan[key] for plan in row["plans"]] for key in ("predicted_ms", "measured_ms"))
        panel.plot(predicted, measured, ".")
        panel.axline((predicted[0], predicted[0]), slope=1, color="grey", linestyle=":")
        threads = f", {row['threads']} threads" if row["threads"] else ""
        panel.set_title(f"{row['model']}, {row['precision']}{threads}", fontsize="medium")
        panel.set(xlabel="predicted ms", ylabel="measured ms")
    return figure


def scaling(found: Sequence[Row]) -> Any:
    """Seconds by stage, forward passes of the data and memory, one bar a run."""
    found = sorted(found, key=lambda row: (row["model"], row["threads"] or 0, row["images"]))
    figure = pictures.figure(12, 0.35 * len(found) + 1.5)
    seconds, ratios, memory = figure.subplots(1, 3, sharey=True)
    places, left = range(len(found)), [0.0] * len(found)
    for i, stage in enumerate(STAGES):
        width = [row["seconds"].get(stage) or 0.0 for row in found]
        seconds.barh(places, width, left=left, color=f"C{i}")
        left = [a + b for a, b in zip(left, width, strict=True)]
    ratios.barh(places, [row["ratio"] for row in found], color="grey")
    memory.barh(places, [row["peak_memory_bytes"] / 1e9 for row in found], color="grey")
    names = [f"{r['model']}, {r['images']} images, {r['threads'] or 'all'} threads" for r in found]
    seconds.set_yticks(places, names, fontsize="small")
    seconds.invert_yaxis()
    seconds.set_xlabel("seconds")
    ratios.set_xlabel("forward passes of the original over the images")
    memory.set_xlabel("GB at the most")
    _legend(figure, STAGES)
    return figure


def speed(found: Sequence[Row]) -> Any:
    """Speedup beside times fewer MACs, one panel a network; colours are conditions."""
    found = timed(found)
    networks = list(dict.fromkeys(row["network"] for row in found))
    figure = pictures.figure(6.0 * len(networks) + 2, 5)
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    conditions = list(dict.fromkeys(row["condition"] for row in found))  # in all panels with the same colours
    for panel, name in zip(panels, networks, strict=True):
        _ratios(panel, [row for row in found if row["network"] == name], "condition", conditions)
        panel.set_title(name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def same_latency(found: Sequence[Row]) -> Any:
    """MACs of the paper's pipelines and of the planner's plans as fast: networks in rows, precisions in columns."""
    found = latest(found, ("network", "precision", "threads", "passes", "pipeline"))
    networks, precisions = (list(dict.fromkeys(row[key] for row in found)) for key in ("network", "precision"))
    figure = pictures.figure(4.5 * len(precisions) + 1, 4 * len(networks) + 0.5)
    panels = figure.subplots(len(networks), len(precisions), squeeze=False, sharey="row").flat
    for panel, key in zip(panels, itertools.product(networks, precisions), strict=True):
        own = sorted((r for r in found if (r["network"], r["precision"]) == key), key=lambda r: float(r["asked"]))
        panel.set_visible(bool(own))
        for name, marker, said in (("paper_times_fewer", "_", "the pipeline"), ("times_fewer", ".", "the planner")):
            there = [row for row in own if name in row]  # a plan that was refused has none
            panel.plot([row["asked"] for row in there], [row[name] for row in there], marker, markersize=9, label=said)
        panel.set(title=" ".join(key), xlabel="times as fast as the original", ylabel="times fewer MACs")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def _ratios(axes: Any, found: Sequence[Row], colours: str, kinds: Sequence[str]) -> None:
    """Speedup beside times fewer MACs, pipeline by pipeline; below the grey line a network became slower.

    colours: the key of a row that its colour stands for; kinds: the values of that key, in the order of the colours.
    """
    macs = dict(sorted(((r["pipeline"], r["times_fewer"]) for r in found), key=lambda pair: float(pair[1])))
    places = {name: i for i, name in enumerate(macs)}
    for i, kind in enumerate(kinds):
        own, aside = [row for row in found if row[colours] == kind], WIDTH * ((i + 0.5) / len(kinds) - 0.5)
        axes.errorbar(
            [places[r["pipeline"]] + aside for r in own],
            [r["speedup"] for r in own],
            yerr=_bars(own),
            fmt=".",
            color=f"C{i}",
            elinewidth=0.5,
            label=kind,
        )
    left = [place - WIDTH / 2 for place in places.values()]
    axes.hlines(list(macs.values()), left, [x + WIDTH for x in left], color="black", label="times fewer MACs")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(list(places.values()), list(macs), rotation=90)
    axes.set(ylabel="times as fast")


def _bars(found: Sequence[Row]) -> list[list[float]]:
    """Lengths of the error bars below and above the median: the spread of the rounds."""
    return [
        [max(r["speedup"] - r["spread"][0], 0.0) for r in found],
        [max(r["spread"][1] - r["speedup"], 0.0) for r in found],
    ]


def _legend(figure: Any, names: Sequence[str]) -> None:
    """Explains the colours C0, C1, ... by these names."""
    from matplotlib.patches import Patch

    handles = [Patch(color=f"C{i}", label=name) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside right upper", fontsize="small")
