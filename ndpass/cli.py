"""The commands. Only they print: results by `terminal` on stdout, progress by `progress` on stderr.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndpass import __version__, terminal
from ndpass.arguments import height_width, parse_bytes, passes_and_budget, sizes_of, target_of
from ndpass.errors import NdpassError, UsageError
from ndpass.progress import progress

if TYPE_CHECKING:
    from ndpass.planner import BudgetKind
    from ndpass.studies import Slope, Subject

DEMO_MACS = 0.5  # of the embedded network, which is too small for milliseconds to mean much

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make a trained CNN faster without training: rewrite its convolutions, verify the result, write it.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 budget not reachable, 5 verification failed, "
    "130 interrupted.",
)

PREPROCESS_HELP = "imagenet, caffe, cifar10, digits, or size=..,crop=..,mean=..,std=..,scale=..,color=..,layout=.."

Model = Annotated[Path, typer.Argument(help="an ONNX file or OpenVINO IR (.xml)", show_default=False)]
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
    int8 = "int8"


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
        rest = ", no model was written; a calibrated run goes on with --resume" if "run" in sys.argv[1:2] else ""
        print(f"ndpass: interrupted{rest}", file=sys.stderr)
        sys.exit(130)
    finally:
        terminal.flush()


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
    model: Annotated[
        Path | None,
        typer.Argument(help="an ONNX file or OpenVINO IR (.xml); left out: a small digits model, at half its MACs"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="OUT.onnx or OUT.xml (OpenVINO IR)", metavar="FILE")
    ] = None,
    passes: Annotated[
        str,
        typer.Option(
            help="in their order inside a layer, as nd or cd,nd; a setting is pinned as in nd:rank=2; auto: all that "
            "there are, and what pays in each layer"
        ),
    ] = "nd",
    calibration: Annotated[
        Path | None, typer.Option(help="unlabelled data to fit to: a folder of images, .npz or .npy; else data-free")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="what the metric is measured on; default: a fifth of the calibration data")
    ] = None,
    preprocess: Preprocess = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="budget: points that the metric may fall, as fast as it gets; default with data: 1.0"),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="budget: times as fast on this CPU, measured; with --max-drop: at least")
    ] = None,
    macs: Annotated[float | None, typer.Option(help="budget: share of the model's MACs left, 0..1")] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="budget: share of the response's (data-free: weights') energy that every layer keeps; default without "
            "data: 0.95"
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="of your own, that --max-drop is about: a function of a compiled OpenVINO model that returns a number",
            metavar="MODULE:FUNCTION",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="that latencies are measured at; default: OpenVINO's choice here")
    ] = None,
    device: Annotated[str, typer.Option(help="that latencies are measured on, as OpenVINO names it")] = "CPU",
    int8: Annotated[
        bool, typer.Option("--int8", help="quantise the result by NNCF, on the calibration data; written as OUT.xml")
    ] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(help="leave this layer alone: NAME or re:REGEX; repeatable", metavar="PATTERN")
    ] = None,
    samples: Samples = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="that latencies are measured at; default: the model's own, else 1")
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    plan: Annotated[
        Path | None, typer.Option(help="apply a saved plan instead of a budget", metavar="PLAN.json")
    ] = None,
    save_plan: Annotated[Path | None, typer.Option(help="write what was chosen", metavar="PLAN.json")] = None,
    model_server: Annotated[
        Path | None,
        typer.Option(
            help="also write DIR/1/model.xml, as OpenVINO Model Server has it, or its next version", metavar="DIR"
        ),
    ] = None,
    memory: Annotated[str, typer.Option(help="activations that calibration keeps, at most, as 512MB or 4GB")] = "1GB",
    jobs: Annotated[
        int, typer.Option(min=1, help="layers planned side by side, each with its share of the cores and of memory")
    ] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a calibrated run was cut off")] = False,
    compress_to_fp16: Annotated[
        bool, typer.Option("--compress-to-fp16", help="store the weights of OUT.xml in half precision")
    ] = False,
    json: Json = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite a model's convolutions into cheaper ones, verify the result and write it.

    With --calibration every layer is fitted to the data and makes up for the error of those before it; without, to the
    weights alone. The metric is accuracy where the data have labels (class subfolders, or `labels` in the .npz), else
    agreement with the original; without any data, how far the outputs move on random inputs.

    Budgets in milliseconds and in the metric (--speedup, --max-drop) are met by what was measured on this CPU: no layer
    is rewritten that is slower for it. Latencies are remembered in the user's cache folder ($NDPASS_CACHE).

    With --int8 layers are chosen by their latency in int8, the metric is that of the quantised result beside the
    original as it is, and original and result are reported in both precisions.
    """
    from ndpass import model_file, pipeline
    from ndpass.convert import check_served, check_writable, serve, write_text
    from ndpass.job import Options
    from ndpass.latency_cache import cache_folder

    _log(verbose, quiet)
    data = calibration is not None or validation is not None
    given = {"max_drop": max_drop, "speedup": speedup, "macs": macs, "energy": energy}
    default: tuple[BudgetKind, float] = (
        ("macs", DEMO_MACS) if model is None else ("max_drop", 1.0) if data else ("energy", 0.95)
    )
    rules, budget = passes_and_budget(passes, given, plan, default, calibrated=model is None or bool(calibration))
    if model is None and (calibration or validation):
        raise UsageError("data are given but no MODEL: name the model that they belong to")
    fit, measured = (
        _embedded_data()
        if model is None
        else (_data(path, preprocess, samples, seed) for path in (calibration, validation))
    )
    if model is None:
        from ndpass import digits

        model = digits.model_path()
    elif preprocess and not (calibration or validation):
        raise UsageError("--preprocess is about data: give --calibration or --validation PATH too")
    output = output or model_file.default_output(model, int8)
    if compress_to_fp16 and output.suffix != model_file.IR:
        raise UsageError(f"--compress-to-fp16 is about OpenVINO IR: give an .xml as output, not {output}")
    for path in (json, save_plan):
        if path:
            check_writable(path, model, output)
    if model_server:
        check_served(model_server)
    options = Options(
        rules,
        budget,
        ignore or (),
        fit,
        measured,
        threads,
        seed,
        parse_bytes(memory),
        resume,
        target_of(precision.value if precision else None, threads, device, budget, int8=int8),
        batch,
        cache_folder(),
        plan,
        save_plan,
        metric,
        int8,
        compress_to_fp16,
        jobs,
    )
    with progress(quiet) as listen:
        report = pipeline.run(model, output, options, listen)
    if json:
        write_text(json, report.to_json())
    written = [output, serve(output, model_server)] if model_server else [output]
    if not quiet:
        terminal.report(report, written)


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

    from ndpass.convert import write_text
    from ndpass.inspection import inspect as rows_of
    from ndpass.model_file import open_graph

    graph = open_graph(model).graph
    if size is not None:
        graph.assume(sizes_of(graph.inputs(), size))
    rows = list(rows_of(graph))
    if json:
        write_text(json, jsonlib.dumps([row.to_json() for row in rows], indent=1))
    terminal.inspection(rows, graph)


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
    from ndpass.compared import shown
    from ndpass.evaluate import accuracy, stored
    from ndpass.evaluate import evaluate as compare
    from ndpass.model_file import open_graph
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
        names = open_graph(against).compared
        outputs = stored(OpenVINO(shown(against, names), threads=threads), feeds, batch)
        runner = runner if names is None else OpenVINO(shown(model, names), threads=threads)
        found = compare(outputs, runner, feeds, batch).agreement
        if found.top1_agreement is not None:
            print(f"agreement  {found.top1_agreement:.2f} % of top-1 answers as {against}")
        print(f"error      {found.relative_error:.3g} of the outputs' norm, largest on '{found.worst_output}'")


