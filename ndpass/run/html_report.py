"""A run's report as a page for a browser: what was asked, what came out, every layer, and what to do next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ndpass.report import BEYOND, Layer, Report, ruined_text
from ndpass.run.figures import change, human, refinement_text, setting_text
from ndpass.run.next_steps import Given, NextStep, after_run
from ndpass.run.page import Bar, Card, Cell, Page, Picture, Point, Scatter, Section, Table, Tone, segments

LEGEND = (
    ("done", "rewritten"),
    ("slower", "rewritten, slower in place"),
    ("kept", "kept as it was"),
    ("reverted", "taken back"),
    ("skipped", "no pass can rewrite it"),
)
SLOWER_LAYER = 1.02  # times as long as before from which a rewritten layer counts as slower
BRIEF = 0.1  # seconds; a stage that took less is not worth a word
LAYER_HEADS = (
    "layer",
    "operator",
    "status",
    "setting or reason",
    "MACs",
    "left",
    "µs",
    "µs after",
    "µs predicted",
    "error",
    "error predicted",
)
NUMBERS = ("MACs", "left", "µs", "µs after", "µs predicted", "error", "error predicted")
OFTEN, LONG = 3, 16  # layers that a reason is given for, and letters of it, from which on it stands below the table


def page_of(report: Report, given: Given | None = None) -> Page:
    """given: what was typed, None where the run was not a command."""
    made = [
        _change(report),
        *_network(report),
        *_plans(report),
        _layers(report),
        *_outputs(report),
        *_furthest(report),
        *_warnings(report),
        _target(report),
        *_steps(report, given),
    ]
    name = "a model" if given is None else "the digits model" if given.model is None else given.model.name
    return Page(f"ndpass: {name}", _asked(report), list(_cards(report)), made)


def _asked(report: Report) -> str:
    budget = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in report.budget.items() if value is not None)
    return f"Passes {', '.join(report.passes)}; budget: {budget or 'the settings as given'}."


def _cards(report: Report) -> Iterator[Card]:
    latency, metric, model = report.latency_ms, report.metric, report.model
    if latency is not None:
        tone: Tone = "bad" if latency.is_slower else "good" if latency.is_faster else ""
        times = f"{latency.before:.3g} ms before, {latency.after:.3g} ms after"
        said = "slower than the original; " if latency.is_slower else "" if latency.is_faster else "not proven; "
        yield Card("times as fast", f"{latency.speedup:.2f}", f"{said}{times}", tone)
    if metric is not None:
        difference = metric.after - metric.before
        note = f"{metric.before:.2f} before, {metric.after:.2f} after"
        yield Card(metric.name, f"{difference:+.2f}", note)
    else:
        yield Card("accuracy", "unknown", "no data were given to measure it on")
    if report.ruined is not None:
        yield Card("ruined", report.ruined.removesuffix(BEYOND), ruined_text(report.ruined), "bad")
    if metric and report.is_collapsed:
        yield Card("ruined", metric.name, f"{metric.before:.2f} before, {metric.after:.2f} after", "bad")
    for label, (before, after), unit in (
        ("MACs left", model.macs, ""),
        ("parameters left", model.params, ""),
        ("file", model.bytes, "B"),
    ):
        share = f"{100 * after / before:.1f} %" if before else "none"
        yield Card(label, share, f"{human(before, unit)} before, {human(after, unit)} after")
    done = sum(layer.status == "done" for layer in report.layers)
    yield Card("layers rewritten", f"{done} of {len(report.layers)}")


def _change(report: Report) -> Section:
    """Before and after, with the spread."""
    model, latency, metric = report.model, report.latency_ms, report.metric
    rows = []
    if latency is not None:
        low, high = latency.spread
        spread = f"{low:.2f} to {high:.2f} times as fast (10th to 90th percentile of paired rounds)"
        after = f"{latency.after:.3g} ms ({latency.speedup:.2f} times as fast)"
        rows.append(["latency", f"{latency.before:.3g} ms", after, spread])
    if metric is not None:
        samples = "" if metric.samples is None else f"{metric.samples} samples"
        after = f"{metric.after:.2f} ({metric.after - metric.before:+.2f})"
        rows.append([metric.name, f"{metric.before:.2f}", after, samples])
    sizes = (("MACs", model.macs, ""), ("parameters", model.params, ""), ("file", model.bytes, "B"))
    for label, pair, unit in sizes:
        before, _, after = change(pair, unit).partition(" -> ")
        rows.append([label, before, after, ""])
    for row in report.variants:
        value = "" if row.metric is None else f", metric {row.metric:.2f}"
        times = f"{row.speedup:.2f} times as fast, {row.spread[0]:.2f} to {row.spread[1]:.2f}"
        rows.append([f"{row.name} in {row.precision}", "", f"{row.latency_ms:.3g} ms{value}", times])
    table = Table.of(("of", "before", "after", "spread"), [[Cell(text) for text in row] for row in rows])
    reason = [f"Metric {metric.name}: {metric.reason}."] if metric and metric.reason else []
    refined = [] if report.refinement is None else [f"Refined: {refinement_text(report.refinement)}."]
    return Section("Before and after", [*reason, *refined], table)


def _network(report: Report) -> Iterator[Section]:
    """Two bars, layer after layer: by what each layer takes where that was timed, else by its MACs."""
    timed = [layer for layer in report.layers if layer.latency_us is not None]
    layers = timed or [layer for layer in report.layers if layer.macs is not None]
    pairs = [layer.latency_us or layer.macs or (0, 0) for layer in layers]
    longest = float(max(sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))) if pairs else 0.0
    if not longest:
        return
    what = "microseconds" if timed else "multiply-accumulates"
    kinds = [_kind(layer) for layer in layers]
    bars = []
    for place, when in enumerate(("before", "after")):
        sizes = [float(pair[place]) for pair in pairs]
        figures = [f"{size:.1f} µs" if timed else f"{human(size)} MACs" for size in sizes]
        titles = [f"{layer.name}: {figure}, {layer.status}" for layer, figure in zip(layers, figures, strict=True)]
        total = f"{sum(sizes):.0f} µs" if timed else f"{human(sum(sizes))} MACs"
        bars.append(Bar(f"{when}: {total}", segments(sizes, longest, kinds, titles)))
    seen = [entry for entry in LEGEND if entry[0] in kinds]
    yield Section("The network", [f"Layer after layer, as wide as its {what}."], bars=bars, legend=seen)


def _kind(layer: Layer) -> str:
    before, after = layer.latency_us or (0.0, 0.0)
    return "slower" if layer.status == "done" and after > SLOWER_LAYER * before else layer.status


def _plans(report: Report) -> Iterator[Section]:
    """The fits on the way, loss against speed."""
    if not report.plans:
        return
    limit = report.budget.get("max_drop", report.budget.get("max_error"))
    of_error = "max_error" in report.budget
    allowed = float(limit) if isinstance(limit, int | float) else None
    unit, digits = ("worst output's error", 3) if of_error else ("points lost", 2)
    losses = [one.loss / 100 if of_error else one.loss for one in report.plans]
    refined = any(one.refined for one in report.plans)
    kinds = [f", {'refined' if one.refined else 'fitted'}" if refined else "" for one in report.plans]
    said = [f"error {loss:.{digits}f}" if of_error else f"{loss:.{digits}f} points lost" for loss in losses]
    points = [
        Point(
            one.speedup,
            loss,
            f"plan {number}{kind}: {one.speedup:.2f} times as fast, {text}",
            "chosen" if one.chosen else "over" if allowed is not None and loss > allowed else "",
        )
        for number, (one, loss, text, kind) in enumerate(zip(report.plans, losses, said, kinds, strict=True), 1)
    ]
    scatter = Scatter("times as fast", unit, points, None if allowed is None else (allowed, "allowed"))
    rows = [
        [
            Cell(str(number), number),
            Cell(f"{one.speedup:.2f}", one.speedup),
            Cell(f"{loss:.{digits}f}", loss),
            *([Cell("refined" if one.refined else "fitted")] if refined else []),
            Cell("chosen" if one.chosen else "too much" if allowed is not None and loss > allowed else ""),
        ]
        for number, (one, loss) in enumerate(zip(report.plans, losses, strict=True), 1)
    ]
    heads = ("plan", "times as fast", unit, *(["weights"] if refined else []), "verdict")
    text = "Each plan was timed before it was fitted, with random weights; its loss was measured after the fit"
    text += ", and again where its weights were refined: that stands in a row of its own." if refined else "."
    yield Section("Plans that were tried", [text], Table.of(heads, rows, heads[:3]), scatter=scatter)


def _layers(report: Report) -> Section:
    notes = _notes(report.layers)
    table = Table.of(LAYER_HEADS, [_row(layer, notes) for layer in report.layers], NUMBERS)
    said = [("µs", "µs: inside the whole model."), ("error", "error: of the layer's response, relative.")]
    said += [("predicted", "Predicted: by the plan, before the fit.")]
    shown = " ".join(text for word, text in said if any(word in head for head in table.heads))
    return Section("Layers", [*filter(None, [shown]), *(f"{mark}: {reason}" for reason, mark in notes.items())], table)


def _notes(layers: Sequence[Layer]) -> dict[str, str]:
    """Reasons that many layers share -> what stands for them in the table."""
    often = [reason for reason, count in Counter(layer.reason for layer in layers).items() if count >= OFTEN]
    return {reason: f"note {number}" for number, reason in enumerate((r for r in often if len(r) > LONG), 1)}


def _row(layer: Layer, notes: Mapping[str, str]) -> list[Cell]:
    macs, micros = layer.macs, layer.latency_us
    changed = macs is not None and macs[0] != macs[1]
    left = macs[1] / max(macs[0], 1) if macs is not None and changed else None
    return [
        Cell(layer.name),
        Cell(f"{layer.op} {layer.shape}".strip()),
        Cell(f"{layer.status}, slower" if _kind(layer) == "slower" else layer.status, kind=_kind(layer)),
        Cell("; ".join(filter(None, (setting_text(layer.setting), notes.get(layer.reason, layer.reason))))),
        Cell("" if macs is None else human(macs[0]), None if macs is None else macs[0]),
        Cell("" if left is None else f"{100 * left:.1f} %", left),
        *(Cell("" if micros is None else f"{micros[i]:.1f}", None if micros is None else micros[i]) for i in (0, 1)),
        Cell(
            "" if layer.latency_predicted_us is None else f"{layer.latency_predicted_us:.1f}",
            layer.latency_predicted_us,
        ),
        _error(layer.error_measured),
        _error(layer.error_predicted),
    ]


def _error(value: float | None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(f"{value:.4f}", value) if math.isfinite(value) else Cell("not finite")


def _outputs(report: Report) -> Iterator[Section]:
    """Each output's error, beside everything that the result was compared with."""
    heads = ("compared with", "output", "error of its variance", "relative error", "samples")
    rows = []
    for other, found in report.verified.items():
        samples = Cell(str(found.samples), found.samples)
        rows.append([Cell(other), Cell("all"), Cell(""), _figure(found.relative_error), samples])
        for name, variance in found.outputs.items():
            relative = _figure(found.relative_errors.get(name))
            rows.append([Cell(other), Cell(name), _figure(variance), relative, samples])
    if rows:
        yield Section("Outputs", table=Table.of(heads, rows, heads[2:]))


