"""The only module that edits an ONNX graph: sites(), splice(), tidy(); `normalise` prepares what it works on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from ndpass.calibration.feeds import InputSpec
from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.normalise import all_nodes, explicit_pads, import_graph, is_weight, normalise, values
from ndpass.shapes import Shape, count_macs, infer, infer_types, node_macs

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
DEFAULT_HW = 224  # what a dynamic height or width is taken for when costs are counted and nobody says otherwise


@dataclass(frozen=True)
class Site:
    """A convolution or matrix product with constant weights.

    outline: the convolution with weights of zeros that take no memory, for questions of geometry and cost.
    in_hw: spatial input size, None where it is not known; rows: how often the kernel is applied to one such input
    (the batch; for a matrix product all leading axes).
    """

    name: str
    op: str
    outline: Conv
    in_hw: tuple[int, ...] | None
    rows: int
    load: Callable[[], Conv]

    @property
    def conv(self) -> Conv:
        """The convolution with its weights in float32, read anew at each call."""
        return self.load()

    def macs(self, block: Block) -> int | None:
        """Multiply-accumulates of `block` in this place, for one inference."""
        return None if self.in_hw is None else self.rows * block.macs(self.in_hw)

    def skipped(self, reason: str) -> Skipped:
        """This site as one that is left alone."""
        return Skipped(self.name, self.op, tuple(self.outline.weight.shape), self.macs(self.outline), reason)


@dataclass(frozen=True)
class Skipped:
    """A weighted node that no pass can rewrite, and why."""

    name: str
    op: str
    shape: tuple[int, ...] | None
    macs: int | None
    reason: str


Found: TypeAlias = "Site | Skipped"


class Graph:
    """A normalised ONNX model whose convolutions can be found and replaced.

    sizes: the input shapes that costs are counted at, by input name; left out, a dynamic height or width counts as
    224 and any other dynamic axis as 1. Raises InputError for a model that is unsupported as a whole.
    """

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, Shape] | None = None) -> None:
        self._shell = _shell(model)
        self._graph = normalise(import_graph(model))
        self.dynamic_hw = any(not isinstance(d, int) for t in self._graph.inputs for d in (t.shape or ())[2:])
        self.assume(sizes or {t.name: _concrete(t.shape) for t in self._graph.inputs if t.shape is not None})

    def assume(self, sizes: Mapping[str, Shape]) -> None:
        """Count costs at these input shapes from now on."""
        self.sizes = dict(sizes)
        self._shapes = infer(self._graph, self.sizes)

    def inputs(self) -> list[InputSpec]:
        """What the model takes; None stands for a dynamic axis."""
        return [
            InputSpec(
                t.name, tuple(d if isinstance(d, int) and d > 0 else None for d in t.shape or ()), np.dtype(t.dtype)
            )
            for t in self._graph.inputs
        ]

    def sites(self) -> list[Found]:
        """Every Conv, ConvTranspose, Gemm and MatMul in graph order: what can be rewritten, and what not and why."""
        found = [self._site(node) for node in self._graph.nodes if node.op in WEIGHTED]
        top = {id(node) for node in self._graph.nodes}
        inner = [n for n in all_nodes(self._graph) if n.op in WEIGHTED and id(n) not in top]
        return found + [Skipped(n.name, n.op, None, None, "inside an If, Loop or Scan") for n in inner]

    def macs(self) -> int:
        """Multiply-accumulates of one inference, counted from the nodes as they are now."""
        return count_macs(self._graph, infer(self._graph, self.sizes))

    def shapes(self, batch: int) -> dict[str, Shape]:
        """Tensor name -> shape at a batch of `batch` samples, of the graph as it is now."""
        return infer(self._graph, {name: (batch, *shape[1:]) for name, shape in self.sizes.items()})

    def input_of(self, site: Site) -> str:
        return str(self._node(site).inputs[0].name)

    def output_of(self, site: Site) -> str:
        return str(self._node(site).outputs[0].name)

    def places(self, site: Site, batch: int) -> int:
        """How many positions the site's output has for one sample."""
        shape = self.shapes(batch)[self.output_of(site)]
        return math.prod(shape) // site.outline.n_o // batch

    def live(self, site: Site) -> tuple[str, ...]:
        """The computed tensors that the site and what follows it need of what comes before."""
        index = _index(self._graph.nodes, self._node(site))
        made = {id(t) for node in self._graph.nodes[:index] for t in node.outputs} | {id(t) for t in self._graph.inputs}
        needed = {t.name: None for node in self._graph.nodes[index:] for t in _reads(node) if id(t) in made}
        return tuple(needed)

    def segment(self, outputs: Sequence[str], cut: Sequence[str] | None, batch: int) -> bytes:
        """The part of the model that computes `outputs` from the tensors `cut` (None: its inputs), as ONNX.

        Its shapes are fixed at `batch` samples.
        """
        shapes, types, tensors = self.shapes(batch), infer_types(self._graph, self.sizes), self._graph.tensors()
        start = [tensors[name] for name in cut] if cut is not None else list(self._graph.inputs)
        stop = {id(t) for t in start}
        nodes = _upstream([tensors[name] for name in outputs], stop)
        used = {id(t) for node in nodes for t in _reads(node)}
        part = onnx.helper.make_graph(
            [OnnxExporter.export_node(n) for n in self._graph.nodes if id(n) in {id(m) for m in nodes}],
            "segment",
            [onnx.helper.make_tensor_value_info(t.name, types[t.name], shapes[t.name]) for t in start if id(t) in used],
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
            [OnnxExporter.export_tensor_proto(t) for t in tensors.values()
             if isinstance(t, gs.Constant) and id(t) in used],
        )  # fmt: skip
        opsets = self._graph.import_domains
        model = onnx.helper.make_model(part, opset_imports=opsets, ir_version=max(self._shell.ir_version, 4))
        return bytes(model.SerializeToString())

    def _node(self, site: Site) -> gs.Node:
        return next(n for n in self._graph.nodes if n.name == site.name)

    def params(self) -> int:
        """Elements of all weights at the top level."""
        return sum(math.prod(t.shape) for t in self._graph.tensors().values() if isinstance(t, gs.Constant))

    def release(self) -> None:
        """Let go of all nodes and weights; only `sizes` can be asked for afterwards."""
        self._graph = gs.Graph()

    def splice(self, site: Site, block: Block) -> None:
        """Put `block` in the place of the site's node; its output keeps its name, its type and its consumers."""
        node = self._node(site)
        x, y = node.inputs[0], node.outputs[0]
        emit = _Emitter(site, np.dtype(node.inputs[1].dtype), node.op, "Add" if self._graph.opset >= 7 else "Sum")
        index = _index(self._graph.nodes, node)
        node.inputs.clear()
        node.outputs.clear()
        del self._graph.nodes[index]
        add = self._residual_add(y) if isinstance(block, Sum) and len(block.blocks) > 1 else None
        if add is None:
            emit(block, x, y)
        else:  # the identity enters first, so that each branch absorbs one Add
            carry = next(t for t in add.inputs if t is not y)
            out = add.outputs[0]
            add.inputs.clear()
            add.outputs.clear()
            del self._graph.nodes[_index(self._graph.nodes, add)]
            emit(block, x, out, carry)
        self._graph.nodes[index:index] = emit.nodes
        self._graph.toposort()

    def _residual_add(self, y: gs.Variable) -> gs.Node | None:
        """The Add of two computed tensors of equal shape that alone consumes y, or None."""
        if len(y.outputs) != 1 or any(y is t for t in self._graph.outputs):
            return None
        add = y.outputs[0]
        if add.op != "Add" or len(add.inputs) != 2 or any(isinstance(t, gs.Constant) for t in add.inputs):
            return None
        a, b = (self._shapes.get(t.name) for t in add.inputs)
        return add if a is not None and a == b and add.inputs[0] is not add.inputs[1] else None

    def tidy(self) -> None:
        """Drop what nothing uses and order the nodes."""
        self._graph.cleanup(remove_unused_graph_inputs=False).toposort()

    def to_model(self) -> onnx.ModelProto:
        """The model as it is now, with the original's metadata; weights are copied."""
        model: onnx.ModelProto = gs.export_onnx(self._graph, ir_version=self._shell.ir_version)
        model.ir_version = max(self._shell.ir_version, 4)  # before 4 every initializer had to be listed as an input
        for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(model, field, getattr(self._shell, field))
        model.metadata_props.extend(self._shell.metadata_props)
        return model

    def _site(self, node: gs.Node) -> Found:
        reason = _refuse(node)
        weight_shape = self._shapes.get(node.inputs[1].name) if len(node.inputs) > 1 else None
        if reason is None:
            outline = _outline(node, self._spatial(node))
            if isinstance(outline, Conv):
                return self._accept(node, outline)
            reason = outline
        return Skipped(node.name, node.op, weight_shape, node_macs(node, self._shapes), reason)

    def _accept(self, node: gs.Node, outline: Conv) -> Site:
        x = self._shapes.get(node.inputs[0].name)
        if node.op == "Conv":
            rows, in_hw = (x[0], x[2:]) if x else (1, None)
        else:
            rows, in_hw = (math.prod(x[:-1]), ()) if x else (1, None)
        tensors = [t for t in node.inputs[1:3] if not t.is_empty()]
        return Site(node.name, node.op, outline, in_hw, rows, lambda: _load(node, tensors, outline))

    def _spatial(self, node: gs.Node) -> tuple[int, ...] | None:
        """Spatial input size where it is fixed in the model itself, not assumed for counting."""
        declared = self._shapes.get(node.inputs[0].name)
        return None if declared is None or self.dynamic_hw else declared[2:]