@app.command()
def passes() -> None:
    """List the passes, a line each."""
    from ndpass.passes import find, names

    for rule in map(find, names()):
        words = "; ".join(
            f"{key}={'|'.join(('N', *names))}" if key == "rank" else f"{key}={'|'.join(names)}"
            for key, names in rule.options.items()
        )
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
    """Latency of models side by side, measured in turns: medians, and ratios to the first with their spread.

    int8: a model that is not quantised yet is timed with the kernels that it would run with if it were.
    """
    import json as jsonlib

    from ndpass.bench import bench as measure
    from ndpass.convert import write_text

    names: list[Any] = [r.value for r in runtime or Runtime]
    kinds: list[Any] = [p.value for p in precision or (Precision.f32, Precision.bf16)]
    shape = None if size is None else height_width(size)
    result = measure(
        models, runtimes=names, precisions=kinds, threads=threads, batch=batch, shape=shape, seconds=seconds, seed=seed
    )
    if json:
        write_text(json, jsonlib.dumps(result.to_dict(), indent=1))
    terminal.bench(result, batch)


class Study(str, Enum):
    ranks = "ranks"
    depth = "depth"


@app.command()
def sensitivity(
    model: Model,
    calibration: Annotated[Path, typer.Option(help="unlabelled data: a folder of images, .npz or .npy")],
    study: Annotated[Study | None, typer.Option(help="rewrite parts and measure, see above; default: slopes")] = None,
    passes: Annotated[
        str | None, typer.Option(help="as of `run`; for depth pinned, as nd:rank=2; without a study: only their layers")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="what a study measures on; default: a fifth of the calibration data, held out")
    ] = None,
    preprocess: Preprocess = None,
    samples: Samples = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="also draw it, as .png or .svg", metavar="FILE")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How much an error in each layer moves the outputs.

    Without a study, the slope of each layer: the weakest directions of its response are taken out, a known share of
    its variance (the relative error), and the slope is the root of the divergence of the outputs over that error.
    Divergence is the KL in nats for class scores, else the squared relative error. `run` plans with the slopes.

    --study ranks: one layer at a time rewritten, fitted to the data, the rest as it was (Guo et al. 2018, Figure 4),
    at 6 settings at most of each form of each pass, evenly spread over those that save MACs; a pinned form halves them.

    --study depth: the first k and the last k layers rewritten at one setting, layer after layer, for k from 1 to all
    (Li et al. 2018, DAC).

    The metric is accuracy where the data have labels, else agreement with the original. Studies fit one layer or more
    for each row, which takes long on large models; rows are printed as they come, files are written at the end.
    """
    from ndpass import plots, studies
    from ndpass.candidates import is_pinned
    from ndpass.convert import check_writable
    from ndpass.passes import parse

    _log(verbose, quiet)
    rules = parse(passes) if passes else []
    if study and not rules:
        raise UsageError(f"--study {study.value} rewrites layers: say how, as with --passes nd:rank=2")
    if study is Study.depth and not is_pinned(rules):
        raise UsageError(f"--study depth rewrites at one setting and --passes {passes} leaves it open: give nd:rank=2")
    if study is None and validation:
        raise UsageError("--validation is what a study measures on; slopes need the calibration data alone")
    if json:
        check_writable(json, model, *([plot] if plot else []))
    if plot:
        plots.check(plot, model)
    fit, measured = (_data(path, preprocess, samples, seed) for path in (calibration, validation))
    options = studies.Options(fit, rules, measured, threads, seed)
    with progress(quiet) as listen:
        listen("calibrating", 0, 1)
        if study is None:
            slopes = studies.layer_slopes(model, options, lambda done, of: listen("probing", done, of))
        else:
            subject = studies.Subject.open(model, options)
    if study is None:
        _finish_slopes(slopes, json, plot, quiet)
    else:
        _study(study, subject, json, plot, quiet)


def _finish_slopes(rows: Sequence[Slope], json: Path | None, plot: Path | None, quiet: bool) -> None:
    from ndpass import plots, studies
    from ndpass.convert import write_text

    if not quiet:
        terminal.slopes(rows)
    if json:
        write_text(json, studies.to_json("slopes", rows))
    if plot:
        plots.slopes(rows, plot)


def _study(study: Study, subject: Subject, json: Path | None, plot: Path | None, quiet: bool) -> None:
    from ndpass import plots, studies
    from ndpass.convert import write_text

    makes: Any = {
        Study.ranks: (subject.ranks, terminal.ranks, plots.ranks),
        Study.depth: (subject.depth, terminal.depths, plots.depths),
    }
    compute, printer, draw = makes[study]
    show = (lambda _: None) if quiet else printer(subject)
    rows = []
    for row in compute():
        rows.append(row)
        show(row)
    if json:
        write_text(json, studies.to_json(study.value, rows, subject))
    if plot:
        draw(rows, subject.yardstick, plot)


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


def _log(verbose: bool, quiet: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)


if __name__ == "__main__":
    main()
