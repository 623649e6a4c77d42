"""Channels that can only be pruned together, and pruning them.

The input channels of a layer are the output channels of others. `input_group` finds every layer that makes them and
every layer that reads them (a residual sum has many of both), or says what stands in the way; `keep` slices all of
them, and what lies between, down to the channels that stay. The result equals the original with the columns of the
lost channels set to zero in every consumer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ndpass.graph.channel_rules import RULES, depthwise
from ndpass.graph.channel_walk import Count, Cut, Labels, Refused, Span, Walk
from ndpass.graph.constants import values
from ndpass.graph.macs import PRODUCTS
from ndpass.graph.shapes import Shape

SPLIT_READS_SIZES = 13  # opset from which on they are an input, and no attribute


@dataclass(frozen=True, eq=False)
class Member:
    """A layer of the group; channels (n,): its output or input channel -> channel of the group, -1 for none of them.

    Two input channels are one channel of the group where they are copies; after a Flatten each is H·W columns.
    """

    node: gs.Node
    channels: Labels

    def kept(self, channels: Labels) -> Labels:
        """Which of the layer's own channels stay when the group keeps `channels`."""
        return kept(self.channels, channels)

    def most_kept(self, count: int) -> int:
        """The most of the layer's own channels that can stay when the group keeps `count`.

        A channel may be several of the layer's own, and another one only one, where a Concat reads a tensor twice.
        """
        own = self.channels[self.channels >= 0]
        each = np.sort(np.bincount(own))[::-1]
        return int(len(self.channels) - len(own) + each[:count].sum())


@dataclass(frozen=True, eq=False)
class Group:
    """size: how many channels there are to choose among; the first consumer is the layer that was asked about.

    readers: the names of the consumers in the graph's order: they can only lose channels together.
    """

    size: int
    producers: tuple[Member, ...]
    consumers: tuple[Member, ...]
    cuts: tuple[Cut, ...]
    spans: tuple[Span, ...]
    nodes: tuple[gs.Node, ...]
    readers: tuple[str, ...]
    counts: tuple[Count, ...] = ()

    @property
    def counted(self) -> bool:
        """Whether the network reads off how many channels there are."""
        return any(node.op == "Shape" for node in self.nodes)

    def seen_by(self, name: str) -> Group:
        """The same group, asked about by another of its readers."""
        return replace(self, consumers=tuple(sorted(self.consumers, key=lambda member: member.node.name != name)))

    def left(self, channels: Labels) -> dict[str, tuple[int, Labels]]:
        """Tensor that carries the channels -> its axis, and what stays of it when the group keeps `channels`."""
        return {str(s.tensor.name): (s.axis, kept(s.labels, channels)) for s in self.spans}

    def filled(self, channels: Labels) -> Labels:
        """`channels`, and one more for every tensor that would be left with none (a branch of a Concat)."""
        more = [s.labels.max() for s in self.spans if not len(kept(s.labels, channels))]
        return np.union1d(channels, np.array(more, np.int64))


def kept(labels: Labels, channels: Labels) -> Labels:
    """Positions of labels (n,) that stay: those of no channel, and those of a channel that is kept."""
    return np.flatnonzero((labels < 0) | np.isin(labels, channels))


def input_group(graph: gs.Graph, node: gs.Node, shapes: Mapping[str, Shape]) -> Group | str:
    """The group of the input channels of a Conv, Gemm or MatMul; or why they cannot be pruned, in one line.

    shapes: tensor name -> shape, of the graph as it is now.
    """
    if node.op == "Conv" and node.attrs.get("group", 1) > 1:
        return "grouped convolution: its input channels are not its own to choose"
    walk = Walk(graph, shapes, RULES)
    try:
        x = node.inputs[0]
        axis = 1 if node.op == "Conv" else len(walk.shape(x)) - 1
        walk.put(x, axis, np.arange(walk.shape(x)[axis]))
        walk.run()
        _refuse_shared(walk)
    except Refused as reason:
        return str(reason)
    return _group(walk, node, graph)


def _refuse_shared(walk: Walk) -> None:
    """A weight that a layer outside the group uses too would have to be stored twice."""
    for cut in walk.cuts.values():
        weight = cut.node.inputs[cut.index]
        others = [n for n in weight.outputs if id(n) not in walk.nodes]
        if cut.node.op in PRODUCTS and cut.index == 1 and others:
            raise Refused(
                f"the weight '{weight.name}' of {cut.node.op} '{cut.node.name}' is shared with "
                f"{others[0].op} '{others[0].name}', which has other channels"
            )


