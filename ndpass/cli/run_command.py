"""`ndpass run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndpass.cli import terminal
from ndpass.cli.interrupt import truth_when_interrupted
from ndpass.cli.parameters import (
    HtmlReport,
    Json,
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
from ndpass.cli.run_parameters import (
    Anyway,
    Calibration,
    CompressToFp16,
    Device,
    EnergyShare,
    Engine,
    Ignore,
    Int8,
    Jobs,
    Latency,
    MacsShare,
    MaxDrop,
    MaxError,
    Memory,
    MetricName,
    ModelServer,
    OptionalModel,
    OutputModel,
    PassSpec,
    RefineFor,
    Resume,
    SavedPlan,
    SavePlan,
    Shards,
    Speedup,
    TimedBatch,
    TimedPrecision,
    TimeLimit,
    TimeOn,
    Validation,
)
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
from ndpass.run.next_steps import Given, after_run, words_of
from ndpass.run.options import Data, Effort, Options, Output

if TYPE_CHECKING:
    from ndpass.planning.candidate import BudgetKind

# The embedded network takes a tenth of a millisecond: too little to search by time, and layers added make it slower.
DEMO: tuple[BudgetKind, float] = ("macs", 0.5)
DEMO_PASSES = "cp"
DEVICE, MEMORY = "CPU", "1GB"  # where nothing is said


def run(
    model: OptionalModel = None,
    output: OutputModel = None,
    passes: PassSpec = None,
    ignore: Ignore = None,
    calibration: Calibration = None,
    validation: Validation = None,
    preprocess: Preprocess = None,
    samples: Samples = None,
    size: Size = None,
    seed: Seed = 0,
    anyway: Anyway = False,
    max_drop: MaxDrop = None,
    max_error: MaxError = None,
    speedup: Speedup = None,
    macs: MacsShare = None,
    energy: EnergyShare = None,
    plan: SavedPlan = None,
    metric: MetricName = None,
    precision: TimedPrecision = None,
    device: Device = DEVICE,
    threads: Threads = None,
    batch: TimedBatch = None,
    latency: Latency = True,
    int8: Int8 = False,
    refine: RefineFor = None,
    refine_labels: RefineLabels = False,
    refine_orthonormal: RefineOrthonormal = 0.0,
    memory: Memory = MEMORY,
    jobs: Jobs = None,
    engine: Engine = None,
    shards: Shards = None,
    time_on: TimeOn = None,
    time_limit: TimeLimit = None,
    resume: Resume = False,
    save_plan: SavePlan = None,
    model_server: ModelServer = None,
    compress_to_fp16: CompressToFp16 = False,
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
        seed=seed,
        batch=batch,
        kept=words_of(
            {
                "--ignore": ignore,
                "--metric": metric,
                "--anyway": anyway,
                "--device": device if device != DEVICE else None,
                "--refine": refine,
                "--refine-labels": refine_labels,
                "--refine-orthonormal": refine_orthonormal or None,
                "--memory": memory if memory != MEMORY else None,
                "--jobs": jobs,
                "--engine": engine,
                "--shards": shards,
                "--time-on": time_on,
                "--time-limit": time_limit,
            }
        ),
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
            time_on=time_on,
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
