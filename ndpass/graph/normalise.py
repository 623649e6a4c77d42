"""Bring an imported graph into the one form that the rest of ndpass reads.

Constants become initializers, turns between channels first and last go where they cancel, a BatchNormalization behind a
layer is folded into it, as is an Add or a Mul of constants, auto_pad becomes pads, a Sum becomes Adds and every node
gets a name of its own. Nothing here changes what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from ndpass.errors import InputError
from ndpass.graph.constants import is_weight, values
from ndpass.graph.fold import fold_constants
from ndpass.graph.layouts import drop_casts, undo_turns
from ndpass.graph.scales import ALIGNED, fold_scales, rescale, takes
from ndpass.graph.transposed_pads import give_pads
from ndpass.graph.unique_names import Names, all_graphs, all_nodes, label, name_nodes, tensor_names

QUANTISED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
}
LONG_NAME = "ai.onnx"  # of the domain ""
FUSED_BY_ORT = {"FusedConv", "FusedGemm", "FusedMatMul", "NhwcConv", "NhwcMaxPool", "ReorderInput", "ReorderOutput"}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions: what they do stands in their place. ONNX's own domain has its short name."""
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    return _short(model) if any(opset.domain == LONG_NAME for opset in model.opset_import) else model


def _short(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which ONNX's own domain is called "" everywhere; onnx's checks know only some of it by the other."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = {opset.domain: opset for opset in copy.opset_import}
    if "" in own:
        copy.opset_import.remove(own[LONG_NAME])
    else:
        own[LONG_NAME].domain = ""
    graphs = [copy.graph]
    for graph in graphs:
        for node in graph.node:
            node.domain = "" if node.domain == LONG_NAME else node.domain
            graphs += [part for a in node.attribute for part in (*([a.g] if a.HasField("g") else ()), *a.graphs)]
    return copy


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """The model as a graph-surgeon graph, local functions inlined.

    Raises InputError for a model that is quantised or was already rewritten by a runtime.
    """
    G_LOGGER.severity = G_LOGGER.ERROR
    graph = gs.import_onnx(inlined(model))
    refuse_whole(graph)
    return graph


def refuse_whole(graph: gs.Graph) -> None:
    """Raise InputError where ndpass comes too late for this model, and for inputs that are no tensors."""
    for tensor in graph.inputs:
        if isinstance(tensor.dtype, onnx.TypeProto):
            raise InputError(
                f"input '{tensor.name}' is no tensor but a sequence, or one that may be missing: not known here"
            )
    for node in all_nodes(graph):
        if node.op in QUANTISED:
            raise InputError(
                f"the model is already quantised (node '{label(node)}' is {node.op}): run ndpass before quantising"
            )
        if node.op in FUSED_BY_ORT and (node.domain or "").startswith("com.microsoft"):
            raise InputError(
                f"the model was already optimised by onnxruntime (node '{label(node)}' is {node.op}): "
                "give the model from before that"
            )


def normalise(graph: gs.Graph) -> gs.Graph:
    """Fold constants, BatchNormalization, scales and shifts in place, then drop what no output needs."""
    name_nodes(graph)  # first of all: onnxruntime, which folds, refuses double names
    graph.toposort()
    fold_constants(graph)
    drop_casts(graph)
    undo_turns(graph)
    give_pads(graph)
    split_sums(graph)
    while fold_batchnorms(graph) + fold_scales(graph):  # one may stand behind the other
        pass
    return graph.cleanup(remove_unused_graph_inputs=False)


def split_sums(graph: gs.Graph) -> None:
    """Write a Sum as Adds, first to last, so that a residual sum is one however it is written.

    A Sum reads tensors of one shape before opset 8; onnxruntime has no Add before the opset that aligns its operands.
    """
    if graph.opset < ALIGNED or not any(node.op == "Sum" for node in graph.nodes):
        return
    names, nodes = Names(tensor_names(graph) | {n.name for n in all_nodes(graph)}), []
    for node in graph.nodes:
        if node.op != "Sum" or node.domain not in (None, "") or len(node.inputs) < 2:
            nodes.append(node)
            continue
        (out,), (total, *terms) = node.outputs, list(node.inputs)
        node.inputs.clear()
        node.outputs.clear()
        for term in terms[:-1]:
            made = gs.Variable(names.fresh(f"{node.name}.part"), out.dtype)
            nodes.append(gs.Node("Add", names.fresh(f"{node.name}/add"), {}, [total, term], [made]))
            total = made
        nodes.append(gs.Node("Add", node.name, {}, [total, terms[-1]], [out]))
    graph.nodes = nodes


def fold_batchnorms(graph: gs.Graph) -> int:
    """Fold each BatchNormalization into the layer before it; returns how many were folded.

    y = s (Wx + b - mean) / sqrt(var + eps) + shift, computed in float64. One that cannot be folded stays: its layer
    feeds something else too, or one of its parameters is computed at run time.
    """
    outputs = {id(t) for part in all_graphs(graph) for t in part.outputs}
    names, gone = Names(tensor_names(graph)), set[int]()
    for norm in [n for n in graph.nodes if n.op == "BatchNormalization" and _foldable(n, outputs)]:
        layer, (scale, shift, mean, var) = norm.inputs[0].inputs[0], (values(t).astype(float) for t in norm.inputs[1:5])
        factor = scale / np.sqrt(var + norm.attrs.get("epsilon", 1e-5))
        if rescale(layer, factor, shift - mean * factor, names):
            out = norm.outputs[0]
            norm.inputs.clear()
            norm.outputs.clear()
            layer.outputs = [out]
            gone.add(id(norm))
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
    return len(gone)


def _foldable(norm: gs.Node, outputs: set[int]) -> bool:
    x = norm.inputs[0]
    if len(x.inputs) != 1 or not takes(x.inputs[0]) or len(x.outputs) != 1 or id(x) in outputs:
        return False
    plain = norm.attrs.get("training_mode", 0) == 0 and norm.attrs.get("spatial", 1) == 1 and len(norm.outputs) == 1
    return plain and all(is_weight(t) for t in norm.inputs[1:5])


def explicit_pads(node: gs.Node, in_hw: tuple[int, ...] | None) -> tuple[int, ...] | str:
    """The pads of a Conv node (begins, then ends), with auto_pad resolved; or why they cannot be known."""
    axes = len(node.inputs[1].shape) - 2
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return tuple(node.attrs.get("pads", (0,) * (2 * axes)))
    if mode == "VALID":
        return (0,) * (2 * axes)
    strides = node.attrs.get("strides", [1] * axes)
    if in_hw is None and max(strides) > 1:
        return f"auto_pad {mode} with a stride depends on the input size, which is not known"
    return _same_pads(node, mode, strides, in_hw or (1,) * axes)


def _same_pads(node: gs.Node, mode: str, strides: Iterable[int], in_hw: tuple[int, ...]) -> tuple[int, ...]:
    """The output has ceil(n / stride) elements; an odd pad goes to the end for SAME_UPPER, to the begin else."""
    kernel = node.inputs[1].shape[2:]
    dilations = node.attrs.get("dilations", [1] * len(kernel))
    totals = [
        max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(in_hw, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
