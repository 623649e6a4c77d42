"""The main job: read, find sites, choose, rewrite, write, verify; `run` reads as its table of contents."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from ndpass import __version__, convert, verify
from ndpass.bench import environment
from ndpass.calibration.feeds import Feeds, InputSpec, open_feeds
from ndpass.errors import InputError, UsageError, VerificationError
from ndpass.evaluate import Agreement, Evaluation, evaluate, stored
from ndpass.graph import Found, Graph, Site, Skipped
from ndpass.passes import Decomposition
from ndpass.passes.base import relative_error
from ndpass.planner import Budget, Candidate, Choice, choose
from ndpass.report import (
    Layer,
    MetricChange,
    ModelSize,
    Report,
    Seconds,
    Target,
    Verified,
    peak_memory_bytes,
)
from ndpass.runtime import OnnxRuntime, OpenVINO

log = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]  # stage, steps done, steps in all
OpenData = Callable[[Sequence[InputSpec]], Feeds]

AGREEMENT_SAMPLES = 16  # on how many samples the two runtimes are compared
NOISE_SAMPLES = 4  # how many random inputs stand in for data that nobody gave


@dataclass(frozen=True)
class Options:
    """What to do; `data` opens the samples that the metric is measured on once the model's inputs are known."""

    passes: Sequence[Decomposition]
    budget: Budget
    ignore: Sequence[str] = ()
    data: OpenData | None = None
    batch: int = 32
    threads: int | None = None
    seed: int = 0


def run(model: Path, output: Path, options: Options, listen: Listener = lambda *_: None) -> Report:
    """Rewrite the ONNX file `model` into `output` (.onnx or .xml) and verify what was written.

    Raises UsageError, InputError, BudgetError or VerificationError; then nothing is at `output` that was not before.
    """
    _check_output(model, output)
    clock = _Clock()
    with convert.staged(output) as stage:
        with clock("plan"):
            job = _prepare(model, options, listen)
        with clock("rewrite"):
            layers = _rewrite_and_save(job, options, stage.onnx, listen)
        with clock("verify"):
            checked = _verify(model, stage.onnx, job, options, listen)
            stage.finish()
        size = convert.stored_bytes(stage.path)
        stage.commit()
    return _report(job, layers, checked, (convert.stored_bytes(model), size), clock.seconds, options)


@dataclass
class _Job:
    """What is known once the plan stands; `graph` is let go when the rewritten model is on disk."""

    graph: Graph
    feeds: Feeds
    guessed: bool  # whether the feeds are noise, for want of data
    choices: Mapping[str, Choice]
    found: Sequence[Found]
    macs: int
    params: int
    external: bool
    interface: Any
    promised: tuple[int, int] = (0, 0)


def _prepare(model: Path, options: Options, listen: Listener) -> _Job:
    listen("reading", 0, 1)
    proto = convert.load(model)
    graph = Graph(proto)
    feeds = options.data(graph.inputs()) if options.data else noise(graph, options.seed)
    if graph.dynamic_hw and options.data:
        graph.assume({name: value.shape for name, value in next(feeds.batches(1)).items()})
    found = _ignored(graph.sites(), options.ignore)
    ways = candidates(found, options.passes, listen)
    macs = graph.macs()
    choices = choose(ways, options.budget, macs)
    _refuse_empty(model, found, choices, options.passes)
    return _Job(graph, feeds, options.data is None, choices, found, macs, graph.params(), convert.external(proto),
                verify.interface(proto))  # fmt: skip


def noise(graph: Graph, seed: int) -> Feeds:
    """Seeded standard normal inputs, for models that come without data."""
    rng = np.random.default_rng(seed)
    arrays = {
        s.name: rng.standard_normal((NOISE_SAMPLES, *graph.sizes[s.name][1:])).astype(s.dtype) for s in graph.inputs()
    }
    samples = [{name: a[i] for name, a in arrays.items()} for i in range(NOISE_SAMPLES)]
    return open_feeds(samples, graph.inputs())


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


def candidates(found: Sequence[Found], passes: Sequence[Decomposition], listen: Listener) -> dict[str, list[Candidate]]:
    """For each site that a pass accepts and whose cost is known: the layer as it is, then every setting."""
    sites = [f for f in found if isinstance(f, Site)]
    ways: dict[str, list[Candidate]] = {}
    for i, site in enumerate(sites):
        listen("planning", i, len(sites))
        if _refusal(site, passes) is None:
            dense = site.macs(site.outline)
            assert dense is not None
            ways[site.name] = [Candidate(dense), *_settings(site, passes[0])]
    return ways


def _refusal(site: Site, passes: Sequence[Decomposition]) -> str | None:
    if site.in_hw is None:
        return "its input size is not known, so its cost is not"
    return passes[0].refuse(site.outline)


def _settings(site: Site, rule: Decomposition) -> Iterator[Candidate]:
    settings = rule.settings(site.outline)
    for setting, error in zip(settings, rule.errors(site.conv, settings), strict=True):
        macs = site.macs(rule.rewrite(site.outline, setting))
        assert macs is not None
        yield Candidate(macs, error, {rule.name: setting})


def _refuse_empty(
    model: Path, found: Sequence[Found], choices: Mapping[str, Choice], passes: Sequence[Decomposition]
) -> None:
    """A run that would rewrite nothing says why instead. Raises InputError."""
    if any(c.candidate.setting for c in choices.values()):
        return
    if not any(f.op.startswith("Conv") for f in found):
        raise InputError(f"{model}: no convolution in it: ndpass rewrites convolutional networks")
    reasons = {f.name: _why_kept(f, choices, passes) for f in found}
    text = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:3])
    raise InputError(
        f"{model}: nothing to rewrite with {'+'.join(p.name for p in passes)} ({text}; ndpass inspect lists all)"
    )


