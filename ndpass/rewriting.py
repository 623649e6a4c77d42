"""Rewrite layer after layer, each fitted to the network as rewritten so far; the rows of the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from threadpoolctl import threadpool_limits

from ndpass.calibration.collect import Data, Frontier, answers, collect, references, samples
from ndpass.calibration.feeds import Feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample
from ndpass.candidates import split, ways, why_not
from ndpass.channel_walk import Labels
from ndpass.checkpoint import Checkpoint, Record
from ndpass.conv import Array, Block, Conv
from ndpass.coupling import Coupling
from ndpass.errors import VerificationError
from ndpass.graph import Found, Graph, Site, Skipped
from ndpass.groups import Group, Member
from ndpass.passes import ChannelPruning, Pass, Setting
from ndpass.passes.base import block_error
from ndpass.passes.channel_pruning import Reader
from ndpass.passes.compose import compose
from ndpass.planner import Budget, Candidate, Choice, choose, choose_local
from ndpass.relu_fitting import asking, linear, refitted, unsuited
from ndpass.report import Layer, Status
from ndpass.runtime import static_batch
from ndpass.sensitivity import Slopes, slopes, weighed
from ndpass.side_by_side import side_by_side

log = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]  # stage, steps done, steps in all

NARROW = 2_048  # elements of a patch below which one thread is used for the algebra
MOST_UNKNOWNS = 8_192  # elements of a patch; the moments of more would take over half a gigabyte


@dataclass
class Calibration:
    """The data and the original's responses at the sampled positions of every site that can be fitted."""

    data: Data
    memory: int
    chosen: Mapping[str, Sample]
    responses: Mapping[str, Array]

    @classmethod
    def of(
        cls, graph: Graph, sites: Sequence[Site], feeds: Feeds, threads: int | None, seed: int, memory: int
    ) -> Calibration:
        batch = static_batch(graph.inputs())
        data = Data.of(feeds, batch.size if batch else None, threads, seed)
        chosen = samples(graph, sites, data)
        return cls(data, memory, chosen, references(graph, sites, chosen, data, memory))

    def slopes(self, graph: Graph, sites: Sequence[Site], passes: Sequence[Pass]) -> Slopes:
        """What an error of these passes in each site's response costs at the outputs (`ndpass.sensitivity`)."""
        return slopes(graph, sites, self.responses, self.data, pruning=split(passes)[1] is not None)

    def frontier(self, graph: Graph) -> Frontier:
        return Frontier(graph, self.data, self.memory)

    def moments(self, site: Site, frontier: Frontier) -> Moments:
        return collect(site, frontier, self.chosen[site.name], self.responses[site.name])

    def rows(
        self, site: Site, frontier: Frontier, kernel: Array, columns: NDArray[np.intp] | None
    ) -> tuple[Array, Array]:
        """A kernel's answers to the site's patches and the responses wanted, (S, n_o) each."""
        found, step = answers(site, frontier, self.chosen[site.name], kernel, columns)
        return found, self.responses[site.name][::step]


def refused(graph: Graph, site: Site, passes: Sequence[Pass], calibrated: bool) -> str | None:
    """Why the site is left alone whatever the budget, or None."""
    reason = why_not(site, passes, channel_group(graph, site, passes))
    n = site.outline.n_i * site.outline.kernel_size
    if reason is None and calibrated and n > MOST_UNKNOWNS:
        return f"patches of {n} elements: their moments would take {8 * n * n / 1e9:.1f} GB"
    return reason


@contextmanager
def blas_threads(site: Site) -> Iterator[None]:
    """One thread for the algebra of a narrow layer: its products are so short that threads mostly wait for each other.

    Measured on two busy cores: a plan for the digits model took 130 s with two threads and 14 s with one.
    """
    if site.outline.n_i * site.outline.kernel_size >= NARROW:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield


def channel_group(graph: Graph, site: Site, passes: Sequence[Pass]) -> Group | str:
    """Who shares the site's input channels, looked for only if cp is among the passes."""
    return graph.channel_group(site) if split(passes)[1] else ""


