"""What a convolution or matrix product of a graph is to the passes: a site, or skipped and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array, Block, Conv
from ndpass.graph.constants import has, is_weight, values
from ndpass.graph.macs import ATTENTION, RECURRENT, node_macs
from ndpass.graph.normalise import explicit_pads
from ndpass.graph.scales import one_each, outputs
from ndpass.graph.shapes import Shape
from ndpass.graph.transposed import Transposed
from ndpass.graph.transposed import read as read_transposed

NO_PASS = {
    "DeformConv": "deformable convolution: no pass rewrites it",
    "Einsum": "Einsum: no pass rewrites it",
    ATTENTION: "no weights of its own",
    **{op: f"recurrent layer ({op}): no pass rewrites it" for op in RECURRENT},
}


@dataclass(frozen=True)
class Site:
    """A convolution or matrix product with constant weights.

    outline: the convolution with weights of zeros that take no memory, for questions of geometry and cost.
    in_hw: spatial input size, None where it is not known; rows: how often the kernel is applied to one such input
    (the batch; for a matrix product all leading axes). transposed: of a ConvTranspose, whose outline and weights are
    those of the convolution of its phases.
    """

    name: str
    op: str
    outline: Conv
    in_hw: tuple[int, ...] | None
    rows: int
    load: Callable[[], Conv]
    transposed: Transposed | None = None

    @property
    def conv(self) -> Conv:
        """The convolution with its weights in float32, read anew at each call."""
        return self.load()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the layer's weights."""
        return self.transposed.shape if self.transposed else tuple(self.outline.weight.shape)

    def macs(self, block: Block) -> int | None:
        """Multiply-accumulates of `block` in this place, for one inference."""
        if self.in_hw is None:
            return None
        if self.transposed and isinstance(block, Conv) and block.weight.shape == self.outline.weight.shape:
            # the layer as it is, without the taps that no phase has
            return self.rows * self.transposed.macs(self.in_hw)
        return self.rows * block.macs(self.in_hw)

    def skipped(self, reason: str) -> Skipped:
        """This site as one that is left alone."""
        return Skipped(self.name, self.op, self.shape, self.macs(self.outline), reason)

    def unless_behind(self, choice: str | None) -> Found:
        """This site, or skipped where it is behind a choice (`ndpass.graph.choices`)."""
        if choice is None:
            return self
        return self.skipped(f"behind {choice}: that may pick others in a rewritten model, so nothing there is fitted")


@dataclass(frozen=True)
class Skipped:
    """A weighted node that no pass can rewrite, and why."""

    name: str
    op: str
    shape: tuple[int, ...] | None
    macs: int | None
    reason: str

    def unless_behind(self, _choice: str | None) -> Skipped:
        """Itself: it has a reason."""
        return self


Found: TypeAlias = "Site | Skipped"


def uncounted(found: Sequence[Found]) -> str | None:
    """A sentence where the MACs of layers are not known, so that figures of MACs are of the others; None where not."""
    out = [f for f in found if (f.macs(f.outline) if isinstance(f, Site) else f.macs) is None]
    if not out:
        return None
    layers = "1 layer" if len(out) == 1 else f"{len(out)} layers"
    why = ", ".join(dict.fromkeys(f.reason for f in out if isinstance(f, Skipped) and f.reason.startswith("inside")))
    return f"the MACs of {layers}{f' {why}' if why else ''} are not known: all figures of MACs are without them"


def read(node: gs.Node, shapes: Mapping[str, Shape], fixed_hw: tuple[int, ...] | None) -> Found:
    """One weighted node of the top level.

    shapes: at the sizes that costs are counted at. fixed_hw: the spatial input size where the model itself fixes it.
    """
    transposed = _refuse(node) or (read_transposed(node) if node.op == "ConvTranspose" else None)
    outline = transposed if isinstance(transposed, str) else _outline(node, fixed_hw, transposed)
    if isinstance(outline, Conv):
        return _accept(node, outline, shapes, None if isinstance(transposed, str) else transposed)
    weight = next((t for t in node.inputs[1:] if isinstance(t, gs.Constant)), None) or next(
        (t for t in node.inputs if isinstance(t, gs.Constant)), node.inputs[min(1, len(node.inputs) - 1)]
    )
    return Skipped(node.name, node.op, shapes.get(weight.name), node_macs(node, shapes), outline)


