"""What is known of a model and its data before anything is rewritten; nothing changes it afterwards."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ndpass.calibration.digests import digest_labelled, digest_labels
from ndpass.calibration.feeds import Feeds
from ndpass.calibration.natural_inputs import natural_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import UsageError, about
from ndpass.files import model_file
from ndpass.files.interface import Interface
from ndpass.files.weight_files import stored_bytes
from ndpass.graph.graph import Found, Graph, Site, Skipped
from ndpass.graph.input_spec import InputSpec, check_fed
from ndpass.graph.shapes import Shape
from ndpass.graph.sites import uncounted
from ndpass.listener import Listener
from ndpass.measuring.batch import batch_within
from ndpass.measuring.readable import check_runs
from ndpass.measuring.target import Target
from ndpass.planning.candidate import LOSSES
from ndpass.planning.candidates import refused
from ndpass.planning.sensitivity import probing_floor
from ndpass.planning.work import planning_work
from ndpass.rewriting.digests import digest_file
from ndpass.run.address_space import check_address_space
from ndpass.run.both_runtimes import check_pads
from ndpass.run.judge import BATCH, Judge, OwnMetric
from ndpass.run.memory import Needs, check_memory
from ndpass.run.open_axes import assume_size, open_sizes, size_option
from ndpass.run.options import Options
from ndpass.run.plan_file import PlanFile
from ndpass.run.preprocessing import surveyed
from ndpass.run.quantise import check_nncf
from ndpass.run.resolution import check_resolution, few_for_an_error, held_out
from ndpass.run.sample_sizes import check_one_size
from ndpass.version import VERSION

if TYPE_CHECKING:
    from ndpass.engine.cluster import Cluster

log = logging.getLogger(__name__)

FITTED = "samples that are fitted to"  # in the fingerprint
COUNTED = ("top1", "top5", "agreement")  # metrics of which each sample is an answer, or several


@dataclass(frozen=True)
class Job:
    """The model, the data and what was asked.

    fit: the samples that layers are fitted to, None without data. measured: those of the metric; guessed: whether they
    are made up, for want of data. beside: files that hold the model's external data. compared: the tensors that
    original and result are compared by, None for their outputs. macs, params: of the original. sizes: the input shapes
    that costs are counted at. work: of planning and fitting all layers; probed: images that each probe takes at least.
    needs: of memory. sites: names of the layers that a pass may rewrite, convolutional: whether there is any
    convolution. cluster: of --engine, connected. spared: samples that a time limit left no time to fit to.
    """

    model: Path
    options: Options
    target: Target
    fit: Feeds | None
    measured: Feeds
    guessed: bool
    judge: Judge
    beside: Sequence[Path]
    interface: Interface
    compared: Sequence[str] | None
    inputs: Sequence[InputSpec]
    sizes: Mapping[str, Shape]
    macs: int
    params: int
    work: float
    probed: int
    needs: Needs
    sites: frozenset[str]
    convolutional: bool
    warnings: tuple[str, ...]
    cluster: Cluster | None = None
    spared: int = 0

    def open(self) -> Opened:
        """The original's graph, read anew, to be rewritten: weights are in memory only where they are needed."""
        graph = model_file.open_graph(self.model, self.sizes).graph
        return Opened.of(graph, ignored(graph.sites(), self.options.ignore), self.sites)

    @property
    def given(self) -> int:
        """How many samples the calibration data have where the metric is measured on a part of them."""
        return len(self.measured) + len(self.fit or ()) + self.spared

    @property
    def digest(self) -> str:
        """Hash of the model's file and of its external data."""
        return digest_file(self.model, *self.beside)


@dataclass(frozen=True)
class Opened:
    """A graph, all layers that were found in it, and which of them a pass may rewrite."""

    graph: Graph
    found: Sequence[Found]
    sites: Sequence[Site]

    @classmethod
    def of(cls, graph: Graph, found: Sequence[Found], names: frozenset[str]) -> Opened:
        graph.leave([f.name for f in found if isinstance(f, Skipped)])
        return cls(graph, found, [f for f in found if isinstance(f, Site) and f.name in names])


Open = Callable[[], Opened]


