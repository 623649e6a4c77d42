"""Layers that read the same channels, which can only be pruned together.

The first of them in the graph's order decides: where it keeps c channels so do all, and each is fitted anew to those.
Every one of them has candidates with every number of channels, and a plan gives all of a group the same number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Pass, Setting
from ndpass.planning.blocks import mergeable
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.pass_kinds import split

INSIDE = "a residual block or a chain that may be merged: leave bm out"
LEFT = "its input channels also feed a layer that is left as it is"
MOST_UNKNOWNS = 8_192  # elements of a patch; the moments of more would take over half a gigabyte


def channel_group(graph: Graph, site: Site, passes: Sequence[Pass]) -> Group | str:
    """Who shares the site's input channels, looked for only if a pass prunes them; or why they cannot be pruned."""
    if split(passes)[1] is None:
        return ""
    return fitted_together(graph, graph.channel_groups().get(site.name, "it is inside an If, Loop or Scan"), passes)


def fitted_together(graph: Graph, group: Group | str, passes: Sequence[Pass]) -> Group | str:
    """The group if all layers that read its channels can be fitted together, or why not."""
    if isinstance(group, str):
        return group
    transposed = [str(m.node.name) for m in group.producers if m.node.op == "ConvTranspose"]
    if transposed and (name := next(_rewritten(graph, transposed, passes), None)):
        return f"its input channels are those of ConvTranspose '{name}', which may become another layer"
    if len(group.readers) == 1:
        return group
    return _why_apart(graph, group, passes) or group


def _rewritten(graph: Graph, names: Collection[str], passes: Sequence[Pass]) -> Iterator[str]:
    """Those of these layers that a pass may rewrite."""
    rules = split(passes)[0]
    for found in graph.sites() if rules else ():
        if isinstance(found, Site) and found.name in names and any(r.refuse(found.outline) is None for r in rules):
            yield found.name


def channel_groups(graph: Graph, sites: Sequence[Site], passes: Sequence[Pass]) -> dict[str, Group | str]:
    """The same of every site, where no other layer is written anew."""
    found = {site.name: channel_group(graph, site, passes) for site in sites}
    return {name: group if _are_all(group, found) else LEFT for name, group in found.items()}


def _are_all(group: Group | str, names: Collection[str]) -> bool:
    return isinstance(group, str) or all(reader in names for reader in group.readers)


def _why_apart(graph: Graph, group: Group, passes: Sequence[Pass]) -> str | None:
    """Why layers that read the same channels cannot be fitted together, or None."""
    sites = {f.name: f for f in graph.sites() if isinstance(f, Site) and f.name in group.readers}
    for name, site in sites.items():
        n = site.outline.unknowns
        if n > MOST_UNKNOWNS:
            return f"its input channels also feed '{name}', which has patches of {n} elements"
    order = [found.name for found in graph.sites()]
    first, made = order.index(group.readers[0]), {str(member.node.name) for member in group.producers}
    for last, block in mergeable(graph, passes, order, calibrated=True).items():
        # where the block reads these channels, too, it is not merged in a plan that prunes them (`Coupling`)
        if last in made and block.branch.first not in group.readers and order.index(last) > first:
            return f"'{last}', which makes its input channels behind it, is in {INSIDE}"
    return None


@dataclass(frozen=True)
class SharedChannels:
    """Which layers read the same channels. pruning: the pass that prunes them; groups: first layer -> all of them."""

    pruning: str = ""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, sites: Sequence[Site], passes: Sequence[Pass]) -> SharedChannels:
        """Those among `sites` alone."""
        pruning = split(passes)[1]
        if pruning is None:
            return cls()
        found = channel_groups(graph, sites, passes).values()
        readers = {group.readers for group in found if isinstance(group, Group) and len(group.readers) > 1}
        return cls(pruning.name, {names[0]: names for names in readers})

    @cached_property
    def leaders(self) -> dict[str, str]:
        """Layer that is not the first of its group -> the first."""
        return {name: first for first, readers in self.groups.items() for name in readers if name != first}

    def setting(self, candidate: Candidate) -> Setting | None:
        """How a candidate prunes the channels that it reads."""
        return candidate.setting.get(self.pruning)

    def pruned_with(self, plan: Mapping[str, Choice], names: Collection[str]) -> set[str]:
        """The layers whose channels the plan prunes together with those of one of these, themselves among them."""
        return {
            name
            for readers in self.groups.values()
            if any(reader in names and reader in plan and self.setting(plan[reader].candidate) for reader in readers)
            for name in readers
        }

    def follow(
        self, candidates: Mapping[str, Sequence[Candidate]], chosen: Mapping[str, Choice]
    ) -> Iterator[tuple[str, list[Candidate]]]:
        """Layers that are not the first of their group, with the candidates that go with what was chosen for it."""
        for name, first in self.leaders.items():
            if name in candidates and first in chosen:
                wanted = self.setting(chosen[first].candidate)
                yield name, [c for c in candidates[name] if self.setting(c) == wanted]

    def worst(self, candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, list[Candidate]]:
        """The candidates of the first layers that all can follow, with the largest error that pruning makes in any."""
        found = {}
        for first, readers in self.groups.items():
            ways = [c for c in candidates[first] if self._followed(c, candidates, readers)]
            found[first] = [self._worst(c, candidates, readers) for c in ways]
        return found

    def _followed(self, one: Candidate, candidates: Mapping[str, Sequence[Candidate]], readers: Sequence[str]) -> bool:
        """Whether every layer of the group has a candidate with as many channels."""
        wanted = self.setting(one)
        return all(any(self.setting(c) == wanted for c in candidates[name]) for name in readers)

    def _worst(
        self, one: Candidate, candidates: Mapping[str, Sequence[Candidate]], readers: Sequence[str]
    ) -> Candidate:
        wanted = self.setting(one)
        if wanted is None:
            return one
        alone = {self.pruning: wanted}
        others = [c.error for name in readers for c in candidates[name] if c.setting == alone]
        return replace(one, error=max([one.error, *others]))
