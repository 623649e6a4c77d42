"""What commands print on stdout: tables on a terminal, aligned text elsewhere. Rich is imported where it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ndpass.cli.table import Column, fitted, lines_of, row_text, terminal_width
from ndpass.run.next_steps import NextStep

if TYPE_CHECKING:
    from ndpass.graph.graph import Graph
    from ndpass.measuring import bench as benching
    from ndpass.report import Report
    from ndpass.run.inspection import Offer, Row
    from ndpass.run.studies import Depth, Rank, Score, Slope, Subject

WIDE = 160  # columns, from which on nd's energies at every T are shown too
BENCH = (
    Column("model", least=10),
    Column("runtime"),
    Column("precision"),
    Column("ms", right=True),
    Column("10-90 %", need=3, right=True),
    Column("times as fast", right=True),
    Column("10-90 %", need=2, right=True),
    Column("verdict", least=25),
)
BENCH_STYLES = {"faster": "green", "slower": "bold red"}
SLOPES = (
    Column("layer", least=12),
    Column("op", need=1),
    Column("shape", need=2),
    Column("MACs", right=True),
    Column("slope", right=True),
    Column("of the mean", right=True),
)


def flush() -> None:
    """What is still to be written. A reader that has gone away (`| head -1`) is told nothing, as click has it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends
        sys.exit(1)


def report(done: Report, written: Sequence[Path], steps: Sequence[NextStep]) -> None:
    """A summary, what became of each layer, where the model is, and what to do next."""
    from ndpass.cli.report_text import for_terminal, plain

    width = terminal_width()
    if width is None:
        print(plain(done), end="")
    else:
        styled(for_terminal(done, width))
    print(f"written: {', '.join(map(str, written))}")
    show(steps)


def show(steps: Sequence[NextStep]) -> None:
    """What to do next: each command on a line of its own, below what it is good for."""
    from ndpass.run.figures import printable

    if not steps:
        return
    lines = [("", ""), ("next:", "bold")]
    for step in steps:
        lines += [(f"  # {printable(step.why)}", "dim"), (f"  {step.command}", "cyan")]
    if terminal_width() is None:
        print("\n".join(text for text, _ in lines))
    else:
        styled(lines)


def styled(lines: Iterable[tuple[str, str | None]]) -> None:
    """Lines that fit the terminal, each in its style; without colour where NO_COLOR is set."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for text, style in lines:
        console.print(text, markup=False, style=style)


def inspection(rows: Sequence[Row], graph: Graph, steps: Sequence[NextStep], notes: Sequence[str] = ()) -> None:
    """What the layers are together, a row for each, and what each pass could make of it; notes: about the model."""
    from ndpass.cli.report_text import below
    from ndpass.graph.sites import uncounted
    from ndpass.run.figures import human
    from ndpass.run.inspection import blocks_of

    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in graph.sizes.items())
    names = list(dict.fromkeys(name for row in rows for name in row.passes))
    heads = [f"{len(rows)} layers, {human(graph.macs())} MACs, {human(graph.params())} parameters at {sizes}"]
    if said := uncounted(graph.sites()):
        heads.append(said)
    heads += notes
    if names:
        kept = "MACs left of the layer where 95 % of its weights' energy are kept; data: with data"
        heads.append(f"{', '.join(names)}: {kept}")
    width = terminal_width()
    wide = width is None or width >= WIDE
    if wide and any(row.energy for row in rows):
        kept = "share of the weights' energy that nd keeps with so many pairs; blueprint: that BSConv's keep"
        heads.append(f"T=1 to 4: {kept}")
    if not rows:
        paragraphs([*heads, "there is no layer with weights of its own that ndpass knows"])
        return
    paragraphs([*heads, ""])
    columns, cells = _inspected(rows, names, wide=wide)
    if width is None:
        table(columns, cells)
    else:
        table(columns[:-1], [row[:-1] for row in cells])
        styled(below({row.name: row.note for row in rows}, width))
    if blocks := blocks_of(graph):
        merging = "MACs left of a block or a chain where one convolution takes its place, whatever that loses:"
        paragraphs(["", *([merging] if any(": bm: " in line for line in blocks) else []), *blocks])
    show(steps)


def _inspected(rows: Sequence[Row], names: Sequence[str], *, wide: bool) -> tuple[list[Column], list[list[str]]]:
    """The columns, the last of which says why nothing can be done, and the cells. wide: nd's energies, too."""
    from ndpass.run.figures import human

    energies = [f"{form} T={t}" for form in ("pw-dw", "dw-pw") for t in (1, 2, 3, 4)] if wide else []
    columns = [
        Column("layer", least=12),
        Column("op", need=1),
        Column("shape"),
        Column("input", need=2),
        *(Column(name, right=True) for name in ("MACs", "share", *names)),
        *(Column(name, need=3, right=True) for name in (*energies, *(["blueprint"] if wide else []))),
        Column("note"),
    ]
    cells = []
    for row in rows:
        kept = [f"{e:.3f}" for shares in row.energy.values() for e in shares] if row.energy else [""] * 8
        figures = [*kept, "" if row.blueprint is None else f"{row.blueprint:.3f}"] if wide else []
        cells.append(
            [
                row.name,
                row.op,
                "x".join(map(str, row.shape or ())),
                "x".join(map(str, row.in_hw or ())),
                "?" if row.macs is None else human(row.macs),
                "" if row.share is None else f"{100 * row.share:.1f} %",
                *(_offer(row.passes.get(name)) for name in names),
                *figures,
                row.note,
            ]
        )
    return columns, cells