def read(model: Path, options: Options, listen: Listener, cluster: Cluster | None = None) -> Job:
    """The model's file and the data. Raises InputError, or UsageError for options that do not go with the model."""
    listen("reading", 0, 1)
    check_address_space(stored_bytes(model), training=options.refine is not None)
    opened = model_file.open_graph(model)
    graph = opened.graph
    if options.data.size is not None:
        assume_size(graph, options.data.size)
    with about(model):
        check_fed(graph.inputs())
    fit, measured = _data(graph, options)
    if graph.dynamic_hw and options.data.size is None:
        how = size_option(graph) or "data set them"
        if measured is not None:
            graph.assume_feed(next(measured.batches(1)))
            pixels = options.data.preprocess is not None
            how = "as --preprocess leaves the data, size=HxW there sets it" if pixels else "as the data have them"
        listen(f"open axes are taken as {open_sizes(graph)}: {how}", 0, 0)
    check_runs(model, graph.sizes)
    check_one_size(graph, fit, "by --size" if options.data.size else "in the validation data")
    check_pads(model, graph)
    with about(model):
        check_memory(graph)
    found = ignored(graph.sites(), options.ignore)
    graph.leave([f.name for f in found if isinstance(f, Skipped)])
    sites = [f for f in found if isinstance(f, Site) and refused(graph, f, options.passes, fit is not None) is None]
    names = frozenset(site.name for site in sites)
    if shared := graph.tied(names, by_data=fit is not None):
        log.warning(shared)
    batch = batch_within(graph, options.effort.memory, BATCH)
    warned = surveyed(model, options, fit, measured, batch, cluster)
    feeds = measured or natural_feeds(graph.inputs(), graph.sizes, options.data.seed, options.data.preprocess)
    job = Job(
        model=model,
        options=options,
        target=options.target.resolved(graph.inputs()),
        fit=fit,
        measured=feeds,
        guessed=measured is None,
        judge=Judge(
            model,
            feeds,
            options.target.threads,
            options.metric,
            opened.compared,
            by_kind=measured is not None,
            batch=batch,
        ),
        beside=opened.beside,
        interface=opened.interface,
        compared=opened.compared,
        inputs=graph.inputs(),
        sizes=graph.sizes,
        macs=graph.macs(),
        params=graph.params(),
        work=sum(planning_work(site) for site in sites),
        probed=probing_floor(graph)[0],
        needs=Needs.of(graph, sites, batch),
        sites=names,
        convolutional=any(f.op.startswith("Conv") for f in found),
        warnings=(*warned, *filter(None, [shared, uncounted(found)])),
        cluster=cluster,
    )
    _check_data(job)
    graph.release()
    return job


def _data(graph: Graph, options: Options) -> tuple[Feeds | None, Feeds | None]:
    """What is fitted to and what the metric is measured on; the latter is held out from the former if need be."""
    specs, data = graph.inputs(), options.data
    fit = data.calibration(specs) if data.calibration else None
    measured = data.validation(specs) if data.validation else None
    if fit is not None and measured is None:
        fit, measured = fit.split(share_held_out(len(fit), options), data.seed)
        log.info("metric on %d samples held out from the calibration data", len(measured))
    return fit, measured


def ignored(found: Sequence[Found], patterns: Sequence[str]) -> list[Found]:
    """Sites that --ignore names become skipped ones. Raises UsageError for a pattern that matches nothing."""
    names = [f.name for f in found]
    hit: set[str] = set()
    for pattern in patterns:
        matched = [n for n in names if _matches(pattern, n)]
        if not matched:
            known = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            hint = f"; the whole name has to match, as re:.*{pattern[3:]}.* does" if pattern.startswith("re:") else ""
            law = f"--ignore {pattern} matches no layer{hint}"
            raise UsageError(f"{law}: the layers are {known} (ndpass inspect lists all)")
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


