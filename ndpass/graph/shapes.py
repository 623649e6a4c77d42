"""Shapes of every tensor of a model, from its graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from ndpass.errors import InputError
from ndpass.graph.macs import Shape
from ndpass.graph.onnx_export import export_node, weight
from ndpass.graph.unique_names import label

__all__ = ["Axes", "Inferred", "Shape", "infer", "inference", "skeleton"]

Axes = tuple[int | None, ...]  # None: not known
BIG = 1024  # elements; larger constants never decide a shape and are not copied


Known = Mapping[str, tuple[int, Axes]]  # tensor -> ONNX's number of its type, and its axes


def skeleton(graph: gs.Graph, sizes: Mapping[str, Shape], known: Known | None = None) -> onnx.ModelProto:
    """The model without its large weights (they become inputs), its own inputs set to `sizes` or else as declared.

    Shape inference costs nothing on it, whatever the size of the model. known: of tensors between.
    """
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    small = [t for t in constants if math.prod(t.shape) <= BIG]
    inputs = [_info(t, sizes.get(t.name, t.shape)) for t in graph.inputs]
    inputs += [_info(t, t.shape) for t in constants if math.prod(t.shape) > BIG]
    between = graph.tensors().keys() - {t.name for t in [*graph.inputs, *constants]}
    proto = onnx.helper.make_graph(
        [export_node(n) for n in graph.nodes],
        graph.name or "graph",
        inputs,
        [onnx.helper.make_empty_tensor_value_info(t.name) for t in graph.outputs],
        [weight(t) for t in small],
        value_info=[
            onnx.helper.make_tensor_value_info(name, *kind) for name, kind in (known or {}).items() if name in between
        ],
    )
    return onnx.helper.make_model(proto, opset_imports=graph.import_domains, ir_version=max(graph.ir_version or 8, 4))


def _info(tensor: gs.Tensor, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    """Axes of -1 or 0, as some exporters write them, are open ones."""
    axes = None if shape is None else [None if isinstance(d, int) and d < 1 else d for d in shape]
    return onnx.helper.make_tensor_value_info(tensor.name, dtype_to_onnx(tensor.dtype), axes)


def infer(graph: gs.Graph, sizes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Tensor name -> shape, for every tensor whose shape follows from input shapes `sizes`. Raises as `inference`."""
    return inference(graph, sizes).shapes


@dataclass(frozen=True)
class Inferred:
    """What follows from the inputs. axes: tensor name -> size of each axis, None where open; types: ONNX's numbers."""

    axes: dict[str, Axes]
    types: dict[str, int]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Tensor name -> shape, of every tensor that has no open axis; negative sizes follow from too small inputs."""
        known = {name: tuple(d for d in axes if d is not None and d >= 0) for name, axes in self.axes.items()}
        return {name: shape for name, shape in known.items() if len(shape) == len(self.axes[name])}


def inference(graph: gs.Graph, sizes: Mapping[str, Shape], strict: bool = True, known: Known | None = None) -> Inferred:
    """What follows from input shapes `sizes`; an input that is not among them is as the model declares it.

    strict: raise InputError where the graph contradicts itself; else nothing is known from there on. known: what is
    known of tensors between, from elsewhere.
    """
    try:
        proto = onnx.shape_inference.infer_shapes(skeleton(graph, sizes, known), strict_mode=strict, data_prop=True)
    except onnx.shape_inference.InferenceError as e:
        raise _contradiction(sizes, _first_line(e)) from e
    infos = [*proto.graph.output, *proto.graph.value_info, *proto.graph.input]  # one that is given out has its own last
    axes = {t.name: tuple(t.shape) for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    axes |= {i.name: _axes(i) for i in infos if i.type.tensor_type.HasField("shape")}
    for node in graph.nodes:
        if strict and node.op == "Conv":
            _check_convolution(node, axes, sizes)
    return Inferred(axes, {i.name: i.type.tensor_type.elem_type for i in infos})


def _axes(info: onnx.ValueInfoProto) -> Axes:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim)


def _check_convolution(node: gs.Node, axes: Mapping[str, Axes], sizes: Mapping[str, Shape]) -> None:
    """Raise InputError for what ONNX's inference lets pass: other channels than the input's, an output of nothing."""
    x, w, y = (axes.get(t.name) for t in [*node.inputs[:2], node.outputs[0]])
    if x and w and x[1] is not None and w[1] is not None and x[1] != w[1] * node.attrs.get("group", 1):
        wanted = w[1] * node.attrs.get("group", 1)
        what = f"has weights for {wanted} channels, its input '{node.inputs[0].name}' has {x[1]}"
    elif y and any(d is not None and d < 1 for d in y):
        what = f"has a kernel larger than its input '{node.inputs[0].name}'"
    else:
        return
    raise _contradiction(sizes, f"convolution '{label(node)}' {what}")


def _contradiction(sizes: Mapping[str, Shape], what: str) -> InputError:
    if not sizes:
        return InputError(f"the graph contradicts itself: {what}; export the model again")
    given = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sizes.items())
    return InputError(f"the graph contradicts itself at input {given}: {what}; give sizes that the model is made for")


def _first_line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
