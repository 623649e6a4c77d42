"""The main job: read, find sites, choose, rewrite, write, verify; `run` reads as its table of contents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndpass.errors import EngineError, NdpassError, UsageError
from ndpass.files import model_file
from ndpass.files.model_server import stage_version
from ndpass.files.output_paths import check_kind, check_outputs
from ndpass.files.own_folder import tidy_temporary
from ndpass.files.placing import uninterrupted
from ndpass.files.staging import Outputs, Staged
from ndpass.files.weight_files import IR, stored_bytes
from ndpass.listener import Listener, expect
from ndpass.measuring.memory import memory_here, room_beside
from ndpass.planning.threads import cores
from ndpass.report import Report
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.rewriting.relu_refit import check_data
from ndpass.run.clock import Clock
from ndpass.run.default_drop import with_drop
from ndpass.run.forecast import forecast
from ndpass.run.html_report import page_of
from ndpass.run.job import Job, read
from ndpass.run.memory import WORTH_SAYING
from ndpass.run.options import Options
from ndpass.run.refined_search import Produced, produced
from ndpass.run.result import Result, plan_of, report_of
from ndpass.run.spread import check_spread, spread, timed_on
from ndpass.run.time_limit import within_limit
from ndpass.run.verify import verdict


def _say_memory(job: Job, listen: Listener) -> None:
    """What the run takes at most, where that is worth a line; and whether there is so much."""
    options, here = job.options, memory_here()
    further = options.output.int8 + (options.refine is not None)
    effort, samples = options.effort, len(job.fit or ())
    beside = min(room_beside(effort.memory), (effort.jobs or cores()) * job.needs.widest)
    most = job.needs.most(stored_bytes(job.model), samples, effort.memory, beside, further)
    if here is not None and most > here:
        listen(f"may take {most / 1e9:.1f} GB of memory, there are {here / 1e9:.1f} GB: see --memory", 0, 0)
    elif most > WORTH_SAYING:
        listen(f"takes at most about {most / 1e9:.1f} GB of memory", 0, 0)


def run(model: Path, output: Path, options: Options, listen: Listener = lambda *_: None) -> Report:
    """Rewrite the file `model` (.onnx or .xml) into `output` (.xml, or .onnx from one) and verify what was written.

    The model, its weights and all that `options.output` asks for appear together at the end. Raises UsageError,
    InputError, BudgetError or VerificationError; then nothing has appeared or changed.
    """
    wanted = options.output
    check_kind(output, from_ir=model.suffix == IR, int8=wanted.int8)
    others = {"--json": wanted.json, "--save-plan": wanted.save_plan, "--report": wanted.report}
    check_outputs((model, options.plan), others, output, wanted.model_server)
    tidy_temporary()
    clock = Clock()
    listen = clock.hearing(listen)
    checkpoint = Checkpoint.beside(output) if options.data.calibration else None
    check_spread(options)
    if options.effort.resume and checkpoint is None:
        raise UsageError("--resume goes on with a calibrated run; this one has no --calibration, run it anew")
    check_data(options.passes, options.data.calibration is not None)
    with Outputs() as outputs, kept_if_cut_off(checkpoint), spread(options, listen) as (cluster, listen):
        stage = outputs.stage(output, wanted.compress)
        options = timed_on(options, cluster)
        job = read(model, options, listen, cluster)
        seconds = _baseline(job, listen)
        job = within_limit(with_drop(job, listen), seconds, clock.passed, checkpoint)
        expect(listen, forecast(job, seconds, clock.passed))
        _say_memory(job, listen)
        made = produced(job, checkpoint, clock, listen)
        done = made.rewritten
        written = _written(job, made, stage, clock, listen)
        with clock("verify"):
            found = verdict(job, done, written, stage, listen)
        sizes = sum(p.stat().st_size for p in (model, *job.beside)), stored_bytes(stage.path)
        report = report_of(Result(job, done, found, sizes, clock.seconds, clock.told, made.refinement))
        if wanted.save_plan:
            outputs.text(wanted.save_plan, plan_of(done.layers, job).to_json())
        if wanted.json:
            outputs.text(wanted.json, report.to_json())
        if wanted.report:
            outputs.text(wanted.report, page_of(report, wanted.given).html())
        if wanted.model_server:
            stage_version(stage.path, wanted.model_server, outputs)
        with uninterrupted():  # so that an interrupt finds a run that has ended, or none of its outputs
            outputs.commit()
            if checkpoint:
                checkpoint.remove()
    return report


def _baseline(job: Job, listen: Listener) -> float | None:
    """Say what the original is worth; the seconds that it takes for a sample, None without data."""
    if job.guessed:
        return None
    if text := job.judge.baseline(listen):
        listen(text, 0, 0)
    return job.judge.inference


def _written(job: Job, made: Produced, stage: Staged, clock: Clock, listen: Listener) -> Path:
    """Where the model was written."""
    with clock("rewrite"):
        listen("writing", 0, 1)
        return model_file.write(made.model, stage, as_external=bool(job.beside))


@contextmanager
def kept_if_cut_off(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Keep the checkpoint when the run is interrupted, its command was wrong or its machines were lost; remove it with
    any other error.

    Its lock goes in any case.
    """
    try:
        yield
    except (UsageError, EngineError):
        raise
    except NdpassError:
        if checkpoint:
            checkpoint.remove()
        raise
    finally:
        if checkpoint:
            checkpoint.release()
