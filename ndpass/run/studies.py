"""What an error in a part of a network, or a rewrite of it, does to the outputs; no model is written.

slopes  how far an error of a given size in one layer's response moves the outputs (`ndpass.planning.sensitivity`)
ranks   one layer at a time at several settings of each pass, the rest as it was (Guo et al. 2018, Figure 4)
depth   the first k and the last k layers at one setting, layer after layer, each making up for the error of those
        before it (Li et al. 2018, DAC, arXiv 1812.08374)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ndpass.calibration.collect import Frontier
from ndpass.calibration.feeds import Feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.calibration.walk import OneWalk, Walk
from ndpass.errors import InputError
from ndpass.files.model_file import open_graph
from ndpass.files.weight_files import stored_bytes
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.listener import Listener
from ndpass.measuring.batch import batch_within
from ndpass.measuring.evaluate import Evaluation
from ndpass.passes import Merging, Pass, Pruning, Setting
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.planning.candidates import block_of, candidates_for, is_pinned, refused
from ndpass.planning.compositions import spread
from ndpass.planning.sensitivity import slopes
from ndpass.planning.shared_channels import channel_group
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run.address_space import check_address_space
from ndpass.run.judge import BATCH, Judge
from ndpass.run.options import Data, Options
from ndpass.run.resolution import HELD_OUT
from ndpass.run.sample_sizes import check_one_size
from ndpass.version import VERSION

log = logging.getLogger(__name__)

MOST_SETTINGS = 6  # of a curve, evenly spread over those that save MACs


@dataclass(frozen=True)
class Slope:
    """A layer's slope as `ndpass.planning.sensitivity.slopes` has it; relative: to the mean of all layers."""

    layer: str
    op: str
    shape: tuple[int, ...]
    macs: int
    slope: float
    relative: float


@dataclass(frozen=True)
class Score:
    """A rewritten network beside the original. metric: see `Yardstick`; kl: nats, None without class scores."""

    metric: float
    kl: float | None
    relative_error: float


@dataclass(frozen=True)
class Rank:
    """One layer at one setting of one pass. macs: of the layer, before and after; error: of its response."""

    layer: str
    rule: str
    setting: Setting
    macs: tuple[int, int]
    error: float
    score: Score

    @property
    def curve(self) -> str:
        """The pass and what of its setting is a word: nd:form=dw-pw."""
        return ":".join([self.rule, *(f"{k}={v}" for k, v in self.setting.items() if isinstance(v, str))])


@dataclass(frozen=True)
class Depth:
    """The first or last `count` layers rewritten; done: how many were, the others would have cost more MACs.

    layer: the one that came on top; macs: of the whole model, before and after.
    """

    end: str
    count: int
    done: int
    layer: str
    macs: tuple[int, int]
    score: Score


def layer_slopes(model: Path, options: Options, listen: Listener = lambda *_: None) -> list[Slope]:
    """A row for each layer that the passes can rewrite, on all calibration data. Raises InputError without one."""
    graph, fit, _ = _opened(model, replace(options.data, validation=options.data.calibration))
    sites = _sites(model, graph, options.passes)
    listen("calibrating", 0, 1)
    calibration = _calibration(graph, sites, fit, options)
    found = slopes(calibration, graph, sites, listen).plain
    mean = sum(found.values()) / len(found)
    return [
        Slope(site.name, site.op, site.shape, site.macs(site.outline) or 0, slope, slope / mean)
        for site, slope in ((site, found[site.name]) for site in sites)
    ]


