"""Table and picture of `benchmarks.peers`, one for each kind of CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peer_tools.catalogue import PEERS, Peer
from benchmarks.results import pictures, rows
from benchmarks.results.rows import Row
from benchmarks.results.summary import peers_of

NEAR = 6.0  # points below the original that the second panel shows


def latest(name: str, cpu: str) -> list[Row]:
    """The last row of each setting, in the order of PEERS; of peers that choose by latency those made on this CPU."""
    order = [peer.name for peer in PEERS]
    found = [row for row in peers_of(rows.read(f"peers_{name}"), cpu) if row["peer"] in order]
    return sorted(rows.latest(found, ("peer", "setting")), key=lambda row: order.index(row["peer"]))


def timed(name: str, cpu: str) -> tuple[Row | None, list[Row]]:
    """The original and the rows with their times, of the last run on this kind of CPU; None if there was none."""
    runs = rows.known(f"peers_timed_{name}", {"cpu": cpu})
    if not runs:
        return None, []
    times = {tuple(key): figures for key, figures in zip(runs[-1]["models"], runs[-1]["times"], strict=True)}
    found = [row for row in latest(name, cpu) if not row["refused"]]
    return runs[-1]["original"], [
        {**row, **times[key]} for row in found if (key := (row["peer"], row["setting"])) in times
    ]


def print_table(name: str, cpu: str) -> None:
    """Every setting, with its times where they were measured on this kind of CPU."""
    original, found = timed(name, cpu)
    times = {(row["peer"], row["setting"]): row for row in found}
    if original:
        print(f"original: {original['ms']:.3f} ms")
    for row in latest(name, cpu):
        t = times.get((row["peer"], row["setting"]))
        ms = f"  {t['ms']:.3f} ms, {t['speedup']:.2f} ({t['spread'][0]:.2f} to {t['spread'][1]:.2f})" if t else ""
        print(line(row) + ms)


def line(row: Row) -> str:
    head = f"{row['peer']:20} {row['setting']:38} "
    if row["refused"]:
        return head + str(row["refused"])
    before, after = row["macs"]
    left = f"{100 * after / before:5.1f} % of MACs" if after else "int8          "
    return (
        f"{head}{row['accuracy']:6.2f} %, drop {row['drop']:6.2f}, {left}, {row['build_s']:.0f} s"
        f"{', ' + row['criterion'] if 'criterion' in row else ''}"
    )


def plot(name: str) -> None:
    """A picture for each kind of CPU that the models were timed on."""
    runs = rows.read(f"peers_timed_{name}")
    if not runs:
        print(f"{name}: no times yet, so no plot: --stage time")
    for cpu in rows.cpus(runs):
        original, found = timed(name, cpu)
        if original is not None and found:
            pictures.save(picture(name, original, found), f"peers_{name}", cpu)


def picture(name: str, original: Row, found: Sequence[Row]) -> Any:
    """Accuracy against milliseconds, one marker a peer; bars: 10th to 90th percentile of the rounds."""
    drawn = pictures.figure(13, 5.5)
    panels = drawn.subplots(1, 2)
    top = max(row["before"] for row in found)
    for panel in panels:
        for number, peer in enumerate(PEERS):
            _points(panel, peer, f"C{number}", sorted((r for r in found if r["peer"] == peer.name), key=_ms))
        panel.plot([original["ms"]], [top], marker="o", color="black", linestyle="", label="original", zorder=3)
        panel.axhline(top, color="grey", linestyle=":", linewidth=1)
        panel.set(ylabel="accuracy, %")
        pictures.logarithmic(panel, "milliseconds, batch 1")
    panels[0].set_title(name)
    panels[1].set_title(f"down to {NEAR:g} points below the original")
    panels[1].set_ylim(top - NEAR, top + 0.06 * NEAR)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return drawn


def _points(panel: Any, peer: Peer, colour: str, found: Sequence[Row]) -> None:
    if not found:
        return
    bars = [[r["ms"] - r["spread_ms"][0] for r in found], [r["spread_ms"][1] - r["ms"] for r in found]]
    panel.errorbar(
        [r["ms"] for r in found],
        [r["accuracy"] for r in found],
        xerr=bars,
        fmt=peer.marker,
        color=colour,
        elinewidth=0.6,
        markersize=6,
        label=peer.name,
    )


def _ms(row: Row) -> float:
    return float(row["ms"])
