"""What a run checks of the model that it has written, and what came of it: the file, its outputs, its milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ndpass.calibration.feeds import Feeds
from ndpass.errors import BudgetError, InputError, VerificationError, last_words
from ndpass.files import model_file
from ndpass.files.ir_file import write_ir
from ndpass.files.staging import Staged
from ndpass.graph.comparison_outputs import shown
from ndpass.listener import Listener
from ndpass.measuring.evaluate import Agreement, Evaluation, evaluate, stored
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO, Outputs
from ndpass.measuring.target import Target
from ndpass.planning.candidate import Budget
from ndpass.planning.keep_faster import HELP, busy
from ndpass.report import Latency, Variant
from ndpass.run.before_after import Variants, compare_variants, timed
from ndpass.run.job import Job
from ndpass.run.judge import Model, loss_of
from ndpass.run.quantise import quantise
from ndpass.run.rewrite import Rewritten
from ndpass.run.written_file import check_file

AGREEMENT = 1e-3  # relative difference between OpenVINO and onnxruntime in f32 that is taken for rounding
FURTHER = 2.0  # times the original's difference that is no fault of the rewrite
LONGER = 4  # times the usual rounds, where those prove nothing and a model that is not faster is not written
AGREEMENT_SAMPLES = 16  # on how many samples the two runtimes are compared
ROUNDING = 1e-9  # of a drop in points


@dataclass(frozen=True)
class Verdict:
    """What was measured of the result.

    evaluation: the result beside the original. runtimes: OpenVINO and onnxruntime on the result, None where only one of
    them reads it. latency: before and after, None where it was not asked for. variants: the four rows of --int8.
    """

    evaluation: Evaluation
    runtimes: Agreement | None
    latency: Latency | None = None
    variants: Sequence[Variant] = ()
    warnings: tuple[str, ...] = ()


def verdict(job: Job, done: Rewritten, written: Path, stage: Staged, listen: Listener) -> Verdict:
    """Check and measure `written`, and leave at `stage` what is to be handed out.

    Raises VerificationError for a model that is not what was promised, BudgetError for a slower one where the budget is
    about milliseconds.
    """
    found = _checked(job, done, written, listen)
    if job.options.output.int8:
        compared = _quantised(job, found.evaluation, written, stage, listen)
        found = replace(found, evaluation=compared.evaluation, latency=compared.latency, variants=compared.rows)
    elif job.options.effort.latency or job.options.budget.in_milliseconds or job.options.budget.faster:
        listen("timing the result", 0, 1)
        feed, machine = feed_of(job.inputs, job.sizes, job.target), job.options.target.machine(job.target)
        latency = timed(job.model, written, machine, feed)
        if job.options.budget.faster and not latency.is_faster:
            latency = timed(job.model, written, machine, feed, LONGER)
        found = replace(found, latency=latency)
    if found.latency:
        check_latency(found.latency, job.options.budget)
    stage.finish()
    if job.options.output.compress and stage.path != written and not job.options.output.int8:
        found = replace(found, evaluation=job.judge(stage.path))  # its weights were rounded since it was verified
    _check_outputs(job, found.evaluation)
    return found


def check_latency(latency: Latency, budget: Budget) -> None:
    """Raise BudgetError for a slower model where the budget is about milliseconds, and where nobody asked for anything
    for one that the rounds do not prove to be faster."""
    speedup, (low, high) = latency.speedup, latency.spread
    if latency.is_slower and (budget.in_milliseconds or budget.faster):
        raise BudgetError(
            f"the rewritten model is slower, {speedup:.2f} times as fast as the original: nothing was written"
        )
    if budget.faster and not latency.is_faster:
        raise BudgetError(
            f"the rewritten model is not proven faster than the original on this CPU ({speedup:.2f} times as fast, "
            f"single rounds {low:.2f} to {high:.2f}), so nothing was written: {busy(latency.spread)}{HELP}"
        )


def _checked(job: Job, done: Rewritten, written: Path, listen: Listener) -> Verdict:
    """The written file beside the original, one model in memory at a time."""
    listen("verifying", 0, 4)
    check_file(written, job.interface, done.macs, job.sizes)
    few = job.measured.take(range(min(AGREEMENT_SAMPLES, len(job.measured))))
    listen("verifying", 1, 4)
    job.judge.reference()
    runner = OpenVINO(shown(written, job.compared), threads=job.target.threads)
    evaluation = job.judge(written, runner=runner)
    listen("verifying", 2, 4)
    outputs = stored(runner, few, job.judge.batch)
    del runner
    listen("verifying", 3, 4)
    if written.suffix == model_file.IR:
        return Verdict(evaluation, None)
    try:
        agreement = _against_onnxruntime(written, outputs, few, job)
    except InputError:
        if (reason := _refused_by_onnxruntime(job, few)) is None:
            raise
        warning = f"onnxruntime does not run the original, so that the result was run in OpenVINO alone: {reason}"
        return Verdict(evaluation, None, warnings=(warning,))

    def original() -> Agreement:
        model = shown(job.judge.original, job.compared)
        return _against_onnxruntime(
            job.judge.original, stored(OpenVINO(model, threads=job.target.threads), few, job.judge.batch), few, job
        )

    found = check_agreement(agreement, original)
    return Verdict(evaluation, agreement, warnings=(found,) if found else ())


def _refused_by_onnxruntime(job: Job, few: Feeds) -> str | None:
    """What onnxruntime says of the original, as of an operator or an opset that it has not; None where it runs."""
    try:
        runner = OnnxRuntime(shown(job.judge.original, job.compared), threads=job.target.threads)
        stored(runner, few.take(range(1)), 1)
    except InputError as e:
        return last_words(str(e.__cause__ or e)).replace(str(job.judge.original), "the model")
    return None


def _against_onnxruntime(model: Model, outputs: list[Outputs], few: Feeds, job: Job) -> Agreement:
    """OpenVINO's outputs beside those of onnxruntime."""
    other = OnnxRuntime(shown(model, job.compared), threads=job.target.threads)
    return evaluate(outputs, other, few, job.judge.batch).agreement


