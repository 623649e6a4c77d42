"""Along a network, site after site: the moments of each, while what lies behind it is being rewritten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.collect import Frontier, Lost
from ndpass.calibration.gather import answers, collect, collect_ahead, collect_block
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample, spread
from ndpass.conv import Array, Block
from ndpass.graph.branches import Branch
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Site


@dataclass(frozen=True)
class Edit:
    """A change of the network: channels before a layer go, or a layer, or a residual branch, becomes a block.

    layer: its name, of a branch that of its last one. block: what takes the place; channels: labels of those of the
    layer's group that stay, where this is the change. merges: the branch that the block stands for, None for a layer.
    """

    layer: str
    block: Block | None = None
    channels: NDArray[np.intp] | None = None
    merges: Branch | None = None


class Walk(ABC):
    """Sites are asked for in the graph's order, each before it is rewritten."""

    @abstractmethod
    def past(self, site: Site) -> None:
        """Go through a site without a look at it: what follows has the same bits as if it had been looked at."""

    @abstractmethod
    def sums(self, site: Site, every: int = 1) -> Callable[[], Moments]:
        """What makes the site's moments; they need not be made before the walk goes on.

        every: one of so many positions of each image is looked at.
        """

    @abstractmethod
    def ahead(self, site: Site, at: Site, every: int = 1) -> Callable[[], Moments]:
        """What makes the moments of a site behind `at`, which was looked at last, on the network as it is now."""

    @abstractmethod
    def block_moments(self, block: Branch, first: Site) -> Moments:
        """Of a branch as one convolution; first: its first layer."""

    @abstractmethod
    def rows(self, site: Site, kernel: Array, columns: NDArray[np.intp] | None) -> tuple[Array, Array]:
        """A kernel's answers to the site's patches and the responses wanted, (S, n_o) each; of the site that was last
        looked at. columns (n,): the part of a patch that the kernel reads; None: all of it."""

    @abstractmethod
    def prune(self, kept: Lost, counted: bool) -> None:
        """These tensors of the network have lost all but some channels: `ndpass.calibration.collect.Frontier.prune`."""

    @abstractmethod
    def narrow(self, kept: Mapping[str, Labels]) -> None:
        """Sites that are yet to come give these of their outputs alone. kept: site name -> outputs, ascending."""

    @abstractmethod
    def edited(self, edit: Edit) -> None:
        """The graph has been changed so, for a walk that follows a copy of it."""

    def moments(self, site: Site) -> Moments:
        """Of the next site."""
        return self.sums(site)()


@dataclass
class OneWalk(Walk):
    """In this process, over all data in their order. chosen, responses: the sampled positions of every site and the
    original's responses there."""

    frontier: Frontier
    chosen: Mapping[str, Sample]
    responses: Mapping[str, Array]

    def past(self, site: Site) -> None:
        self.frontier.past(site)

    def sums(self, site: Site, every: int = 1) -> Callable[[], Moments]:
        return collect(site, self.frontier, self.chosen[site.name], self.responses[site.name], every)

    def ahead(self, site: Site, at: Site, every: int = 1) -> Callable[[], Moments]:
        return collect_ahead(site, at, self.frontier, self.chosen[site.name], self.responses[site.name], every)

    def block_moments(self, block: Branch, first: Site) -> Moments:
        return collect_block(block, first, self.frontier, self.chosen[block.name], self.responses[block.name])

    def rows(self, site: Site, kernel: Array, columns: NDArray[np.intp] | None) -> tuple[Array, Array]:
        found, step = answers(site, self.frontier, self.chosen[site.name], kernel, columns)
        return found, wanted_rows(self.responses[site.name], step)

    def prune(self, kept: Lost, counted: bool) -> None:
        self.frontier.prune(kept, counted)

    def narrow(self, kept: Mapping[str, Labels]) -> None:
        self.responses = narrowed(self.responses, kept)

    def edited(self, edit: Edit) -> None:
        """Nothing: the frontier reads the graph itself."""


def narrowed(responses: Mapping[str, Array], kept: Mapping[str, Labels]) -> Mapping[str, Array]:
    """The same where some sites give a part of their outputs."""
    own = {name: responses[name][:, stay] for name, stay in kept.items() if name in responses}
    return {**responses, **own} if own else responses


def wanted_rows(responses: Array, step: int) -> Array:
    """One of `step` responses (S, n_o), in a type whose differences do not overflow."""
    wanted = responses[spread(len(responses), step)]
    return wanted.astype(np.float32) if wanted.dtype == np.float16 else wanted