class Rewriter:
    """Chooses and rewrites the sites of a graph; `plan` looks at all layers first where the budget needs it."""

    def __init__(
        self,
        graph: Graph,
        passes: Sequence[Pass],
        budget: Budget,
        calibration: Calibration | None,
        checkpoint: Checkpoint | None = None,
        jobs: int = 1,
    ) -> None:
        self.graph, self.passes, self.budget, self.calibration = graph, passes, budget, calibration
        self.checkpoint, self.jobs = checkpoint, jobs
        self.total = graph.macs()

    def plan(self, sites: Sequence[Site], listen: Listener) -> dict[str, Choice] | None:
        """The choice for every site where the budget is shared between layers or no data are needed, else None."""
        if self.calibration is not None and self.budget.kind != "macs":
            return None
        known = self.checkpoint.load_plan() if self.checkpoint else None
        plan = known or choose(
            self.weighed(sites, self.candidates(sites, listen)),
            self.budget,
            self.total,
            Coupling(self.graph, sites, self.passes).fronts,
        )
        if self.checkpoint and known is None:
            self.checkpoint.save_plan(plan)
        return plan

    def candidates(self, sites: Sequence[Site], listen: Listener) -> dict[str, list[Candidate]]:
        """Site name -> its candidates, with data on the activations of the network as it is now."""
        frontier = self.calibration.frontier(self.graph) if self.calibration else None

        def tasks() -> Iterator[tuple[str, Callable[[], list[Candidate]]]]:
            for i, site in enumerate(sites):
                listen("planning", i, len(sites))
                yield site.name, partial(self._candidates, site, self._moments(site, frontier), self._group(site))

        return side_by_side(tasks(), self.jobs)

    def _candidates(self, site: Site, moments: Moments | None, group: Group | str) -> list[Candidate]:
        with blas_threads(site) if self.jobs == 1 else nullcontext():
            found = ways(site, self.passes, moments, group, self._most())
        return [replace(c, block=None) for c in found]  # layers before it will have changed by the time it is written

    def weighed(self, sites: Sequence[Site], found: Mapping[str, Sequence[Candidate]]) -> dict[str, list[Candidate]]:
        """The candidates with what their errors do to the outputs, where there are data to tell."""
        if self.calibration is None:
            return {name: list(ways) for name, ways in found.items()}
        return weighed(found, self.calibration.slopes(self.graph, sites, self.passes))

    def _most(self) -> int:
        """Compositions of three are seldom chosen and each candidate has to be timed."""
        return 2 if self.budget.in_milliseconds else len(self.passes)

    def _moments(self, site: Site, frontier: Frontier | None) -> Moments | None:
        return None if frontier is None or self.calibration is None else self.calibration.moments(site, frontier)

    def rewrite(
        self,
        found: Sequence[Found],
        sites: Sequence[Site],
        plan: Mapping[str, Choice] | None,
        listen: Listener,
        activations: Graph | None = None,
    ) -> list[Layer]:
        """Rewrite the graph in place and give a row for everything in `found`; only `sites` are rewritten.

        activations: the network whose activations layers are fitted to; left out, the one that is being rewritten.
        """
        frontier = self.calibration.frontier(activations or self.graph) if self.calibration else None
        names = {site.name for site in sites}
        rows = []
        for i, one in enumerate(found):
            listen("rewriting", i, len(found))
            if not isinstance(one, Site) or one.name not in names:
                rows.append(left_alone(one, "skipped", self._why_skipped(one)))
            else:
                rows.append(self._one(i, one, plan[one.name] if plan is not None else None, frontier))
        return self._recount(rows)

    def _why_skipped(self, found: Found) -> str:
        if isinstance(found, Skipped):
            return found.reason
        return refused(self.graph, found, self.passes, self.calibration is not None) or ""

    def _recount(self, rows: list[Layer]) -> list[Layer]:
        """The rows with the MACs of the graph as it is: a pruned layer also makes those before it cheaper."""
        now = self.graph.macs_by([row.name for row in rows if row.macs])
        return [row.model_copy(update={"macs": (row.macs[0], now[row.name])}) if row.macs else row for row in rows]

    def _group(self, site: Site) -> Group | str:
        return channel_group(self.graph, site, self.passes)

    def _one(self, number: int, site: Site, choice: Choice | None, frontier: Frontier | None) -> Layer:
        """One layer: as the checkpoint has it if it was done before, else decided now and noted there."""
        record = self.checkpoint.load(number) if self.checkpoint else None
        if record is None:
            record = self._decide(site, choice, frontier)
            if self.checkpoint:
                self.checkpoint.save(number, record)
        elif record.looked and frontier is not None:
            for _ in frontier.advance(site):  # through the same segments as in the run that was cut off
                pass
        self._apply(site, record, frontier)
        return record.row

    def _decide(self, site: Site, choice: Choice | None, frontier: Frontier | None) -> Record:
        """What becomes of the layer; without a look at the data where the plan keeps it."""
        if choice is not None:
            if not choice.candidate.setting:
                return Record(left_alone(site, choice.status, choice.reason), looked=False)
            moments = self._moments(site, frontier)
            return self._for_relu(site, self._build(site, choice.candidate, moments), moments, frontier)
        moments = self._moments(site, frontier)
        with blas_threads(site):
            found = ways(site, self.passes, moments, self._group(site))
        while True:
            choice = choose_local(found, self.budget)
            if not choice.candidate.setting:
                return Record(left_alone(site, "kept", choice.reason), looked=True)
            record = self._build(site, choice.candidate, moments)
            if self._kept_enough(record.row.error_measured or 0.0):
                return self._for_relu(site, record, moments, frontier)
            found = [c for c in found if c is not choice.candidate]  # its error was estimated, and too low

    def _kept_enough(self, error: float) -> bool:
        return self.budget.kind != "energy" or self.budget.value is None or 1 - error >= self.budget.value

    def _build(self, site: Site, candidate: Candidate, moments: Moments | None) -> Record:
        """The layer written as the candidate says, fitted."""
        rules, pruning = split(self.passes)
        conv, settings, channels = site.conv, candidate.setting, None
        if candidate.block is not None:
            return Record(_done(site, candidate, candidate.block, candidate.error), True, candidate.block)
        with blas_threads(site):
            if pruning is not None and pruning.name in settings:
                conv, moments, channels = self._prune(site, conv, pruning, settings[pruning.name], moments)
            block = compose(rules, conv, settings, moments)
        return Record(_done(site, candidate, block, block_error(conv, block, moments)), True, block, channels)

    def _prune(
        self, site: Site, conv: Conv, pruning: ChannelPruning, setting: Setting, moments: Moments | None
    ) -> tuple[Conv, Moments | None, Labels]:
        """The layer on the channels that stay, refitted, its moments, and those channels of its group."""
        consumer, group = self._consumer(site)
        channels = group.filled(pruning.select([Reader(conv.weight, moments, consumer.channels)], setting))
        inputs = consumer.kept(channels)
        smaller = pruning.refit(conv, inputs, moments)
        left = None if moments is None else moments.keep(_columns(conv, inputs), smaller.matrix.astype(np.float64))
        return smaller, left, channels

    def _for_relu(self, site: Site, record: Record, moments: Moments | None, frontier: Frontier | None) -> Record:
        """The layer fitted for the ReLU behind it where a pass asks for that, or with the reason why not."""
        rule, calibration = asking(self.passes, record.row.setting), self.calibration
        if rule is None:
            return record
        why = unsuited(rule, self.graph.behind(site), record, moments is not None)
        if why is not None or moments is None or frontier is None or calibration is None:
            return linear(record, rule, why or "")
        conv, own, columns = site.conv, moments, None
        with blas_threads(site):
            if record.channels is not None:
                inputs = self._consumer(site)[0].kept(record.channels)
                conv, columns = ChannelPruning().refit(conv, inputs, moments), _columns(conv, inputs)
                own = moments.keep(columns, conv.matrix.astype(np.float64))
            return refitted(record, rule, conv, own, lambda: calibration.rows(site, frontier, own.best, columns))

    def _consumer(self, site: Site) -> tuple[Member, Group]:
        group = self.graph.channel_group(site)
        if isinstance(group, str):
            raise VerificationError(f"layer '{site.name}' could be pruned when it was planned, now: {group}")
        return group.consumers[0], group

    def _apply(self, site: Site, record: Record, frontier: Frontier | None) -> None:
        """Put the decision into the graph; channels go first, where they are made and from what is stored of them."""
        if record.channels is not None:
            consumer, group = self._consumer(site)
            x, axis = self.graph.input_of(site), 1 if site.outline.kernel else -1
            self.graph.keep_channels(group, record.channels)
            if frontier is not None:
                frontier.prune(x, axis, consumer.kept(record.channels), [span.tensor.name for span in group.spans])
        if record.block is not None:
            self.graph.splice(site, record.block)