def fingerprint(job: Job, calibration: Calibration) -> dict[str, str]:
    """What a run that goes on must have in common with the one that was cut off.

    That is all that its candidates, fits, trained weights and measurements depend on. The samples of the metric count
    only where its drop is measured on the way or training is judged by them, the machine only where latencies are.
    """
    import openvino

    options, data, threads = job.options, job.options.data, job.options.target.threads
    budget, machine = options.budget, options.target.machine(job.target)
    timed, measured = budget.in_milliseconds or budget.faster, budget.kind in LOSSES and options.plan is None
    return {
        "ndpass": VERSION,
        "openvino": openvino.__version__,
        "model": job.digest,
        "data": calibration.digest(),
        FITTED: str(len(job.fit or ())),
        "shards": str(calibration.cuts or "none"),
        "passes": ",".join(f"{p.name}{sorted(p.pinned.items())}" for p in options.passes),
        "budget": f"{budget.to_json()}{', only faster layers' if budget.faster else ''}",
        "plan": digest_file(options.plan) if options.plan else "",
        "validation": digest_labelled(job.measured) if measured or options.refine else "",
        "target": ", ".join(f"{key} {value}" for key, value in machine.environment().items()) if timed else "",
        "ignore": str(sorted(options.ignore)),
        "size": str(data.size or ""),
        "options": f"seed {data.seed}, threads {threads}, memory {options.effort.memory}",
        "metric": _metric_text(options.metric) if measured else "",
        "int8": f"by NNCF {version('nncf')}" if options.output.int8 else "",
        "refine": training_text(job),
    }


def training_text(job: Job) -> str:
    """What --refine does with the samples that are fitted to, beside their values; empty without."""
    refine, fit = job.options.refine, job.fit
    if refine is None or fit is None:
        return ""
    labels = f"labels {digest_labels(fit)}" if refine.labels else f"{'no ' * (fit.labels is None)}labels"
    return f"{refine.text}; {fit.noun}s, {labels}"


def share_held_out(samples: int, options: Options) -> float:
    """The share of this many calibration samples that the metric is measured on.

    A plan says what was held out when it was made: layers are then fitted to the same samples.
    """
    if options.plan is not None:
        return PlanFile.read(options.plan).held_out
    return held_out(samples, _limit(options))


def _limit(options: Options) -> float | None:
    """Points that the metric may lose, where the budget says so and each sample is one answer."""
    budget = options.budget
    return budget.value if budget.kind == "max_drop" and options.metric in (None, *COUNTED) else None


def _metric_text(metric: OwnMetric | None) -> str:
    """The metric's name and, for a module:function, the contents of its file, which may have changed."""
    module = metric.partition(":")[0] if isinstance(metric, str) and ":" in metric else ""
    source = getattr(sys.modules.get(module), "__file__", None)  # the judge has imported it
    return str(metric or "") if source is None else f"{metric} in {source} ({digest_file(Path(source))})"


def _check_data(job: Job) -> None:
    """Raise UsageError for what is asked about data that there are not."""
    options = job.options
    if options.output.int8:
        if options.data.calibration is None:
            raise UsageError("--int8 sets its ranges by data: give --calibration PATH")
        check_nncf()
    if options.refine is not None and job.fit is None:
        raise UsageError("--refine trains on data: give --calibration PATH")
    if options.refine is not None and options.refine.labels and (job.fit is None or job.fit.labels is None):
        raise UsageError("--refine-labels: the calibration data have no labels: leave it out, or name them")
    if not job.guessed or job.judge.has_own_metric:
        return
    if options.metric is not None:
        raise UsageError(f"--metric {options.metric} is measured on data: give --calibration or --validation PATH")
    if options.budget.kind in LOSSES and options.plan is None:
        option = f"--{options.budget.kind.replace('_', '-')}"
        raise UsageError(f"{option} is measured on data: give --calibration or --validation PATH, or use --speedup")


def drop_warnings(job: Job) -> list[str]:
    """Raise UsageError where --max-drop cannot be measured on these data; warn where a loss can be only roughly.

    Runs the original if it has not been.
    """
    options, judge = job.options, job.judge
    if options.budget.kind == "max_error" and (few := few_for_an_error(len(job.measured))):
        log.warning(few)
        return [few]
    if options.budget.kind != "max_drop" or options.plan is not None or judge.has_own_metric:
        return []  # a metric of the user's own is on samples of its own, and maybe in other units
    if reason := judge.undefined():
        raise UsageError(f"--max-drop: {reason}; or use --speedup or --macs")
    if (answers := judge.answers()) is None:
        return []
    assert options.budget.value is not None
    given = None if options.data.validation else job.given
    warning = check_resolution(len(job.measured), options.budget.value, given, answers)
    if warning:
        log.warning(warning)
    return [warning] if warning else []
