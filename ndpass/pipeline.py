"""The main job: read, find sites, choose, rewrite, write, verify; `run` reads as its table of contents."""

from __future__ import annotations

import gc
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ndpass import __version__, model_file, verify
from ndpass.calibration.feeds import Feeds, InputSpec, open_feeds
from ndpass.checkpoint import Checkpoint, digest_data, digest_file
from ndpass.compared import shown
from ndpass.convert import Staged, data_file, staged, stored_bytes
from ndpass.environment import environment
from ndpass.errors import BudgetError, InputError, NdpassError, UsageError, VerificationError
from ndpass.evaluate import Agreement, Evaluation, evaluate, stored
from ndpass.graph import Found, Graph, Site
from ndpass.ir import write_ir
from ndpass.judge import BATCH, Judge, Model, OwnMetric, drop_of
from ndpass.outcome import Variants, compare_variants, timed
from ndpass.passes import Pass
from ndpass.plan_file import PlanFile, plan_of
from ndpass.planner import Budget, Choice
from ndpass.pricing import feed_of
from ndpass.quantise import check_nncf, quantise
from ndpass.relu_fitting import check_data
from ndpass.report import Latency, Layer, MetricChange, ModelSize, Report, Seconds, Variant, Verified, peak_memory_bytes
from ndpass.report import Target as Machine
from ndpass.rewriting import Calibration, Listener, Rewriter, refused
from ndpass.runtime import OnnxRuntime, OpenVINO, Outputs, static_batch
from ndpass.shapes import Shape
from ndpass.target import Target
from ndpass.tuning import Tuner, check_resolution

log = logging.getLogger(__name__)

OpenData = Callable[[Sequence[InputSpec]], Feeds]

AGREEMENT_SAMPLES = 16  # on how many samples the two runtimes are compared
NOISE_SAMPLES = 4  # how many random inputs stand in for data that nobody gave
ROUNDING = 1e-9  # of a drop in points
HELD_OUT = 0.2  # of the calibration data, for the metric, where no validation data are given


@dataclass(frozen=True)
class Options:
    """What to do. `calibration` and `validation` open data once the model's inputs are known.

    memory: bytes of activations that are kept; target: what latencies are measured for; cache: folder of those measured
    before; batch: of the target, the model's own or 1 if left out; plan: a file whose choices are applied in the place
    of a budget; save_plan: where they are written to; metric: of one's own (`ndpass.judge`); int8: quantise the result;
    compress: store the weights of IR in float16; jobs: layers that are planned side by side.
    """

    passes: Sequence[Pass]
    budget: Budget
    ignore: Sequence[str] = ()
    calibration: OpenData | None = None
    validation: OpenData | None = None
    threads: int | None = None
    seed: int = 0
    memory: int = 1 << 30
    resume: bool = False
    target: Target | None = None
    batch: int | None = None
    cache: Path | None = None
    plan: Path | None = None
    save_plan: Path | None = None
    metric: OwnMetric | None = None
    int8: bool = False
    compress: bool = False
    jobs: int = 1


def run(model: Path, output: Path, options: Options, listen: Listener = lambda *_: None) -> Report:
    """Rewrite the file `model` (.onnx or .xml) into `output` (.xml, or .onnx from one) and verify what was written.

    Raises UsageError, InputError, BudgetError or VerificationError; then nothing is at `output` that was not before.
    """
    model_file.check_output(model, output, options.int8)
    clock = _Clock()
    checkpoint = Checkpoint.beside(output) if options.calibration else None
    if options.resume and checkpoint is None:
        raise UsageError("--resume goes on with a calibrated run; this one has no --calibration, run it anew")
    check_data(options.passes, options.calibration is not None)
    with staged(output, options.compress) as stage, _kept_if_cut_off(checkpoint):
        job = _read(model, output, options, listen)
        options = replace(options, target=_target(job, options))
        _check_budget(job, options)
        layers = _rewrite(model, job, options, checkpoint, clock, listen)
        with clock("rewrite"):
            listen("writing", 0, 1)
            rewritten = job.graph.to_model()
            job.release()
            written = model_file.write(rewritten, stage, as_external=bool(job.beside))
            del rewritten
        with clock("verify"):
            checked = _verify(written, job, options, listen)
            variants: list[Variant] = []
            latency: Latency | None
            if options.int8:
                compared = _quantised(model, written, stage, job, options, checked, listen)
                variants, latency = compared.rows, compared.latency
                _check_slower(compared.slower, job, options.budget)
                checked = replace(checked, evaluation=compared.evaluation)
            else:
                latency = _latency(model, written, job, options, listen)
            stage.finish()
            if options.compress and stage.path != written and not options.int8:  # rounded since it was verified
                checked = replace(checked, evaluation=job.judge(stage.path))
            _check_written(checked.evaluation, options.budget)
        sizes = sum(p.stat().st_size for p in (model, *job.beside)), stored_bytes(stage.path)
        stage.commit()
    if options.save_plan and options.target:
        plan_of(layers, options.passes, digest_file(model, *job.beside), options.budget.to_json(),
                options.target).save(options.save_plan)  # fmt: skip
    return _report(job, layers, checked, latency, variants, sizes, clock.seconds, options)