def _group(walk: Walk, asked: gs.Node, graph: gs.Graph) -> Group:
    size, number = _classes(walk, len(walk.spans[id(asked.inputs[0])].labels))
    spans = {key: Span(s.tensor, s.axis, np.where(s.labels < 0, -1, number[s.labels])) for key, s in walk.spans.items()}
    cuts = tuple(Cut(c.node, c.index, c.axis, spans[id(c.span.tensor)]) for c in walk.cuts.values())
    layers = [n for n in walk.nodes.values() if n.op in PRODUCTS and not depthwise(n)]
    layers.sort(key=lambda n: n is not asked)
    producers = tuple(Member(n, spans[id(n.outputs[0])].labels) for n in layers if id(n.outputs[0]) in spans)
    consumers = tuple(Member(n, spans[id(n.inputs[0])].labels) for n in layers if id(n.inputs[0]) in spans)
    reading = {id(member.node) for member in consumers}
    readers = tuple(str(n.name) for n in graph.nodes if id(n) in reading)
    counts = tuple(replace(c, labels=np.where(c.labels < 0, -1, number[c.labels])) for c in walk.counts.values())
    return Group(size, producers, consumers, cuts, tuple(spans.values()), tuple(walk.nodes.values()), readers, counts)


def _classes(walk: Walk, n: int) -> tuple[int, Labels]:
    """How many channels are left when tied ones are one, and the number (n,) of each, in order of first appearance."""
    ties = np.array([np.concatenate(side) for side in zip(*walk.ties, strict=True)] or np.empty((2, 0)), np.int64)
    _, classes = connected_components(coo_array((np.ones(ties.shape[1]), (ties[0], ties[1])), shape=(n, n)), False)
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    return len(first), np.argsort(np.argsort(first))[inverse]


def keep(graph: gs.Graph, group: Group, channels: Labels) -> None:
    """Slice every layer of the group, and all between, to these channels (ascending, as `Group.filled` gives them).

    No constant is edited: each is replaced by a new one, which nodes that shared it share again. What was recorded of
    the shapes between is forgotten.
    """
    _check(group, channels)
    names = _names(graph)
    made: dict[tuple[int, int, bytes], tuple[gs.Constant, gs.Constant]] = {}
    for cut in group.cuts:
        old, stay = cut.node.inputs[cut.index], kept(cut.span.labels, channels)
        key = (id(old), cut.axis, stay.tobytes())
        if key not in made:
            sliced = np.ascontiguousarray(np.take(values(old), stay, cut.axis))
            made[key] = old, gs.Constant(_fresh(old.name, names), sliced)  # old is held: its id must not be used again
        cut.node.inputs[cut.index] = made[key][1]
    _count(graph, group, channels, names)
    for node in group.nodes:
        if node.attrs.get("group", 1) > 1:
            node.attrs["group"] = int(node.inputs[1].shape[0])
    for tensor in [s.tensor for s in group.spans] + [t for n in group.nodes for t in n.outputs[1:]]:
        tensor.shape = None


def _count(graph: gs.Graph, group: Group, channels: Labels, names: set[str]) -> None:
    """Give lists of sizes, such as those of a Split, the numbers of channels that are left."""
    by_list: dict[tuple[int, int], list[Count]] = {}
    for count in group.counts:
        by_list.setdefault((id(count.node), count.index), []).append(count)
    for (_, index), counts in by_list.items():
        node, sizes = counts[0].node, list(counts[0].sizes)
        for count in counts:
            sizes[count.position] = len(kept(count.labels, channels))
        if node.op == "Split" and graph.opset < SPLIT_READS_SIZES:
            node.attrs["split"] = sizes
            continue
        node.attrs.pop("num_outputs", None)  # of a Split that was of equal parts
        given = index < len(node.inputs)
        old = node.inputs[index].name if given and node.inputs[index].name else f"{node.name}.sizes"
        new = gs.Constant(_fresh(old, names), np.array(sizes, node.inputs[index].dtype if given else np.int64))
        if given:
            node.inputs[index] = new
        else:
            node.inputs.append(new)


def shapes_after(group: Group, channels: Labels, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of the tensors that `keep` makes smaller."""
    return {
        s.tensor.name: tuple(
            len(kept(s.labels, channels)) if a == s.axis else d for a, d in enumerate(shapes[s.tensor.name])
        )
        for s in group.spans
    }


def _check(group: Group, channels: Labels) -> None:
    inside = len(channels) and channels[0] >= 0 and channels[-1] < group.size
    if not inside or (np.diff(channels) <= 0).any():
        raise ValueError(f"channels to keep must be ascending, at least one, within 0 to {group.size - 1}")
    for span in group.spans:
        if not len(kept(span.labels, channels)):
            raise ValueError(f"no channel of '{span.tensor.name}' would be kept: take Group.filled(channels)")


def _names(graph: gs.Graph) -> set[str]:
    graphs = [graph, *graph.subgraphs(recursive=True)]
    return {name for g in graphs for name in g.tensors()} | {t.name for t in graph.outputs}


def _fresh(name: str, used: set[str]) -> str:
    """`name.kept`, numbered if there is one already; entered into `used`."""
    base = re.sub(r"\.kept\d*$", "", name) + ".kept"
    fresh, n = base, 1
    while fresh in used:
        n += 1
        fresh = f"{base}{n}"
    used.add(fresh)
    return fresh
