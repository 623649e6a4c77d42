"""Images cut into shards, whose sums are made apart and merged in a fixed order.

A shard is some of the images, in whole batches and in their order. Each is run by itself in one thread, for inference
and for algebra, so that what it comes to depends neither on who runs it nor on what runs beside it. Sums are merged as
neighbours in a binary tree,

    ((s₀ + s₁) + (s₂ + s₃)) + s₄

which is the same whichever of them is there first. So one process, many processes and many machines with CPUs of the
same kind come to the same bytes if they cut the images into as many shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ndpass.calibration.collect import Data, Frontier, Lost, Responding, responses_of
from ndpass.calibration.gather import (
    Gathered,
    Layer,
    answer_step,
    answered,
    gather,
    gather_ahead,
    gather_block,
    held_from,
    with_prior,
)
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample
from ndpass.calibration.runners import Runners
from ndpass.calibration.walk import Edit, Walk, narrowed, wanted_rows
from ndpass.conv import Array
from ndpass.graph.branches import Branch
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Graph, Site

T = TypeVar("T")
S = TypeVar("S")

MOST = 16  # shards where nobody says how many; each costs a matrix of moments, which is moved and added
KEPT = 4  # compiled segments that a thread keeps: shard after shard goes through the same ones


@dataclass(frozen=True)
class Shard:
    """Some of the images.

    data: these images; start: the number of the first one among all, `images`; chosen: the positions in these images;
    memory: bytes that their activations may take.
    """

    data: Data
    start: int
    images: int
    memory: int
    chosen: Mapping[str, Sample]

    def frontier(self, runners: Runners) -> Frontier:
        return Frontier(runners.graph, self.data, self.memory, runners)

    def rows_before(self, name: str) -> int:
        """Patches of a layer in the images before this shard."""
        return self.start * self.chosen[name].each

    def held_row(self, name: str) -> int:
        """The row of the shard from which on patches of a layer are held out."""
        each = self.chosen[name].each
        first = held_from(self.images, each) - self.start
        return min(max(first, 0), self.data.images) * each


def cut(data: Data, chosen: Mapping[str, Sample], memory: int, count: int) -> list[Shard]:
    """Shards of whole batches, as equal as these allow, at most `count`."""
    batches = data.images // data.batch
    edges = [data.batch * (batches * i // min(count, batches)) for i in range(min(count, batches) + 1)]
    threads = data.threads or 1
    shards = []
    for start, end in itertools.pairwise(edges):
        own = replace(data, feeds=data.feeds.take(range(start, end)), threads=threads)
        drawn = {name: replace(sample, positions=sample.of(start, end - start)) for name, sample in chosen.items()}
        shards.append(Shard(own, start, data.images, memory * (end - start) // data.images, drawn))
    return shards


def tree(parts: Iterable[T], merge: Callable[[T, T], T]) -> T:
    """Neighbours merged pair by pair; holds no more parts at once than their number has binary digits, and one.

    >>> tree("abcde", lambda a, b: f"({a}{b})")
    '(((ab)(cd))e)'
    """
    merged: list[tuple[int, T]] = []  # how many levels each has behind it, falling
    for part in parts:
        level = 0
        while merged and merged[-1][0] == level:
            part, level = merge(merged.pop()[1], part), level + 1
        merged.append((level, part))
    whole = merged.pop()[1]
    while merged:
        whole = merge(merged.pop()[1], whole)
    return whole


class ShardedWalk(Walk):
    """In this process, `jobs` shards at once. responses: of each shard, by the name of the layer."""

    def __init__(
        self,
        graph: Graph,
        shards: Sequence[Shard],
        chosen: Mapping[str, Sample],
        responses: Mapping[str, Array],
        jobs: int,
    ) -> None:
        self._runners = Runners(graph, shards[0].data.threads, KEPT)
        self._walks = [(shard, shard.frontier(self._runners)) for shard in shards]
        self._chosen, self._responses, self._jobs = chosen, responses, jobs

    def past(self, site: Site) -> None:
        for _ in self._each(lambda walk: walk[1].past(site)):
            pass

    def sums(self, site: Site, every: int = 1) -> Callable[[], Moments]:
        def one(walk: tuple[Shard, Frontier]) -> Gathered:
            shard, frontier = walk
            return gather(site, frontier, *self._own(shard, site.name), every)

        return partial(with_prior, Layer.of(site), tree(self._each(one), Gathered.merge))

    def ahead(self, site: Site, at: Site, every: int = 1) -> Callable[[], Moments]:
        def one(walk: tuple[Shard, Frontier]) -> Gathered:
            shard, frontier = walk
            return gather_ahead(site, at, frontier, *self._own(shard, site.name), every)

        return partial(with_prior, Layer.of(site), tree(self._each(one), Gathered.merge))

    def block_moments(self, block: Branch, first: Site) -> Moments:
        def one(walk: tuple[Shard, Frontier]) -> Gathered:
            shard, frontier = walk
            return gather_block(block, first, frontier, *self._own(shard, block.name))

        return with_prior(Layer.of_block(block), tree(self._each(one), Gathered.merge))

    def rows(self, site: Site, kernel: Array, columns: NDArray[np.intp] | None) -> tuple[Array, Array]:
        step = answer_step(self._chosen[site.name], len(kernel))

        def one(walk: tuple[Shard, Frontier]) -> Array:
            shard, frontier = walk
            sample, before = shard.chosen[site.name], shard.rows_before(site.name)
            return answered(site, frontier, sample, kernel, columns, step, before)

        return np.concatenate(list(self._each(one))), wanted_rows(self._responses[site.name], step)

    def prune(self, kept: Lost, counted: bool) -> None:
        for _, frontier in self._walks:
            frontier.prune(kept, counted)

    def narrow(self, kept: Mapping[str, Labels]) -> None:
        self._responses = narrowed(self._responses, kept)

    def edited(self, edit: Edit) -> None:  # noqa: ARG002 - the frontiers read the graph itself
        self._runners.forget()

    def _own(self, shard: Shard, name: str) -> tuple[Sample, Array, int]:
        """A layer's positions and responses in a shard, and the row from which on they are held out."""
        start, rows = shard.rows_before(name), shard.chosen[name].rows
        return shard.chosen[name], self._responses[name][start : start + rows], shard.held_row(name)

    def _each(self, task: Callable[[tuple[Shard, Frontier]], T]) -> Iterator[T]:
        yield from in_order(task, self._walks, self._jobs)
        self._runners.forget()  # the threads that they are of are gone


def shard_responses(
    graph: Graph, wanted: Responding, shards: Sequence[Shard], memory: int, jobs: int
) -> dict[str, Array]:
    """As `references`, shard by shard."""
    runners = Runners(graph, shards[0].data.threads, KEPT)

    def one(shard: Shard) -> dict[str, Array]:
        return responses_of(wanted, shard.chosen, shard.data, memory, runners)

    parts = list(in_order(one, shards, jobs))
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted.names}


def in_order(task: Callable[[S], T], parts: Sequence[S], jobs: int) -> Iterator[T]:
    """What the task makes of each part, `jobs` of them at once, each with one thread for its algebra."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(jobs) as pool:
        running: list[Future[T]] = []
        try:
            for part in parts:
                running.append(pool.submit(task, part))
                if len(running) == jobs:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)
