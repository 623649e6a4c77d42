"""Multiply-accumulates (MACs) of every operator with weights, from shapes alone.

| operator | MACs |
|---|---|
| Conv, DeformConv | elements of the output × elements of the kernel that make one of them |
| ConvTranspose | elements of the input × elements of the kernel that one of them meets |
| Gemm, MatMul | elements of the output × length of the inner axis |
| LSTM, GRU, RNN | steps × samples × elements of the input weights and of the recurrent weights, both directions |
| Einsum | product of the lengths of all axes that its equation names |
| ScaledDotProductAttention | queries × keys × (elements of a query and of a value) |
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_graphsurgeon as gs

Shape = tuple[int, ...]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")
ATTENTION = "ScaledDotProductAttention"  # two products in one operator, as OpenVINO fuses them
WEIGHTED = (*PRODUCTS, *RECURRENT, "DeformConv", "Einsum", ATTENTION)


def count_macs(graph: gs.Graph, shapes: Mapping[str, Shape]) -> int:
    """MACs of every operator with weights at the top level whose shapes are known."""
    return sum(node_macs(node, shapes) or 0 for node in graph.nodes)


def node_macs(node: gs.Node, shapes: Mapping[str, Shape]) -> int | None:
    """MACs of one node; None where a shape is not known, 0 for every other operator."""
    if node.op not in WEIGHTED:
        return 0
    if node.op == "Einsum":
        return _einsum(node, shapes)
    x, w = (shapes.get(t.name) for t in node.inputs[:2])
    if node.op == ATTENTION:
        v = shapes.get(node.inputs[2].name)
        return None if x is None or w is None or v is None else math.prod(x[:-1]) * w[-2] * (x[-1] + v[-1])
    if node.op in RECURRENT:
        recurrent = shapes.get(node.inputs[2].name)
        if x is None or w is None or recurrent is None:
            return None
        return math.prod(x[:-1]) * (math.prod(w) + math.prod(recurrent))
    out = shapes.get(node.outputs[0].name)
    if x is None or w is None or out is None:
        return None
    if node.op in ("Conv", "DeformConv"):
        return math.prod(out) * math.prod(w[1:])
    if node.op == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    inner = x[-2] if node.attrs.get("transA", 0) and len(x) > 1 else x[-1]
    return math.prod(out) * inner


def _einsum(node: gs.Node, shapes: Mapping[str, Shape]) -> int | None:
    """As if all operands were multiplied at once: exact for two of them."""
    lengths: dict[str, int] = {}
    left = str(node.attrs["equation"]).replace(" ", "").split("->")[0]
    for term, tensor in zip(left.split(","), node.inputs, strict=True):
        shape = shapes.get(tensor.name)
        if shape is None:
            return None
        for name, length in zip(_axes(term, len(shape)), shape, strict=True):
            lengths[name] = max(lengths.get(name, 1), length)
    return math.prod(lengths.values())


def _axes(term: str, rank: int) -> list[str]:
    """A name for each axis; those that an ellipsis stands for are numbered from the last."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{i}" for i in range(hidden, 0, -1)), *after]
