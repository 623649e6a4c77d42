"""Pictures of the rows in benchmarks/results, PNG and SVG: each command draws its own, `benchmarks.readme` all of them.

Without matplotlib (the extras `plots`, `test` and `bench` have it) there are none, and a line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.results import pictures, real_table, rows, time_plots
from benchmarks.results.rows import Row, latest
from benchmarks.results.summary import EXACT, FORMS, by, curves


def draw(name: str) -> None:
    """The pictures of benchmarks/results/<name>.json, one for each kind of CPU, where its rows are drawn at all."""
    found, drawn = rows.read(name), next((d for kind, d in DRAWN.items() if name.startswith(kind)), None)
    if not found or drawn is None:
        return
    if not pictures.can_draw():
        return
    for cpu in rows.cpus(found):
        pictures.save(drawn(rows.of_cpu(found, cpu)), name, cpu)


def compression(found: Sequence[Row]) -> Any:
    """Points lost against times fewer MACs, one line a pipeline."""
    figure = pictures.figure(8, 5)
    axes = figure.subplots()
    for i, curve in enumerate(curves(found)):
        axes.plot(
            [r["times_fewer"] for r in curve.rows],
            [r["drop"] for r in curve.rows],
            "o^sv"[i // 10 % 4] + "-",
            color=f"C{i % 10}",
            markersize=4,
            label=curve.pipeline,
        )
    axes.axhline(1.0, color="grey", linestyle=":")
    axes.set(xlabel="times fewer MACs", ylabel="accuracy lost, points")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def detection(found: Sequence[Row]) -> Any:
    """mAP by pipeline beside that of the original, one panel for each scope and budget."""
    found = [row for row in latest(found, ("pipeline", "scope", "macs", "samples")) if not row.get("refused")]
    whole = [row["map50"] for row in found if row["pipeline"] == "original"]
    shown = by([row for row in found if row["pipeline"] != "original"], "scope", "macs")
    figure = pictures.figure(2.6 * len(shown) + 0.5, 4)
    for panel, ((scope, macs), own) in zip(
        figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True
    ):
        panel.plot(range(len(own)), [row["map50"] for row in own], "o")
        panel.set_xticks(range(len(own)), [row["pipeline"] for row in own], rotation=90)
        panel.set(title=f"{scope},\n{1 / macs:.2f} times fewer MACs", xlim=(-0.5, len(own) - 0.5), ylabel="mAP@0.5")
        panel.label_outer()
        panel.grid(axis="y", alpha=0.3)
        for value in whole:
            panel.axhline(value, color="black", linestyle=":", label="original")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def errors(found: Sequence[Row]) -> Any:
    """Errors by layer, one panel a form; dashed: data-free."""
    found = latest(found, ("layer", "form", "rank"))
    layers = list(dict.fromkeys(row["layer"] for row in found))
    figure = pictures.figure(6.5 * len(FORMS), 4.5)
    panels = figure.subplots(1, len(FORMS), sharey=True)
    for panel, form in zip(panels, FORMS, strict=True):
        for i, rank in enumerate(sorted({row["rank"] for row in found})):
            own = {row["layer"]: row for row in found if row["form"] == form and row["rank"] == rank}
            for key, style, said in (("data_free", "--", "data-free"), ("calibrated", "-", "fitted to data")):
                places = [n for n, layer in enumerate(layers) if layer in own]
                panel.plot(
                    places,
                    [own[layers[n]][key] for n in places],
                    style,
                    color=f"C{i}",
                    marker=".",
                    label=f"T={rank}, {said}",
                )
        panel.set(yscale="log", title=form, ylabel="relative error of the response")
        panel.set_ylim(bottom=EXACT)
        panel.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    return figure


DRAWN: dict[str, Callable[[Sequence[Row]], Any]] = {  # what a file's name begins with -> its picture
    "compression": compression,
    "cost": time_plots.cost,
    "detection": detection,
    "errors": errors,
    "max_drop": time_plots.max_drop,
    "plans_timed": time_plots.plans_timed,
    "prediction": time_plots.prediction,
    "real": real_table.drawn,
    "same_latency": time_plots.same_latency,
    "scaling": time_plots.scaling,
    "speed": time_plots.speed,
}
