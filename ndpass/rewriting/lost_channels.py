"""What layers lose with others that are pruned: inputs that they read too, outputs where a sum is pruned after them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.calibration.walk import Walk
from ndpass.conv import Conv
from ndpass.graph.channel_groups import Group
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Pruning
from ndpass.passes.compose import Settings
from ndpass.passes.pruning import Reader
from ndpass.planning.plan import readers


@dataclass
class LostChannels:
    """Of a graph that is rewritten layer after layer.

    behind: layers that are as they will be; thinned: layer that has lost inputs with an earlier one -> how that one was
    pruned; sliced: layers that are not as they were found.
    """

    graph: Graph
    behind: set[str] = field(default_factory=set)
    thinned: dict[str, Settings] = field(default_factory=dict)
    sliced: set[str] = field(default_factory=set)

    def now(self, site: Site) -> Site:
        """The layer with what is left of it."""
        if site.name not in self.sliced:
            return site
        return next(one for one in self.graph.sites() if isinstance(one, Site) and one.name == site.name)

    def note(self, group: Group, channels: Labels, how: Settings) -> dict[str, Labels]:
        """The group has been pruned for the first of its readers; returns layer -> outputs that it has left, of those
        that have yet to be fitted."""
        self.thinned.update(dict.fromkeys(group.readers[1:], how))
        late = {m.node.name: m.kept(channels) for m in group.producers if m.node.name not in self.behind}
        self.sliced.update(group.readers[1:], late)
        return late


def readers_after(site: Site, group: Group, graph: Graph, walk: Walk | None) -> list[Reader]:
    """The layers that read the site's channels after it, in the graph's order, with their moments as it is now.

    None where another one is the first of them: what the channels lose is chosen there, and some of the others are
    before the site.
    """
    if group.readers[0] != site.name:
        return []
    named = {one.name: one for one in graph.sites() if isinstance(one, Site) and one.name in group.readers[1:]}
    ahead = [named[name] for name in group.readers[1:]]
    return readers(group, [(one, walk.ahead(one, site)() if walk else None) for one in ahead])


def on_inputs(conv: Conv, inputs: Labels, pruning: Pruning, moments: Moments | None) -> tuple[Conv, Moments | None]:
    """The layer on these inputs, refitted, and its moments."""
    smaller = pruning.refit(conv, inputs, moments)
    at = columns(conv, inputs)
    return smaller, None if moments is None else moments.keep(at, smaller.matrix.astype(np.float64))


def columns(conv: Conv, inputs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which elements of a patch belong to these input channels."""
    return (inputs[:, None] * conv.kernel_size + np.arange(conv.kernel_size)).reshape(-1)
