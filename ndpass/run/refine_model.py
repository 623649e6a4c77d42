"""`ndpass refine`: a model that was rewritten before, trained to its original and verified like a run's result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ndpass.calibration.digests import digest_labelled
from ndpass.errors import BudgetError, InputError, UsageError
from ndpass.files import model_file
from ndpass.files.interface import Interface, signature
from ndpass.files.output_paths import check_kind, check_outputs
from ndpass.files.own_folder import tidy_temporary
from ndpass.files.placing import uninterrupted
from ndpass.files.staging import Outputs
from ndpass.files.weight_files import IR, stored_bytes
from ndpass.listener import Listener
from ndpass.report import Report
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.rewriting.digests import digest_file
from ndpass.run.clock import Clock
from ndpass.run.html_report import page_of
from ndpass.run.job import Job, read, training_text
from ndpass.run.options import Options
from ndpass.run.pipeline import kept_if_cut_off
from ndpass.run.refiner import Refiner
from ndpass.run.result import Result, report_of
from ndpass.run.rewrite import Rewritten
from ndpass.run.verify import verdict
from ndpass.version import VERSION


def refine_model(model: Path, original: Path, output: Path, options: Options, listen: Listener) -> Report:
    """Train the rewritten model to the original's answers and write it into `output`, of the same kind, verified.

    Raises UsageError; InputError where the two models do not belong together or torch cannot run them; BudgetError
    where training made nothing better; VerificationError. Then nothing has appeared or changed.
    """
    if model.suffix != original.suffix:
        raise UsageError(f"{model} and {original} are of two kinds: give both as .onnx, or both as .xml")
    check_kind(output, from_ir=model.suffix == IR, int8=False)
    wanted = options.output
    check_outputs((model, original), {"--json": wanted.json, "--report": wanted.report}, output)
    tidy_temporary()
    clock, checkpoint = Clock(), Checkpoint.beside(output)
    listen = clock.hearing(listen)
    with Outputs() as outputs, kept_if_cut_off(checkpoint):
        stage = outputs.stage(output, wanted.compress)
        job = read(original, options, listen)
        opened = model_file.open_graph(model, job.sizes)
        _check_pair(model, original, opened.interface, job.interface)
        (checkpoint.resume if options.effort.resume else checkpoint.start)(_fingerprint(job, model))
        refiner = Refiner.of(job, checkpoint, clock, listen)
        if refiner is None:
            raise UsageError("training takes data: give --calibration PATH")
        if refiner.reason:
            raise InputError(f"{original}: {refiner.reason}")
        done = Rewritten(opened.graph, (), opened.graph.macs(), opened.graph.params())
        refined, found = refiner(opened.graph.to_model())
        opened.graph.release()
        if not found.kept:
            raise BudgetError(f"{model} was not made better, nothing was written: {found.reason}")
        written = model_file.write(refined, stage, as_external=bool(opened.beside))
        with clock("verify"):
            checked = verdict(job, done, written, stage, listen)
        sizes = sum(p.stat().st_size for p in (original, *job.beside)), stored_bytes(stage.path)
        report = report_of(Result(job, done, checked, sizes, clock.seconds, clock.told, found))
        if wanted.json:
            outputs.text(wanted.json, report.to_json())
        if wanted.report:
            outputs.text(wanted.report, page_of(report).html())
        with uninterrupted():
            outputs.commit()
            checkpoint.remove()
    return report


def _check_pair(model: Path, original: Path, ours: Interface, theirs: Interface) -> None:
    """Raise InputError unless both models have the same inputs and outputs."""
    for number, side in enumerate(("input", "output")):
        one, other = (_ports(interface, number, side) for interface in (ours, theirs))
        if one != other:
            raise InputError(f"{model} has other {side}s than {original}: name the model that it was rewritten from")


def _ports(interface: Interface, number: int, side: str) -> Any:
    return interface[number] if isinstance(interface, tuple) else signature(interface, side)


def _fingerprint(job: Job, model: Path) -> dict[str, str]:
    """What a training that goes on must have in common with the one that was cut off."""
    assert job.fit is not None
    options = job.options
    return {
        "ndpass": VERSION,
        "original": job.digest,
        "model": digest_file(model, *model_file.open_graph(model).beside),
        "data": digest_labelled(job.fit),
        "validation": digest_labelled(job.measured),
        "refine": training_text(job),
        "options": f"seed {options.data.seed}, threads {options.target.threads}, memory {options.effort.memory}",
    }
