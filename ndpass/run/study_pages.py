"""What `ndpass inspect` and `ndpass sensitivity` found, as pages for a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ndpass.graph.graph import Graph
from ndpass.passes.base import setting_text
from ndpass.run.figures import human
from ndpass.run.inspection import RANKS, Offer, Row
from ndpass.run.next_steps import NextStep
from ndpass.run.page import Bar, Card, Cell, Page, Point, Scatter, Section, Table, segments
from ndpass.run.studies import Depth, Rank, Slope, Subject, Yardstick

SHAPE_HEADS = ("layer", "op", "shape", "input", "MACs", "share")


def inspection_page(name: str, rows: Sequence[Row], graph: Graph, command: str, steps: Sequence[NextStep]) -> Page:
    """The layers, what each pass could make of each, and where the MACs are."""
    passes = list(dict.fromkeys(one for row in rows for one in row.passes))
    sizes = ", ".join(f"{one} {'x'.join(map(str, shape))}" for one, shape in graph.sizes.items())
    heads = (*SHAPE_HEADS, *passes, "note")
    cells = [
        [
            Cell(row.name),
            Cell(row.op),
            Cell("x".join(map(str, row.shape or ()))),
            Cell("x".join(map(str, row.in_hw or ()))),
            Cell("" if row.macs is None else human(row.macs), row.macs),
            Cell("" if row.share is None else f"{100 * row.share:.1f} %", row.share),
            *(_offer(row.passes.get(one)) for one in passes),
            Cell(row.note),
        ]
        for row in rows
    ]
    open_layers = [row for row in rows if row.passes and not row.note]
    share = sum(row.share or 0.0 for row in open_layers)
    cards = [
        Card("layers", str(len(rows)), f"{len(open_layers)} can be rewritten"),
        Card("MACs", human(graph.macs()), f"{100 * share:.1f} % in layers that can be rewritten"),
        Card("parameters", human(graph.params())),
    ]
    text = "Percentages: MACs left of the layer where 95 % of its weights' energy are kept. data: only data can tell."
    return Page(
        f"ndpass inspect: {name}",
        f"At {sizes}.",
        cards,
        [
            *_bar(rows),
            Section("Layers", [text], Table.of(heads, cells, heads[4:-1])),
            *_spectra(rows),
            *_ends(command, steps),
        ],
    )


def _bar(rows: Sequence[Row]) -> Iterator[Section]:
    known = [row for row in rows if row.macs]
    if not known:
        return
    kinds = ["done" if row.passes and not row.note else "skipped" for row in known]
    titles = [f"{row.name}: {human(row.macs or 0)} MACs" for row in known]
    total = float(sum(row.macs or 0 for row in known))
    bar = Bar(f"{human(total)} MACs", segments([float(row.macs or 0) for row in known], total, kinds, titles))
    legend = [("done", "can be rewritten"), ("skipped", "cannot")]
    yield Section("The network", ["Layer after layer, as wide as its multiply-accumulates."], bars=[bar], legend=legend)


def _spectra(rows: Sequence[Row]) -> Iterator[Section]:
    """What nd keeps of each layer's weights, by the number of branches (Guo et al. 2018, Figure 3)."""
    known = [(row.name, form, kept) for row in rows for form, kept in (row.energy or {}).items()]
    if not known:
        return
    cells = [
        [Cell(name), Cell(form), *(Cell(f"{100 * e:.1f} %", e, bar=e) for e in kept)] for name, form, kept in known
    ]
    text = "Share of the weights' energy that nd keeps with T branches. With data more is kept of what matters."
    yield Section("Energy spectra of nd", [text], Table.of(("layer", "form", *(f"T={t}" for t in RANKS)), cells))


def _offer(offer: Offer | None) -> Cell:
    if offer is None or offer.refused:
        return Cell("-")
    return Cell("data") if offer.macs is None else Cell(f"{100 * offer.macs:.0f} %", offer.macs)


def slopes_page(name: str, rows: Sequence[Slope], command: str, steps: Sequence[NextStep]) -> Page:
    """Each layer's slope, as a bar beside the steepest."""
    most = max(row.slope for row in rows) or 1.0
    heads = ("layer", "op", "shape", "MACs", "slope", "of the mean", "beside the steepest")
    cells = [
        [
            Cell(row.layer),
            Cell(row.op),
            Cell("x".join(map(str, row.shape))),
            Cell(human(row.macs), row.macs),
            Cell(f"{row.slope:.4g}", row.slope),
            Cell(f"{row.relative:.2f}", row.relative),
            Cell("", row.slope, bar=row.slope / most),
        ]
        for row in rows
    ]
    steepest = max(rows, key=lambda row: row.slope)
    cards = [Card("layers", str(len(rows))), Card("most sensitive", steepest.layer, f"slope {steepest.slope:.4g}")]
    text = "The slope is the root of the divergence of the outputs over the error of the layer's response."
    section = Section("Slopes", [text], Table.of(heads, cells, heads[3:6]))
    lead = "How much an error in each layer moves the outputs."
    return Page(f"ndpass sensitivity: {name}", lead, cards, [section, *_ends(command, steps)])


def study_page(name: str, rows: Sequence[Rank | Depth], subject: Subject, command: str) -> Page:
    """A study's rows, and the metric against the MACs left."""
    gauge = subject.yardstick
    heads = ("of", "setting", "MACs left", gauge.name, "change", "KL")
    cells = [_study_row(row, gauge) for row in rows]
    points = [Point(_left(row), row.score.metric, f"{_what(row)}: {row.score.metric:.4g}") for row in rows]
    scatter = Scatter("% of the MACs left", gauge.name, points, (gauge.original, "original")) if points else None
    lead = f"{gauge.name} of the original: {gauge.original:.4g}, {len(gauge.feeds)} samples."
    made = [Section("What was measured", table=Table.of(heads, cells, heads[2:]), scatter=scatter), *_ends(command, ())]
    return Page(f"ndpass sensitivity: {name}", lead, [Card("rows", str(len(rows)))], made)


def _study_row(row: Rank | Depth, gauge: Yardstick) -> list[Cell]:
    score, left = row.score, _left(row)
    change = score.metric - gauge.original
    setting = f"{row.rule}:{setting_text(row.setting)}" if isinstance(row, Rank) else f"{row.done} rewritten"
    return [
        Cell(row.layer if isinstance(row, Rank) else f"{row.end} {row.count}, {row.layer}"),
        Cell(setting),
        Cell(f"{left:.1f} %", left),
        Cell(f"{score.metric:.4g}", score.metric),
        Cell(f"{change:+.4g}", change),
        Cell("" if score.kl is None else f"{score.kl:.5f}", score.kl),
    ]


def _what(row: Rank | Depth) -> str:
    return f"{row.layer} {row.curve}" if isinstance(row, Rank) else f"{row.end} {row.count}"


def _left(row: Rank | Depth) -> float:
    return 100 * row.macs[1] / max(row.macs[0], 1)


def _ends(command: str, steps: Sequence[NextStep]) -> Iterator[Section]:
    if command:
        yield Section("To repeat it", steps=[NextStep(command, "The command as it was typed:")])
    if steps:
        yield Section("What to try next", steps=[step._replace(why=f"{step.why}:") for step in steps])
