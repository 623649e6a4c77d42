"""`ndpass run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndpass.cli import terminal
from ndpass.cli.parameters import (
    Json,
    Precision,
    Preprocess,
    Quiet,
    Samples,
    Seed,
    Threads,
    Verbose,
    open_data,
    start_log,
)
from ndpass.cli.progress import progress
from ndpass.errors import UsageError
from ndpass.run.options import parse_bytes, passes_and_budget, target_of

if TYPE_CHECKING:
    from ndpass.planning.candidate import BudgetKind

DEMO_MACS = 0.5  # of the embedded network, which is too small for milliseconds to mean much


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
    from ndpass.files import model_file
    from ndpass.files.model_server import check_served, serve
    from ndpass.files.staging import check_writable, write_text
    from ndpass.measuring.latency_cache import cache_folder
    from ndpass.run import pipeline
    from ndpass.run.options import Options

    start_log(verbose, quiet)
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
        else (open_data(path, preprocess, samples, seed) for path in (calibration, validation))
    )
    if model is None:
        from ndpass.run import digits

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


def _embedded_data() -> tuple[Any, Any]:
    """The digits for calibration, their labels unused, and those for validation."""
    from ndpass.calibration.feeds import open_feeds
    from ndpass.run import digits

    (fit, _), (measured, labels) = digits.images()
    return lambda inputs: open_feeds(fit, inputs), lambda inputs: open_feeds(measured, inputs, labels=labels)
