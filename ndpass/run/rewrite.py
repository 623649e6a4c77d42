"""A job becomes a rewritten graph: calibrate, choose a plan, fit it layer after layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ndpass.calibration.checks import check_enough
from ndpass.calibration.natural_inputs import natural_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import BudgetError, InputError
from ndpass.graph.graph import Graph
from ndpass.listener import Listener
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.runtime import Runnable
from ndpass.planning.blocks import mergeable, refittable
from ndpass.planning.candidate import Budget, Choice
from ndpass.planning.deadline import Deadline
from ndpass.planning.keep_faster import keep_faster
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.reachable import check_reachable
from ndpass.planning.shared_channels import SharedChannels
from ndpass.planning.stand_in import StandIns
from ndpass.report import Layer, TriedPlan
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run.clock import Clock
from ndpass.run.job import Job, Opened, drop_warnings, fingerprint
from ndpass.run.judge import loss_of
from ndpass.run.plan_file import PlanFile
from ndpass.run.planner import Network, planner_for
from ndpass.run.quantise import quantise
from ndpass.run.spread import calibrated
from ndpass.run.tuning import Tuned, Tuner, with_latencies


@dataclass(frozen=True)
class Rewritten:
    """The rewritten graph and every layer's status. macs, params: of the whole model as it is now; plans: all fits.

    tuned: how the plan was found where it was timed, with the way to others.
    """

    graph: Graph
    layers: Sequence[Layer]
    macs: int
    params: int
    warnings: tuple[str, ...] = ()
    plans: Sequence[TriedPlan] = ()
    tuned: Tuned | None = None

    def further(self, damage: float, number: int) -> Rewritten | None:
        """The fastest plan of another predicted damage, fitted; None where there is none that is faster."""
        if self.tuned is None or self.tuned.more is None:
            return None
        found = self.tuned.more(damage, number)
        if found is None:
            return None
        graph = found.graph
        return replace(self, graph=graph, layers=found.layers, macs=graph.macs(), params=graph.params(), tuned=found)


def rewritten(job: Job, checkpoint: Checkpoint | None, clock: Clock, listen: Listener) -> Rewritten:
    """Choose and rewrite. Raises InputError where no pass can act, BudgetError where none can within the budget.

    checkpoint: where a calibrated run keeps what it has done.
    """
    if not job.convolutional:
        raise InputError(f"{job.model}: no convolution in it: ndpass rewrites convolutional networks")
    known = drop_warnings(job)
    opened = job.open()
    _check_reachable(job, opened)
    calibration = _calibrated(job, opened, checkpoint, clock, listen)
    checkpoint = checkpoint if calibration else None
    limit = job.options.effort.time_limit
    deadline = None if limit is None else Deadline(limit, lambda: clock.passed)
    warnings: Sequence[str] = ()
    plans: Sequence[TriedPlan] = ()
    tuned = None
    with _saying_what_was_left_out(deadline, job.macs):
        if job.options.budget.in_milliseconds and job.options.plan is None and opened.sites:
            with clock("plan"):
                tuned = _tuned(job, calibration, checkpoint, clock, listen, deadline)
            graph, layers, warnings, plans = tuned.graph, tuned.layers, tuned.warnings, tuned.plans
        else:
            graph, layers = opened.graph, _planned(job, opened, calibration, checkpoint, clock, listen, deadline)
    if not any(layer.status == "done" for layer in layers):
        text = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:3])
        names = "+".join(p.name for p in job.options.passes)
        within = opened.sites and job.options.budget.kind != "pinned"  # passes could act, but not within the budget
        error = BudgetError if within else InputError
        more = "; layers that are fitted lose less: give --calibration DATA" if within and job.fit is None else ""
        raise error(f"{job.model}: nothing to rewrite with {names} ({text}; ndpass inspect lists all){more}")
    if deadline and (left := deadline.warning(job.macs)):
        warnings = [*warnings, left]
    return Rewritten(graph, layers, graph.macs(), graph.params(), (*known, *warnings), plans, tuned)


def _check_reachable(job: Job, opened: Opened) -> None:
    """Raise BudgetError for MACs that no plan can have, before anything is fitted."""
    passes, budget = job.options.passes, job.options.budget
    if job.options.plan is None and opened.sites:
        blocks = mergeable(opened.graph, passes, [site.name for site in opened.sites], job.fit is not None)
        check_reachable(opened.graph, opened.sites, passes, budget, blocks)


@contextmanager
def _saying_what_was_left_out(deadline: Deadline | None, macs: int) -> Iterator[None]:
    """A budget that is not met may be met with more time: the error says so where --time-limit left out layers."""
    try:
        yield
    except BudgetError as e:
        left = deadline.warning(macs) if deadline else None
        if left is None:
            raise
        raise BudgetError(f"{e}; {left}") from e


def _calibrated(
    job: Job, opened: Opened, checkpoint: Checkpoint | None, clock: Clock, listen: Listener
) -> Calibration | None:
    """The original's responses to the calibration data; None without data, or with nothing to fit."""
    if job.fit is None or not opened.sites:
        return None
    options = job.options
    with clock("calibrate"):
        listen("calibrating", 0, 1)
        blocks = mergeable(opened.graph, options.passes, [site.name for site in opened.sites], True)
        branches = [block.branch for block in blocks.values()]
        sites = [*opened.sites, *refittable(opened.graph, opened.found, job.sites, bool(branches))]
        calibration = calibrated(job, opened.graph, sites, branches, listen)
        check_enough(opened.sites, calibration.data.images, lambda site: calibration.chosen[site.name].rows)
        if checkpoint:
            begin = checkpoint.resume if options.effort.resume else checkpoint.start
            begin(fingerprint(job, calibration))
            calibration.folder = checkpoint.folder
    return calibration