@contextmanager
def _kept_if_cut_off(checkpoint: Checkpoint | None) -> Iterator[None]:
    """The checkpoint goes when the run ends, well or with an error that would come again; not when it is cut off."""
    try:
        yield
    except UsageError:
        raise
    except NdpassError:
        if checkpoint:
            checkpoint.remove()
        raise
    if checkpoint:
        checkpoint.remove()


def _fingerprint(model: Path, beside: Sequence[Path], options: Options, calibration: Calibration) -> dict[str, str]:
    """What a run that goes on must have in common with the one that was cut off."""
    import openvino

    data = calibration.data
    return {
        "ndpass": __version__,
        "openvino": openvino.__version__,
        "model": digest_file(model, *beside),
        "data": digest_data(data),
        "passes": ",".join(f"{p.name}{sorted(p.pinned.items())}" for p in options.passes),
        "budget": str(options.budget.to_json()),
        "plan": digest_file(options.plan) if options.plan else "",
        "target": str(options.target) if options.budget.in_milliseconds else "",
        "ignore": str(sorted(options.ignore)),
        "options": f"seed {options.seed}, threads {options.threads}, memory {options.memory}",
        "metric": str(options.metric or ""),
        "int8": str(options.int8),
    }


@dataclass
class _Job:
    """What is known of the model. `graph` and `found` hold weights until `release`."""

    graph: Graph
    found: Sequence[Found]
    fit: Feeds | None
    measured: Feeds
    guessed: bool  # whether `measured` is noise, for want of data
    judge: Judge
    beside: Sequence[Path]  # files that hold the model's external data
    interface: verify.Interface
    compared: Sequence[str] | None  # tensors that original and result are compared by; None: their outputs
    macs: tuple[int, int]
    params: tuple[int, int]
    inputs: Sequence[InputSpec]
    sizes: Mapping[str, Shape]
    warnings: list[str] = field(default_factory=list)

    def release(self) -> None:
        """Let go of all weights: the runtimes need the room."""
        self.graph.release()
        self.found = ()
        gc.collect()  # graph-surgeon's nodes and tensors refer to each other


def _read(model: Path, output: Path, options: Options, listen: Listener) -> _Job:
    listen("reading", 0, 1)
    opened = model_file.open_graph(model)
    graph = opened.graph
    if data_file(output).resolve() in {p.resolve() for p in opened.beside}:
        raise UsageError(f"{output}: its weights would overwrite those of the input: give another name for the output")
    fit, measured = _data(graph, options)
    if graph.dynamic_hw and measured is not None:
        graph.assume({name: value.shape for name, value in next(measured.batches(1)).items()})
    found = _ignored(graph.sites(), options.ignore)
    macs, params = graph.macs(), graph.params()
    feeds = measured or noise(graph, options.seed)
    judge = Judge(model, feeds, options.threads, options.metric, opened.compared)
    return _Job(graph, found, fit, feeds, measured is None, judge, opened.beside, opened.interface, opened.compared,
                (macs, macs), (params, params), graph.inputs(), graph.sizes)  # fmt: skip