def _shell(model: onnx.ModelProto) -> onnx.ModelProto:
    shell = onnx.ModelProto()
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(shell, field, getattr(model, field))
    shell.metadata_props.extend(model.metadata_props)
    return shell


def _concrete(shape: tuple[int | str | None, ...]) -> Shape:
    """An input shape with its dynamic axes filled in."""
    return tuple(d if isinstance(d, int) and d > 0 else (1 if axis < 2 else DEFAULT_HW) for axis, d in enumerate(shape))


def _refuse(node: gs.Node) -> str | None:
    """Why this node is no site, from its inputs and attributes alone."""
    if node.op == "ConvTranspose":
        return "transposed convolution"
    if not all(is_weight(t) or t.is_empty() for t in node.inputs[1:]):
        return "weights are computed at run time"
    if node.inputs[1].dtype not in (np.float16, np.float32, np.float64):
        return f"weights of type {node.inputs[1].dtype}"
    if isinstance(node.inputs[0], gs.Constant):
        return "its input is constant"
    if node.op == "Gemm" and (node.attrs.get("transA", 0) or not _row_bias(node)):
        return "Gemm with a transposed input or a bias that is not one number an output"
    if node.op == "MatMul" and len(node.inputs[1].shape) != 2:
        return "the weight is not a matrix"
    return None


