"""The main job: read, find sites, choose, rewrite, write, verify; `run` reads as its table of contents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ndpass.calibration.reference import Calibration
from ndpass.errors import InputError, NdpassError, UsageError
from ndpass.files import model_file
from ndpass.files.staging import staged, stored_bytes
from ndpass.graph.graph import Found, Graph, Site
from ndpass.listener import Listener
from ndpass.measuring.environment import environment, peak_memory_bytes
from ndpass.measuring.evaluate import Evaluation
from ndpass.planning.candidate import Budget, Choice
from ndpass.planning.candidates import refused
from ndpass.planning.plan import Planner
from ndpass.report import Latency, Layer, MetricChange, ModelSize, Report, Seconds, Variant, Verified
from ndpass.report import Target as Machine
from ndpass.rewriting.checkpoint import Checkpoint, digest_file
from ndpass.rewriting.relu_refit import check_data
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run.final_checks import Checked, check_slower, check_written, latency_of, quantised_result, verified_file
from ndpass.run.job import Job, check_budget, fingerprint, ignored, read, target_of
from ndpass.run.options import Options
from ndpass.run.plan_file import PlanFile, plan_of
from ndpass.run.quantise import quantise
from ndpass.run.tuning import Tuner
from ndpass.version import VERSION


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
        job = read(model, output, options, listen)
        options = replace(options, target=target_of(job, options))
        check_budget(job, options)
        layers = _rewrite(model, job, options, checkpoint, clock, listen)
        with clock("rewrite"):
            listen("writing", 0, 1)
            rewritten = job.graph.to_model()
            job.release()
            written = model_file.write(rewritten, stage, as_external=bool(job.beside))
            del rewritten
        with clock("verify"):
            checked = verified_file(written, job, options, listen)
            variants: list[Variant] = []
            latency: Latency | None
            if options.int8:
                compared = quantised_result(model, written, stage, job, options, checked, listen)
                variants, latency = compared.rows, compared.latency
                check_slower(compared.slower, job, options.budget)
                checked = replace(checked, evaluation=compared.evaluation)
            else:
                latency = latency_of(model, written, job, options, listen)
            stage.finish()
            if options.compress and stage.path != written and not options.int8:  # rounded since it was verified
                checked = replace(checked, evaluation=job.judge(stage.path))
            check_written(checked.evaluation, options.budget)
        sizes = sum(p.stat().st_size for p in (model, *job.beside)), stored_bytes(stage.path)
        stage.commit()
    if options.save_plan and options.target:
        plan_of(layers, options.passes, digest_file(model, *job.beside), options.budget.to_json(), options.target).save(
            options.save_plan
        )
    return _report(job, layers, checked, latency, variants, sizes, clock.seconds, options)


@contextmanager
def _kept_if_cut_off(checkpoint: Checkpoint | None) -> Iterator[None]:
    """The checkpoint goes when the run ends, well or with an error that would come again; not when it is cut off.

    Its lock goes in any case.
    """
    try:
        yield
    except UsageError:
        raise
    except NdpassError:
        if checkpoint:
            checkpoint.remove()
        raise
    else:
        if checkpoint:
            checkpoint.remove()
    finally:
        if checkpoint:
            checkpoint.release()


def _rewrite(
    model: Path, job: Job, options: Options, checkpoint: Checkpoint | None, clock: _Clock, listen: Listener
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
                begin(fingerprint(model, job.beside, options, calibration))
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
    job: Job,
    sites: Sequence[Site],
    options: Options,
    calibration: Calibration | None,
    checkpoint: Checkpoint | None,
    clock: _Clock,
    listen: Listener,
) -> list[Layer]:
    """One plan, from a file or chosen by the budget, fitted once."""
    rewriter = Rewriter(job.graph, options.passes, calibration, checkpoint)
    with clock("plan"):
        plan: Mapping[str, Choice] | Budget = options.budget
        if options.plan:
            plan = PlanFile.load(options.plan, digest_file(model, *job.beside)).choices(job.graph, sites)
        elif options.budget.is_shared or calibration is None:
            known = checkpoint.load_plan() if checkpoint else None
            planner = Planner(job.graph, options.passes, calibration, jobs=options.jobs)
            plan = known or planner.plan(sites, options.budget, listen)
            if checkpoint and known is None:
                checkpoint.save_plan(plan)
    with clock("rewrite"):
        layers = rewriter.rewrite(job.found, sites, plan, listen)
        job.graph.tidy()
    return layers


def _tuned(
    model: Path,
    job: Job,
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
        return graph, ignored(graph.sites(), options.ignore)

    def measure(graph: Graph) -> Evaluation:
        if not options.int8:
            return job.judge(graph.runnable())
        assert job.fit is not None
        return job.judge(quantise(graph.runnable(), job.fit, job.inputs), "int8")

    assert options.target is not None
    tuner = Tuner(
        fresh,
        [s.name for s in sites],
        options.passes,
        options.budget,
        options.target,
        options.cache,
        calibration,
        checkpoint,
        measure,
        listen,
        options.jobs,
    )
    job.graph, layers = tuner.run()
    job.warnings.extend(tuner.warnings)
    return layers


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
    job: Job,
    layers: list[Layer],
    checked: Checked,
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
        ndpass=VERSION,
        passes=[p.name for p in options.passes],
        budget=options.budget.to_json(),
        target=Machine(
            cpu=around.cpu,
            precision=options.target.precision,
            threads=options.threads,
            batch=options.target.batch,
            openvino=around.openvino,
        ),
        model=ModelSize(macs=job.macs, params=job.params, bytes=sizes),
        metric=None
        if before is None or after is None
        else MetricChange(
            name=before.name,
            before=before.value,
            after=after.value,
            samples=before.samples,
            higher_is_better=before.higher_is_better,
        ),
        latency_ms=latency,
        variants=variants,
        seconds=Seconds(**seconds),
        peak_memory_bytes=peak_memory_bytes(),
        layers=layers,
        verified={
            name: Verified(
                samples=agreement.samples,
                relative_error=agreement.relative_error,
                top1_agreement=agreement.top1_agreement,
                kl=agreement.kl,
                worst_output=agreement.worst_output,
            ),
            **(
                {}
                if checked.runtimes is None
                else {
                    "itself in onnxruntime": Verified(
                        samples=checked.runtimes.samples, relative_error=checked.runtimes.relative_error
                    )
                }
            ),
        },
        warnings=[*job.warnings, *checked.evaluation.warnings],
    )