def _accept(node: gs.Node, outline: Conv, shapes: Mapping[str, Shape], transposed: Transposed | None) -> Site:
    x = shapes.get(node.inputs[0].name)
    if node.op in ("Conv", "ConvTranspose"):
        rows, in_hw = (x[0], x[2:]) if x and _fits(outline, x[2:]) else (1, None)
    else:
        rows, in_hw = (math.prod(x[:-1]), ()) if x else (1, None)
    tensors = [t for t in node.inputs[1:3] if not t.is_empty()]
    return Site(node.name, node.op, outline, in_hw, rows, lambda: _load(node, tensors, outline, transposed), transposed)


def _fits(conv: Conv, in_hw: tuple[int, ...]) -> bool:
    """Not so where the sizes that costs are counted at are only assumed, and too small."""
    try:
        conv.out_hw(in_hw)
    except ValueError:
        return False
    return True


def _refuse(node: gs.Node) -> str | None:
    """Why this node is no site, from its inputs and attributes alone."""
    if node.op in NO_PASS:
        return NO_PASS[node.op]
    if any(_made_by(t, "Dequantize") for t in node.inputs[1:]):
        return "its weights are quantised already: run ndpass before quantising"
    if any(_made_by(t, "Constant") for t in node.inputs[1:]):
        return "weights of a type that NumPy has not, such as bfloat16"
    if node.op in ("Gemm", "MatMul") and is_weight(node.inputs[0]) and not isinstance(node.inputs[1], gs.Constant):
        return "its weight is multiplied from the left (W x), which no pass rewrites"
    if not all(is_weight(t) or t.is_empty() for t in node.inputs[1:]):
        return "weights are computed at run time"
    if node.inputs[1].dtype not in (np.float16, np.float32, np.float64):
        return f"weights of type {node.inputs[1].dtype}"
    if isinstance(node.inputs[0], gs.Constant):
        return "its input is constant"
    if _made_by(node.inputs[0], "FakeQuantize"):
        return "its input is quantised already: run ndpass before quantising"
    if node.op == "Gemm" and (node.attrs.get("transA", 0) or not _row_bias(node)):
        return "Gemm with a transposed input or a bias that is not one number an output"
    if node.op == "MatMul" and len(node.inputs[1].shape) != 2:
        return "the weight is not a matrix"
    return None


def _made_by(tensor: gs.Tensor, op: str) -> bool:
    return any(node.op == op for node in tensor.inputs)


def _row_bias(gemm: gs.Node) -> bool:
    """Whether it adds the same to each row: one number for each output, or one for all."""
    return not has(gemm, 2) or one_each(gemm.inputs[2], outputs(gemm), axis=1, axes=2)


def _outline(node: gs.Node, in_hw: tuple[int, ...] | None, transposed: Transposed | None) -> Conv | str:
    """Geometry of the node with weights that take no memory, or why it cannot be known."""
    shape = tuple(node.inputs[1].shape)
    if transposed is not None:
        return transposed.outline(bias=_zero_bias(node, shape[1]) is not None)
    if node.op != "Conv":
        turned = shape if node.attrs.get("transB", 0) else shape[::-1]
        return Conv(np.broadcast_to(np.float32(0), turned), _zero_bias(node, turned[0]))
    pads = explicit_pads(node, in_hw)
    if isinstance(pads, str):
        return pads
    if min(pads, default=0) < 0:
        return "negative pads"
    zeros = np.broadcast_to(np.float32(0), shape)
    attrs = {key: tuple(node.attrs.get(key, ())) for key in ("strides", "dilations")}
    return Conv(zeros, _zero_bias(node, shape[0]), pads=pads, group=node.attrs.get("group", 1), **attrs)


def _zero_bias(node: gs.Node, n_o: int) -> Array | None:
    has = len(node.inputs) > 2 and not node.inputs[2].is_empty()
    return np.zeros(n_o, np.float32) if has else None


def _load(node: gs.Node, tensors: list[gs.Constant], outline: Conv, transposed: Transposed | None) -> Conv:
    """The convolution with its weights; Gemm's alpha and beta are multiplied in."""
    weight = values(tensors[0]).astype(np.float32, copy=False)
    bias = values(tensors[1]).astype(np.float32, copy=False).reshape(-1) if len(tensors) > 1 else None
    if bias is not None and node.op == "Gemm":
        bias = np.broadcast_to(bias, outputs(node))
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0)):
        weight = weight.T
    if transposed is not None:
        weight, bias = transposed.kernel(weight), None if bias is None else transposed.bias(bias)
    if node.op == "Gemm":
        weight = weight * np.float32(node.attrs.get("alpha", 1.0))
        bias = None if bias is None else bias * np.float32(node.attrs.get("beta", 1.0))
    return replace(outline, weight=weight, bias=bias)