def _data(graph: Graph, options: Options) -> tuple[Feeds | None, Feeds | None]:
    """What is fitted to and what the metric is measured on; the latter is held out from the former if need be."""
    specs = graph.inputs()
    fit = options.calibration(specs) if options.calibration else None
    measured = options.validation(specs) if options.validation else None
    if fit is not None and measured is None:
        fit, measured = fit.split(HELD_OUT, options.seed)
        log.info("metric on %d samples held out from the calibration data", len(measured))
    return fit, measured


def noise(graph: Graph, seed: int) -> Feeds:
    """Seeded standard normal inputs, for models that come without data."""
    rng = np.random.default_rng(seed)
    specs = graph.inputs()
    arrays = {s.name: rng.standard_normal((NOISE_SAMPLES, *graph.sizes[s.name][1:])).astype(s.dtype) for s in specs}
    return open_feeds([{name: a[i] for name, a in arrays.items()} for i in range(NOISE_SAMPLES)], specs)


def _ignored(found: Sequence[Found], patterns: Sequence[str]) -> list[Found]:
    """Sites that --ignore names become skipped ones. Raises UsageError for a pattern that matches nothing."""
    names = [f.name for f in found]
    hit: set[str] = set()
    for pattern in patterns:
        matched = [n for n in names if _matches(pattern, n)]
        if not matched:
            known = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise UsageError(f"--ignore {pattern} matches no layer: the layers are {known} (ndpass inspect lists all)")
        log.info("--ignore %s: %s", pattern, ", ".join(matched))
        hit.update(matched)
    return [f.skipped("ignored, as asked") if isinstance(f, Site) and f.name in hit else f for f in found]


def _matches(pattern: str, name: str) -> bool:
    if not pattern.startswith("re:"):
        return pattern == name
    try:
        return re.fullmatch(pattern[3:], name) is not None
    except re.error as e:
        raise UsageError(f"--ignore {pattern} is not a regular expression: {e}") from e


def _rewrite(
    model: Path, job: _Job, options: Options, checkpoint: Checkpoint | None, clock: _Clock, listen: Listener
) -> list[Layer]:
    """Choose and rewrite; afterwards the job's graph is the new one. Raises InputError where nothing was rewritten."""
    sites = [
        f
        for f in job.found
        if isinstance(f, Site) and refused(job.graph, f, options.passes, job.fit is not None) is None
    ]
    if not any(f.op.startswith("Conv") for f in job.found):
        raise InputError(f"{model}: no convolution in it: ndpass rewrites convolutional networks")
    calibration = None
    if job.fit is not None and sites:
        with clock("calibrate"):
            listen("calibrating", 0, 1)
            calibration = Calibration.of(job.graph, sites, job.fit, options.threads, options.seed, options.memory)
            if checkpoint:
                begin = checkpoint.resume if options.resume else checkpoint.start
                begin(_fingerprint(model, job.beside, options, calibration))
    if calibration is None:
        checkpoint = None
    if options.budget.in_milliseconds and options.plan is None and sites:
        with clock("plan"):
            layers = _tuned(model, job, sites, options, calibration, checkpoint, listen)
    else:
        layers = _planned(model, job, sites, options, calibration, checkpoint, clock, listen)
    if not any(layer.status == "done" for layer in layers):
        text = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:3])
        names = "+".join(p.name for p in options.passes)
        raise InputError(f"{model}: nothing to rewrite with {names} ({text}; ndpass inspect lists all)")
    job.macs, job.params = (job.macs[0], job.graph.macs()), (job.params[0], job.graph.params())
    return layers


def _planned(
    model: Path,
    job: _Job,
    sites: Sequence[Site],
    options: Options,
    calibration: Calibration | None,
    checkpoint: Checkpoint | None,
    clock: _Clock,
    listen: Listener,
) -> list[Layer]:
    """One plan, from a file or chosen by the budget, fitted once."""
    rewriter = Rewriter(job.graph, options.passes, options.budget, calibration, checkpoint, options.jobs)
    with clock("plan"):
        plan: Mapping[str, Choice] | None
        if options.plan:
            plan = PlanFile.load(options.plan, digest_file(model, *job.beside)).choices(job.graph, sites)
        else:
            plan = rewriter.plan(sites, listen)
    with clock("rewrite"):
        layers = rewriter.rewrite(job.found, sites, plan, listen)
        job.graph.tidy()
    return layers


