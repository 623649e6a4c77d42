"""How far probes move the outputs: the network is run from the layer on, with a switch behind it for each of them.

What comes before the layer is run once for all, layer after layer. `Prober` is who does that: this process, or workers
of a cluster (`ndpass.engine.probing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ndpass.calibration.collect import Data, Frontier
from ndpass.conv import Conv
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import InputSpec
from ndpass.measuring.evaluate import Agreement, compare
from ndpass.measuring.runtime import Feed, OpenVINO, Outputs
from ndpass.planning.probes import Probe

if TYPE_CHECKING:
    import openvino as ov


class Prober(Protocol):
    """Runs the probes of one layer after the other. ahead: layers whose probes may be under way."""

    @property
    def ahead(self) -> int: ...

    def probe(self, site: Site, doses: Sequence[Dose]) -> Callable[[], list[float]]:
        """What waits for how far each dose moves the outputs. Layers come in the order of the graph."""
        ...


class LocalProber:
    """This process. few: the images; memory: bytes that activations may take."""

    ahead = 0

    def __init__(self, graph: Graph, few: Data, memory: int) -> None:
        # images are gone through once for each probe
        self.graph, self.frontier = graph, Frontier(graph, few.in_memory(memory // 4), memory)
        self.before = outputs_before(graph, self.frontier)

    def probe(self, site: Site, doses: Sequence[Dose]) -> Callable[[], list[float]]:
        self.frontier.past(site)
        found = moved(self.graph, site, doses, self.frontier, self.before)
        return lambda: found


def outputs_before(graph: Graph, frontier: Frontier) -> list[Outputs]:
    """The original's outputs for a frontier's images, a batch at a time."""
    data = frontier.data
    original = OpenVINO(graph.segment(_answers(graph), None, data.batch), threads=data.threads)
    return [original(_read(feed, original)) for feed in frontier.feeds()]


@dataclass(frozen=True)
class Dose:
    """A probe and the error that is wanted of it."""

    probe: Probe
    error: float

    @property
    def strength(self) -> float:
        return self.probe.dose(self.error)[0]

    @property
    def injected(self) -> float:
        return self.probe.dose(self.error)[1]


def moved(
    graph: Graph, site: Site, doses: Sequence[Dose], frontier: Frontier, before: Sequence[Outputs]
) -> list[float]:
    """How far each dose moves the outputs; before: the outputs without any."""
    data, cut = frontier.data, frontier.cut
    runner = OpenVINO(probed(graph, site, [dose.probe for dose in doses], cut, data.batch), threads=data.threads)
    found = []
    for i, dose in enumerate(doses):
        on = {switch(j): np.full(1, dose.strength if i == j else 0.0, np.float32) for j in range(len(doses))}
        behind = _Behind(runner, on, frontier.feeds(), iter(before))
        found.append(divergence(compare(before, behind, data.feeds, data.batch)) if dose.injected else 0.0)
    return found


def _answers(graph: Graph) -> list[str]:
    """What the outputs are judged by."""
    return graph.compared() or graph.outputs()


def divergence(agreement: Agreement) -> float:
    """How far the outputs moved: KL in nats for class scores, else the errors relative to the outputs' variance.

    Of several outputs each counts, and so does each group of channels of one scale (`ndpass.measuring.output_errors`):
    their errors, and the KL if one output is class scores.
    """
    if len(agreement.outputs) == 1 and agreement.kl is not None:
        return agreement.kl
    return sum(error for output in agreement.outputs.values() for error in output.parts) + (agreement.kl or 0.0)


def switch(number: int) -> str:
    """The name of the input (1,) that says how strongly a probe acts."""
    return f"ndpass.switch{number}"


def probed(
    graph: Graph, site: Site, probes: Sequence[Probe], cut: Sequence[str] | None, batch: int
) -> bytes | ov.Model:
    """The network from `cut` on (None: its inputs) to what the site may move, with switchable probes behind it."""
    copy = graph.copy()
    for i, one in enumerate(probes):
        copy.perturb(site, _subtracted(one, site), switch(i))
    start = None if cut is None else [*cut, *map(switch, range(len(probes)))]
    return copy.segment(graph.not_before(site, _answers(graph)), start, batch)


def _subtracted(one: Probe, site: Site) -> Conv:
    """−P(y − ȳ) as a pointwise layer of the site's kind."""
    P = -one.projection.astype(np.float32)
    weight = P.reshape(*P.shape, *(1,) * len(site.outline.kernel))
    return Conv(weight, (one.projection @ one.mean).astype(np.float32))


@dataclass(frozen=True)
class _Behind:
    """The network behind a cut with its switches set; it runs on feeds of the cut, one after the other.

    before: the original's outputs for them, among which may be some that the cut has no part in.
    """

    runner: OpenVINO
    switches: Feed
    feeds: Iterator[Feed]
    before: Iterator[Outputs]

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return self.runner.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.runner.outputs

    def __call__(self, feed: Feed) -> Outputs:
        del feed  # of the inputs, the same samples as the next one of the cut
        return {**next(self.before), **self.runner(_read({**next(self.feeds), **self.switches}, self.runner))}


def _read(feed: Feed, runner: OpenVINO) -> Feed:
    """The part of a feed that a model reads."""
    return {spec.name: feed[spec.name] for spec in runner.inputs}
