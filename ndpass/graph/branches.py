"""Residual branches: chains of convolutions that are added to a shortcut, to be replaced by one convolution.

Chains without a shortcut are in `ndpass.graph.chains`.

A branch runs from the input of its first convolution to the output of its last one, which goes into the sum alone. In
between are more convolutions and element-wise layers, each value read once. What comes before the first convolution, as
in pre-activation blocks, stays where it is. The other side of the sum reads what the branch reads: as it is (an
identity), or through layers of its own (a projection).

One convolution in the branch's place has its strides, and at most its receptive field: with kernels k, strides s and
pads p of the chain, and dilations d,

    stride Π s_j    field 1 + Σ_j (k_j − 1) d_j Π_{i<j} s_i    pads Σ_j p_j Π_{i<j} s_i

The floors of the sizes agree: floor((floor(a / s) + b) / t) = floor((a + b s) / (s t)) for whole b.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array, Block, Conv
from ndpass.graph.channel_rules import ELEMENTWISE
from ndpass.graph.dependencies import reads, upstream
from ndpass.graph.sites import Found, Site

# element-wise layers with one input that is computed; what else they read is constant
UNARY = frozenset({*ELEMENTWISE, "BatchNormalization"})
LINEAR = frozenset({"Identity", "Dropout", "Cast"})
EVERY = slice(None)
ACTIVE = 0.5  # share of a non-linear layer's input that its linear stand-in lets through: half of it is below zero


@dataclass(frozen=True)
class Branch:
    """A residual branch, or a plain chain, that one convolution can stand for.

    name: of the node that adds, of a plain chain "FIRST to LAST"; layers: names of the convolutions, first to last;
    inner: of all nodes of the branch; output: the tensor of the sum, response: of the last layer, which a plain chain
    has in the place of a sum, too. outline: the convolution with the receptive field, its weights zeros that take no
    memory. in_hw, rows: as of a `Site`, of the first layer. macs: of all layers.
    """

    name: str
    layers: tuple[str, ...]
    inner: tuple[str, ...]
    output: str
    response: str
    outline: Conv
    in_hw: tuple[int, ...]
    rows: int
    macs: int
    load: Callable[[], Conv]

    @property
    def first(self) -> str:
        return self.layers[0]

    @property
    def last(self) -> str:
        """The layer in whose name the block is planned and reported."""
        return self.layers[-1]

    @property
    def is_plain(self) -> bool:
        """Whether there is no sum behind it, so that it cannot be dropped."""
        return self.output == self.response

    @property
    def conv(self) -> Conv:
        """The branch linearised, each non-linear layer as one that lets half through: a convolution without bias."""
        return self.load()

    def cost(self, block: Block) -> int:
        """Multiply-accumulates of a block in the place of the branch."""
        return self.rows * block.macs(self.in_hw)


@dataclass(frozen=True)
class Unmerged:
    """A sum with convolutions behind it that is no residual block to be merged, and why; layers: those convolutions."""

    name: str
    layers: tuple[str, ...]
    reason: str


Residual: TypeAlias = "Branch | Unmerged"
Step: TypeAlias = "tuple[list[gs.Node], gs.Tensor]"
Index: TypeAlias = "tuple[slice | int, ...]"


def blocks(graph: gs.Graph, shapes: dict[str, tuple[int, ...]], read: Callable[[gs.Node], Found]) -> list[Residual]:
    """Every sum of two computed tensors of one shape that a convolution leads to, in graph order."""
    found = []
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        if node.op != "Add" or len(node.inputs) != 2 or any(isinstance(t, gs.Constant) for t in node.inputs):
            continue
        a, b = (shapes.get(t.name) for t in node.inputs)
        if a is None or a != b:
            continue
        sides = [_Side.up_from(t, node, outputs) for t in node.inputs]
        pairs = [(side, other) for side, other in zip(sides, reversed(node.inputs), strict=True) if side.convs]
        block = _block(node, *max(pairs, key=lambda pair: len(pair[0].convs)), read) if pairs else None
        products = [side.why for side in sides if side.why]
        why = products[0] if len(products) == 1 else ""  # two are gates, as of an LSTM or a GRU, and no branch
        if why and not isinstance(block, Branch):
            block = Unmerged(node.name, block.layers if block else (), why)
        if block is not None:
            found.append(block)
    return found


@dataclass(frozen=True)
class _Side:
    """What leads to one input of a sum: convolutions, last first, all nodes down from the first convolution, where it
    begins (the tensor that others read too, if any), and why it ends in no convolution."""

    convs: Sequence[gs.Node]
    nodes: Sequence[gs.Node]
    start: gs.Tensor
    why: str = ""

    @classmethod
    def up_from(cls, tensor: gs.Tensor, add: gs.Node, outputs: set[int]) -> _Side:
        convs: list[gs.Node] = []
        nodes: list[gs.Node] = []
        inner = 0  # how many nodes there are down from the first convolution
        t = tensor
        while len(tensor.outputs) == 1 and (found := before(t, nodes or [add], outputs)) is not None:
            own, t = found
            nodes += own
            if own[-1].op == "Conv":
                convs.append(own[-1])
                inner = len(nodes)
        multiplied = not convs and len(t.outputs) == 1 and t.inputs and t.inputs[0].op == "Mul" and _from_conv(t)
        why = "its branch is multiplied by what is computed, as by squeeze-and-excite" if multiplied else ""
        return cls(convs, nodes[:inner], t, why)


def _from_conv(tensor: gs.Tensor) -> bool:
    """Whether a convolution makes it, but for element-wise layers and products behind that."""
    todo, seen = [tensor], {id(tensor)}
    while todo:
        for node in todo.pop().inputs:
            computed = _computed(node)
            if node.op == "Conv":
                return True
            if node.op == "Mul" or (node.op in UNARY and len(computed) == 1):
                todo += [t for t in computed if id(t) not in seen]
                seen |= {id(t) for t in computed}
    return False


def before(tensor: gs.Tensor, readers: Collection[gs.Node], outputs: set[int]) -> Step | None:
    """What makes a tensor that only these nodes read, last node first, and what that reads.

    It is a convolution or an element-wise layer, of several nodes where it is written as x times a function of x (SiLU,
    Mish, GELU); None for anything else, and for a tensor that others read. outputs: ids of those of the model.
    """
    known = {id(node) for node in readers}
    if not tensor.inputs or id(tensor) in outputs or any(id(node) not in known for node in tensor.outputs):
        return None
    node = tensor.inputs[0]
    computed = _computed(node)
    if len(computed) == 1 and (node.op == "Conv" or node.op in UNARY):
        return [node], computed[0]
    return _gated(node, computed) if node.op == "Mul" and len(computed) == 2 else None


def _computed(node: gs.Node) -> list[gs.Tensor]:
    """What a node reads besides constants."""
    return [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]


def _gated(product: gs.Node, factors: Sequence[gs.Tensor]) -> Step | None:
    """The product of a tensor and of an element-wise function of it, and that tensor."""
    for x, other in itertools.permutations(factors, 2):
        nodes, t = [product], other
        while t is not x and len(t.outputs) == 1 and t.inputs and t.inputs[0].op in UNARY:
            computed = _computed(t.inputs[0])
            if len(computed) != 1:
                break
            nodes.append(t.inputs[0])
            t = computed[0]
        if t is x and len(nodes) > 1:
            return nodes, x
    return None


def _block(add: gs.Node, side: _Side, shortcut: gs.Tensor, read: Callable[[gs.Node], Found]) -> Residual:
    names = tuple(str(node.name) for node in reversed(side.convs))
    sites = [read(node) for node in reversed(side.convs)]
    reason = _why_not(side, shortcut, sites)
    if reason is not None:
        return Unmerged(add.name, names, reason)
    known = [site for site in sites if isinstance(site, Site)]
    return branch_of(add.name, side.nodes, known, str(add.outputs[0].name))


def branch_of(name: str, nodes: Sequence[gs.Node], sites: Sequence[Site], output: str) -> Branch:
    """nodes: from the last convolution up to the first one; sites: of the convolutions, first to last."""
    outline = merged_outline([site.outline for site in sites])
    slopes = _slopes(list(reversed(nodes)))
    return Branch(
        name,
        tuple(site.name for site in sites),
        tuple(str(node.name) for node in nodes),
        output,
        str(nodes[0].outputs[0].name),
        outline,
        sites[0].in_hw or (),
        sites[0].rows,
        sum(site.macs(site.outline) or 0 for site in sites),
        lambda: replace(outline, weight=linearised([site.conv for site in sites], slopes)),
    )


def _why_not(side: _Side, shortcut: gs.Tensor, sites: Sequence[Found]) -> str | None:
    """Why the branch cannot become one convolution, or None."""
    if side.nodes[0] is not side.convs[0]:
        last, gate = side.nodes[:2]
        if last.op == "Mul" and gate.op != "Conv" and any(t is last.inputs[i] for t in gate.outputs for i in (0, 1)):
            return f"{gate.op} and Mul, as one activation, stand between its last convolution and the sum"
        return f"{last.op} '{last.name}' stands between its last convolution and the sum"
    if len(side.convs) < 2:
        return "its branch is one convolution already"
    for site in sites:
        if not isinstance(site, Site):
            return f"layer '{site.name}': {site.reason}"
        if site.in_hw is None:
            return f"layer '{site.name}': its input size is not known"
    seen = {id(t) for node in upstream([shortcut], {id(side.start)}) for t in reads(node)} | {id(shortcut)}
    if id(side.start) not in seen:
        return "the other side of the sum does not read what the branch reads, so it is no shortcut"
    return None


def _slopes(nodes: Sequence[gs.Node]) -> list[float]:
    """What linear stand-ins of the layers behind each convolution let through."""
    slopes: list[float] = []
    for node in nodes:
        if node.op == "Conv":
            slopes.append(1.0)
        elif node.op not in LINEAR and slopes:
            slopes[-1] = ACTIVE
    return slopes


def merged_outline(convs: Sequence[Conv]) -> Conv:
    """The geometry of the one convolution with the receptive field of the chain; weights of zeros."""
    axes = len(convs[0].kernel)
    field, stride, pads = [1] * axes, [1] * axes, [0] * 2 * axes
    for conv in convs:
        for a in range(axes):
            field[a] += (conv.kernel[a] - 1) * conv.dilations[a] * stride[a]
            pads[a] += conv.pads[a] * stride[a]
            pads[a + axes] += conv.pads[a + axes] * stride[a]
            stride[a] *= conv.strides[a]
    shape = (convs[-1].n_o, convs[0].n_i, *field)
    return Conv(np.broadcast_to(np.float32(0), shape), strides=tuple(stride), pads=tuple(pads))


def linearised(convs: Sequence[Conv], slopes: Sequence[float]) -> Array:
    """The kernel (n_o, n_i, *field) of the chain where what is behind each convolution multiplies by its slope.

    slopes: one for each convolution. Paddings inside the chain are taken for values, which they are not at the border.
    """
    axes = len(convs[0].kernel)
    total = _spread(convs[0].dense().weight.astype(np.float64), convs[0].dilations) * slopes[0]
    stride = convs[0].strides
    for conv, slope in zip(convs[1:], slopes[1:], strict=True):
        weight = conv.dense().weight.astype(np.float64)
        field = [
            n + (k - 1) * d * s for n, k, d, s in zip(total.shape[2:], conv.kernel, conv.dilations, stride, strict=True)
        ]
        made: Array = np.zeros((conv.n_o, total.shape[1], *field))
        flat = total.reshape(total.shape[0], -1)  # (n_m, n_i * field before)
        for tap in np.ndindex(*conv.kernel):
            starts = [t * d * s for t, d, s in zip(tap, conv.dilations, stride, strict=True)]
            at: Index = (EVERY, EVERY, *(slice(b, b + n) for b, n in zip(starts, total.shape[2:], strict=True)))
            own: Index = (EVERY, EVERY, *tap)
            made[at] += (weight[own] @ flat).reshape(conv.n_o, *total.shape[1:])
        total = made * slope
        stride = tuple(stride[a] * conv.strides[a] for a in range(axes))
    return total


def _spread(weight: Array, dilations: Sequence[int]) -> Array:
    """The kernel with zeros between its elements, as the dilations say."""
    size = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    if math.prod(dilations) == 1:
        return weight
    wide = np.zeros((*weight.shape[:2], *size))
    at: Index = (EVERY, EVERY, *(slice(None, None, d) for d in dilations))
    wide[at] = weight
    return wide
