"""Pictures of the studies, drawn with matplotlib: the extra `plots`, imported only where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ndpass.errors import UsageError
from ndpass.files.staging import write_bytes
from ndpass.run.studies import Depth, Rank, Slope, Yardstick

SUFFIXES = (".png", ".svg")
SMALLEST = 1e-6  # nats; a smaller KL is drawn as this, the axis being logarithmic


def check(target: Path) -> None:
    """Raise UsageError, before anything is computed, where no picture can be drawn."""
    if target.suffix not in SUFFIXES:
        raise UsageError(f"--plot {target}: a picture is a .png or an .svg file")
    if find_spec("matplotlib") is None:
        raise UsageError('--plot draws with matplotlib, which is not installed: pip install "ndpass[plots]"')


def slopes(rows: Sequence[Slope], target: Path) -> None:
    """A bar for each layer, in graph order."""
    figure = _figure(max(4.0, 0.3 * len(rows) + 2), 4.5)
    axes = figure.subplots()
    axes.bar(range(len(rows)), [row.slope for row in rows])
    axes.set_xticks(range(len(rows)), [row.layer for row in rows], rotation=90)
    axes.set_ylabel("slope")
    _save(figure, target)


def ranks(rows: Sequence[Rank], yardstick: Yardstick, target: Path) -> None:
    """The metric and the KL against what is left of a layer's MACs: a column for each pass and form, a line a layer."""
    curves, layers = list(dict.fromkeys(row.curve for row in rows)), list(dict.fromkeys(row.layer for row in rows))
    figure = _figure(4.5 * max(len(curves), 1) + 2, 7)
    panels = figure.subplots(2, max(len(curves), 1), sharex=True, sharey="row", squeeze=False)
    for column, curve in enumerate(curves):
        panels[0][column].set_title(curve)
        for number, layer in enumerate(layers):
            chosen = [row for row in rows if (row.curve, row.layer) == (curve, layer)]
            left = [100 * row.macs[1] / row.macs[0] for row in chosen]
            _lines(panels[:, column], left, chosen, layer, _colour(number, len(layers)))
        panels[1][column].set_xlabel("% of the layer's MACs left")
    _finish(figure, panels, yardstick, target)


def depths(rows: Sequence[Depth], yardstick: Yardstick, target: Path) -> None:
    """The metric and the KL against the number of layers rewritten, from the first on and from the last back."""
    figure = _figure(6.5, 7)
    panels = figure.subplots(2, 1, sharex=True, squeeze=False)
    for number, end in enumerate(("first", "last")):
        chosen = [row for row in rows if row.end == end]
        _lines(panels[:, 0], [row.count for row in chosen], chosen, f"the {end} layers", f"C{number}")
    panels[1][0].set_xlabel("layers rewritten")
    _finish(figure, panels, yardstick, target)


def _lines(panels: Any, x: Sequence[float], rows: Sequence[Rank | Depth], label: str, colour: Any) -> None:
    panels[0].plot(x, [row.score.metric for row in rows], ".-", label=label, color=colour)
    if any(row.score.kl is not None for row in rows):
        panels[1].plot(x, [max(row.score.kl or 0.0, SMALLEST) for row in rows], ".-", color=colour)


def _finish(figure: Any, panels: Any, yardstick: Yardstick, target: Path) -> None:
    """The original as a dotted line, names of axes, one legend at the side."""
    for panel in panels[0]:
        panel.axhline(yardstick.original, color="grey", linestyle=":")
    panels[0][0].set_ylabel(yardstick.name + (" %" if yardstick.higher_is_better else ""))
    panels[1][0].set_ylabel("KL to the original, nats")
    panels[1][0].set_yscale("log")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    _save(figure, target)


def _colour(number: int, count: int) -> Any:
    """From the first layer, dark, to the last, light."""
    from matplotlib import colormaps

    return colormaps["viridis"](number / count)


def _figure(width: float, height: float) -> Any:
    """In inches; without pyplot, which would look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, target: Path) -> None:
    import matplotlib

    kind = target.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else {}  # so that the same figures give the same bytes
    with matplotlib.rc_context({"svg.hashsalt": "ndpass"}):
        write_bytes(target, lambda file: figure.savefig(file, format=kind, dpi=120, metadata=metadata))
