"""The data a network is fitted to, and the original's responses to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ndpass.calibration.collect import MOST, Data, Frontier, references, responding, samples
from ndpass.calibration.digests import digest_data, digest_of
from ndpass.calibration.feeds import Feeds
from ndpass.calibration.patches import Sample
from ndpass.calibration.shards import Shard, ShardedWalk, cut, shard_responses
from ndpass.calibration.walk import OneWalk, Walk
from ndpass.conv import Array
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import static_batch
from ndpass.listener import Listener
from ndpass.measuring.batch import batch_within


@dataclass
class Calibration:
    """The data and the original's responses at the sampled positions of every site that can be fitted.

    folder: where activations go that do not fit the memory; None: nowhere, the network is run again for them.
    """

    data: Data
    memory: int
    chosen: Mapping[str, Sample]
    responses: Mapping[str, Array]
    folder: Path | None = None

    @classmethod
    def of(
        cls,
        graph: Graph,
        sites: Sequence[Site],
        feeds: Feeds,
        threads: int | None,
        seed: int,
        memory: int,
        blocks: Sequence[Branch] = (),
        listen: Listener = lambda *_: None,
    ) -> Calibration:
        """blocks: residual branches that may be merged; their sums are kept, too. listen: hears of each batch."""
        data = batched(graph, feeds, threads, seed, memory)
        chosen = samples(graph, sites, data, blocks)
        return cls(data, memory, chosen, references(graph, sites, chosen, data, memory, blocks, listen))

    def walk(self, graph: Graph) -> Walk:
        """A walk along the graph, which may be rewritten behind it."""
        return OneWalk(Frontier(graph, self.data, self.memory, folder=self.folder), self.chosen, self.responses)

    def digest(self) -> str:
        """Hash of all samples as the model gets them."""
        return digest_data(self.data)

    @property
    def cuts(self) -> int:
        """How many shards the images are cut into; 0: not at all."""
        return 0


@dataclass
class ShardedCalibration(Calibration):
    """The same with the images cut into shards, `jobs` of which are at work at once (`ndpass.calibration.shards`)."""

    shards: Sequence[Shard] = field(kw_only=True)
    jobs: int = field(kw_only=True)

    @classmethod
    def of_shards(
        cls,
        graph: Graph,
        sites: Sequence[Site],
        data: Data,
        memory: int,
        blocks: Sequence[Branch],
        count: int,
        jobs: int,
    ) -> ShardedCalibration:
        """Into so many shards, fewer where there are fewer batches. data: of `batched`."""
        chosen = samples(graph, sites, data, blocks)
        shards = cut(data, chosen, memory, count)
        found = shard_responses(graph, responding(graph, sites, blocks), shards, memory, jobs)
        return cls(data, memory, chosen, found, shards=shards, jobs=jobs)

    def walk(self, graph: Graph) -> Walk:
        return ShardedWalk(graph, self.shards, self.chosen, self.responses, self.jobs)

    def digest(self) -> str:
        return digest_of(digest_data(shard.data) for shard in self.shards)

    @property
    def cuts(self) -> int:
        return len(self.shards)


def batched(graph: Graph, feeds: Feeds, threads: int | None, seed: int, memory: int, least: int = 1) -> Data:
    """The samples in equal batches, as far as the model leaves their size open. least: batches that are wanted."""
    batch = static_batch(graph.inputs())
    most = min(batch_within(graph, memory, MOST), max(1, len(feeds) // least))
    return Data.of(feeds, batch.size if batch else None, threads, seed, most)