def _columns(conv: Conv, inputs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which elements of a patch belong to these input channels."""
    return (inputs[:, None] * conv.kernel_size + np.arange(conv.kernel_size)).reshape(-1)


def _done(site: Site, candidate: Candidate, block: Block, error: float) -> Layer:
    before, after = site.macs(site.outline), site.macs(block)
    if before is None or after is None or after > candidate.macs:  # fewer where fewer channels than planned were left
        raise VerificationError(f"layer '{site.name}' takes {after} MACs, {candidate.macs} were promised")
    setting: dict[str, dict[str, JsonValue]] = {n: dict(options) for n, options in candidate.setting.items()}
    log.info("%s: %s, %d of %d MACs, error %.4f", site.name, setting, after, before, error)
    return Layer(
        name=site.name,
        op=site.op,
        shape=_shape_text(site.outline.weight.shape),
        status="done",
        setting=setting,
        macs=(before, after),
        error_predicted=candidate.error,
        error_measured=error,
    )


def left_alone(found: Found, status: Status, reason: str) -> Layer:
    """The row of a layer that stays as it is."""
    site = found.skipped(reason) if isinstance(found, Site) else found
    return Layer(
        name=site.name,
        op=site.op,
        shape=_shape_text(site.shape),
        status=status,
        reason=reason,
        macs=None if site.macs is None else (site.macs, site.macs),
    )


def _shape_text(shape: Sequence[int] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape))
