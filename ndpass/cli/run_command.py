"""`ndpass run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndpass.cli import terminal
from ndpass.cli.interrupt import truth_when_interrupted
from ndpass.cli.parameters import (
    BUDGET,
    DATA,
    EFFORT,
    METRIC,
    OUTPUT,
    PASSES,
    REFINE,
    TARGET,
    HtmlReport,
    Json,
    Precision,
    Preprocess,
    Quiet,
    RefineLabels,
    RefineOrthonormal,
    Samples,
    Seed,
    Size,
    Threads,
    Verbose,
    start_log,
    typed,
)
from ndpass.cli.progress import progress
from ndpass.engine.address import parse_engine
from ndpass.errors import UsageError
from ndpass.files.model_path import check_model_path
from ndpass.files.output_paths import check_kind, check_outputs, default_output
from ndpass.files.weight_files import IR
from ndpass.run.arguments import (
    DEFAULT,
    metric_of,
    opener,
    parse_bytes,
    parse_limit,
    parsed,
    passes_and_budget,
    refinement_of,
    target_options,
)
from ndpass.run.next_steps import Given, after_run
from ndpass.run.options import Data, Effort, Options, Output

if TYPE_CHECKING:
    from ndpass.planning.candidate import BudgetKind

# The embedded network takes a tenth of a millisecond: too little to search by time, and layers added make it slower.
DEMO: tuple[BudgetKind, float] = ("macs", 0.5)
DEMO_PASSES = "cp"


def run(
    model: Annotated[
        Path | None,
        typer.Argument(help="ONNX file or OpenVINO IR (.xml). Left out: a small model, pruned to half its MACs."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="OUT.onnx, or OUT.xml for OpenVINO IR.", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            help="Passes in their order inside a layer, as nd or cd,nd. nd:rank=2 pins a setting. auto: each layer "
            "takes what pays. ndpass passes lists them. Default: nd.",
            metavar="SPEC",
            rich_help_panel=PASSES,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave this layer alone: NAME or re:REGEX. Repeatable.", metavar="PATTERN", rich_help_panel=PASSES
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Unlabelled data that layers are fitted to: a folder of images, .npz or .npy.", rich_help_panel=DATA
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Data that the metric is measured on. Default: a fifth of the calibration data, held out.",
            rich_help_panel=DATA,
        ),
    ] = None,
    preprocess: Preprocess = None,
    samples: Samples = None,
    size: Size = None,
    seed: Seed = 0,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Go on although another preprocessing makes the original right far more often.",
            rich_help_panel=DATA,
        ),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest allowed drop of the metric, in points. Finds the fastest model within it. Default with data: "
            "1.0, of pictures 60 dB of 100.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest allowed error of any output, as a share of its variance, 0 to 1. Needs no labels. Finds the "
            "fastest model within it.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            help="Times as fast on this CPU, measured, at the least error. Beside --max-drop or --max-error: at least.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    macs: Annotated[
        float | None, typer.Option(help="Share of the model's MACs that is left, 0 to 1.", rich_help_panel=BUDGET)
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="Share of the energy that every layer keeps, 0 to 1: of its response, or without data of its weights. "
            "Default without data: 0.95.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Apply a saved plan in the place of a budget.", metavar="PLAN.json", rich_help_panel=BUDGET),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What is measured before and after, for --max-drop: top1, top5, agreement, iou, psnr, detection, "
            "explained, or your own MODULE:FUNCTION of a compiled OpenVINO model. Default: by the kind of the outputs.",
            metavar="NAME",
            rich_help_panel=METRIC,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Precision used when timing layers. Default: what OpenVINO picks on this device.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Device used when timing layers, by OpenVINO's name.", rich_help_panel=TARGET)
    ] = "CPU",
    threads: Threads = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Batch used when timing layers. Default: the model's own, else 1.", rich_help_panel=TARGET
        ),
    ] = None,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency/--no-latency", help="Time the original and the result at the end.", rich_help_panel=TARGET
        ),
    ] = True,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantise the result with NNCF on the calibration data. The result is IR (.xml).",
            rich_help_panel=TARGET,
        ),
    ] = False,
    refine: Annotated[
        str | None,
        typer.Option(
            help="Then train all weights to the original's outputs on the calibration data, without labels: for a time "
            "(10min) or for epochs (20). Needs torch.",
            metavar="TIME|EPOCHS",
            rich_help_panel=REFINE,
        ),
    ] = None,
    refine_labels: RefineLabels = False,
    refine_orthonormal: RefineOrthonormal = 0.0,
    memory: Annotated[
        str,
        typer.Option(
            help="Most memory for activations in calibration and training, as 4GB. What is more goes to disk where "
            "there is room; planning puts up to 4 times that on disk besides.",
            rich_help_panel=EFFORT,
        ),
    ] = "1GB",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Layers planned side by side; left out, one for each core, as far as --memory or a quarter of the "
            "machine's goes.",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Spread calibration over a Dask cluster: dask://HOST:PORT, dask://scheduler.json or dask://local:4. "
            "Needs the extra dask.",
            metavar="dask://...",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Parts that the calibration data are cut into: with as many, one machine and many give the "
            "same bytes. Default: 16 with --engine, else the data stay whole.",
            metavar="N",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="About how long the run may take, as 10min: small layers are left alone and fewer plans fitted.",
            metavar="TIME",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a calibrated run was cut off.", rich_help_panel=EFFORT)
    ] = False,
    save_plan: Annotated[
        Path | None,
        typer.Option(help="Write the setting of every layer.", metavar="PLAN.json", rich_help_panel=OUTPUT),
    ] = None,
    model_server: Annotated[
        Path | None,
        typer.Option(
            help="Also write DIR/1/model.xml, or the next version, as OpenVINO Model Server reads it.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    compress_to_fp16: Annotated[
        bool,
        typer.Option(
            "--compress-to-fp16", help="Store the weights of OUT.xml in half precision.", rich_help_panel=OUTPUT
        ),
    ] = False,
    json: Json = None,
    report: HtmlReport = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite a model's convolutions into cheaper ones, verify the result and write it.

    With --calibration every layer is fitted to the data and makes up for the error of the layers before it. Without
    data, layers are fitted to the weights alone, which costs more accuracy. The metric is accuracy where the data have
    labels (class subfolders, or `labels` in the .npz), else how well the result agrees with the original: in the best
    class, in masks (iou), in the objects found (detection), in pictures (psnr), or in what it explains of the outputs.

    --speedup and --max-drop are met by what was measured on this CPU: a layer that is slower rewritten stays as it is.
    Latencies are remembered in the user's cache folder ($NDPASS_CACHE).

    With --int8 layers are chosen by their latency in int8. The metric is that of the quantised result beside the
    original, and both are reported in both precisions.

    --refine gives back part of what was lost, at no MACs: ndpass help refine.
    """
    start_log(verbose, quiet)
    demo = model is None
    if model is None:
        if calibration or validation:
            raise UsageError("data are given but no MODEL: name the model that they belong to")
        from ndpass.run import digits

        model = digits.model_path()
    check_model_path(model)
    fit, measured = (
        _digits_data() if demo else (opener(p, preprocess, samples, seed) for p in (calibration, validation))
    )
    budgets = {"max_drop": max_drop, "max_error": max_error, "speedup": speedup, "macs": macs, "energy": energy}
    default = DEMO if demo else DEFAULT[fit is not None or measured is not None]
    spec = passes if passes is not None else DEMO_PASSES if demo else "nd"
    rules, budget = passes_and_budget(spec, budgets, plan, default, calibrated=fit is not None)
    output = output or default_output(model, int8)
    chosen = precision.value if precision else None
    given = Given(
        None if demo else model,
        output,
        calibration,
        validation,
        preprocess,
        command=typed(),
        size=size,
        samples=samples,
        threads=threads,
        precision=None if int8 else chosen,
    )
    options = Options(
        passes=rules,
        budget=budget,
        plan=plan,
        ignore=ignore or (),
        metric=metric_of(metric),
        refine=refinement_of(refine, refine_labels, refine_orthonormal, calibration=fit is not None),
        data=Data(
            calibration=fit, validation=measured, seed=seed, preprocess=parsed(preprocess), anyway=anyway, size=size
        ),
        target=target_options(device, chosen, threads, batch, int8=int8),
        output=Output(
            compress=compress_to_fp16,
            int8=int8,
            save_plan=save_plan,
            json=json,
            report=report,
            model_server=model_server,
            given=given,
        ),
        effort=Effort(
            memory=parse_bytes(memory),
            jobs=jobs,
            engine=parse_engine(engine),
            shards=shards,
            resume=resume,
            latency=latency,
            time_limit=parse_limit(time_limit, budget),
        ),
    )
    if compress_to_fp16 and output.suffix != IR:
        raise UsageError(f"--compress-to-fp16 is about OpenVINO IR: give an .xml as output, not {output}")
    check_kind(output, from_ir=model.suffix == IR, int8=int8)
    read = (model, calibration, validation, plan)
    with truth_when_interrupted(output, resume):
        check_outputs(read, {"--json": json, "--save-plan": save_plan, "--report": report}, output, model_server)
        _execute(model, options, quiet, given)


def _execute(model: Path, options: Options, quiet: bool, given: Given) -> None:
    """Run, write and print; only here is any runtime loaded."""
    from ndpass.files.model_server import served_model
    from ndpass.measuring.latency_cache import cache_folder
    from ndpass.run import pipeline

    with progress(quiet) as listen:
        report = pipeline.run(model, given.output, options.with_cache(cache_folder()), listen)
    folder = options.output.model_server
    if not quiet:
        written = [given.output, *([served_model(folder)] if folder else [])]
        terminal.report(report, written, after_run(report, given))


def _digits_data() -> tuple[Any, Any]:
    """The digits for calibration, their labels unused, and those for validation."""

    def fit(inputs: Any) -> Any:
        from ndpass.calibration.feeds import open_feeds
        from ndpass.run import digits

        return open_feeds(digits.images()[0][0], inputs)

    def measured(inputs: Any) -> Any:
        from ndpass.calibration.feeds import open_feeds
        from ndpass.run import digits

        images, labels = digits.images()[1]
        return open_feeds(images, inputs, labels=labels)

    return fit, measured