def _planned(
    job: Job,
    opened: Opened,
    calibration: Calibration | None,
    checkpoint: Checkpoint | None,
    clock: Clock,
    listen: Listener,
    deadline: Deadline | None,
) -> list[Layer]:
    """One plan, from a file or chosen by the budget, fitted once."""
    times: tuple[TimedPlan, LatencyTable] | None = None
    with clock("plan"):
        plan = _plan(job, opened, calibration, checkpoint, listen, deadline)
        if job.options.budget.faster and not isinstance(plan, Budget) and _rewrites(plan):
            times = _only_faster(job, opened, plan, listen)
            plan = times[0].plan
    with clock("rewrite"):
        rewriter = Rewriter(opened.graph, job.options.passes, calibration, checkpoint)
        layers = rewriter.rewrite(opened.found, opened.sites, plan, listen)
        opened.graph.tidy()
    return with_latencies(layers, *times) if times else layers


def _rewrites(plan: Mapping[str, Choice]) -> bool:
    """Whether the plan changes any layer."""
    return any(choice.candidate.setting for choice in plan.values())


def _only_faster(
    job: Job, opened: Opened, plan: Mapping[str, Choice], listen: Listener
) -> tuple[TimedPlan, LatencyTable]:
    """The plan without what is no faster in place, as timed there, and the times as it was. Raises BudgetError."""
    listen("timing plans", 0, 1)
    machine = job.options.target.machine(job.target)
    timer = StandIns(lambda: job.open().graph, job.options.passes, machine)
    together = SharedChannels.of(opened.graph, opened.sites, job.options.passes)
    return keep_faster(plan, (opened.graph, opened.sites), machine, timer, together)


def _plan(
    job: Job,
    opened: Opened,
    calibration: Calibration | None,
    checkpoint: Checkpoint | None,
    listen: Listener,
    deadline: Deadline | None,
) -> Mapping[str, Choice] | Budget:
    """A choice for every layer; the budget itself where it is chosen layer by layer, on the network as rewritten."""
    options = job.options
    if options.plan:
        return PlanFile.load(options.plan, job.digest).choices(opened.graph, opened.sites)
    if not opened.sites:
        return {}  # no pass can act: the reasons of the layers say why, not the budget
    if calibration is not None and not options.budget.is_shared:
        return options.budget
    known = checkpoint.load_plan() if checkpoint else None
    if known is not None:
        return known
    natural = _natural(job, opened) if calibration is None and options.budget.is_shared else None
    network = Network(job.open, options.passes, calibration, natural)
    planner = planner_for(opened.graph, network, checkpoint, options.effort.jobs, deadline=deadline)
    plan = planner.plan(opened.sites, options.budget, listen)
    if checkpoint:
        checkpoint.save_plan(plan)
    return plan


def _natural(job: Job, opened: Opened) -> Calibration:
    """Inputs with natural statistics, which tell for want of data how much an error in a layer moves the outputs.

    Never the validation data: what is chosen by them cannot be measured on them.
    """
    options = job.options
    feeds = natural_feeds(job.inputs, job.sizes, options.data.seed, options.data.preprocess)
    threads, memory = options.target.threads, options.effort.memory
    return Calibration.of(opened.graph, opened.sites, feeds, threads, options.data.seed, memory)


def measured_loss(job: Job, model: Runnable) -> float:
    """What the budget counts of a model on the validation data, in points; of --int8 after quantisation."""
    options = job.options
    if not options.output.int8:
        return loss_of(job.judge(model), options.budget)
    assert job.fit is not None
    return loss_of(job.judge(quantise(model, job.fit, job.inputs), "int8"), options.budget)


def _tuned(
    job: Job,
    calibration: Calibration | None,
    checkpoint: Checkpoint | None,
    clock: Clock,
    listen: Listener,
    deadline: Deadline | None,
) -> Tuned:
    """Plans that are timed, and fitted until the metric has no more room; with what the user should know of them."""
    options = job.options

    def loss(graph: Graph) -> float:
        return measured_loss(job, graph.runnable())

    natural = None if calibration else _natural(job, job.open())
    network = Network(job.open, options.passes, calibration, natural)
    latencies = Latencies(options.target.machine(job.target), options.effort.cache)
    tuner = Tuner(network, latencies, loss, checkpoint, listen, options.effort.jobs, clock, deadline)
    return tuner.run(options.budget)
