"""Short forms of rows for tables and pictures: pure functions of rows of one kind of CPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.results.rows import Row, cpu_of, latest

FORMS = ("pw-dw", "dw-pw")
EXACT = 1e-4  # relative error below which there is nothing to gain: that of rounding, where T is a layer's full rank
RUN = ("precision", "pipeline", "budget", "threads", "cold")  # what tells runs of benchmarks.max_drop apart

BY_MS = "by ms"  # how the names of peers end that choose by milliseconds
# of benchmarks.cost: ndpass, the baseline that its limits refer to, and another one that takes minutes
OURS, LEAST, ONCE = "ndpass", "svd of convs", "svd of all"


@dataclass(frozen=True)
class Curve:
    """The rows of one pipeline, most MACs first: fitted as usual, on the largest number of images that has rows."""

    pipeline: str
    rows: list[Row]

    def at(self, drop: float) -> str:
        """Times fewer MACs at a drop in points: on the line between the nearest rows, or the bound that rows give."""
        points = [(row["times_fewer"], row["drop"]) for row in self.rows]
        found = between(points, drop)
        if found is not None:
            return f"{found:.1f}"
        inside = [t for t, d in points if d <= drop]
        return f"{max(inside):.1f} or more" if inside else f"under {points[0][0]:.1f}"


def curves(found: Iterable[Row]) -> list[Curve]:
    """A curve for each pipeline, of the rows that compensate earlier errors and weigh the layers' errors."""
    usual = [row for row in found if row["compensated"] and row["slopes"]]
    most = max((row["samples"] for row in usual), default=0)
    usual = latest([row for row in usual if row["samples"] == most], ("pipeline", "macs", "damage", "seed"))
    names = sorted(dict.fromkeys(row["pipeline"] for row in usual), key=lambda name: str(name).count(","))
    return [
        Curve(name, sorted((r for r in usual if r["pipeline"] == name), key=lambda r: float(r["times_fewer"])))
        for name in names
    ]


def between(points: Sequence[tuple[float, float]], drop: float) -> float | None:
    """Where the line between two neighbouring points last meets `drop`. points: (times fewer, drop), ascending."""
    found = None
    for (t, d), (u, e) in itertools.pairwise(points):
        if d <= drop < e:
            found = t + (u - t) * (drop - d) / (e - d)
    return found


def missed(found: Sequence[Row]) -> list[Row]:
    """Rows of benchmarks.same_latency whose pipeline has the planner's own passes and at least 1 % less damage."""
    own = [row for row in found if set(row["pipeline"].split(",")) <= set(row["passes"].split(","))]
    return [row for row in own if row["damage"] > 1.01 * row["paper_damage"]]