def _tuned(
    model: Path,
    job: _Job,
    sites: Sequence[Site],
    options: Options,
    calibration: Calibration | None,
    checkpoint: Checkpoint | None,
    listen: Listener,
) -> list[Layer]:
    """Plans that are timed, and fitted until the metric has room no more."""
    sizes = job.graph.sizes
    if options.budget.kind == "max_drop" and not job.judge.can_drop:
        raise UsageError(
            "--max-drop is about class scores, which this model does not give: name a --metric, or use --speedup or "
            "--macs"
        )

    def fresh() -> tuple[Graph, Sequence[Found]]:
        graph = model_file.open_graph(model, sizes).graph
        return graph, _ignored(graph.sites(), options.ignore)

    def measure(graph: Graph) -> Evaluation:
        if not options.int8:
            return job.judge(graph.runnable())
        assert job.fit is not None
        return job.judge(quantise(graph.runnable(), job.fit, job.inputs), "int8")

    assert options.target is not None
    tuner = Tuner(fresh, [s.name for s in sites], options.passes, options.budget, options.target, options.cache,
                  calibration, checkpoint, measure, listen, options.jobs)  # fmt: skip
    job.graph, layers = tuner.run()
    job.warnings.extend(tuner.warnings)
    return layers


def _check_budget(job: _Job, options: Options) -> None:
    """Raise UsageError for a budget that cannot be measured; warn of one that can be only roughly."""
    if options.int8:
        if job.fit is None:
            raise UsageError("--int8 sets its ranges by data: give --calibration PATH")
        check_nncf()
    if options.budget.kind != "max_drop" or options.plan is not None:
        return
    if job.guessed and options.metric is None:
        raise UsageError("--max-drop is measured on data: give --calibration or --validation PATH, or use --speedup")
    assert options.budget.value is not None
    if options.metric is not None:
        return  # on samples of its own, and maybe in other units
    warning = check_resolution(len(job.measured), options.budget.value)
    if warning:
        log.warning(warning)
        job.warnings.append(warning)


def _target(job: _Job, options: Options) -> Target:
    own = static_batch(job.inputs)
    batch = options.batch or (own.size if own else 1)
    return replace(options.target or Target("f32", options.threads), batch=batch)


def _latency(model: Path, written: Path, job: _Job, options: Options, listen: Listener) -> Latency | None:
    """The whole model before and after, if the budget is about that. Raises BudgetError for a slower one."""
    if not options.budget.in_milliseconds or options.target is None:
        return None
    listen("timing the result", 0, 1)
    return timed(model, written, options.target, feed_of(job.inputs, job.sizes, options.target))


def _quantised(
    model: Path, written: Path, stage: Staged, job: _Job, options: Options, checked: _Checked, listen: Listener
) -> Variants:
    """Put the int8 result into the place of `written`; what the four models that there are then come to."""
    assert job.fit is not None
    assert options.target is not None
    feed = feed_of(job.inputs, job.sizes, options.target)
    with tempfile.TemporaryDirectory(dir=stage.path.parent) as folder:
        original, result = (Path(folder, f"{name}.xml") for name in ("original", "result"))
        listen("quantising", 0, 2)
        write_ir(quantise(model, job.fit, job.inputs), original, False)
        listen("quantising", 1, 2)
        write_ir(quantise(written, job.fit, job.inputs), result, stage.compress)
        listen("timing the result", 0, 1)
        plain, quantised = (model, written), (original, result)
        found = compare_variants(plain, quantised, checked.evaluation, job.judge, options.target, feed)
        for end in (".xml", ".bin"):
            result.with_suffix(end).replace(stage.path.with_suffix(end))
    return found


def _check_slower(sentence: str, job: _Job, budget: Budget) -> None:
    """BudgetError for a slower result if the budget is about milliseconds, else a warning."""
    if sentence and budget.in_milliseconds:
        raise BudgetError(f"{sentence}: nothing was written")
    if sentence:
        log.warning(sentence)
        job.warnings.append(sentence)


