"""What commands print on stdout: tables on a terminal, aligned text elsewhere. Rich is imported where it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndpass.graph.graph import Graph
    from ndpass.measuring import bench as benching
    from ndpass.report import Report
    from ndpass.run.inspection import Offer, Row
    from ndpass.run.studies import Depth, Rank, Score, Slope, Subject

WIDE = 160  # columns, from which on nd's energies at every T are shown too


def flush() -> None:
    """What is still to be written. A reader that has gone away (`| head -1`) is told nothing, as click has it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends
        sys.exit(1)


def report(done: Report, written: Sequence[Path]) -> None:
    """What became of each layer, a summary, and where the model is."""
    from ndpass.cli.report_text import SLOWER, layer_table, plain, summary

    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(layer_table(done))
        console.print()
        for line in summary(done):
            console.print(line, markup=False, style="bold red" if line.startswith(SLOWER) else None)
    else:
        print(plain(done), end="")
    print(f"written: {', '.join(map(str, written))}")


def inspection(rows: Sequence[Row], graph: Graph) -> None:
    """A row for each layer, what each pass could make of it, and what the layers are together."""
    from ndpass.cli.report_text import human

    names = list(dict.fromkeys(name for row in rows for name in row.passes))
    wide = _width() >= WIDE
    energies = [f"{form} T={t}" for form in ("pw-dw", "dw-pw") for t in (1, 2, 3, 4)] if wide else []
    heads = [
        "layer",
        "op",
        "shape",
        "input",
        "MACs",
        "share",
        *names,
        *energies,
        *(["blueprint"] if wide else []),
        "note",
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
    table(heads, cells, 4)
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in graph.sizes.items())
    assumed = "; open axes assumed, see --size" if graph.dynamic_hw else ""
    print(f"\n{len(rows)} layers, {human(graph.macs())} MACs, {human(graph.params())} parameters at {sizes}{assumed}")
    if names:
        print(f"{', '.join(names)}: MACs left of the layer where 95 % of its weights' energy are kept; data: with data")


def _offer(offer: Offer | None) -> str:
    """62 %, `data` where only data can tell, - where the pass leaves the layer alone."""
    if offer is None or offer.refused:
        return "-"
    return "data" if offer.macs is None else f"{100 * offer.macs:.0f} %"


def _width() -> int:
    """Columns of the terminal; as many as one likes where the output is a pipe or a file."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def bench(result: benching.BenchResult, batch: int) -> None:
    """The machine, then a row for each model, runtime and precision."""
    around = result.environment
    print(
        f"{around.cpu} ({' '.join(around.features)}), threads {around.threads or 'as the runtime picks'}, "
        f"batch {batch}, openvino {around.openvino}, onnxruntime {around.onnxruntime}"
    )
    for note, names in _noted(result.rows).items():
        print(f"{', '.join(names)}: {note}")
    rows = [_bench_cells(row) for row in result.rows]
    table(["model", "runtime", "precision", "ms", "10-90 %", "times as fast", "10-90 %", "verdict"], rows, 3)


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


def slopes(rows: Sequence[Slope]) -> None:
    """A row for each layer."""
    from ndpass.cli.report_text import human

    cells = [
        [row.layer, row.op, "x".join(map(str, row.shape)), human(row.macs), f"{row.slope:.4g}", f"{row.relative:.2f}"]
        for row in rows
    ]
    table(["layer", "op", "shape", "MACs", "slope", "of the mean", ""], [[*row, ""] for row in cells], 3)


class Rows:
    """A table whose rows are printed as they come: widths (characters) are given; 0: as wide as the head."""

    def __init__(self, heads: Sequence[str], widths: Sequence[int], numbers_from: int) -> None:
        self.widths = [max(len(head), width) for head, width in zip(heads, widths, strict=True)]
        self.numbers_from = numbers_from
        self(heads)

    def __call__(self, cells: Sequence[str]) -> None:
        texts = [
            cell.rjust(width) if i >= self.numbers_from else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, self.widths, strict=True))
        ]
        print("  ".join(texts).rstrip(), flush=True)


def ranks(study: Subject) -> Callable[[Rank], None]:
    """Says what the original does, and gives what prints a row."""
    from ndpass.passes.base import setting_text

    _original(study)
    names = max(len(site.name) for site in study.sites)
    rows = Rows(["layer", "pass", "layer's MACs", "error", *_score_heads(study)], [names, 30, 0, 6, 0, 8, 8], 2)

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
    heads = ["end", "layers", "rewritten", "and", "model's MACs", *_score_heads(study)]
    rows = Rows(heads, [5, 0, 0, names, 0, 0, 8, 8], 4)

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


def _score_heads(study: Subject) -> list[str]:
    return [study.yardstick.name, "change", "KL"]


def _score_cells(study: Subject, score: Score) -> list[str]:
    gauge = study.yardstick
    digits = ".2f" if gauge.higher_is_better else ".4f"
    kl = "" if score.kl is None else f"{score.kl:.5f}"
    return [f"{score.metric:{digits}}", f"{score.metric - gauge.original:+{digits}}", kl]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> None:
    """Columns without any content are left out; a table on a terminal, aligned text elsewhere.

    numbers_from: the first column that is aligned to the right; the last one never is.
    """
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    if sys.stdout.isatty():
        _rich_table(heads, rows, used, numbers_from)
        return
    widths = {i: max(len(row[i]) for row in [heads, *rows]) for i in used}
    for row in [heads, *rows]:
        texts = [
            row[i].rjust(widths[i]) if i >= numbers_from and i != used[-1] else row[i].ljust(widths[i]) for i in used
        ]
        print("  ".join(texts).rstrip())


def _rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], used: Sequence[int], numbers_from: int) -> None:
    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, header_style="bold", pad_edge=False)
    for i in used:
        last = i == len(heads) - 1
        made.add_column(heads[i], justify="right" if i >= numbers_from and not last else "left", overflow="fold")
    for row in rows:
        made.add_row(*(row[i] for i in used))
    Console(highlight=False, markup=False).print(made)
