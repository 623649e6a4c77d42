"""Probes that workers run: one goes along the network, layer after layer, and from where it is others run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ndpass.calibration.collect import Data, Frontier, State
from ndpass.calibration.runners import Runners
from ndpass.calibration.shards import KEPT
from ndpass.engine.calibration import FIRST
from ndpass.engine.cluster import Cluster
from ndpass.engine.model import Log, Model, site_of
from ndpass.engine.tasks import one_thread
from ndpass.graph.graph import Site
from ndpass.measuring.runtime import Outputs
from ndpass.planning.probe_runs import Dose, moved, outputs_before

if TYPE_CHECKING:
    from distributed import Future


class ClusterProber:
    """The workers of a cluster. model: with them; few: the images; memory: bytes that activations may take."""

    def __init__(self, cluster: Cluster, model: Future, few: Data, memory: int) -> None:
        self.cluster = cluster
        data = replace(few, feeds=few.feeds.alone())
        images = cluster.give("images", data, data.feeds.nbytes)
        self._at = cluster.submit("begin probes", begin, model, images, memory, priority=FIRST)

    @property
    def ahead(self) -> int:
        return 2 * self.cluster.threads

    def probe(self, site: Site, doses: Sequence[Dose]) -> Callable[[], list[float]]:
        self._at = self.cluster.submit("advance", advance, self._at, site.name, priority=FIRST)
        self.cluster.progress.moved(sent=sum(dose.probe.projection.nbytes for dose in doses))
        future = self.cluster.submit(f"probe {site.name}", run_probes, self._at, site.name, list(doses))

        def found() -> list[float]:
            waited: list[float] = self.cluster.result(future)
            return waited

        return found


@dataclass(frozen=True)
class ProbeState:
    """Where a frontier of a few images is in the original. before: the outputs; state: the activations there."""

    model: Model
    data: Data
    memory: int
    before: Sequence[Outputs] = ()
    state: State = (None, ())

    def __sizeof__(self) -> int:
        every = [*self.before, *self.state[1]]
        return sum(array.nbytes for arrays in every for array in arrays.values())

    def frontier(self, runners: Runners) -> Frontier:
        found = Frontier(runners.graph, self.data, self.memory, Runners(runners.graph, self.data.threads, KEPT))
        found.restore(self.state)
        return found


def begin(model: Model, data: Data, memory: int) -> ProbeState:
    """A worker's part: the outputs without any probe, and the frontier at the inputs."""
    at = ProbeState(model, data.in_memory(memory // 4), memory)
    with one_thread(), model.at(Log()) as runners, runners.lock:
        return replace(at, before=outputs_before(runners.graph, at.frontier(runners)))


def advance(at: ProbeState, layer: str) -> ProbeState:
    """A worker's part: the frontier at a layer further on."""
    with one_thread(), at.model.at(Log()) as runners, runners.lock:
        frontier = at.frontier(runners)
        frontier.past(site_of(runners.graph, layer))
        return replace(at, state=frontier.state)


def run_probes(at: ProbeState, layer: str, doses: Sequence[Dose]) -> list[float]:
    """A worker's part: how far each dose moves the outputs."""
    with one_thread(), at.model.at(Log()) as runners, runners.lock:
        return moved(runners.graph, site_of(runners.graph, layer), doses, at.frontier(runners), at.before)
