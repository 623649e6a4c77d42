"""A report as a table and as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from pydantic import JsonValue

from ndpass.report import Layer, Pair, Report, Status

if TYPE_CHECKING:
    from rich.table import Table

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


NUMBERS = frozenset({"MACs", "left", "µs", "error"})  # columns that are aligned to the right


ARROW = " -> "
SLOWER = "SLOWER"
GUESSED = "the original on random inputs"  # the key of report.json where there are no data
SYNTHETIC = "the original on synthetic inputs"  # what they are


def layer_table(report: Report) -> Table:
    """The layers for a terminal; columns that are empty everywhere are left out."""
    from rich.table import Table
    from rich.text import Text

    names, rows = _layer_cells(report)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a name with brackets is no markup
    return table


def plain(report: Report) -> str:
    """Layers in aligned columns and a summary, a line each, without colour, for pipes and logs."""
    names, rows = _layer_cells(report)
    cells = [names, *rows] if rows else []
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))] if cells else []
    lines = [_line(row, names, widths) for row in cells]
    return "\n".join([*lines, "", *summary(report)] if lines else list(summary(report))) + "\n"


def summary(report: Report) -> Iterator[str]:
    """What came out, a 'key: value' line each; only what was measured."""
    model, metric, latency = report.model, report.metric, report.latency_ms
    counts = {status: sum(layer.status == status for layer in report.layers) for status in get_args(Status)}
    yield f"layers: {', '.join(f'{count} {status}' for status, count in counts.items() if count) or 'none'}"
    yield f"MACs: {change(model.macs)}"
    yield f"parameters: {change(model.params)}"
    yield f"file: {change(model.bytes, 'B')}"
    if metric:
        difference = metric.after - metric.before
        values = f"{metric.before:.2f}{ARROW}{metric.after:.2f}"
        samples = "" if metric.samples is None else f", {metric.samples} samples"
        yield f"{metric.name}: {values} ({difference:+.2f}{samples})"
        if metric.reason:
            yield f"metric: {metric.name}: {metric.reason}"
    elif any(name.startswith(GUESSED) for name in report.verified):
        yield "accuracy: unknown, no data given (--calibration PATH fits and measures)"
    if latency:
        low, high = latency.spread
        times = f"{latency.before:.3g} ms{ARROW}{latency.after:.3g} ms ({latency.speedup:.2f} times as fast"
        yield f"latency: {times}: median of paired rounds, {low:.2f} to {high:.2f})"
        if latency.is_slower:
            yield f"{SLOWER} than the original on this machine: {_remedy(report)}"
    for row in report.variants:
        value = "" if row.metric is None else f"{row.metric:.2f}, "
        low, high = row.spread
        name = row.name if row.precision == "int8" else f"{row.name} {row.precision}"
        times = f"{row.speedup:.2f} times as fast as the original, {low:.2f} to {high:.2f}"
        yield f"{name}: {value}{row.latency_ms:.3g} ms" + ("" if row.name == "original" else f" ({times})")
    for name, result in report.verified.items():
        shown = result.top1_agreement is not None and not name.startswith(GUESSED)
        top1 = f", top-1 agreement {result.top1_agreement:.2f} %" if shown else ""
        error = "not finite" if result.relative_error is None else f"{result.relative_error:.2g}"
        other = SYNTHETIC if name.startswith(GUESSED) else name
        yield f"against {other}: relative error {error}{top1}, {result.samples} samples"
        if result.outputs:
            yield f"worst output: {_worst(result.outputs)}"
    memory = "" if report.peak_memory_bytes is None else f", peak memory {human(report.peak_memory_bytes, 'B')}"
    yield f"took: {report.seconds.total:.1f} s{memory}"
    yield from (f"warning: {text}" for text in report.warnings)


def _remedy(report: Report) -> str:
    """What to try where the result is slower."""
    if report.metric is None:
        return "give --calibration PATH, or leave the budget out: then only what is faster is rewritten"
    return "ask for time, as with --speedup 1.2 or --max-drop 1, instead of MACs, energy or pinned settings"


def _worst(outputs: Mapping[str, float | None]) -> str:
    """The output, or group of its channels, that is furthest off: 'output0[4:84]' 0.42 of its variance."""
    name = max(outputs, key=lambda key: math.inf if outputs[key] is None else outputs[key] or 0.0)
    error = outputs[name]
    return f"'{name}' is not finite" if error is None or math.isinf(error) else f"'{name}', {error:.2g} of its variance"


def human(number: float, unit: str = "") -> str:
    """Three or four digits with a decimal prefix: 15.35 G, 313 M, 1.20 kB, 42."""
    for size, prefix in PREFIXES:
        if abs(number) >= 0.9995 * size:  # what would be rounded to 1000 of the smaller prefix
            value = number / size
            return f"{value:.0f} {prefix}{unit}" if abs(value) >= 99.995 else f"{value:.2f} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()


def change(pair: Pair, unit: str = "") -> str:
    """15.35 G -> 4.10 G (26.7 %)"""
    before, after = pair
    share = f" ({100 * after / before:.1f} %)" if before else ""
    return f"{human(before, unit)}{ARROW}{human(after, unit)}{share}"


def setting_text(setting: dict[str, dict[str, JsonValue]]) -> str:
    """As the command line takes it: cd:rank=64 nd:rank=2:form=dw-pw"""
    return " ".join(":".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in setting.items())


def _layer_cells(report: Report) -> tuple[list[str], list[list[str]]]:
    """Column names and the text of every cell, without the columns that are empty everywhere."""
    cells = [_cells(layer) for layer in report.layers]
    used = [name for name in (cells[0] if cells else ()) if any(row[name] for row in cells)]
    return used, [[row[name] for name in used] for row in cells]


def _cells(layer: Layer) -> dict[str, str]:
    changed = layer.macs is not None and layer.macs[0] != layer.macs[1]
    return {
        "layer": layer.name,
        "op": layer.op,
        "shape": layer.shape,
        "status": layer.status,
        "setting": setting_text(layer.setting),
        "MACs": "" if layer.macs is None else ARROW.join(human(n) for n in (layer.macs if changed else layer.macs[:1])),
        "left": "" if layer.macs is None or not changed else f"{100 * layer.macs[1] / max(layer.macs[0], 1):.1f} %",
        "µs": "" if layer.latency_us is None else ARROW.join(f"{us:.1f}" for us in dict.fromkeys(layer.latency_us)),
        "error": _errors(layer),
        "reason": layer.reason,
    }


def _errors(layer: Layer) -> str:
    """Measured, with what was predicted in brackets; only one of them where the other is not known."""
    measured, predicted = layer.error_measured, layer.error_predicted
    if measured is None:
        return "" if predicted is None else f"({predicted:.4f})"
    return f"{measured:.4f}" if predicted is None else f"{measured:.4f} ({predicted:.4f})"


def _line(row: list[str], names: list[str], widths: list[int]) -> str:
    cells = zip(row, names, widths, strict=True)
    padded = (cell.rjust(width) if name in NUMBERS else cell.ljust(width) for cell, name, width in cells)
    return "  ".join(padded).rstrip()
