"""Follow the channels of one tensor through every operator that keeps them apart.

Each tensor reached has an axis and labels (C,): position -> channel of the tensor that the walk began at, -1 where
that position is none of them (the other branches of a Concat). An operator passes labels on in both directions; where
two meet at one position the two channels are one (`ties`). What can be sliced on the way is noted as a cut. What each
operator does is its rule (`ndpass.graph.channel_rules`); one without a rule ends the walk with `Refused`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ndpass.graph.constants import is_weight
from ndpass.graph.shapes import Shape

Labels: TypeAlias = NDArray[np.int64]


class Refused(Exception):  # noqa: N818 - a result, caught in `groups`
    """Why these channels cannot be pruned."""


@dataclass(frozen=True, eq=False)
class Span:
    """A tensor that carries the channels on one axis; labels (C,)."""

    tensor: gs.Variable
    axis: int
    labels: Labels


@dataclass(frozen=True, eq=False)
class Cut:
    """Input `index` of a node is a constant whose `axis` runs over the channels of `span`."""

    node: gs.Node
    index: int
    axis: int
    span: Span


@dataclass(frozen=True, eq=False)
class Count:
    """Position `position` of input `index` of a node, a list of `sizes`, is the number of channels `labels` (n,)."""

    node: gs.Node
    index: int
    position: int
    labels: Labels
    sizes: tuple[int, ...]


class Walk:
    """Everything that is reached; after `run` the fields are complete. opset: of the graph."""

    def __init__(self, graph: gs.Graph, shapes: Mapping[str, Shape], rules: Mapping[str, Rule]) -> None:
        self.spans: dict[int, Span] = {}
        self.nodes: dict[int, gs.Node] = {}
        self.cuts: dict[tuple[int, int, int], Cut] = {}
        self.counts: dict[tuple[int, int, int], Count] = {}
        self.ties: list[tuple[Labels, Labels]] = []
        self._shapes, self._rules, self.opset = shapes, rules, int(graph.opset)
        self._todo: deque[gs.Node] = deque()
        self._top = {id(node) for node in graph.nodes}
        ends = [graph, *graph.subgraphs(recursive=True)]
        self.outputs = {id(t) for g in ends for t in g.outputs}

    def run(self) -> None:
        while self._todo:
            node = self._todo.popleft()
            self.nodes[id(node)] = node
            if id(node) not in self._top:
                raise Refused(f"its channels are used inside an If, Loop or Scan, by {node.op} '{node.name}'")
            rule = self._rules.get(node.op) if node.domain in (None, "", "ai.onnx") else None
            others = [] if node.op == "Split" else node.outputs[1:]
            if rule is None or any(t.outputs or id(t) in self.outputs for t in others):
                self.refuse(node)
            else:
                rule(self, node)

    def refuse(self, node: gs.Node) -> NoReturn:
        verb = "also feeds" if any(id(t) in self.spans for t in node.inputs) else "comes from"
        raise Refused(f"its input {verb} {node.op} '{node.name}', whose channels cannot be pruned")

    def shape(self, tensor: gs.Tensor) -> Shape:
        if isinstance(tensor, gs.Constant):
            return tuple(tensor.shape)
        if tensor.name not in self._shapes:
            raise Refused(f"the shape of '{tensor.name}', which carries its channels, is not known")
        return self._shapes[tensor.name]

    def labels(self, tensor: gs.Tensor, axis: int) -> Labels | None:
        """The labels of a tensor on this axis, None where it has not been reached."""
        span = self.spans.get(id(tensor))
        if span is not None and span.axis != axis:
            raise Refused(f"the channels of '{tensor.name}' are read along axis {axis} and axis {span.axis}")
        return None if span is None else span.labels

    def put(self, tensor: gs.Tensor, axis: int, labels: Labels | None) -> None:
        """Let `tensor` carry these labels; if some are new to it, its nodes are visited (again)."""
        if labels is None or (labels < 0).all():
            return
        own = self.labels(tensor, axis)
        if own is None:
            own = self._enter(tensor, axis, len(labels))
        both, new = (own >= 0) & (labels >= 0), (own < 0) & (labels >= 0)
        if (own[both] != labels[both]).any():
            self.ties.append((own[both], labels[both]))
        if new.any():
            own[new] = labels[new]
            self._todo.extend([*tensor.inputs, *tensor.outputs])

    def _enter(self, tensor: gs.Tensor, axis: int, size: int) -> Labels:
        for holds, what in (
            (isinstance(tensor, gs.Constant), "constant"),
            (id(tensor) in self.outputs, "graph output"),
            (not tensor.inputs, "graph input"),
        ):
            if holds:
                raise Refused(f"its channels are those of the {what} '{tensor.name}'")
        if self.shape(tensor)[axis] != size:
            raise Refused(f"its channels are spread over more of them in '{tensor.name}'")
        span = self.spans[id(tensor)] = Span(tensor, axis, np.full(size, -1))
        return span.labels

    def tie(self, *sides: tuple[gs.Tensor, int]) -> None:
        """These (tensor, axis) carry the same channels in the same order."""
        (first, axis), *others = sides
        for tensor, its in others:
            self.put(first, axis, self.labels(tensor, its))
        for tensor, its in others:
            self.put(tensor, its, self.labels(first, axis))

    def cut(self, node: gs.Node, index: int, axis: int, tensor: gs.Tensor) -> None:
        """Input `index` of the node, if it is there, loses on `axis` the channels that `tensor` loses."""
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            return
        if not is_weight(node.inputs[index]):
            raise Refused(f"{node.op} '{node.name}' has weights that are computed at run time")
        self.cuts[id(node), index, axis] = Cut(node, index, axis, self.spans[id(tensor)])

    def count(self, node: gs.Node, index: int, position: int, labels: Labels, sizes: Sequence[int]) -> None:
        """One of the sizes in a list that the node reads is that of these channels."""
        self.counts[id(node), index, position] = Count(node, index, position, labels, tuple(sizes))


Rule: TypeAlias = Callable[[Walk, gs.Node], None]