def check_agreement(rewritten: Agreement, original: Callable[[], Agreement], limit: float = AGREEMENT) -> str | None:
    """Raise VerificationError where OpenVINO and onnxruntime differ by more than `limit` on the rewritten model.

    Not where they differ about as much on the original, which is looked at only then: a warning is returned.
    """
    found = rewritten.relative_error
    if found <= limit:  # NaN is no agreement
        return None
    before = original().relative_error
    if found <= FURTHER * before:
        return (
            f"OpenVINO and onnxruntime differ on the original already, by {before:.2g} (relative), and by {found:.2g} "
            f"on the rewritten model: it was measured in OpenVINO"
        )
    raise VerificationError(
        f"OpenVINO and onnxruntime differ by {found:.2g} (relative) on the rewritten model, by {before:.2g} on the "
        f"original, most on output '{rewritten.worst_output}'; at most {limit:g} is rounding"
    )


def _quantised(job: Job, plain: Evaluation, written: Path, stage: Staged, listen: Listener) -> Variants:
    """Put the int8 result into the place of `written`; the four models that there are then, measured side by side."""
    assert job.fit is not None
    feed = feed_of(job.inputs, job.sizes, job.target)
    with tempfile.TemporaryDirectory(dir=stage.path.parent) as folder:
        original, result = (Path(folder, f"{name}.xml") for name in ("original", "result"))
        listen("quantising", 0, 2)
        write_ir(quantise(job.model, job.fit, job.inputs), original, False)
        listen("quantising", 1, 2)
        write_ir(quantise(written, job.fit, job.inputs), result, stage.compress)
        listen("timing the result", 0, 1)
        as_is = replace(
            job.target, precision=job.options.target.call_there(Target.default_precision, job.target.device)
        )
        machines = job.options.target.machine(as_is), job.options.target.machine(job.target)
        found = compare_variants((job.model, written), (original, result), plain, job.judge, machines, feed)
        for end in (".xml", ".bin"):
            result.with_suffix(end).replace(stage.path.with_suffix(end))
    return found


def _check_outputs(job: Job, evaluation: Evaluation) -> None:
    """Raise VerificationError where outputs are not finite or the metric falls by more than was allowed."""
    if not np.isfinite(evaluation.agreement.relative_error):
        raise VerificationError(f"output '{evaluation.agreement.worst_output}' of the rewritten model is not finite")
    budget = job.options.budget
    limit = budget.loss_limit
    if limit is None or job.options.plan is not None or (lost := loss_of(evaluation, budget)) <= limit + ROUNDING:
        return
    if budget.kind == "max_error":
        name, error = evaluation.agreement.worst
        raise VerificationError(
            f"output '{name}' of the written model has an error of {error:.3g}, not {budget.value:g}"
        )
    raise VerificationError(f"the metric of the written model falls by {lost:.2f} points, {limit:g} were allowed")
