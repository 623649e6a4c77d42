"""Shapes of every tensor and the multiply-accumulates of a whole model, from its graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx

from ndpass.errors import InputError

Shape = tuple[int, ...]
BIG = 1024  # elements; larger constants never decide a shape and are not copied


def skeleton(graph: gs.Graph, sizes: Mapping[str, Shape]) -> onnx.ModelProto:
    """The model without its large weights (they become inputs), its own inputs set to `sizes`.

    Shape inference and the checker cost nothing on it, whatever the size of the model.
    """
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    small = [t for t in constants if math.prod(t.shape) <= BIG]
    inputs = [_info(t, sizes.get(t.name, t.shape)) for t in graph.inputs]
    inputs += [_info(t, t.shape) for t in constants if math.prod(t.shape) > BIG]
    proto = onnx.helper.make_graph(
        [OnnxExporter.export_node(n) for n in graph.nodes],
        graph.name or "graph",
        inputs,
        [onnx.helper.make_empty_tensor_value_info(t.name) for t in graph.outputs],
        [onnx.numpy_helper.from_array(t.values, t.name) for t in small],
    )
    return onnx.helper.make_model(proto, opset_imports=graph.import_domains, ir_version=max(graph.ir_version or 8, 4))


def _info(tensor: gs.Tensor, shape: Shape | None) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(tensor.name, dtype_to_onnx(tensor.dtype), shape)


def infer(graph: gs.Graph, sizes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Tensor name -> shape, for every tensor whose shape follows from input shapes `sizes`.

    Raises InputError where the graph contradicts itself.
    """
    inferred = _infer(graph, sizes)
    known = {t.name: tuple(t.shape) for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    for info in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        dims = info.type.tensor_type.shape.dim if info.type.tensor_type.HasField("shape") else None
        if dims is not None and all(d.HasField("dim_value") for d in dims):
            known[info.name] = tuple(d.dim_value for d in dims)
    return known


def infer_types(graph: gs.Graph, sizes: Mapping[str, Shape]) -> dict[str, int]:
    """Tensor name -> ONNX element type, for every computed tensor whose type follows. Raises InputError as `infer`."""
    inferred = _infer(graph, sizes)
    return {info.name: info.type.tensor_type.elem_type for info in [*inferred.graph.input, *inferred.graph.value_info]}


def _infer(graph: gs.Graph, sizes: Mapping[str, Shape]) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(skeleton(graph, sizes), data_prop=True)
    except onnx.shape_inference.InferenceError as e:
        raise InputError(f"shape inference failed, the graph contradicts itself: {_first_line(e)}") from e


def _first_line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)


def count_macs(graph: gs.Graph, shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates of every Conv, ConvTranspose, Gemm and MatMul at the top level whose shapes are known."""
    return sum(node_macs(node, shapes) or 0 for node in graph.nodes)


def node_macs(node: gs.Node, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates of one node; None where a shape is not known, 0 for every other operator."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    x, w = (shapes.get(t.name) for t in node.inputs[:2])
    out = shapes.get(node.outputs[0].name)
    if x is None or w is None or out is None:
        return None
    if node.op == "Conv":
        return math.prod(out) * math.prod(w[1:])
    if node.op == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    inner = x[0] if node.op == "Gemm" and node.attrs.get("transA", 0) else x[-1]
    return math.prod(out) * inner