def _row_bias(gemm: gs.Node) -> bool:
    n_o = gemm.inputs[1].shape[0 if gemm.attrs.get("transB", 0) else 1]
    return len(gemm.inputs) < 3 or gemm.inputs[2].is_empty() or tuple(gemm.inputs[2].shape) in ((n_o,), (1, n_o))


def _outline(node: gs.Node, in_hw: tuple[int, ...] | None) -> Conv | str:
    """Geometry of the node with weights that take no memory, or why it cannot be known."""
    shape = tuple(node.inputs[1].shape)
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


def _load(node: gs.Node, tensors: list[gs.Constant], outline: Conv) -> Conv:
    """The convolution with its weights; Gemm's alpha and beta are multiplied in."""
    weight = values(tensors[0]).astype(np.float32, copy=False)
    bias = values(tensors[1]).astype(np.float32, copy=False).reshape(-1) if len(tensors) > 1 else None
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0)):
        weight = weight.T
    if node.op == "Gemm":
        weight = weight * np.float32(node.attrs.get("alpha", 1.0))
        bias = None if bias is None else bias * np.float32(node.attrs.get("beta", 1.0))
    return replace(outline, weight=weight, bias=bias)


def _index(nodes: list[gs.Node], node: gs.Node) -> int:
    """Position by identity: graph-surgeon compares nodes by content, weights included."""
    return next(i for i, n in enumerate(nodes) if n is node)


