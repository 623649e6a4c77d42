"""What README says in figures: the bars of its picture, what a run takes, and a network that gains little.

README has a place for each, between `<!-- drawn: NAME -->` and `<!-- /drawn -->`; `benchmarks.readme` fills them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

from benchmarks.results import pictures, rows, summary
from benchmarks.results.rows import FIRST_CPU, Row

PLACE = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- /drawn -->)", re.DOTALL)
PICTURE = "headline"  # the picture's file name without its ending
BIG, SMALL = "vgg16_cifar10", "resnet20_cifar10"
SHOWN = {"ndpass by ms": "ndpass", "NNCF int8": "NNCF int8", "ndpass int8 by ms": "ndpass + int8"}  # peer -> its bar
MOST_LOST = 1.0  # points
WIDTH = 120  # characters of a line

Files = Mapping[str, Sequence[Row]]


class Bar(NamedTuple):
    """A model in the last run of benchmarks.peers; drop: points lost, speedup: times as fast as the original."""

    name: str
    ms: float
    spread_ms: tuple[float, float]
    speedup: float
    drop: float


def updated(readme: str, found: Files) -> str:
    """README with its places filled. Raises SystemExit where it has none, KeyError for one that nothing fills."""
    if not PLACE.search(readme):
        raise SystemExit("README needs a line <!-- drawn: headline --> with <!-- /drawn --> behind it")
    parts = {"headline": headline, "takes": takes, "little": little}
    return PLACE.sub(lambda place: f"{place[1]}{parts[place[2]](found)}{place[3]}", readme)


def bars(found: Files, model: str) -> list[Bar]:
    """The original, then of each of SHOWN the fastest that loses at most a point; none where nothing was timed."""
    runs = rows.of_cpu(found.get(f"peers_timed_{model}", []), FIRST_CPU)
    if not runs:
        return []
    times = dict(zip(map(tuple, runs[-1]["models"]), runs[-1]["times"], strict=True))
    peers = summary.peers_of(found[f"peers_{model}"], FIRST_CPU)
    made = [
        _bar(SHOWN[row["peer"]], times[key], row["drop"])
        for row in rows.latest(peers, ("peer", "setting"))
        if row["peer"] in SHOWN and not row["refused"] and (key := (row["peer"], row["setting"])) in times
    ]
    allowed = sorted((bar for bar in made if bar.drop <= MOST_LOST), key=lambda bar: -bar.speedup)
    fastest = [next((bar for bar in allowed if bar.name == name), None) for name in SHOWN.values()]
    return [_bar("original", runs[-1]["original"], 0.0), *filter(None, fastest)]


def _bar(name: str, times: Row, drop: float) -> Bar:
    low, high = times["spread_ms"]
    return Bar(name, times["ms"], (low, high), times["speedup"], drop)


def headline(found: Files) -> str:
    """The picture, with its figures as alternative text, and where it was measured."""
    shown = bars(found, BIG)
    if not shown:
        return ""
    run, peers = rows.of_cpu(found[f"peers_timed_{BIG}"], FIRST_CPU)[-1], found[f"peers_{BIG}"]
    machine = run["about"].partition(" (")[0]
    openvino = re.search(r"OpenVINO [\d.]+", run["about"])
    words = "; ".join(f"{bar.name} {said(bar)}" for bar in shown)
    caption = (
        f"VGG16 for CIFAR-10 ({peers[0]['before']:.2f} % on {peers[0]['samples']:,} test images), {machine}, "
        f"{run['threads'] or 'all'} threads, batch {run['batch']}, {openvino[0] if openvino else ''}, timed in turns; "
        "lines: 10th to 90th percentile. Other networks gain less, [some nothing](#when-it-does-not-help)."
    )
    return f"{fill(f'![Milliseconds: {words}](benchmarks/results/{PICTURE}.svg)', WIDTH)}\n\n{fill(caption, WIDTH)}\n"


def said(bar: Bar) -> str:
    """0.46 ms, 6.6×, 0.80 points lost; of the original its milliseconds alone."""
    return f"{bar.ms:.2f} ms" + ("" if bar.name == "original" else f", {bar.speedup:.1f}×, {bar.drop:.2f} points lost")


def little(found: Files) -> str:
    """Where little is gained."""
    return small(found) + amx(found)


def small(found: Files) -> str:
    """The network of the rows that gains least."""
    shown = {bar.name: bar for bar in bars(found, SMALL)}
    if "ndpass" not in shown or "NNCF int8" not in shown:
        return ""
    ours, theirs = shown["ndpass"], shown["NNCF int8"]
    text = (
        f"- **Small, lean networks.** ResNet-20 for CIFAR-10: {ours.speedup:.2f}× at {ours.drop:.2f} points lost, "
        f"where NNCF int8 gives {theirs.speedup:.2f}× at {theirs.drop:.2f}."
    )
    return fill(text, WIDTH, subsequent_indent="  ") + "\n"


def amx(found: Files) -> str:
    """What is left in bf16 and int8 on CPUs with AMX, which speeds up dense convolutions and not depthwise ones."""
    timed = summary.timed(rows.of_cpu(found.get("speed", []), "Intel AMX"))
    ratios = {
        (row["pipeline"], row["condition"].removeprefix("OpenVINO ")): row["speedup"]
        for row in timed
        if row["network"] == "vgg16" and row["batch"] == 1
    }
    texts = []
    for pipeline in ("sd", "nd"):
        kinds = [kind for kind in ("f32", "bf16", "int8") if (pipeline, kind) in ratios]
        if len(kinds) < 2:
            return ""
        texts.append(f"{pipeline} {', '.join(f'{ratios[pipeline, kind]:.2f}× in {kind}' for kind in kinds)}")
    text = f"- **bf16 and int8 on CPUs with AMX.** VGG16 at 224×224, rewritten to the papers' MACs: {'; '.join(texts)}."
    return fill(text, WIDTH, subsequent_indent="  ") + "\n"


def takes(found: Files) -> str:
    """A table: how much data, which pass, and the minutes that it took on two cores."""
    lines = [line for line in (_without_data(found), *_to_macs(found), *_to_points(found)) if line]
    if not lines:
        return ""
    head = "| data | network | passes and budget | minutes |\n|---|---|---|---|\n"
    return head + "".join(f"| {line} |\n" for line in lines)


def _without_data(found: Files) -> str:
    own = found.get("cost", [])
    seconds = summary.costs(own)[0].get(summary.OURS) if own else None
    return f"none | VGG16 at 224×224 | `nd:rank=3` | {seconds / 60:.1f}" if seconds else ""


def _to_macs(found: Files) -> list[str]:
    names = {"resnet18_64": "ResNet-18 at 64×64", "vgg16_64": "VGG16 at 64×64"}
    own = rows.latest(found.get("scaling", []), ("model", "options", "images", "threads"))
    return [
        f"{row['images']} images | {names[row['model']]} | `{row['options'].removeprefix('--passes ')}` | "
        f"{row['whole_s'] / 60:.0f}"
        for row in rows.of_cpu(own, FIRST_CPU)
        if row["model"] in names
    ]


def _to_points(found: Files) -> list[str]:
    own = rows.of_cpu(found.get(f"max_drop_{BIG}", []), FIRST_CPU)
    kept = [row for row in rows.latest(own, summary.RUN) if row["precision"] == "f32" and row["threads"] == 2]
    return [
        f"5,000 images | VGG16 for CIFAR-10 | `{row['pipeline']} {row['budget'].removesuffix('.0')}` | "
        f"{row['whole_s'] / 60:.0f}"
        for row in kept
        if not row["refused"]
    ]


def draw(found: Files) -> None:
    """The picture beside the rows, PNG and SVG, where there are bars to draw."""
    if (shown := bars(found, BIG)) and pictures.can_draw():
        pictures.save(picture(shown), PICTURE)


def picture(shown: Sequence[Bar]) -> Any:
    """A horizontal bar for each model, its figures behind it."""
    figure = pictures.figure(8, 2.6)
    axes = figure.subplots()
    colours = {"original": "C7", "NNCF int8": "C0", "ndpass": "C2", "ndpass + int8": "C1"}
    for place, bar in enumerate(shown):
        low, high = bar.spread_ms
        axes.barh(place, bar.ms, xerr=[[bar.ms - low], [high - bar.ms]], color=colours[bar.name], ecolor="0.3")
        axes.text(high + 0.05, place, said(bar), va="center")
    axes.set_yticks(range(len(shown)), [bar.name for bar in shown])
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 1.18 * max(bar.spread_ms[1] for bar in shown)))
    axes.set(xlabel="milliseconds an image, shorter is faster")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
