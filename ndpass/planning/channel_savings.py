"""What pruning saves in the layers before: they become cheaper where a later one reads fewer channels.

A layer that keeps c of its input channels takes the others from the layers that make them. In the block that such a
producer becomes, only the convolutions that write these channels shrink, and the ranks inside stay. So its MACs are
linear in the channels lost:

    MACs(candidate i, c channels kept) = MACs(i) − rate(i) · lost(c)    rate: MACs of one output

`Coupling.fronts` gives the planner these savings for each pair of choices. They are kept in the written model: layers
without candidates count too, such as depthwise ones in between. Where it is open which channels go, as before a Concat,
each branch is taken to lose no more than it must, so the written model may have fewer MACs than promised. So it may
where a residual sum is pruned, which layers behind the one that decides write to: savings that go round in a circle are
counted but for the smallest, and a rank may be more than such a layer has outputs left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.graph.channel_groups import Group
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import WEIGHTED, Graph, Site
from ndpass.passes import Pass
from ndpass.planning.blocks import Mergeable
from ndpass.planning.candidate import Candidate, Cost, macs_of
from ndpass.planning.candidates import block_of
from ndpass.planning.compositions import key
from ndpass.planning.pass_kinds import split
from ndpass.planning.shared_channels import SharedChannels, channel_groups
from ndpass.planning.shared_savings import Pair, as_forest


@dataclass(frozen=True, eq=False)
class Before:
    """The layers before a site whose input channels can be pruned.

    size: how many channels there are; spare: channels that may be kept beyond those asked for; lost: layer ->
    (size + 1,) outputs that it loses at least when 0, 1, … channels go; rates: layer -> MACs of one of its outputs now.
    """

    size: int
    spare: int
    lost: Mapping[str, Labels]
    rates: Mapping[str, int]

    @classmethod
    def of(cls, graph: Graph, site: Site, group: Group) -> Before:
        made = {span.tensor.name: span.labels for span in group.spans}
        layers = [n for n in group.nodes if n.op in WEIGHTED and n.name != site.name and n.outputs[0].name in made]
        labels = {n.name: made[n.outputs[0].name] for n in layers}
        macs = graph.macs_by(labels)
        return cls(
            group.size,
            len(group.filled(np.zeros(0, np.int64))) - 1,
            {name: _lost(own, group.size) for name, own in labels.items()},
            {name: macs[name] // len(own) for name, own in labels.items()},
        )

    def dropped(self, kept: int) -> int:
        """How many channels go for certain where `kept` are asked for."""
        return max(0, self.size - kept - self.spare)


def _lost(labels: Labels, size: int) -> Labels:
    """(size + 1,): how many of the outputs with labels (n,) go, at least, when 0, 1, … of the channels go."""
    each = np.sort(np.bincount(labels[labels >= 0], minlength=size))
    return np.concatenate([[0], np.cumsum(each)])


class Coupling:
    """Which sites of a graph depend on which; the graph is the one that their candidates were found for."""

    def __init__(
        self,
        graph: Graph,
        sites: Sequence[Site],
        passes: Sequence[Pass],
        blocks: Mapping[str, Mergeable] | None = None,
    ) -> None:
        """blocks: last layer -> the block that may be merged."""
        self._blocks = blocks or {}
        self._inner = {layer for block in self._blocks.values() for layer in block.branch.layers[:-1]}
        self._passes, self._sites = passes, {site.name: site for site in sites}
        self._pruning = split(passes)[1]
        self.together = SharedChannels.of(graph, sites, passes)
        found = channel_groups(graph, sites, passes) if self._pruning else {}
        self._groups = {n: g for n, g in found.items() if isinstance(g, Group)}
        first = {n: g for n, g in self._groups.items() if n == g.readers[0]}
        self._before = {n: Before.of(graph, self._sites[n], group) for n, group in first.items()}
        self._macs_of_one: dict[tuple[str, str], int] = {}  # a search asks for the same candidates' many times

    def fronts(
        self, candidates: Mapping[str, Sequence[Candidate]], cost: Cost = macs_of
    ) -> list[tuple[dict[str, list[Candidate]], list[Pair]]]:
        """As of `_fronts`; twice where channels are pruned that the first layer of a block reads as others do: without
        such pruning, and without merging such blocks. A plan may have one of both, and trees of pairs not tell so."""
        lasts, shared = self._clash(candidates)
        if not lasts or not shared:
            return [self._fronts(candidates, cost)]
        setting, blocks = self.together.setting, self._blocks
        whole = {n: [c for c in w if n not in shared or setting(c) is None] for n, w in candidates.items()}
        apart = {n: [c for c in w if n not in lasts or not blocks[n].merged(c)] for n, w in candidates.items()}
        return [self._fronts(whole, cost), self._fronts(apart, cost)]

    def _clash(self, candidates: Mapping[str, Sequence[Candidate]]) -> tuple[set[str], set[str]]:
        """Last layers of blocks that may be merged and whose first one reads what others read, too; and the layers that
        read such channels, where these may be pruned."""
        firsts = {block.branch.first: last for last, block in self._blocks.items() if last in candidates}
        found = [readers for readers in self.together.groups.values() if not firsts.keys().isdisjoint(readers)]
        lasts = {firsts[name] for readers in found for name in readers if name in firsts}
        shared = {name for readers in found for name in readers if name in candidates}
        merges = {name for name in lasts if self._merges(name, candidates[name]).any()}
        return merges, shared if any(self._pruned(candidates[name]).any() for name in shared) else set()

    def _fronts(
        self, candidates: Mapping[str, Sequence[Candidate]], cost: Cost
    ) -> tuple[dict[str, list[Candidate]], list[Pair]]:
        """Site -> candidates that no other beats whatever the neighbours become, cheapest first; and what pairs save.

        With another cost than MACs a layer saves the same share of it as of its MACs, an estimate; one without
        candidates, whose cost is not known then, nothing.
        """
        before = {name: b for name, b in self._before.items() if name in candidates}
        dropped = {name: self._dropped(name, own) for name, own in candidates.items()}
        fixed = {name: self._fixed(b, candidates, cost)[dropped[name]] for name, b in before.items()}
        rates = {p: self._rates(p, candidates[p], cost) for b in before.values() for p in b.lost if p in candidates}
        most = {p: b.lost[p][dropped[name].max()] for name, b in before.items() for p in b.lost}
        at = {
            name: _undominated(
                own,
                cost,
                (fixed.get(name, 0), rates.get(name, 0) * most.get(name, 0)),
                dropped[name],
                self._kinds(name, own),
            )
            for name, own in candidates.items()
        }
        place = {name: i for i, name in enumerate(candidates)}
        pairs = [Pair(None, place[name], saved[None, at[name]]) for name, saved in fixed.items()]
        for name, b in before.items():
            for p in b.lost.keys() & candidates.keys():
                saved = rates[p][at[p], None] * b.lost[p][dropped[name][at[name]]]
                pairs.append(Pair(place[p], place[name], saved))
        kept = {n: [candidates[n][i] for i in at[n]] for n in candidates}
        found = [p for p in self._with_blocks(pairs, kept, cost) if p.saved.any()]
        return kept, as_forest(len(kept), found, self._bonds(kept, cost))

    def _bonds(self, kept: Mapping[str, Sequence[Candidate]], cost: Cost) -> list[Pair]:
        """What makes every plan dearer than all layers together in which two that read the same channels are pruned
        unlike each other, or one is pruned that goes because its block is merged."""
        place = {name: i for i, name in enumerate(kept)}
        dear = 2 * sum(max(cost(c) for c in ways) for ways in kept.values()) + 1
        apart = [
            (name, first, self._unlike(kept[name], kept[first]))
            for name, first in self.together.leaders.items()
            if name in kept and first in kept
        ]
        apart += [
            (layer, last, np.outer(self._pruned(kept[layer]), self._merges(last, kept[last])))
            for last, block in self._blocks.items()
            for layer in block.branch.layers[:-1]
        ]
        found = [Pair(place[one], place[other], np.where(bad, -dear, 0)) for one, other, bad in apart]
        return [p for p in found if p.saved.any()]

    def _unlike(self, ways: Sequence[Candidate], others: Sequence[Candidate]) -> NDArray[np.bool_]:
        setting = self.together.setting
        return np.array([[setting(a) != setting(b) for b in others] for a in ways], bool)

    def _pruned(self, candidates: Sequence[Candidate]) -> NDArray[np.bool_]:
        """(candidates,) whether each reads fewer channels."""
        return np.array([self.together.setting(c) is not None for c in candidates], bool)

    def _kinds(self, name: str, candidates: Sequence[Candidate]) -> NDArray[np.intp]:
        """(candidates,) a number for those that can be compared: that merge a block or not, or that are pruned alike
        where that binds other layers, as those of its block."""
        kinds = self._merges(name, candidates).astype(np.intp)
        if name in self.together.groups or name in self.together.leaders or name in self._inner:
            texts = [repr(self.together.setting(c)) for c in candidates]
            kinds = kinds + 2 * np.unique(texts, return_inverse=True)[1].reshape(-1)
        return kinds

    def _merges(self, name: str, candidates: Sequence[Candidate]) -> NDArray[np.bool_]:
        """(candidates,) whether each merges the block that the layer is the last of."""
        block = self._blocks.get(name)
        return np.array([block is not None and block.merged(c) for c in candidates], bool)

    def _with_blocks(self, pairs: Sequence[Pair], kept: Mapping[str, Sequence[Candidate]], cost: Cost) -> list[Pair]:
        """The pairs, and what merging a block saves in its other layers: all that they cost.

        A layer that shares savings with another one than the last, as the first of three where channels are pruned,
        is taken to be kept: the written model has fewer MACs then.
        """
        place = {name: i for i, name in enumerate(kept)}
        found = {p.first: p for p in pairs if p.first is not None}
        others = [p for p in pairs if p.first is None]
        for last, block in self._blocks.items():
            merges = self._merges(last, kept[last])
            for layer in block.branch.layers[:-1]:
                own = np.array([cost(c) for c in kept[layer]])[:, None]
                pair = found.get(place[layer]) or Pair(place[layer], place[last], 0 * own * merges)
                if pair.second == place[last]:
                    found[place[layer]] = replace(pair, saved=np.where(merges, own, pair.saved))
        return [*others, *found.values()]

    def _dropped(self, name: str, candidates: Sequence[Candidate]) -> Labels:
        """(candidates,) channels that each takes from the layers before."""
        b, pruning = self._before.get(name), self._pruning
        if b is None or pruning is None:
            return np.zeros(len(candidates), np.int64)
        settings = [c.setting.get(pruning.name) for c in candidates]
        return np.array([0 if s is None else b.dropped(pruning.kept(s)) for s in settings])

    def _fixed(self, before: Before, planned: Mapping[str, object], cost: Cost) -> Array:
        """(size + 1,) what layers without candidates save."""
        total = np.zeros(before.size + 1)
        for name in before.lost.keys() - planned.keys():
            total += before.rates[name] * before.lost[name] if cost is macs_of else 0
        return total

    def _rates(self, name: str, candidates: Sequence[Candidate], cost: Cost) -> Array:
        """(candidates,) what one output costs."""

        def rate(candidate: Candidate) -> int:
            known = (name, key(candidate.setting))
            if known not in self._macs_of_one:
                self._macs_of_one[known] = self._macs_of_an_output(name, candidate)
            return self._macs_of_one[known]

        return np.array([rate(c) * (cost(c) / c.macs) if c.macs else 0.0 for c in candidates])

    def _macs_of_an_output(self, name: str, candidate: Candidate) -> int:
        site, group = self._sites[name], self._groups.get(name, "")
        merging = self._blocks.get(name)
        if merging is not None and merging.merged(candidate):
            one, cost = merging.outline(candidate.setting), merging.branch.cost
            return cost(one) - cost(with_outputs(one, slice(site.outline.n_o - 1)))
        block = block_of(site, self._passes, candidate.setting, group)
        return _macs(site, block) - _macs(site, with_outputs(block, slice(site.outline.n_o - 1)))


def _macs(site: Site, block: Block) -> int:
    macs = site.macs(block)
    assert macs is not None
    return macs


def _undominated(
    candidates: Sequence[Candidate],
    cost: Cost,
    saved: tuple[Array | int, Array | int],
    dropped: Labels,
    kinds: NDArray[np.intp],
) -> list[int]:
    """Positions of the candidates that no other beats, cheapest first.

    saved: (candidates,) or one number, what a candidate saves always and at most; dropped: (candidates,) channels
    that it takes from the layers before; kinds: (candidates,) what it is bound to in other layers, so that it is
    compared with its like alone. One candidate beats another if it has no more damage, no more cost with all of
    its outputs and with the fewest (costs are linear between), and drops no fewer channels, for savings grow with them.
    """
    costs = np.array([cost(c) for c in candidates]) - saved[0]
    values = np.column_stack([costs, [c.damage for c in candidates], costs - saved[1], -dropped])
    like = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    return sorted((int(own[i]) for own in like for i in undominated(values[own])), key=lambda i: costs[i])


def undominated(values: Array) -> list[int]:
    """Positions of the rows (n, columns) that no other row is as small as in every column; of equals the first."""
    kept: list[int] = []
    for i in np.lexsort(values.T[::-1]):
        if not (values[kept] <= values[i]).all(axis=1).any():
            kept.append(int(i))
    return kept


def with_outputs(block: Block, stay: Labels | slice) -> Block:
    """The block with these of its outputs, and without what only the others needed."""
    if isinstance(block, Sum):
        return Sum(*(with_outputs(b, stay) for b in block.blocks))
    if isinstance(block, Conv):
        weight, bias = block.weight[stay], None if block.bias is None else block.bias[stay]
        return replace(block, weight=weight, bias=bias, group=len(weight) if block.depthwise else block.group)
    *ahead, last = block.blocks
    if ahead and all(leaf.depthwise for leaf in last.leaves()):
        ahead = [with_outputs(Chain(*ahead), stay)]
    return Chain(*ahead, with_outputs(last, stay))
