"""The commands; the only file that prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndpass import __version__
from ndpass.errors import NdpassError, UsageError, about

if TYPE_CHECKING:
    from ndpass.calibration.feeds import InputSpec
    from ndpass.graph import Graph
    from ndpass.inspection import Row
    from ndpass.planner import Budget
    from ndpass.report import Report
    from ndpass.rewriting import Listener

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make a trained CNN faster without training: rewrite its convolutions, verify the result, write it.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 budget not reachable, 5 verification failed, "
    "130 interrupted.",
)

PREPROCESS_HELP = "imagenet, caffe, cifar10, digits, or size=..,crop=..,mean=..,std=..,scale=..,color=..,layout=.."

Model = Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)]
Preprocess = Annotated[str | None, typer.Option(help=PREPROCESS_HELP, metavar="SPEC")]
Samples = Annotated[int | None, typer.Option(min=1, help="use this many samples, drawn with the seed; default: all")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: what the runtime picks")]
Batch = Annotated[int, typer.Option(min=1, help="samples per inference while measuring the metric")]
Seed = Annotated[int, typer.Option(min=0, help="of everything that is drawn at random")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the figures as JSON", metavar="FILE")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no table")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="log what is done")]


class Runtime(str, Enum):
    openvino = "openvino"
    onnxruntime = "onnxruntime"


class Precision(str, Enum):
    f32 = "f32"
    bf16 = "bf16"


class Interrupted(BaseException):
    """Ctrl-C or a termination request; no library swallows it."""


def main() -> None:
    """Entry point: runs the command, turns errors into one line and an exit code."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _interrupt)
    try:
        app()
    except NdpassError as e:
        print(f"ndpass: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except Interrupted:
        print("ndpass: interrupted, no model was written; a calibrated run goes on with --resume", file=sys.stderr)
        sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted, but not inside an import: a compiled module would swallow it or turn it into ImportError."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            later = threading.Timer(0.05, signal.raise_signal, (number,))
            later.daemon = True
            later.start()
            return
        frame = frame.f_back
    raise Interrupted


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ndpass {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    del version


@app.command()
def run(
    model: Annotated[Path | None, typer.Argument(help="an ONNX file; left out: a small digits model")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="OUT.onnx or OUT.xml (OpenVINO IR)", metavar="FILE")
    ] = None,
    passes: Annotated[
        str, typer.Option(help="in their order inside a layer, as nd or cd,nd; a setting is pinned as in nd:rank=2")
    ] = "nd",
    calibration: Annotated[
        Path | None, typer.Option(help="unlabelled data to fit to: a folder of images, .npz or .npy; else data-free")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="what the metric is measured on; default: a fifth of the calibration data")
    ] = None,
    preprocess: Preprocess = None,
    macs: Annotated[float | None, typer.Option(help="budget: share of the model's MACs left, 0..1")] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="budget: share of the response's (data-free: weights') energy that every layer keeps; default 0.95"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="leave this layer alone: NAME or re:REGEX; repeatable", metavar="PATTERN")
    ] = None,
    samples: Samples = None,
    batch: Batch = 32,
    threads: Threads = None,
    seed: Seed = 0,
    memory: Annotated[str, typer.Option(help="activations that calibration keeps, at most, as 512MB or 4GB")] = "1GB",
    resume: Annotated[bool, typer.Option("--resume", help="go on where a calibrated run was cut off")] = False,
    json: Json = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite a model's convolutions into cheaper ones, verify the result and write it.

    With --calibration every layer is fitted to the data and makes up for the error of those before it; without, to the
    weights alone. The metric is accuracy where the data have labels (class subfolders, or `labels` in the .npz), else
    agreement with the original; without any data, how far the outputs move on random inputs.
    """
    from ndpass import pipeline
    from ndpass.candidates import is_pinned
    from ndpass.convert import check_writable, write_text
    from ndpass.passes import parse

    _log(verbose, quiet)
    rules = parse(passes)
    budget = _budget(macs, energy, pinned=is_pinned(rules))
    if model is None and (calibration or validation):
        raise UsageError("data are given but no MODEL: name the model that they belong to")
    fit, measured = _embedded_data() if model is None else (
        _data(path, preprocess, samples, seed) for path in (calibration, validation))  # fmt: skip
    if model is None:
        from ndpass import digits

        model = digits.model_path()
    elif preprocess and not (calibration or validation):
        raise UsageError("--preprocess is about data: give --calibration or --validation PATH too")
    output = output or Path(f"{model.stem}.ndpass.onnx")
    if json:
        check_writable(json, model, output)
    options = pipeline.Options(
        rules, budget, ignore or (), fit, measured, batch, threads, seed, parse_bytes(memory), resume
    )
    with _progress(quiet) as listen:
        report = pipeline.run(model, output, options, listen)
    if json:
        write_text(json, report.to_json())
    if not quiet:
        _print_report(report, output)


def parse_bytes(text: str) -> int:
    """512MB, 4GB or a plain number of bytes. Raises UsageError."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    digits = text.strip().rstrip("kKmMgGbB")
    unit = text.strip()[len(digits) :].upper()
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError) as e:
        raise UsageError(f"--memory {text}: write a size as 512MB or 4GB") from e
    if size < 0:
        raise UsageError(f"--memory {text}: a size is not negative")
    return size