def _furthest(report: Report) -> Iterator[Section]:
    """The samples that differ most, as pictures where they are some."""
    found = report.furthest
    if not found:
        return
    text = (
        "The samples on which the result differs most from the original: the squared difference of the outputs over "
        "their mean square. Pictures are shown as the model gets them."
    )
    notes = ["not finite" if one.error is None else f"error {one.error:.2g}" for one in found]
    if all(one.picture for one in found):
        shown = [Picture(one.picture, _short(one.name), note) for one, note in zip(found, notes, strict=True)]
        yield Section("Furthest from the original", [text], pictures=shown)
        return
    rows = [[Cell(one.name), _figure(one.error)] for one in found]
    yield Section("Furthest from the original", [text], Table.of(("sample", "error"), rows, ("error",)))


def _short(name: str) -> str:
    """A file by its folder and name."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])


def _figure(value: float | None) -> Cell:
    return Cell("") if value is None or not math.isfinite(value) else Cell(f"{value:.3g}", value)


def _warnings(report: Report) -> Iterator[Section]:
    if report.warnings:
        yield Section("Warnings", report.warnings)


def _target(report: Report) -> Section:
    target, seconds = report.target, report.seconds
    memory = "" if report.peak_memory_bytes is None else human(report.peak_memory_bytes, "B")
    spent = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.stages.items() if took >= BRIEF)
    pairs = (
        ("CPU", target.cpu),
        ("device", target.device),
        ("precision", target.precision),
        ("threads", "as OpenVINO picks" if target.threads is None else str(target.threads)),
        ("batch", str(target.batch)),
        ("OpenVINO", target.openvino),
        ("ndpass", report.ndpass),
        ("the run took", f"{seconds.total:.1f} s{f' ({spent})' if spent else ''}"),
        ("peak memory", memory),
    )
    rows = [[Cell(name), Cell(value)] for name, value in pairs if value]
    return Section("Target and versions", table=Table(("of", "value"), rows))


def _steps(report: Report, given: Given | None) -> Iterator[Section]:
    if given is None:
        return
    if given.command:
        yield Section("To repeat it", steps=[NextStep(given.command, "The command as it was typed:")])
    steps: Sequence[NextStep] = after_run(report, given)
    if steps:
        yield Section("What to try next", steps=[step._replace(why=f"{step.why}:") for step in steps])