def _check_written(evaluation: Evaluation, budget: Budget) -> None:
    """Raise VerificationError where outputs are not finite or the metric falls by more than was allowed."""
    if not np.isfinite(evaluation.agreement.relative_error):
        raise VerificationError(f"output '{evaluation.agreement.worst_output}' of the rewritten model is not finite")
    if budget.kind == "max_drop" and budget.value is not None and drop_of(evaluation) > budget.value + ROUNDING:
        raise VerificationError(
            f"the metric of the written model falls by {drop_of(evaluation):.2f} points, {budget.value:g} were allowed"
        )


@dataclass
class _Checked:
    """What the verification of the written file found."""

    evaluation: Evaluation
    runtimes: Agreement | None  # of OpenVINO and onnxruntime, on the rewritten model, where both read it


def _verify(written: Path, job: _Job, options: Options, listen: Listener) -> _Checked:
    """Check the written model, one in memory at a time. Raises VerificationError."""
    listen("verifying", 0, 4)
    verify.check_file(written, job.interface, job.macs[1], job.graph.sizes)
    few = job.measured.take(range(min(AGREEMENT_SAMPLES, len(job.measured))))
    listen("verifying", 1, 4)
    job.judge.reference()
    runner = OpenVINO(shown(written, job.compared), threads=options.threads)
    evaluation = job.judge(written, runner=runner)
    listen("verifying", 2, 4)
    outputs = stored(runner, few, BATCH)
    del runner
    listen("verifying", 3, 4)
    agreement = None
    if written.suffix != model_file.IR:
        agreement = _against_onnxruntime(written, outputs, few, job, options)

        def original() -> Agreement:
            model = shown(job.judge.original, job.compared)
            outputs = stored(OpenVINO(model, threads=options.threads), few, BATCH)
            return _against_onnxruntime(job.judge.original, outputs, few, job, options)

        job.warnings += filter(None, [verify.check_agreement(agreement, original)])
    return _Checked(evaluation, agreement)


def _against_onnxruntime(model: Model, outputs: list[Outputs], few: Feeds, job: _Job, options: Options) -> Agreement:
    """OpenVINO's outputs beside those of onnxruntime."""
    other = OnnxRuntime(shown(model, job.compared), threads=options.threads)
    return evaluate(outputs, other, few, BATCH).agreement


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> dict[str, float]:
        return {**self.stages, "total": time.perf_counter() - self.start}


def _report(
    job: _Job,
    layers: list[Layer],
    checked: _Checked,
    latency: Latency | None,
    variants: list[Variant],
    sizes: tuple[int, int],
    seconds: Mapping[str, float],
    options: Options,
) -> Report:
    assert options.target is not None
    around = environment(options.threads)
    before, after = checked.evaluation.before, checked.evaluation.after
    agreement = checked.evaluation.agreement
    name = "the original on random inputs" if job.guessed else "the original"
    return Report(
        ndpass=__version__,
        passes=[p.name for p in options.passes],
        budget=options.budget.to_json(),
        target=Machine(cpu=around.cpu, precision=options.target.precision, threads=options.threads,
                       batch=options.target.batch, openvino=around.openvino),
        model=ModelSize(macs=job.macs, params=job.params, bytes=sizes),
        metric=None if before is None or after is None else MetricChange(
            name=before.name, before=before.value, after=after.value, samples=before.samples,
            higher_is_better=before.higher_is_better),
        latency_ms=latency,
        variants=variants,
        seconds=Seconds(**seconds),
        peak_memory_bytes=peak_memory_bytes(),
        layers=layers,
        verified={
            name: Verified(samples=agreement.samples, relative_error=agreement.relative_error,
                           top1_agreement=agreement.top1_agreement, kl=agreement.kl,
                           worst_output=agreement.worst_output),
            **({} if checked.runtimes is None else {"itself in onnxruntime": Verified(
                samples=checked.runtimes.samples, relative_error=checked.runtimes.relative_error)}),
        },
        warnings=[*job.warnings, *checked.evaluation.warnings],
    )  # fmt: skip
