"""Pictures as PNG and SVG beside the rows. Equal rows give equal bytes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from benchmarks.results import rows
from ndpass.files.staging import write_bytes


def can_draw() -> bool:
    """Whether matplotlib is there; where it is not, a line says how to get it."""
    if find_spec("matplotlib") is None:
        print('no picture: it is drawn with matplotlib (pip install "ndpass[plots]")')
        return False
    return True


def figure(width: float, height: float) -> Any:
    """A matplotlib figure, in inches; made without pyplot, which would look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def logarithmic(panel: Any, label: str) -> None:
    """A logarithmic horizontal axis with plain numbers: powers of ten say little over one decade."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    panel.set(xscale="log", xlabel=label)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    panel.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    panel.xaxis.set_minor_locator(LogLocator(subs=()))
    panel.grid(alpha=0.3)


def named(name: str, cpu: str) -> str:
    """The picture's file name without its ending: that of the rows, and for all but the first CPU that of the CPU."""
    return name if cpu == rows.FIRST_CPU else f"{name}_{re.sub('[^a-z0-9]+', '_', cpu.lower().replace('-', ''))}"


def save(drawn: Any, name: str, cpu: str = rows.FIRST_CPU) -> None:
    """As benchmarks/results/<named>.png and .svg."""
    import matplotlib

    rows.RESULTS.mkdir(exist_ok=True)
    path = rows.RESULTS / named(name, cpu)
    with matplotlib.rc_context({"svg.hashsalt": "ndpass"}):
        write_bytes(path.parent / f"{path.name}.png", lambda file: drawn.savefig(file, format="png", dpi=100))
        metadata = {"Date": None}  # which would make equal pictures differ
        write_bytes(path.parent / f"{path.name}.svg", lambda file: drawn.savefig(file, format="svg", metadata=metadata))
