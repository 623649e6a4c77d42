"""A report as lines of text: the summary, the layers that fit a terminal, and why layers were left alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import get_args

from ndpass.cli.table import Column, grouped, lines_of
from ndpass.report import BEYOND, Layer, Report, Status, ruined_text
from ndpass.run.figures import ARROW, change, human, printable, refinement_text, setting_text

COLUMNS = (  # of the table of layers; what is least needed goes first on a narrow terminal
    Column("layer", least=10),
    Column("op", need=7),
    Column("shape", need=4),
    Column("status"),
    Column("setting", need=1),
    Column("MACs", need=6, right=True),
    Column("left", need=3, right=True),
    Column("µs", need=2, right=True),
    Column("error", need=5, right=True),
    Column("reason", need=8),
)
SLOWER, RUINED = "SLOWER", "RUINED"
SHORT = "time both again with ndpass bench, or ask for a little more"
REPAIR = "give --max-error 0.05, which says how much may be lost, and ask for less"
BOUND = "give --max-drop, which says how much it may fall"
UNPROVEN = "time both again with `ndpass bench` when the machine is idle"
SLOWER_LAYER = 1.02  # times as long as before from which a rewritten layer is shown as slower
GUESSED = "the original on random inputs"  # the key of report.json where there are no data
SYNTHETIC = "the original on synthetic inputs"  # what they are
STYLES = {"done": "green", "kept": "dim", "skipped": "dim", "reverted": "yellow", SLOWER: "bold red"}
CLASSES = "the best classes"
LOOKS = {"top1": CLASSES, "top5": CLASSES, "accuracy": CLASSES, "agreement": CLASSES} | {
    "iou": "where the masks end",
    "detection": "the boxes found",
}  # metric -> what of the outputs it sees; their values may be far off
Line = tuple[str, str | None]  # text and its style, as rich names styles


def plain(report: Report) -> str:
    """A summary and the layers in aligned columns, a line each, without colour, for pipes and logs."""
    rows = [_cells(layer) for layer in report.layers]
    return "\n".join([*summary(report), *([""] if rows else []), *(lines_of(COLUMNS, rows) if rows else ())]) + "\n"


def for_terminal(report: Report, width: int) -> Iterator[Line]:
    """The same for a terminal of `width` columns: reasons stand below the table, each once with its layers."""
    for line in summary(report):
        yield from wrapped(line, STYLES[SLOWER] if line.startswith((SLOWER, RUINED)) else None, width)
    if not report.layers:
        return
    yield "", None
    head, *rows = lines_of(COLUMNS[:-1], [_cells(layer)[:-1] for layer in report.layers], width)
    yield head, "bold"
    for row, layer in zip(rows, report.layers, strict=True):
        yield row, STYLES[SLOWER if _is_slower(layer) else layer.status]
    yield from below({layer.name: layer.reason and f"{layer.status}: {layer.reason}" for layer in report.layers}, width)


def below(reasons: Mapping[str, str], width: int) -> Iterator[Line]:
    """What stands below a table: each reason once, with the rows that it is about. reasons: of each row, by name."""
    for number, (reason, names) in enumerate(grouped(reasons).items()):
        if not number:
            yield "", None
        yield from wrapped(f"{reason}: {', '.join(names)}", "dim", width)


def wrapped(text: str, style: str | None, width: int) -> Iterator[Line]:
    """A paragraph in lines that fit, all but the first indented."""
    import textwrap

    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    for line in wrapper.wrap(printable(text)) or [""]:
        yield line, style


def _is_slower(layer: Layer) -> bool:
    """Whether a rewritten layer takes longer inside the model than it did."""
    if layer.status != "done" or layer.latency_us is None:
        return False
    before, after = layer.latency_us
    return after > SLOWER_LAYER * before


def summary(report: Report) -> Iterator[str]:
    """What came out, a 'key: value' line each; only what was measured."""
    model, metric, latency = report.model, report.metric, report.latency_ms
    if latency:
        low, high = latency.spread
        times = f"{latency.before:.3g} ms{ARROW}{latency.after:.3g} ms ({latency.speedup:.2f} times as fast"
        yield f"latency: {times} in {_target(report)}: median of paired rounds, {low:.2f} to {high:.2f})"
        if latency.is_slower:
            yield f"{SLOWER} than the original on this machine: {_remedy(report)}"
        elif not latency.is_faster:
            yield f"no difference that the rounds prove: {UNPROVEN}"
        asked = report.budget.get("speedup")
        if isinstance(asked, int | float) and latency.speedup < asked:
            yield f"less than the {asked:g} times that were asked for; the plan had them when it was chosen: {SHORT}"
    if report.ruined is not None:
        yield f"{RUINED}: {ruined_text(report.ruined)}{_although(report)}: {REPAIR}"
    if metric and report.is_collapsed:
        yield f"{RUINED}: {metric.name} falls from {metric.before:.2f} to {metric.after:.2f}: {BOUND}"
    if metric:
        difference = metric.after - metric.before
        values = f"{metric.before:.2f}{ARROW}{metric.after:.2f}"
        samples = "" if metric.samples is None else f", {metric.samples} samples"
        yield f"{metric.name}: {values} ({difference:+.2f}{samples})"
        if metric.reason:
            yield f"metric: {metric.name}: {metric.reason}"
    elif any(name.startswith(GUESSED) for name in report.verified):
        yield "accuracy: unknown, no data given (--calibration PATH fits and measures)"
    counts = {status: sum(layer.status == status for layer in report.layers) for status in get_args(Status)}
    yield f"layers: {', '.join(f'{count} {status}' for status, count in counts.items() if count) or 'none'}"
    yield f"MACs: {change(model.macs)}"
    yield f"parameters: {change(model.params)}"
    yield f"file: {change(model.bytes, 'B')}"
    for row in report.variants:
        value = "" if row.metric is None else f"{row.metric:.2f}, "
        low, high = row.spread
        name = row.name if row.precision == "int8" else f"{row.name} {row.precision}"
        times = f"{row.speedup:.2f} times as fast as the original, {low:.2f} to {high:.2f}"
        yield f"{name}: {value}{row.latency_ms:.3g} ms" + ("" if row.name == "original" else f" ({times})")
    if report.refinement is not None:
        yield f"refined: {refinement_text(report.refinement)}"
    for name, result in report.verified.items():
        shown = result.top1_agreement is not None and not name.startswith(GUESSED)
        top1 = f", top-1 agreement {result.top1_agreement:.2f} %" if shown else ""
        error = "not finite" if result.relative_error is None else f"{result.relative_error:.2g}"
        other = SYNTHETIC if name.startswith(GUESSED) else name
        yield f"against {other}: relative error {error}{top1}, {result.samples} samples"
        if result.outputs:
            yield f"worst output: {worst_text(result.outputs)}"
    memory = "" if report.peak_memory_bytes is None else f", peak memory {human(report.peak_memory_bytes, 'B')}"
    yield f"took: {report.seconds.total:.1f} s{memory}"
    yield from (f"warning: {text}" for text in report.warnings)


def _although(report: Report) -> str:
    """Why a metric may stand where the values of an output do not; empty where it has fallen, too."""
    metric = report.metric
    beyond = report.ruined is not None and report.ruined.endswith(BEYOND)
    if metric is None or metric.name not in LOOKS or report.is_collapsed or beyond:
        return ""
    return f", although {metric.name} is {metric.after:.2f}, which looks at {LOOKS[metric.name]} alone"


def _target(report: Report) -> str:
    """What the latencies are of."""
    threads = report.target.threads
    on = "" if threads is None else f" on {threads} thread{'s' * (threads != 1)}"
    return f"{report.target.precision}{on}"


def _remedy(report: Report) -> str:
    """What to try where the result is slower."""
    if report.metric is None:
        return "give --calibration PATH, or leave the budget out: then only what is faster is rewritten"
    return "ask for time, as with --speedup 1.2 or --max-drop 1, instead of MACs, energy or pinned settings"


def worst_text(outputs: Mapping[str, float | None]) -> str:
    """The output, or group of its channels, that is furthest off: 'output0[4:84]', 0.42 of its variance."""
    name = max(outputs, key=lambda key: math.inf if outputs[key] is None else outputs[key] or 0.0)
    error = outputs[name]
    if error is None or math.isinf(error):
        return f"'{name}' is not finite"
    output = name.removesuffix(BEYOND)
    if output == name:
        return f"'{name}', {error:.2g} of its variance"
    of_all = f", {outputs[output]:.2g} of its variance" if outputs.get(output) is not None else ""
    return f"'{output}', {error:.2g} of what the original adds to its input there{of_all}"


def _cells(layer: Layer) -> list[str]:
    """In the order of COLUMNS."""
    changed = layer.macs is not None and layer.macs[0] != layer.macs[1]
    return [
        layer.name,
        layer.op,
        layer.shape,
        layer.status,
        setting_text(layer.setting),
        "" if layer.macs is None else ARROW.join(human(n) for n in (layer.macs if changed else layer.macs[:1])),
        "" if layer.macs is None or not changed else f"{100 * layer.macs[1] / max(layer.macs[0], 1):.1f} %",
        "" if layer.latency_us is None else ARROW.join(f"{us:.1f}" for us in dict.fromkeys(layer.latency_us)),
        _errors(layer),
        layer.reason,
    ]


def _errors(layer: Layer) -> str:
    """Measured, with what was predicted in brackets; only one of them where the other is not known."""
    measured, predicted = layer.error_measured, layer.error_predicted
    if measured is None:
        return "" if predicted is None else f"({predicted:.4f})"
    return f"{measured:.4f}" if predicted is None else f"{measured:.4f} ({predicted:.4f})"