def _budget(macs: float | None, energy: float | None, *, pinned: bool) -> Budget:
    from ndpass.planner import Budget

    given = {k: v for k, v in (("macs", macs), ("energy", energy)) if v is not None}
    if len(given) > 1:
        raise UsageError("give one budget: --macs or --energy")
    for key, value in given.items():
        if not 0 < value <= 1:
            raise UsageError(f"--{key} {value:g}: a share lies between 0 and 1, as in --{key} 0.6")
    if macs is not None:
        return Budget("macs", macs)
    if energy is None and pinned:
        return Budget("pinned")
    return Budget("energy", 0.95 if energy is None else energy)


@app.command()
def inspect(
    model: Model,
    size: Annotated[
        str | None, typer.Option(help="height and width where the model leaves them open, as 320x480")
    ] = None,
    json: Json = None,
) -> None:
    """List every convolution: shape, MACs, share, the energy that nd keeps at T=1..4, and why it cannot be rewritten.

    Energy is 1 - |W - W'|^2 / |W|^2 (Guo et al. 2018, Figure 3); blueprint is how much of each filter one k x k
    blueprint explains (BSConv).
    """
    import json as jsonlib

    from ndpass.convert import load, write_text
    from ndpass.graph import Graph
    from ndpass.inspection import inspect as rows_of

    with about(model):
        graph = Graph(load(model))
    if size is not None:
        graph.assume(_sizes(graph.inputs(), size))
    rows = list(rows_of(graph))
    if json:
        write_text(json, jsonlib.dumps([row.to_json() for row in rows], indent=1))
    _print_inspection(rows, graph)


@app.command()
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="a folder of images (class subfolders give labels), .npz or .npy")],
    preprocess: Preprocess = None,
    against: Annotated[
        Path | None, typer.Option(help="compare with this model, whether or not there are labels")
    ] = None,
    samples: Samples = None,
    batch: Batch = 32,
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Measure a model's accuracy on labelled data, or its agreement with another model, in OpenVINO at f32."""
    from ndpass.evaluate import accuracy, stored
    from ndpass.evaluate import evaluate as compare
    from ndpass.runtime import OpenVINO

    runner = OpenVINO(model, threads=threads)
    opener = _data(data, preprocess, samples, seed)
    assert opener is not None
    feeds = opener(runner.inputs)
    print(f"data       {feeds.description}")
    if feeds.labels is not None:
        print(f"accuracy   {accuracy(runner, feeds, batch):.2f} %")
    elif against is None:
        raise UsageError(f"{data} has no labels: give --against MODEL to measure agreement instead")
    if against is not None:
        found = compare(stored(OpenVINO(against, threads=threads), feeds, batch), runner, feeds, batch).agreement
        if found.top1_agreement is not None:
            print(f"agreement  {found.top1_agreement:.2f} % of top-1 answers as {against}")
        print(f"error      {found.relative_error:.3g} of the outputs' norm, largest on '{found.worst_output}'")


@app.command()
def passes() -> None:
    """List the passes, a line each."""
    from ndpass.passes import PASSES

    for rule in PASSES:
        words = "; ".join(f"{key}={'|'.join(('N', *names))}" if key == "rank" else f"{key}={'|'.join(names)}"
                          for key, names in rule.options.items())  # fmt: skip
        print(f"{rule.name:4} {rule.summary} ({words})")


