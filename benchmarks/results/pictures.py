"""Figures of benchmarks as PNG and SVG, of which equal data give equal bytes."""

from __future__ import annotations

from typing import Any

from benchmarks import rows
from ndpass.files.staging import write_bytes


def figure(width: float, height: float) -> Any:
    """In inches; without pyplot, which would look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def logarithmic(panel: Any, label: str) -> None:
    """A horizontal axis whose numbers are written out: powers of ten say little over one decade."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    panel.set(xscale="log", xlabel=label)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    panel.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    panel.xaxis.set_minor_locator(LogLocator(subs=()))
    panel.grid(alpha=0.3)


def save(drawn: Any, name: str) -> None:
    """As benchmarks/results/<name>.png and .svg."""
    import matplotlib

    rows.RESULTS.mkdir(exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "ndpass"}):
        write_bytes(rows.RESULTS / f"{name}.png", lambda file: drawn.savefig(file, format="png", dpi=100))
        write_bytes(
            rows.RESULTS / f"{name}.svg", lambda file: drawn.savefig(file, format="svg", metadata={"Date": None})
        )
