"""What a run is asked for, and what is known of its model and data before anything is rewritten."""

from __future__ import annotations

import gc
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import UsageError
from ndpass.files import model_file
from ndpass.files.interface import Interface
from ndpass.files.staging import data_file
from ndpass.graph.graph import Found, Graph, Site
from ndpass.graph.input_spec import InputSpec, static_batch
from ndpass.graph.shapes import Shape
from ndpass.listener import Listener
from ndpass.measuring.target import Target
from ndpass.rewriting.checkpoint import digest_data, digest_file
from ndpass.run.judge import Judge
from ndpass.run.options import Options
from ndpass.run.quantise import check_nncf
from ndpass.version import VERSION

log = logging.getLogger(__name__)

NOISE_SAMPLES = 4  # how many random inputs stand in for data that nobody gave
HELD_OUT = 0.2  # of the calibration data, for the metric, where no validation data are given


@dataclass
class Job:
    """What is known of the model. `graph` and `found` hold weights until `release`."""

    graph: Graph
    found: Sequence[Found]
    fit: Feeds | None
    measured: Feeds
    guessed: bool  # whether `measured` is noise, for want of data
    judge: Judge
    beside: Sequence[Path]  # files that hold the model's external data
    interface: Interface
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


def read(model: Path, output: Path, options: Options, listen: Listener) -> Job:
    """The model's file and the data. Raises InputError, or UsageError for options that do not go with the model."""
    listen("reading", 0, 1)
    opened = model_file.open_graph(model)
    graph = opened.graph
    if data_file(output).resolve() in {p.resolve() for p in opened.beside}:
        raise UsageError(f"{output}: its weights would overwrite those of the input: give another name for the output")
    fit, measured = _data(graph, options)
    if graph.dynamic_hw and measured is not None:
        graph.assume_feed(next(measured.batches(1)))
    found = ignored(graph.sites(), options.ignore)
    macs, params = graph.macs(), graph.params()
    feeds = measured or _noise(graph, options.seed)
    judge = Judge(model, feeds, options.threads, options.metric, opened.compared)
    return Job(
        graph,
        found,
        fit,
        feeds,
        measured is None,
        judge,
        opened.beside,
        opened.interface,
        opened.compared,
        (macs, macs),
        (params, params),
        graph.inputs(),
        graph.sizes,
    )


def _data(graph: Graph, options: Options) -> tuple[Feeds | None, Feeds | None]:
    """What is fitted to and what the metric is measured on; the latter is held out from the former if need be."""
    specs = graph.inputs()
    fit = options.calibration(specs) if options.calibration else None
    measured = options.validation(specs) if options.validation else None
    if fit is not None and measured is None:
        fit, measured = fit.split(HELD_OUT, options.seed)
        log.info("metric on %d samples held out from the calibration data", len(measured))
    return fit, measured


def _noise(graph: Graph, seed: int) -> Feeds:
    """Seeded standard normal inputs, for models that come without data."""
    rng = np.random.default_rng(seed)
    specs = graph.inputs()
    samples = {s.name: graph.sizes[s.name][1:] if s.batched else graph.sizes[s.name] for s in specs}
    arrays = {s.name: rng.standard_normal((NOISE_SAMPLES, *samples[s.name])).astype(s.dtype) for s in specs}
    return open_feeds([{name: a[i] for name, a in arrays.items()} for i in range(NOISE_SAMPLES)], specs)


def ignored(found: Sequence[Found], patterns: Sequence[str]) -> list[Found]:
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


def fingerprint(model: Path, beside: Sequence[Path], options: Options, calibration: Calibration) -> dict[str, str]:
    """What a run that goes on must have in common with the one that was cut off."""
    import openvino

    data = calibration.data
    return {
        "ndpass": VERSION,
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


def check_budget(job: Job, options: Options) -> None:
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


def target_of(job: Job, options: Options) -> Target:
    """What latencies are measured for; batch: that of the options, the model's own or 1."""
    own = static_batch(job.inputs)
    batch = options.batch or (own.size if own else 1)
    return replace(options.target or Target("f32", options.threads), batch=batch)


RESOLVED = 300  # samples for each of which a point of drop is resolved: the share of answers that flip is about 3·drop


def check_resolution(samples: int, limit: float) -> str | None:
    """A warning where `samples` tell a drop of `limit` points only roughly; UsageError where they cannot tell it."""
    needed = math.ceil(RESOLVED / limit)
    if 100 / samples > limit:
        raise UsageError(
            f"--max-drop {limit:g}: one of the {samples} validation samples is {100 / samples:.3g} points: "
            f"give at least {needed} samples"
        )
    if samples < needed:
        return f"{samples} validation samples tell a drop of {limit:g} points only roughly: give {needed} or more"
    return None