def _reads(node: gs.Node) -> list[gs.Tensor]:
    """The tensors that a node reads, those included that the graphs inside it take from outside."""
    inner = [t for g in node.attrs.values() if isinstance(g, gs.Graph) for n in g.nodes for t in _reads(n)]
    return [t for t in [*node.inputs, *inner] if not t.is_empty()]


def _upstream(tensors: list[gs.Tensor], stop: set[int]) -> list[gs.Node]:
    """Every node that the tensors depend on, up to the tensors whose ids are in `stop`."""
    seen: dict[int, gs.Node] = {}
    queue = list(tensors)
    while queue:
        tensor = queue.pop()
        if id(tensor) in stop:
            continue
        for node in tensor.inputs:
            if id(node) not in seen:
                seen[id(node)] = node
                queue.extend(_reads(node))
    return list(seen.values())


class _Emitter:
    """Turns a block into nodes named after the site; a sum becomes a left-leaning chain of binary Adds."""

    def __init__(self, site: Site, dtype: np.dtype[np.generic], op: str, add: str) -> None:
        """add: the operator that adds; onnxruntime has Add from opset 7 on, and Sum before."""
        self.site, self.dtype, self.op, self.add = site.name, dtype, op, add
        self.nodes: list[gs.Node] = []

    def __call__(
        self, block: Block, x: gs.Tensor, out: gs.Tensor | None = None, carry: gs.Tensor | None = None
    ) -> gs.Tensor:
        """Emit `block` on x; the result is written to `out` if given, and added to `carry` if given."""
        if isinstance(block, Conv):
            return self._node(*self._leaf(block, x), out)
        if isinstance(block, Chain):
            for inner in block.blocks[:-1]:
                x = self(inner, x)
            return self(block.blocks[-1], x, out)
        return self._sum(block, x, out, carry)

    def _sum(self, block: Sum, x: gs.Tensor, out: gs.Tensor | None, carry: gs.Tensor | None) -> gs.Tensor:
        if len(block.blocks) == 1 and carry is None:
            return self(block.blocks[0], x, out)
        for branch in block.blocks:
            last = branch is block.blocks[-1]
            term = self(branch, x)
            carry = term if carry is None else self._node(self.add, "add", [carry, term], {}, out if last else None)
        return carry

    def _leaf(self, conv: Conv, x: gs.Tensor) -> tuple[str, str, list[gs.Tensor], dict[str, object]]:
        bias = [] if conv.bias is None else [self._constant("bias", conv.bias)]
        if self.op == "Conv":
            attrs = {"kernel_shape": list(conv.kernel), "strides": list(conv.strides), "pads": list(conv.pads),
                     "dilations": list(conv.dilations), "group": conv.group}  # fmt: skip
            role = ("dw" if conv.depthwise else "") + "x".join(map(str, conv.kernel))
            return "Conv", role, [x, self._constant("weight", conv.weight), *bias], attrs
        if self.op == "Gemm":
            return "Gemm", "gemm", [x, self._constant("weight", conv.weight), *bias], {"transB": 1}
        if not bias:
            return "MatMul", "matmul", [x, self._constant("weight", conv.weight.T)], {}
        product = self._node("MatMul", "matmul", [x, self._constant("weight", conv.weight.T)], {}, None)
        return self.add, "bias", [product, *bias], {}

    def _constant(self, role: str, array: Array) -> gs.Constant:
        return gs.Constant(f"{self.site}/{len(self.nodes)}.{role}", np.ascontiguousarray(array.astype(self.dtype)))

    def _node(
        self, op: str, role: str, inputs: list[gs.Tensor], attrs: dict[str, object], out: gs.Tensor | None
    ) -> gs.Tensor:
        name = f"{self.site}/{len(self.nodes)}_{role}"
        result = gs.Variable(f"{name}.out", dtype=self.dtype) if out is None else out
        self.nodes.append(gs.Node(op, name, attrs, inputs, [result]))
        return result
