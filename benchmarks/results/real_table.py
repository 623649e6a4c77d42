"""Short forms of the rows of `benchmarks.real`, of one kind of CPU, for the page and the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.results import pictures
from benchmarks.results.rows import Row, latest

SAID = {2: "wrong usage", 3: "bad input", 4: "not reachable", 5: "failed verification", None: "stopped"}
STAGES = ("calibrate", "plan", "rewrite", "verify")
WIDTH = 0.7  # of the bars of one network, as a share of the way to the next one
BUSY = 1.0  # processes that want a core, per core


def newest(found: Iterable[Row]) -> list[Row]:
    """The last row of each run of each network, network by network."""
    kept = latest(found, ("network", "run"))
    names = list(dict.fromkeys(row["network"] for row in kept))
    return sorted(kept, key=lambda row: names.index(row["network"]))


def written(found: Iterable[Row]) -> list[Row]:
    return [row for row in found if not row["refused"]]


def refused(found: Iterable[Row]) -> list[Row]:
    return [row for row in found if row["refused"]]


def verdict(row: Row) -> str:
    """Of a model that was written: whether its spread lies above 1, below, or on both sides, in the worst runtime."""
    spreads = [timed["spread"] for timed in row["timed"].values()]
    if not spreads:
        return "not timed"
    if any(high < 1 for _, high in spreads):
        return "slower"
    return "faster" if all(low > 1 for low, _ in spreads) else "no clear difference"


def short(found: Sequence[Row]) -> str:
    """What came out of all runs, in a sentence for each kind; what does not pay as plainly as what does."""
    kinds: dict[str, list[str]] = {}
    for row in found:
        name = f"{row['network']} ({row['run']})"
        kinds.setdefault(_kind(row), []).append(name)
    text = "; ".join(f"{kind}: {len(names)} of {len(found)} runs ({', '.join(names)})" for kind, names in kinds.items())
    return text[:1].upper() + text[1:]


def _kind(row: Row) -> str:
    if not row["refused"]:
        return f"a model, {verdict(row)}"
    return f"no model, {SAID.get(row['code'], 'crashed')}"


def stages(row: Row) -> str:
    """Seconds of each stage, as 'plan 3, rewrite 1'."""
    return ", ".join(f"{name} {row['seconds'][name]:.0f}" for name in STAGES if row["seconds"].get(name) is not None)


def busy(found: Sequence[Row]) -> tuple[int, float]:
    """Number of rows that were measured beside other work, and the largest load."""
    loads = [row["load"] for row in found]
    return sum(load > BUSY for load in loads), max(loads, default=0.0)


def metric(row: Row) -> str:
    """On unseen pictures, before → after; of one that compares with the original the first is 100."""
    found = row["unseen"]["metric"]
    return f"{found['name']} {found['after']:.1f}" if found else "none"


def error(row: Row) -> str:
    """Of the worst output on unseen pictures."""
    found = row["unseen"]["error"]
    return row["unseen"]["why"] or ("not finite" if found is None else f"{found:.2g}")


def said(row: Row) -> str:
    """The message of a refusal, fit for a table."""
    return str(row["refused"]).removeprefix("ndpass: ").replace("|", "\\|")


def drawn(found: Sequence[Row]) -> Any:
    """Speedup in each runtime with its spread, network by network; colours are runs, crosses are refusals."""
    found = newest(found)
    networks, runs = (list(dict.fromkeys(row[key] for row in found)) for key in ("network", "run"))
    figure = pictures.figure(10, 0.6 * len(networks) + 2)
    axes = figure.subplots()
    for i, run in enumerate(runs):
        aside = WIDTH * ((i + 0.5) / len(runs) - 0.5)
        own = {networks.index(row["network"]) + aside: row for row in found if row["run"] == run}
        for runtime, marker in (("openvino", "o"), ("onnxruntime", "^")):
            there = {place: row["timed"][runtime] for place, row in own.items() if runtime in row.get("timed", {})}
            if there:
                ratios = [timed["speedup"] for timed in there.values()]
                bars = [[abs(timed["spread"][k] - timed["speedup"]) for timed in there.values()] for k in (0, 1)]
                look = {"fmt": marker, "color": f"C{i}", "elinewidth": 0.7, "label": f"{run}, {runtime}"}
                axes.errorbar(ratios, list(there), xerr=bars, **look)
        places = [place for place, row in own.items() if row["refused"]]
        if places:
            axes.plot([1.0] * len(places), places, "x", color=f"C{i}", label=f"{run}, no model")
    axes.axvline(1.0, color="grey", linestyle=":")
    axes.set_yticks(range(len(networks)), networks)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the original")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