@dataclass
class Subject:
    """A network that is taken apart: the original, the data that rewrites are fitted to and the yardstick."""

    graph: Graph  # as it is; rewritten are others
    sites: list[Site]
    passes: Sequence[Pass]
    calibration: Calibration
    yardstick: Yardstick

    @classmethod
    def open(cls, model: Path, options: Options) -> Subject:
        """Runs the original once over all data. Raises InputError where no layer can be rewritten."""
        graph, fit, measured = _opened(model, options.data)
        sites = _sites(model, graph, options.passes)
        calibration = _calibration(graph, sites, fit, options)
        return cls(graph, sites, options.passes, calibration, Yardstick(graph, measured, options))

    def ranks(self) -> Iterator[Rank]:
        """Layer by layer, pass by pass, setting by setting; each fitted to the original's own activations."""
        walk = self.calibration.walk(self.graph)
        for site in self.sites:
            known = _Known(**vars(self.calibration), known=walk.moments(site))
            for rule in self.passes:
                for candidate in self._settings(site, rule, known.known):
                    yield self._rank(site, rule, candidate, known)

    def _settings(self, site: Site, rule: Pass, moments: Moments) -> list[Candidate]:
        """At most MOST_SETTINGS that save MACs, evenly spread, of each form that the pass has; pinned ones as given."""
        group = channel_group(self.graph, site, [rule])
        if isinstance(rule, Merging) or refused(self.graph, site, [rule], True):  # a block is no layer
            return []
        if isinstance(group, Group) and len(group.readers) > 1:  # pruned together with others, which are ranked apart
            return []
        if isinstance(rule, Pruning):  # what goes with a channel is known to `candidates_for` alone
            every = candidates_for(site, [rule], moments, group)[1:]
        else:
            blocks = ((s, block_of(site, [rule], {rule.name: s}, group)) for s in rule.settings(site.outline))
            every = [Candidate(site.macs(block) or 0, 0.0, {rule.name: setting}) for setting, block in blocks]
        dense = site.macs(site.outline) or 0
        cheaper = [c for c in every if c.macs < dense or is_pinned([rule])]
        curves: dict[tuple[str, ...], list[Candidate]] = {}
        for c in cheaper:
            words = tuple(v for v in c.setting[rule.name].values() if isinstance(v, str))
            curves.setdefault(words, []).append(c)
        return [c for curve in curves.values() for c in spread(curve, MOST_SETTINGS)]

    def _rank(self, site: Site, rule: Pass, candidate: Candidate, known: _Known) -> Rank:
        graph, sites = self._fresh()
        one = [sites[site.name]]
        rewriter = Rewriter(graph, [rule], known)
        (row,) = rewriter.rewrite(one, one, {site.name: Choice(candidate)}, lambda *_: None)
        assert row.macs is not None
        score = self.yardstick(graph)
        return Rank(site.name, rule.name, candidate.setting[rule.name], row.macs, row.error_measured or 0.0, score)

    def depth(self) -> Iterator[Depth]:
        """The first 1, 2, … layers, then the last 1, 2, …; passes must be pinned."""
        every = None
        for every in self._first():
            yield every
        for count in range(1, len(self.sites)):
            yield self._last(count)
        if every is not None:  # the last of all are the first of all
            yield replace(every, end="last", layer=self.sites[0].name)

    def _first(self) -> Iterator[Depth]:
        """Each the one before with a layer more."""
        graph, sites = self._fresh()
        done = 0
        for count, site in enumerate(self.sites, 1):
            done += self._rewrite(graph, [sites[site.name]])
            yield self._depth("first", count, done, site, graph)

    def _last(self, count: int) -> Depth:
        graph, sites = self._fresh()
        chosen = self.sites[-count:]
        done = self._rewrite(graph, [sites[site.name] for site in chosen])
        return self._depth("last", count, done, chosen[0], graph)

    def _depth(self, end: str, count: int, done: int, site: Site, graph: Graph) -> Depth:
        return Depth(end, count, done, site.name, (self.graph.macs(), graph.macs()), self.yardstick(graph))

    def _rewrite(self, graph: Graph, sites: Sequence[Site]) -> int:
        """Rewrite these sites of the graph one after the other; returns how many were."""
        rewriter = Rewriter(graph, self.passes, self.calibration)
        return sum(row.status == "done" for row in rewriter.rewrite(sites, sites, Budget("pinned"), lambda *_: None))

    def _fresh(self) -> tuple[Graph, dict[str, Site]]:
        """The original anew, to be rewritten, and its sites."""
        graph = self.graph.copy()
        return graph, {found.name: found for found in graph.sites() if isinstance(found, Site)}