def uncompensated(found: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of a row and the same plan with every layer fitted to the original's own activations."""
    same = ("pipeline", "macs", "damage", "samples", "slopes")
    without = [row for row in found if not row["compensated"] and row["slopes"]]
    return [
        (row, other)
        for other in without
        for row in found
        if row["compensated"] and all(row.get(k) == other.get(k) for k in same)
    ]


def using(row: Row, name: str) -> int:
    """How many layers were rewritten with this pass."""
    return sum(name in layer["setting"] for layer in row["layers"])


def error_medians(found: Sequence[Row]) -> list[Row]:
    """Median error over the layers, without data and with data, for each form and T."""
    found = latest(found, ("layer", "form", "rank"))
    groups = [(form, rank) for form in FORMS for rank in sorted({row["rank"] for row in found})]
    return [
        {"form": form, "rank": rank}
        | {
            key: median(r[key] for r in found if (r["form"], r["rank"]) == (form, rank))
            for key in ("data_free", "calibrated")
        }
        for form, rank in groups
    ]


def gains(found: Sequence[Row], rank: int) -> tuple[float, float]:
    """Error without data over error with data at this T: the least and the most of all layers."""
    found = [
        row for row in latest(found, ("layer", "form", "rank")) if row["rank"] == rank and row["data_free"] > EXACT
    ]
    ratios = [row["data_free"] / row["calibrated"] for row in found]
    return min(ratios), max(ratios)


def worth(found: Sequence[Curve], last: str, paper: Mapping[str, float]) -> list[Row]:
    """What a pass adds behind one other pass: times fewer MACs at the largest damage that both have rows of.

    paper: pipeline -> times fewer MACs; other pipelines are left out.
    """
    by_name = {curve.pipeline: curve for curve in found}
    added: list[Row] = []
    for first in (name for name in by_name if name in paper and f"{name},{last}" in paper):
        pair = [by_name.get(name) for name in (first, f"{first},{last}")]
        shared = [
            (a, b)
            for a in (pair[0].rows if pair[0] else [])
            for b in (pair[1].rows if pair[1] else [])
            if a.get("damage") is not None and a.get("damage") == b.get("damage")
        ]
        if shared:
            a, b = max(shared, key=lambda rows: float(rows[0]["damage"]))
            rewritten = sum(bool(layer["setting"]) for layer in b["layers"])
            added.append(
                {
                    "first": first,
                    "times": b["times_fewer"] / a["times_fewer"],
                    "layers": using(b, last),
                    "of": rewritten,
                    "paper": paper[f"{first},{last}"] / paper[first],
                }
            )
    return added


def best_int8(found: Sequence[Row]) -> Row | None:
    """The run with --int8 and the largest speedup, None without one. Milliseconds of different hours do not compare."""
    quantised = [row for row in found if not row["refused"] and row["variants"]]
    return max(quantised, key=lambda row: float(row["speedup"]), default=None)


def fastest(found: Sequence[Row], drop: float) -> list[Row]:
    """The fastest row of each curve that loses at most `drop` points, the fastest curve first."""
    inside = sorted((row for row in found if row["drop"] <= drop), key=lambda row: float(row["speedup"]))
    return sorted(latest(inside, ("curve",)), key=lambda row: -float(row["speedup"]))


def by_rank(study: Row) -> list[tuple[int, list[Row]]]:
    """T and the rows of the layers rewritten with it, where at least half of the layers were (`--study ranks`)."""
    layers = len({row["layer"] for row in study["rows"]})
    groups: dict[int, list[Row]] = {}
    for row in study["rows"]:
        groups.setdefault(row["setting"]["rank"], []).append(row)
    return [(rank, own) for rank, own in sorted(groups.items()) if 2 * len(own) >= layers]


def lost(study: Row, own: Sequence[Row]) -> list[float]:
    """Points of the metric below the original."""
    return [study["metric"]["original"] - row["score"]["metric"] for row in own]


def worst(own: Sequence[Row]) -> Row:
    """The row whose metric is the lowest."""
    return min(own, key=lambda row: float(row["score"]["metric"]))


def steps(study: Row) -> list[int]:
    """Numbers of layers: a quarter, half, three quarters and all (`--study depth`)."""
    layers = max(row["count"] for row in study["rows"])
    return sorted({max(1, round(layers * part)) for part in (0.25, 0.5, 0.75, 1)})


def blueprints(layers: Sequence[Row]) -> list[float]:
    """The energy that one blueprint explains, for each layer that has one, least first (`ndpass inspect`)."""
    return sorted(layer["blueprint"] for layer in layers if layer.get("blueprint") is not None)


def by(found: Sequence[Row], *keys: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Groups of rows: (values of the keys, rows with these values), in the order in which they came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.items())


def timed(found: Sequence[Row]) -> list[Row]:
    """The rows of rewritten networks (benchmarks.speed)."""
    return [row for row in latest(found, ("network", "condition", "threads", "batch", "pipeline")) if row["pipeline"]]


def short(found: Sequence[Row]) -> list[Row]:
    """Rows whose speedup is below their times fewer MACs."""
    return [row for row in found if row["speedup"] < row["times_fewer"]]


def peer_speedup(runs: Sequence[Row] | None, row: Row) -> float | None:
    """Speedup of a peer's model in the last run of benchmarks.peers; None if that run did not time it."""
    if not runs or [row["peer"], row["setting"]] not in runs[-1]["models"]:
        return None
    return float(runs[-1]["times"][runs[-1]["models"].index([row["peer"], row["setting"]])]["speedup"])


def peers_timed(runs: Sequence[Row] | None, found: Sequence[Row]) -> list[tuple[Row, float]]:
    """The last row of each setting of each peer with its `peer_speedup`, where it was timed."""
    return [(row, ratio) for row in latest(found, ("peer", "setting")) if (ratio := peer_speedup(runs, row))]


def int8_peers(files: Mapping[str, Sequence[Row]], model: str) -> list[tuple[Row, float]]:
    """The quantised models of benchmarks.peers that were timed."""
    found = [row for row in files.get(f"peers_{model}", []) if not row["refused"] and "int8" in row["peer"]]
    return peers_timed(files.get(f"peers_timed_{model}"), found)


def peers_of(found: Sequence[Row], cpu: str) -> list[Row]:
    """Rows of benchmarks.peers that hold on this kind of CPU: all but those that were chosen by another's latency."""
    return [row for row in found if cpu_of(row) == cpu or not row["peer"].endswith(BY_MS)]


def behind(runs: Sequence[Row] | None, found: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """Rows of ndpass and, for each, the peers that lose no more and are at least as fast, if there are any."""
    ratios = peers_timed(runs, found)
    own = [(row, ratio) for row, ratio in ratios if row["peer"].startswith("ndpass")]
    others = [(row, ratio) for row, ratio in ratios if not row["peer"].startswith("ndpass")]
    beaten = [
        (row, list(dict.fromkeys(o["peer"] for o, faster in others if faster >= ratio and o["drop"] <= row["drop"])))
        for row, ratio in own
    ]
    return [(row, peers) for row, peers in beaten if peers]


def costs(found: Sequence[Row]) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds and largest resident set (bytes) over the rounds, by command (benchmarks.cost)."""
    by_name = {name: [r for r in found if r["what"] == name] for name in dict.fromkeys(r["what"] for r in found)}
    return (
        {name: median(r["seconds"] for r in own) for name, own in by_name.items()},
        {name: max(r["peak_bytes"] for r in own) for name, own in by_name.items()},
    )
