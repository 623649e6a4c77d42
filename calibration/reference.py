"""The data a network is fitted to, and the original's responses to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.collect import (
    MOST,
    Data,
    Frontier,
    answers,
    collect,
    collect_ahead,
    collect_block,
    references,
    samples,
)
from ndpass.calibration.feeds import Feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample
from ndpass.conv import Array
from ndpass.graph.branches import Branch
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import static_batch
from ndpass.measuring.batch import batch_within


@dataclass
class Calibration:
    """The data and the original's responses at the sampled positions of every site that can be fitted."""

    data: Data
    memory: int
    chosen: Mapping[str, Sample]
    responses: Mapping[str, Array]

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
    ) -> Calibration:
        """blocks: residual branches that may be merged; their sums are kept, too."""
        batch = static_batch(graph.inputs())
        most = batch_within(graph, memory, MOST)
        data = Data.of(feeds, batch.size if batch else None, threads, seed, most)
        chosen = samples(graph, sites, data, blocks)
        return cls(data, memory, chosen, references(graph, sites, chosen, data, memory, blocks))

    def frontier(self, graph: Graph) -> Frontier:
        return Frontier(graph, self.data, self.memory)

    def moments(self, site: Site, frontier: Frontier) -> Moments:
        return self.sums(site, frontier)()

    def sums(self, site: Site, frontier: Frontier) -> Callable[[], Moments]:
        """What makes the moments, when the frontier has passed the site."""
        return collect(site, frontier, self.chosen[site.name], self.responses[site.name])

    def moments_ahead(self, site: Site, at: Site, frontier: Frontier) -> Moments:
        """Of a site behind `at`, where the frontier is, on the network as it is now."""
        return collect_ahead(site, at, frontier, self.chosen[site.name], self.responses[site.name])

    def narrowed(self, kept: Mapping[str, Labels]) -> Calibration:
        """The same where sites give these of their outputs alone. kept: site name -> outputs, ascending."""
        own = {name: self.responses[name][:, stay] for name, stay in kept.items() if name in self.responses}
        return replace(self, responses={**self.responses, **own})

    def block_moments(self, block: Branch, first: Site, frontier: Frontier) -> Moments:
        """Of a branch as one convolution; first: its first layer."""
        return collect_block(block, first, frontier, self.chosen[block.name], self.responses[block.name])

    def rows(
        self, site: Site, frontier: Frontier, kernel: Array, columns: NDArray[np.intp] | None
    ) -> tuple[Array, Array]:
        """A kernel's answers to the site's patches and the responses wanted, (S, n_o) each."""
        found, step = answers(site, frontier, self.chosen[site.name], kernel, columns)
        wanted = self.responses[site.name][::step]
        return found, wanted.astype(np.float32) if wanted.dtype == np.float16 else wanted