@dataclass
class _Known(Calibration):
    """A calibration that has the moments of the one site at hand, so that all its settings share them."""

    known: Moments = field(kw_only=True)

    def walk(self, graph: Graph) -> Walk:
        return _KnownWalk(Frontier(graph, self.data, self.memory), self.chosen, self.responses, self.known)


@dataclass
class _KnownWalk(OneWalk):
    known: Moments

    def sums(self, site: Site, every: int = 1) -> Callable[[], Moments]:  # noqa: ARG002 - the signature is the one that is overridden
        return lambda: self.known


class Yardstick:
    """Measures networks against the original on data that no fit has seen.

    The metric is accuracy in per cent where there are labels, else the per cent of samples with the original's best
    class, else, where no output is class scores, the relative error of the outputs. `original`: that of the original.
    """

    def __init__(self, graph: Graph, feeds: Feeds, options: Options) -> None:
        self.feeds, original = feeds, graph.runnable()
        batch, threads = batch_within(graph, options.effort.memory, BATCH), options.target.threads
        self.judge = Judge(original, feeds, threads, compared=graph.compared(), batch=batch)
        found = self.judge(original)
        for warning in found.warnings:
            log.warning(warning)
        accuracy, top1 = found.after is not None, found.agreement.top1_agreement is not None
        self.name = "accuracy" if accuracy else "top-1 agreement" if top1 else "relative error"
        self.higher_is_better = accuracy or top1
        self.original = self._score(found).metric

    def __call__(self, graph: Graph) -> Score:
        """Of a rewritten network, whose graph is tidied."""
        graph.tidy()
        return self._score(self.judge(graph.runnable()))

    def _score(self, found: Evaluation) -> Score:
        agreement = found.agreement
        metric = agreement.relative_error if agreement.top1_agreement is None else agreement.top1_agreement
        metric = metric if found.after is None else found.after.value
        return Score(metric, agreement.kl, agreement.relative_error)


def _calibration(graph: Graph, sites: Sequence[Site], fit: Feeds, options: Options) -> Calibration:
    return Calibration.of(graph, sites, fit, options.target.threads, options.data.seed, options.effort.memory)


def _opened(model: Path, data: Data) -> tuple[Graph, Feeds, Feeds]:
    """The model and its data; what is measured on is held out from the calibration data where nothing else is given."""
    check_address_space(stored_bytes(model), training=False)
    graph = open_graph(model).graph
    assert data.calibration is not None
    fit = data.calibration(graph.inputs())
    if data.validation is None:
        fit, measured = fit.split(HELD_OUT, data.seed)
    else:
        measured = data.validation(graph.inputs())
    if graph.dynamic_hw:
        graph.assume_feed(next(measured.batches(1)))
        check_one_size(graph, fit, "in the validation data")
    return graph, fit, measured


def _sites(model: Path, graph: Graph, passes: Sequence[Pass]) -> list[Site]:
    """What can be looked at, in graph order: where there are passes, only what one of them can rewrite."""
    known = [f for f in graph.sites() if isinstance(f, Site) and f.in_hw is not None]
    inside = [rule for rule in passes if not isinstance(rule, Merging)]  # a block is no layer
    sites = [s for s in known if not passes or (inside and refused(graph, s, inside, True) is None)]
    if not sites:
        names = "+".join(rule.name for rule in passes)
        why = f"that {names} can rewrite" if passes else "with weights of its own"
        raise InputError(f"{model}: no layer {why}: ndpass inspect lists all")
    return sites


def to_json(study: str, rows: Sequence[Slope | Rank | Depth], subject: Subject | None = None) -> str:
    """Everything that was found; what is not a finite number is null."""
    found: dict[str, Any] = {"ndpass": VERSION, "study": study}
    if subject is not None:
        gauge = subject.yardstick
        found["passes"] = [{"name": rule.name, **rule.pinned} for rule in subject.passes]
        found["metric"] = {
            "name": gauge.name,
            "original": gauge.original,
            "samples": len(gauge.feeds),
            "higher_is_better": gauge.higher_is_better,
        }
        found["calibration_samples"] = subject.calibration.data.images
    found["rows"] = [asdict(row) for row in rows]
    return json.dumps(_finite(found), indent=1) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