def _offer(offer: Offer | None) -> str:
    """62 %, `data` where only data can tell, - where the pass leaves the layer alone."""
    if offer is None or offer.refused:
        return "-"
    return "data" if offer.macs is None else f"{100 * offer.macs:.0f} %"


def bench(result: benching.BenchResult, batch: int) -> None:
    """The machine, then a row for each model, runtime and precision."""
    around = result.environment
    paragraphs(
        [
            f"{around.cpu} ({' '.join(around.features)}), threads {around.threads or 'as the runtime picks'}, "
            f"batch {batch}, openvino {around.openvino}, onnxruntime {around.onnxruntime}",
            *(f"{', '.join(names)}: {note}" for note, names in _noted(result.rows).items()),
        ]
    )
    table(
        BENCH, [_bench_cells(row) for row in result.rows], [BENCH_STYLES.get(row.verdict or "") for row in result.rows]
    )


def paragraphs(texts: Sequence[str]) -> None:
    """Each on a line of its own, broken on a terminal where it does not fit."""
    from ndpass.cli.report_text import wrapped

    width = terminal_width()
    if width is None:
        print("\n".join(texts))
    else:
        styled(line for text in texts for line in wrapped(text, None, width))


def _noted(rows: Sequence[benching.Row]) -> dict[str, list[str]]:
    """Note -> the models that it is about."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            found.setdefault(row.note, []).append(row.model)
    return found


def _bench_cells(row: benching.Row) -> list[str]:
    head = [str(row.model), row.runtime, row.precision]
    if row.spread_ms is None:
        return [*head, "", "", "", "", row.skipped or ""]
    low, high = row.spread_ms
    ratio = ["", ""]
    if row.verdict and row.speedup_spread:  # not of the first, to which the ratios are
        ratio = [f"{row.speedup:.2f}", "{:.2f}-{:.2f}".format(*row.speedup_spread)]
    return [*head, f"{row.median_ms:.3f}", f"{low:.3f}-{high:.3f}", *ratio, row.verdict or "the first"]


def slopes(rows: Sequence[Slope], steps: Sequence[NextStep]) -> None:
    """A row for each layer, and what to do next."""
    from ndpass.run.figures import human

    cells = [
        [row.layer, row.op, "x".join(map(str, row.shape)), human(row.macs), f"{row.slope:.4g}", f"{row.relative:.2f}"]
        for row in rows
    ]
    table(SLOPES, cells)
    show(steps)


class Rows:
    """A table whose rows are printed as they come: widths (characters) are given; 0: as wide as the head."""

    def __init__(self, columns: Sequence[Column], widths: Sequence[int]) -> None:
        self._columns = columns
        self._widths = fitted(columns, [["x" * width for width in widths]], terminal_width())
        self([column.name for column in columns])

    def __call__(self, cells: Sequence[str]) -> None:
        print(row_text(cells, self._columns, self._widths), flush=True)


def ranks(study: Subject) -> Callable[[Rank], None]:
    """Says what the original does, and gives what prints a row."""
    from ndpass.passes.base import setting_text

    _original(study)
    names = max(len(site.name) for site in study.sites)
    numbers = (Column("MACs", right=True), Column("error", need=2, right=True), *_score_columns(study))
    rows = Rows([Column("layer", least=12), Column("pass"), *numbers], [names, 22, 7, 6, 0, 8, 8])

    def show(row: Rank) -> None:
        rows(
            [
                row.layer,
                f"{row.rule}:{setting_text(row.setting)}",
                f"{100 * row.macs[1] / row.macs[0]:.1f} %",
                f"{row.error:.4f}",
                *_score_cells(study, row.score),
            ]
        )

    return show


def depths(study: Subject) -> Callable[[Depth], None]:
    """The same for the first and last layers."""
    _original(study)
    names = max(len(site.name) for site in study.sites)
    first = (Column("end"), Column("layers"), Column("rewritten", need=1), Column("and", least=12))
    rows = Rows([*first, Column("MACs", right=True), *_score_columns(study)], [5, 0, 0, names, 7, 0, 8, 8])

    def show(row: Depth) -> None:
        rows(
            [
                row.end,
                str(row.count),
                str(row.done),
                row.layer,
                f"{100 * row.macs[1] / row.macs[0]:.1f} %",
                *_score_cells(study, row.score),
            ]
        )

    return show


def _original(study: Subject) -> None:
    gauge = study.yardstick
    value = f"{gauge.original:.2f} %" if gauge.higher_is_better else f"{gauge.original:.3g}"
    print(
        f"{gauge.name} of the original: {value}, {len(gauge.feeds)} samples; fitted to {study.calibration.data.images}"
    )


def _score_columns(study: Subject) -> list[Column]:
    return [Column(study.yardstick.name, right=True), Column("change", right=True), Column("KL", need=3, right=True)]


def _score_cells(study: Subject, score: Score) -> list[str]:
    gauge = study.yardstick
    digits = ".2f" if gauge.higher_is_better else ".4f"
    kl = "" if score.kl is None else f"{score.kl:.5f}"
    return [f"{score.metric:{digits}}", f"{score.metric - gauge.original:+{digits}}", kl]


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str | None] = ()) -> None:
    """Columns without any content are left out; on a terminal the table fits it. styles: of each row."""
    width = terminal_width()
    head, *lines = lines_of(columns, rows, width)
    if width is None:
        print("\n".join([head, *lines]))
    else:
        styled([(head, "bold"), *zip(lines, styles or [None] * len(lines), strict=True)])
