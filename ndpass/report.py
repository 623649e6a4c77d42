"""The report of a run: the pydantic model of report.json and its renderings as a table and as plain text.

Keys are a promise to scripts: they are added, not renamed. What was not measured is null, and so is a number that
is not finite, which JSON does not have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    from rich.table import Table

Pair = tuple[int, int]  # before, after
Status = Literal["done", "kept", "skipped", "reverted"]

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NUMBERS = frozenset({"MACs", "left", "µs", "error"})  # columns that are aligned to the right
ARROW = " -> "
STATUS = Path("/proc/self/status")


class Part(BaseModel):
    """What all parts have in common: a misspelt key is an error, not a silent addition."""

    model_config = ConfigDict(extra="forbid")


class Target(Part):
    """The machine that the plan was made for; threads: null where they were left to OpenVINO."""

    cpu: str
    precision: Literal["f32", "bf16", "int8"]
    threads: int | None
    batch: int
    openvino: str


class ModelSize(Part):
    """Of the whole model, before and after; bytes of the files, external data included."""

    macs: Pair
    params: Pair
    bytes: Pair


class MetricChange(Part):
    """The metric of the original and of the rewritten model; accuracy is in per cent, samples null of one's own."""

    name: str
    before: float
    after: float
    samples: int | None
    higher_is_better: bool = True


class Latency(Part):
    """Medians in milliseconds; speedup: median of before/after within rounds; spread: its 10th and 90th percentile."""

    before: float
    after: float
    speedup: float
    spread: tuple[float, float]


class Variant(Part):
    """One of the four that a run with --int8 measures side by side: the original and the rewritten model, each as it
    is, in f32 or bf16, and in int8.

    metric: as in `MetricChange`, without labels the per cent of samples with the original's best class; speedup: times
    as fast as the original as it is, spread its 10th and 90th percentile.
    """

    name: str
    precision: Literal["f32", "bf16", "int8"]
    metric: float | None
    latency_ms: float
    speedup: float
    spread: tuple[float, float]


class Seconds(Part):
    """Wall-clock time of each stage; null where there was none, as calibration without data."""

    calibrate: float | None = None
    plan: float | None = None
    rewrite: float | None = None
    verify: float | None = None
    total: float


class Verified(Part):
    """How close two models, or one model in two runtimes, are; null what the outputs do not have (see `evaluate`)."""

    samples: int
    relative_error: float | None
    top1_agreement: float | None = None
    kl: float | None = None
    worst_output: str | None = None


class Layer(Part):
    """One convolution, Gemm or MatMul with a constant weight, whatever became of it.

    setting: {pass: {option: value}} as applied, empty if left alone. macs: null where the spatial size is not known.
    error_predicted, error_measured: relative error of the layer's response.
    """

    name: str
    status: Status
    reason: str = ""
    setting: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    macs: Pair | None = None
    latency_us: tuple[float, float] | None = None
    error_predicted: float | None = None
    error_measured: float | None = None
    op: str = ""
    shape: str = ""


class Report(Part):
    """report.json. verified: {what the rewritten model was compared with: result}."""

    ndpass: str
    passes: list[str]
    budget: dict[str, JsonValue]
    target: Target
    model: ModelSize
    metric: MetricChange | None = None
    latency_ms: Latency | None = None
    variants: list[Variant] = Field(default_factory=list)
    seconds: Seconds
    peak_memory_bytes: int | None = None
    layers: list[Layer]
    verified: dict[str, Verified] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)

    def to_json(self) -> str:
        """Every key, in the order above, with a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def json_schema(cls) -> str:
        """The JSON schema of what `to_json` writes."""
        return json.dumps(cls.model_json_schema(mode="serialization"), indent=2) + "\n"


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
    if latency:
        low, high = latency.spread
        times = f"{latency.before:.3g} ms{ARROW}{latency.after:.3g} ms"
        yield f"latency: {times} ({latency.speedup:.2f} times as fast, {low:.2f} to {high:.2f})"
    for row in report.variants:
        value = "" if row.metric is None else f"{row.metric:.2f}, "
        low, high = row.spread
        name = row.name if row.precision == "int8" else f"{row.name} {row.precision}"
        times = f"{row.speedup:.2f} times as fast as the original, {low:.2f} to {high:.2f}"
        yield f"{name}: {value}{row.latency_ms:.3g} ms" + ("" if row.name == "original" else f" ({times})")
    for name, result in report.verified.items():
        top1 = "" if result.top1_agreement is None else f", top-1 agreement {result.top1_agreement:.2f} %"
        error = "not finite" if result.relative_error is None else f"{result.relative_error:.2g}"
        yield f"against {name}: relative error {error}{top1}, {result.samples} samples"
    memory = "" if report.peak_memory_bytes is None else f", peak memory {human(report.peak_memory_bytes, 'B')}"
    yield f"took: {report.seconds.total:.1f} s{memory}"
    yield from (f"warning: {text}" for text in report.warnings)


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


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held so far; None on Windows."""
    if sys.platform == "win32":
        return None
    if STATUS.is_file():  # Linux; getrusage there counts what the parent held when it started this process, too
        lines = (line.split() for line in STATUS.read_text().splitlines())
        peak = next((int(words[1]) for words in lines if words[:1] == ["VmHWM:"]), None)
        if peak is not None:
            return 1024 * peak
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used  # bytes on macOS, kB elsewhere


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
        "µs": "" if layer.latency_us is None else ARROW.join(f"{us:.1f}" for us in layer.latency_us),
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
