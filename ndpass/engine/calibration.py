"""A calibration whose shards are with the workers of a cluster, and the walk that has them go along the network.

The walk keeps a chain for each shard: where it is is the result of a step, and the next step begins there, where that
lies. What a layer is asked for comes from all shards at once, merged by workers in the order that one process has, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.collect import Data, Lost, responding, samples
from ndpass.calibration.digests import digest_of
from ndpass.calibration.gather import Gathered, Layer, answer_step, with_prior
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample
from ndpass.calibration.reference import Calibration
from ndpass.calibration.shards import cut, tree
from ndpass.calibration.walk import Edit, Walk, wanted_rows
from ndpass.conv import Array
from ndpass.engine import tasks
from ndpass.engine.cluster import Cluster
from ndpass.engine.model import Model, pack
from ndpass.graph.branches import Branch
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Graph, Site

FIRST = 2  # priority of steps, which everything else waits for; layers are planned by shares of the work, 0 to 1

if TYPE_CHECKING:
    from distributed import Future


@dataclass(frozen=True)
class Spread:
    """What workers have of a run. shards: the images; begun: each of them before its first step."""

    cluster: Cluster
    model: Future
    shards: Sequence[Future]
    begun: Sequence[Future]


@dataclass(frozen=True)
class Responses(Mapping[str, Array]):
    """The original's responses, fetched from the workers layer by layer as they are asked for."""

    spread: Spread
    names: Collection[str]

    def __getitem__(self, name: str) -> Array:
        if name not in self.names:
            raise KeyError(name)
        cluster = self.spread.cluster
        parts = [cluster.submit("responses", tasks.own, held, name) for held in self.spread.begun]
        return np.concatenate([cluster.result(part, lambda found: int(found.nbytes)) for part in parts])

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class ClusterCalibration(Calibration):
    """The same moments as of a `ShardedCalibration` with as many shards, from the workers of a cluster."""

    spread: Spread = field(kw_only=True)

    @classmethod
    def over(
        cls,
        cluster: Cluster,
        model: tuple[Path, Sequence[Path]],
        graph: Graph,
        sites: Sequence[Site],
        data: Data,
        memory: int,
        blocks: Sequence[Branch],
        count: int,
    ) -> ClusterCalibration:
        """model: the file that the graph was read from and those beside it. Other arguments as of
        `ShardedCalibration.of_shards`."""
        chosen = samples(graph, sites, data, blocks)
        shards = cut(data, chosen, memory, count)
        file = Model.of(*model, graph.sizes, shards[0].data.threads or 1)
        there = cluster.give("model", file, file.nbytes)
        alone = [replace(one, data=replace(one.data, feeds=one.data.feeds.alone())) for one in shards]
        parts = [cluster.give("images", one, one.data.feeds.nbytes) for one in alone]
        wanted = responding(graph, sites, blocks)
        begun = [
            cluster.submit("begin", tasks.begin, there, part, wanted, memory, place=place)
            for part, place in zip(parts, cluster.places(len(parts)), strict=True)
        ]
        cluster.wait(begun)
        spread = Spread(cluster, there, parts, begun)
        return cls(data, memory, chosen, Responses(spread, list(wanted.names)), spread=spread)

    def walk(self, graph: Graph) -> Walk:
        """The graph has to be as the model's file has it, where the workers begin, too."""
        del graph
        return ClusterWalk(self.spread, self.chosen, self.responses)

    def digest(self) -> str:
        cluster = self.spread.cluster
        found = [cluster.submit("digest", tasks.digest, part) for part in self.spread.shards]
        return digest_of(cluster.result(one) for one in found)

    @property
    def cuts(self) -> int:
        return len(self.spread.shards)


@dataclass(frozen=True)
class Coming:
    """A layer's moments, once they are asked for. whole: the sums, which are with a worker."""

    cluster: Cluster
    site: Site
    whole: Future

    def __call__(self) -> Moments:
        return with_prior(Layer.of(self.site), _gathered(self.cluster, self.whole))


class ClusterWalk(Walk):
    """Steps are submitted where something is asked for, with all that has happened since the step before."""

    def __init__(self, spread: Spread, chosen: Mapping[str, Sample], responses: Mapping[str, Array]) -> None:
        self._cluster, self._chosen, self._responses = spread.cluster, chosen, responses
        self._held = list(spread.begun)
        self._narrow: dict[str, Labels] = {}
        self._ops: list[tasks.Op] = []
        self._new: list[Future] = []  # changes of the graph since the last step

    def past(self, site: Site) -> None:
        self._ops.append(tasks.Past(_place(site)))

    def sums(self, site: Site, every: int = 1) -> Callable[[], Moments]:
        return Coming(self._cluster, site, self._merged(tasks.Sums(_place(site), every), site.name))

    def ahead(self, site: Site, at: Site, every: int = 1) -> Callable[[], Moments]:
        return Coming(self._cluster, site, self._merged(tasks.SumsAhead(_place(site), _place(at), every), site.name))

    def block_moments(self, block: Branch, first: Site) -> Moments:
        place = tasks.Place.of(block.name, "", block.outline)
        wanted = tasks.BlockSums(place, _place(first), block.output, block.response)
        whole = self._merged(wanted, block.name)
        return with_prior(Layer.of_block(block), _gathered(self._cluster, whole))

    def rows(self, site: Site, kernel: Array, columns: NDArray[np.intp] | None) -> tuple[Array, Array]:
        step = answer_step(self._chosen[site.name], len(kernel))
        found = self._step(tasks.Answers(_place(site), kernel, columns, step), site.name)
        parts = [self._cluster.result(one, lambda rows: int(rows.nbytes)) for one in found]
        responses = self._responses[site.name]
        wanted = responses[:, self._narrow[site.name]] if site.name in self._narrow else responses
        return np.concatenate(parts), wanted_rows(wanted, step)

    def prune(self, kept: Lost, counted: bool) -> None:
        self._ops.append(tasks.Pruned(kept, counted))

    def narrow(self, kept: Mapping[str, Labels]) -> None:
        if own := {name: stay for name, stay in kept.items() if name in self._responses}:
            self._ops.append(tasks.Narrowed(own))
            for name, stay in own.items():
                self._narrow[name] = self._narrow[name][stay] if name in self._narrow else stay

    def edited(self, edit: Edit) -> None:
        packed = pack(edit)
        self._ops.append(tasks.Edited(len(self._new)))
        self._new.append(self._cluster.give("change", packed, len(packed)))

    def _merged(self, wanted: tasks.Op, name: str) -> Future:
        """What all shards give, merged."""
        return tree(self._step(wanted, name), lambda a, b: self._cluster.submit("merge", Gathered.merge, a, b))

    def _step(self, wanted: tasks.Op, name: str) -> list[Future]:
        """What each shard gives."""
        cluster, ops, new = self._cluster, (*self._ops, wanted), list(self._new)
        steps = [cluster.submit(f"step {name}", tasks.step, held, ops, new, priority=FIRST) for held in self._held]
        self._held = [cluster.submit("held", tasks.part, one, 0) for one in steps]
        self._ops, self._new = [], []
        cluster.progress.watch(self._held)
        return [cluster.submit("found", tasks.part, one, 1) for one in steps]


def _gathered(cluster: Cluster, whole: Future) -> Gathered:
    found: Gathered = cluster.result(whole, lambda gathered: gathered.__sizeof__())
    return found.owned()


def _place(site: Site) -> tasks.Place:
    return tasks.Place.of(site.name, site.op, site.outline)
