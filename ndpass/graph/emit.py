"""Turn a block into the nodes of a graph."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.graph.transposed import Transposed
from ndpass.graph.unique_names import Names

# operator, role in the name, inputs, attributes
Parts: TypeAlias = "tuple[str, str, list[gs.Tensor], dict[str, object]]"


class Emitter:
    """Writes a block as nodes named after the site; a sum becomes a left-leaning chain of binary Adds."""

    def __init__(self, site: str, op: str, dtype: np.dtype[np.generic], add: str, names: Names) -> None:
        """add: the operator that adds; onnxruntime has Add from opset 7 on, and Sum before."""
        self.site, self.op, self.dtype, self.add, self.names = site, op, dtype, add, names
        self.nodes: list[gs.Node] = []

    def __call__(
        self, block: Block, x: gs.Tensor, out: gs.Tensor | None = None, carry: gs.Tensor | None = None
    ) -> gs.Tensor:
        """Emit `block` on x; the result is written to `out` if given, and added to `carry` if given."""
        if isinstance(block, Conv):
            return self._node(self._leaf(block, x), out)
        if isinstance(block, Chain):
            for inner in block.blocks[:-1]:
                x = self(inner, x)
            return self(block.blocks[-1], x, out)
        return self._sum(block, x, out, carry)

    def phases(self, block: Block, x: gs.Tensor, out: gs.Tensor | None, layer: Transposed) -> gs.Tensor:
        """Emit a block that makes the phases of a transposed convolution, and what puts them in their places."""
        if layer.stride == 1:
            return self(block, x, out)
        return self._node(("DepthToSpace", "phases", [self(block, x)], {"blocksize": layer.stride}), out)

    def shift(self, conv: Conv, x: gs.Tensor, out: gs.Tensor) -> None:
        """Emit x plus what a convolution without a kernel gives: one number a channel."""
        bias = np.zeros(conv.n_o) if conv.bias is None else conv.bias
        shape, attrs = (1, -1, *(1,) * len(conv.kernel)), {}
        if self.add != "Add":  # before opset 7, where Add itself says which axis it is
            shape, attrs = (-1,), {"broadcast": 1, "axis": 1}
        self._node(("Add", "add", [x, self._constant("mean", bias.reshape(shape))], dict(attrs)), out)

    def transposed(self, layer: Transposed, weight: Array, bias: Array | None, x: gs.Tensor) -> gs.Tensor:
        """Emit a transposed convolution itself; weight (n_i, n_o, kh, kw), bias (n_o,)."""
        inputs = [x, self._constant("weight", weight)]
        inputs += [] if bias is None else [self._constant("bias", bias)]
        sizes = zip(layer.shape[2:], layer.pads, layer.more, strict=True)
        ends = [k - layer.stride * (1 + beyond) - pad for k, pad, beyond in sizes]
        pads = [*layer.pads, *(max(end, 0) for end in ends)]
        more = [max(-end, 0) for end in ends]
        attrs: dict[str, object] = {"strides": [layer.stride] * 2, "pads": pads, "output_padding": more}
        return self._node(("ConvTranspose", "transposed", inputs, attrs), None)

    def _sum(self, block: Sum, x: gs.Tensor, out: gs.Tensor | None, carry: gs.Tensor | None) -> gs.Tensor:
        if len(block.blocks) == 1 and carry is None:
            return self(block.blocks[0], x, out)
        for branch in block.blocks:
            last = branch is block.blocks[-1]
            term = self(branch, x)
            carry = term if carry is None else self._node((self.add, "add", [carry, term], {}), out if last else None)
        return carry

    def _leaf(self, conv: Conv, x: gs.Tensor) -> Parts:
        if self.op in ("Conv", "ConvTranspose"):
            return self._conv(conv, x)
        if self.op == "Gemm":
            return "Gemm", "gemm", [x, self._constant("weight", conv.weight), *self._bias(conv)], {"transB": 1}
        product: Parts = "MatMul", "matmul", [x, self._constant("weight", conv.weight.T)], {}
        if conv.bias is None:
            return product
        return self.add, "bias", [self._node(product, None), *self._bias(conv)], {}

    def _conv(self, conv: Conv, x: gs.Tensor) -> Parts:
        attrs = {
            "kernel_shape": list(conv.kernel),
            "strides": list(conv.strides),
            "pads": list(conv.pads),
            "dilations": list(conv.dilations),
            "group": conv.group,
        }
        role = ("dw" if conv.depthwise else "") + "x".join(map(str, conv.kernel))
        return "Conv", role, [x, self._constant("weight", conv.weight), *self._bias(conv)], attrs

    def _bias(self, conv: Conv) -> list[gs.Tensor]:
        return [] if conv.bias is None else [self._constant("bias", conv.bias)]

    def _constant(self, role: str, array: Array) -> gs.Constant:
        name = self.names.fresh(f"{self.site}/{len(self.nodes)}.{role}")
        return gs.Constant(name, np.ascontiguousarray(array.astype(self.dtype)))

    def _node(self, parts: Parts, out: gs.Tensor | None) -> gs.Tensor:
        op, role, inputs, attrs = parts
        name = self.names.fresh(f"{self.site}/{len(self.nodes)}_{role}")
        result = gs.Variable(self.names.fresh(f"{name}.out"), dtype=self.dtype) if out is None else out
        self.nodes.append(gs.Node(op, name, attrs, inputs, [result]))
        return result
