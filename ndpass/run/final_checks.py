"""What a run checks of the model that it has written: the file, its outputs, its metric and its milliseconds."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndpass.calibration.feeds import Feeds
from ndpass.errors import BudgetError, VerificationError
from ndpass.files import model_file
from ndpass.files.ir_file import write_ir
from ndpass.files.staging import Staged
from ndpass.graph.comparison_outputs import shown
from ndpass.listener import Listener
from ndpass.measuring.evaluate import Agreement, Evaluation, evaluate, stored
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO, Outputs
from ndpass.planning.candidate import Budget
from ndpass.report import Latency
from ndpass.run import written_file
from ndpass.run.before_after import Variants, compare_variants, timed
from ndpass.run.job import Job
from ndpass.run.judge import BATCH, Model, drop_of
from ndpass.run.options import Options
from ndpass.run.quantise import quantise

log = logging.getLogger(__name__)

AGREEMENT_SAMPLES = 16  # on how many samples the two runtimes are compared
ROUNDING = 1e-9  # of a drop in points


@dataclass
class Checked:
    """What the verification of the written file found."""

    evaluation: Evaluation
    runtimes: Agreement | None  # of OpenVINO and onnxruntime, on the rewritten model, where both read it


def verified_file(written: Path, job: Job, options: Options, listen: Listener) -> Checked:
    """Check the written model, one in memory at a time. Raises VerificationError."""
    listen("verifying", 0, 4)
    written_file.check_file(written, job.interface, job.macs[1], job.graph.sizes)
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

        job.warnings += filter(None, [written_file.check_agreement(agreement, original)])
    return Checked(evaluation, agreement)


def _against_onnxruntime(model: Model, outputs: list[Outputs], few: Feeds, job: Job, options: Options) -> Agreement:
    """OpenVINO's outputs beside those of onnxruntime."""
    other = OnnxRuntime(shown(model, job.compared), threads=options.threads)
    return evaluate(outputs, other, few, BATCH).agreement


def quantised_result(
    model: Path, written: Path, stage: Staged, job: Job, options: Options, checked: Checked, listen: Listener
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


def latency_of(model: Path, written: Path, job: Job, options: Options, listen: Listener) -> Latency | None:
    """The whole model before and after, if the budget is about that. Raises BudgetError for a slower one."""
    if not options.budget.in_milliseconds or options.target is None:
        return None
    listen("timing the result", 0, 1)
    return timed(model, written, options.target, feed_of(job.inputs, job.sizes, options.target))


def check_slower(sentence: str, job: Job, budget: Budget) -> None:
    """BudgetError for a slower result if the budget is about milliseconds, else a warning."""
    if sentence and budget.in_milliseconds:
        raise BudgetError(f"{sentence}: nothing was written")
    if sentence:
        log.warning(sentence)
        job.warnings.append(sentence)


def check_written(evaluation: Evaluation, budget: Budget) -> None:
    """Raise VerificationError where outputs are not finite or the metric falls by more than was allowed."""
    if not np.isfinite(evaluation.agreement.relative_error):
        raise VerificationError(f"output '{evaluation.agreement.worst_output}' of the rewritten model is not finite")
    if budget.kind == "max_drop" and budget.value is not None and drop_of(evaluation) > budget.value + ROUNDING:
        raise VerificationError(
            f"the metric of the written model falls by {drop_of(evaluation):.2f} points, {budget.value:g} were allowed"
        )