def _why_kept(found: Found, choices: Mapping[str, Choice], passes: Sequence[Decomposition]) -> str:
    if not isinstance(found, Site):
        return found.reason
    choice = choices.get(found.name)
    return choice.reason if choice else _refusal(found, passes) or ""


def _rewrite_and_save(job: _Job, options: Options, path: Path, listen: Listener) -> list[Layer]:
    """Rewrite every chosen layer and write the model; afterwards the job holds no weights."""
    layers = []
    for i, found in enumerate(job.found):
        listen("rewriting", i, len(job.found))
        layers.append(_rewrite(job, found, options.passes))
    job.graph.tidy()
    job.promised = job.graph.macs(), job.graph.params()
    listen("writing", 0, 1)
    convert.save(job.graph.to_model(), path, as_external=job.external)
    job.graph.release()
    return layers


def _rewrite(job: _Job, found: Found, passes: Sequence[Decomposition]) -> Layer:
    """Splice one layer's choice into the graph; its row in the report."""
    choice = job.choices.get(found.name)
    if not isinstance(found, Site) or choice is None or not choice.candidate.setting:
        return _left_alone(found, choice, _why_kept(found, job.choices, passes))
    conv = found.conv
    setting: dict[str, dict[str, JsonValue]] = {name: dict(options) for name, options in choice.candidate.setting.items()}
    block = passes[0].rewrite(conv, setting[passes[0].name])
    job.graph.splice(found, block)
    before, after = found.macs(found.outline), found.macs(block)
    if before is None or after != choice.candidate.macs:
        raise VerificationError(f"layer '{found.name}' takes {after} MACs, {choice.candidate.macs} were promised")
    return Layer(
        name=found.name,
        op=found.op,
        shape=_shape_text(conv.weight.shape),
        status="done",
        setting=setting,
        macs=(before, after),
        error_predicted=choice.candidate.error,
        error_measured=relative_error(conv.weight, block.dense().weight),
    )


def _left_alone(found: Found, choice: Choice | None, reason: str) -> Layer:
    shape, macs = (found.shape, found.macs) if isinstance(found, Skipped) else (
        found.outline.weight.shape, found.macs(found.outline))  # fmt: skip
    return Layer(
        name=found.name,
        op=found.op,
        shape=_shape_text(shape),
        status="skipped" if choice is None else "kept",
        reason=reason,
        macs=None if macs is None else (macs, macs),
    )


def _shape_text(shape: Sequence[int] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape))


@dataclass
class _Checked:
    """What the verification of the written file found."""

    evaluation: Evaluation
    runtimes: Agreement  # of OpenVINO and onnxruntime, on the rewritten model


def _verify(model: Path, written: Path, job: _Job, options: Options, listen: Listener) -> _Checked:
    """Check the written ONNX, one model in memory at a time. Raises VerificationError."""
    listen("verifying", 0, 4)
    verify.check_file(written, job.interface, job.promised[0], job.graph.sizes)
    few = job.feeds.take(range(min(AGREEMENT_SAMPLES, len(job.feeds))))
    listen("verifying", 1, 4)
    reference = stored(OpenVINO(model, threads=options.threads), job.feeds, options.batch)
    listen("verifying", 2, 4)
    runner = OpenVINO(written, threads=options.threads)
    evaluation = evaluate(reference, runner, job.feeds, options.batch)
    outputs = stored(runner, few, options.batch)
    del runner, reference
    listen("verifying", 3, 4)
    agreement = evaluate(outputs, OnnxRuntime(written, threads=options.threads), few, options.batch).agreement
    verify.check_agreement(agreement)
    if not np.isfinite(evaluation.agreement.relative_error):
        raise VerificationError(f"output '{evaluation.agreement.worst_output}' of the rewritten model is not finite")
    return _Checked(evaluation, agreement)


def _check_output(model: Path, output: Path) -> None:
    """Raise UsageError for an output that is no model file or is the input itself."""
    if output.suffix not in (".onnx", ".xml"):
        raise UsageError(f"{output}: the output is an .onnx file, or an .xml for OpenVINO IR")
    if output.exists() and model.exists() and output.samefile(model):
        raise UsageError(f"{output} is the input itself: give another name for the output")


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
    sizes: tuple[int, int],
    seconds: Mapping[str, float],
    options: Options,
) -> Report:
    around = environment(options.threads)
    before, after = checked.evaluation.before, checked.evaluation.after
    agreement = checked.evaluation.agreement
    name = "the original on random inputs" if job.guessed else "the original"
    return Report(
        ndpass=__version__,
        passes=[p.name for p in options.passes],
        budget=options.budget.to_json(),
        target=Target(cpu=around.cpu, precision="f32", threads=options.threads, batch=options.batch,
                      openvino=around.openvino),
        model=ModelSize(macs=(job.macs, job.promised[0]), params=(job.params, job.promised[1]), bytes=sizes),
        metric=None if before is None or after is None else MetricChange(
            name=before.name, before=before.value, after=after.value, samples=before.samples),
        seconds=Seconds(**seconds),
        peak_memory_bytes=peak_memory_bytes(),
        layers=layers,
        verified={
            name: Verified(samples=agreement.samples, relative_error=agreement.relative_error,
                           top1_agreement=agreement.top1_agreement, kl=agreement.kl,
                           worst_output=agreement.worst_output),
            "itself in onnxruntime": Verified(samples=checked.runtimes.samples,
                                              relative_error=checked.runtimes.relative_error),
        },
        warnings=checked.evaluation.warnings,
    )  # fmt: skip