@app.command()
def bench(
    models: Annotated[
        list[Path], typer.Argument(help="two or more models; ratios are to the first", show_default=False)
    ],
    runtime: Annotated[list[Runtime] | None, typer.Option(help="repeatable; default: both")] = None,
    precision: Annotated[list[Precision] | None, typer.Option(help="repeatable; default: f32 and bf16")] = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="of models that leave it open")] = 1,
    size: Annotated[
        str | None, typer.Option(help="height and width where the model leaves them open, as 320x480")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="for each runtime and precision")] = 10.0,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Latency of models side by side, measured in turns: medians, and ratios to the first with their spread."""
    import json as jsonlib

    from ndpass.bench import bench as measure
    from ndpass.convert import write_text

    names: list[Any] = [r.value for r in runtime or Runtime]
    kinds: list[Any] = [p.value for p in precision or Precision]
    shape = None if size is None else _height_width(size)
    result = measure(models, runtimes=names, precisions=kinds, threads=threads, batch=batch, shape=shape,
                     seconds=seconds, seed=seed)  # fmt: skip
    if json:
        write_text(json, jsonlib.dumps(result.to_dict(), indent=1))
    around = result.environment
    print(f"{around.cpu} ({' '.join(around.features)}), threads {around.threads or 'as the runtime picks'}, "
          f"batch {batch}, openvino {around.openvino}, onnxruntime {around.onnxruntime}")  # fmt: skip
    rows = [_bench_cells(row) for row in result.rows]
    _print_table(["model", "runtime", "precision", "ms", "10-90 %", "times as fast", "10-90 %", "verdict"], rows, 3)


def _bench_cells(row: Any) -> list[str]:
    head = [str(row.model), row.runtime, row.precision]
    if row.skipped:
        return [*head, "", "", "", "", row.skipped]
    low, high = row.spread_ms
    ratio = [f"{row.speedup:.2f}", "{:.2f}-{:.2f}".format(*row.speedup_spread)] if row.verdict else ["", ""]
    return [*head, f"{row.median_ms:.3f}", f"{low:.3f}-{high:.3f}", *ratio, row.verdict or "the first"]


@app.command("report-schema")
def report_schema() -> None:
    """Print the JSON schema of what `run --json` writes."""
    from ndpass.report import Report

    print(Report.json_schema(), end="")


def _embedded_data() -> tuple[Any, Any]:
    """The digits for calibration, their labels unused, and those for validation."""
    from ndpass import digits
    from ndpass.calibration.feeds import open_feeds

    (fit, _), (measured, labels) = digits.images()
    return lambda inputs: open_feeds(fit, inputs), lambda inputs: open_feeds(measured, inputs, labels=labels)


def _data(path: Path | None, preprocess: str | None, samples: int | None, seed: int) -> Any:
    """How to open the samples once the inputs are known; None where none are given."""
    from ndpass.calibration.feeds import open_feeds
    from ndpass.calibration.preprocess import Preprocess as Spec

    spec = None if preprocess is None else Spec.parse(preprocess)
    if path is None:
        return None
    if not path.exists():
        from ndpass.errors import InputError

        raise InputError(f"{path}: no such file or folder")
    return lambda inputs: open_feeds(path, inputs, spec, samples=samples, seed=seed)


def _height_width(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(p.isdecimal() and int(p) > 0 for p in parts) or len(parts) > 3:
        raise UsageError(f"--size {text}: write height x width, as 320x480, or one number for both")
    return tuple(int(p) for p in (parts if len(parts) > 1 else parts * 2))


def _sizes(inputs: Sequence[InputSpec], text: str) -> dict[str, tuple[int, ...]]:
    """Input shapes with the open axes filled from --size; other open axes become 1."""
    shape = _height_width(text)
    full = {}
    for spec in inputs:
        spatial = (1,) * (len(spec.shape) - len(shape)) + shape
        full[spec.name] = tuple(d or s for d, s in zip(spec.shape, spatial, strict=True))
    return full


def _log(verbose: bool, quiet: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)


@contextmanager
def _progress(quiet: bool) -> Iterator[Listener]:
    """A bar with the time left on a terminal, a line a stage on any other stderr, nothing when quiet."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        with _bars() as listen:
            yield listen
    else:
        yield _stage_lines()


def _stage_lines() -> Listener:
    seen: set[str] = set()

    def listen(stage: str, *_: int) -> None:
        if stage not in seen:
            seen.add(stage)
            print(f"ndpass: {stage}", file=sys.stderr)

    return listen


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:10}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def listen(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1, total=1)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield listen


def _print_report(report: Report, output: Path) -> None:
    from ndpass.report import layer_table, plain, summary

    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(layer_table(report))
        console.print("\n".join(["", *summary(report)]), markup=False)
    else:
        print(plain(report), end="")
    print(f"written: {output}")


def _print_inspection(rows: Sequence[Row], graph: Graph) -> None:
    from ndpass.report import human

    heads = ["layer", "op", "shape", "input", "MACs", "share",
             *(f"{form} T={t}" for form in ("pw-dw", "dw-pw") for t in (1, 2, 3, 4)), "blueprint", "note"]  # fmt: skip
    cells = []
    for row in rows:
        kept = [f"{e:.3f}" for shares in row.energy.values() for e in shares] if row.energy else [""] * 8
        cells.append([
            row.name, row.op, "x".join(map(str, row.shape or ())), "x".join(map(str, row.in_hw or ())),
            "?" if row.macs is None else human(row.macs), "" if row.share is None else f"{100 * row.share:.1f} %",
            *kept, "" if row.blueprint is None else f"{row.blueprint:.3f}", row.reason or "",
        ])  # fmt: skip
    _print_table(heads, cells, 4)
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in graph.sizes.items())
    assumed = "; open axes assumed, see --size" if graph.dynamic_hw else ""
    print(f"\n{len(rows)} layers, {human(graph.macs())} MACs, {human(graph.params())} parameters at {sizes}{assumed}")


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> None:
    """Columns without any content are left out; a table on a terminal, aligned text elsewhere."""
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for i in used:
            last = i == len(heads) - 1
            table.add_column(heads[i], justify="right" if i >= numbers_from and not last else "left", overflow="fold")
        for row in rows:
            table.add_row(*(row[i] for i in used))
        Console(highlight=False, markup=False).print(table)
        return
    widths = {i: max(len(row[i]) for row in [heads, *rows]) for i in used}
    for row in [heads, *rows]:
        texts = [
            row[i].rjust(widths[i]) if i >= numbers_from and i != used[-1] else row[i].ljust(widths[i]) for i in used
        ]
        print("  ".join(texts).rstrip())


if __name__ == "__main__":
    main()
