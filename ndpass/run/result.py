"""What a run came to, and the report of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ndpass.measuring.environment import Environment, environment, peak_memory_bytes
from ndpass.measuring.evaluate import Agreement, Evaluation
from ndpass.measuring.output_errors import flat
from ndpass.report import Layer, Machine, MetricChange, ModelSize, Refinement, Report, Seconds, Verified
from ndpass.run.job import Job, share_held_out
from ndpass.run.plan_file import PlanFile
from ndpass.run.rewrite import Rewritten
from ndpass.run.thumbnails import furthest
from ndpass.run.verify import Verdict
from ndpass.version import VERSION


@dataclass(frozen=True)
class Result:
    """The job, the rewritten graph's rows, what was measured, bytes of the files before and after, seconds by stage.

    stages: the same by the stages that progress shows. refinement: what came of --refine, None where it was not asked
    for.
    """

    job: Job
    rewritten: Rewritten
    verdict: Verdict
    file_bytes: tuple[int, int]
    seconds: Mapping[str, float]
    stages: Mapping[str, float]
    refinement: Refinement | None = None


def report_of(result: Result) -> Report:
    """The report, as report.json has it."""
    job, done, found = result.job, result.rewritten, result.verdict
    return Report(
        ndpass=VERSION,
        passes=[rule.name for rule in job.options.passes],
        budget=job.options.budget.to_json(),
        target=_machine(job),
        model=ModelSize(macs=(job.macs, done.macs), params=(job.params, done.params), bytes=result.file_bytes),
        metric=_metric(job, found.evaluation),
        latency_ms=found.latency,
        variants=list(found.variants),
        plans=list(done.plans),
        refinement=result.refinement,
        seconds=Seconds(**result.seconds, stages=dict(result.stages)),
        peak_memory_bytes=peak_memory_bytes(),
        layers=list(done.layers),
        verified=_verified(job, found),
        furthest=[] if job.guessed else furthest(found.evaluation.agreement, job.measured),
        warnings=[*job.warnings, *done.warnings, *found.warnings, *found.evaluation.warnings],
    )


def _machine(job: Job) -> Machine:
    around: Environment = job.options.target.call_there(environment, job.target.threads)
    return Machine(
        cpu=around.cpu,
        device=job.target.device,
        precision=job.target.precision,
        threads=job.target.threads,
        batch=job.target.batch,
        openvino=around.openvino,
    )


def _metric(job: Job, evaluation: Evaluation) -> MetricChange | None:
    before, after = evaluation.before, evaluation.after
    if before is None or after is None:
        return None
    named = job.judge.metric
    return MetricChange(
        name=before.name,
        before=before.value,
        after=after.value,
        samples=before.samples,
        higher_is_better=before.higher_is_better,
        reason=named.reason if named else "",
    )


def _verified(job: Job, found: Verdict) -> dict[str, Verified]:
    """What the result was compared with, by name."""
    name = "the original on random inputs" if job.guessed else "the original"
    rows = {name: _row(found.evaluation.agreement)}
    if found.runtimes is not None:
        both = found.runtimes
        rows["itself in onnxruntime"] = Verified(samples=both.samples, relative_error=both.relative_error)
    return rows


def _row(agreement: Agreement) -> Verified:
    return Verified(
        samples=agreement.samples,
        relative_error=agreement.relative_error,
        top1_agreement=agreement.top1_agreement,
        kl=agreement.kl,
        worst_output=agreement.worst_output,
        outputs={**flat(agreement.outputs)},
        relative_errors={**agreement.distances},
    )


def plan_of(layers: Sequence[Layer], job: Job) -> PlanFile:
    """The plan that has led to these layers."""
    target = job.target
    return PlanFile.model_validate(
        {
            "model": job.digest,
            "passes": [p.name for p in job.options.passes],
            "budget": job.options.budget.to_json(),
            "target": {
                "device": target.device,
                "precision": target.precision,
                "threads": target.threads,
                "batch": target.batch,
            },
            "layers": {layer.name: layer.setting for layer in layers},
            "held_out": share_held_out(job.given, job.options),
        }
    )
