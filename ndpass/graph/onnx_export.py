"""Write a graph-surgeon graph as ONNX, with what graph-surgeon itself forgets, see `onnx_said`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, update_import_domains
from onnx_graphsurgeon.importers.onnx_importer import ONNX_PYTHON_ATTR_MAPPING, OnnxImporter

from ndpass.graph.constants import is_sparse
from ndpass.graph.onnx_said import Said

READ = frozenset(getattr(AttributeProto, kind) for kind in ONNX_PYTHON_ATTR_MAPPING)  # kinds that graph-surgeon knows


def export_model(graph: gs.Graph, said: Said, shell: ModelProto) -> ModelProto:
    """The graph as a model. shell: all of the model but its graph. Weights are copied."""
    model = ModelProto()
    model.CopyFrom(shell)
    model.graph.CopyFrom(_graph(graph, said))
    del model.opset_import[:]
    model.opset_import.extend(update_import_domains(graph))
    return model


def export_node(node: gs.Node, said: Said | None = None) -> NodeProto:
    """One node. said: of the graph that it is in; an attribute of it that the node has no more was taken away."""
    proto = NodeProto() if said is None or node.name not in said.nodes else _copy(said.nodes[node.name])
    before = {a.name: a for a in proto.attribute}
    kept = [_attribute(node, key, value, before.get(key), said) for key, value in node.attrs.items()]
    kept += [a for key, a in before.items() if key not in node.attrs and a.type not in READ]
    del proto.attribute[:]
    proto.attribute.extend(kept)
    proto.op_type, proto.name = node.op, node.name
    if node.domain is not None:
        proto.domain = node.domain
    proto.input.extend(t.name for t in node.inputs)
    proto.output.extend(t.name for t in node.outputs)
    return proto


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _attribute(
    node: gs.Node, key: str, value: object, before: AttributeProto | None, said: Said | None
) -> AttributeProto:
    if isinstance(value, gs.Graph):
        inner = None if said is None else said.inner.get((node.name, key))
        return onnx.helper.make_attribute(key, _graph(value, inner or Said()))
    if before is not None and _read(before) == value:
        return before
    if isinstance(value, list) and not value:  # of which kind, onnx cannot tell
        return onnx.helper.make_attribute(key, value, attr_type=AttributeProto.INTS)
    made: AttributeProto = OnnxExporter.export_attributes({key: value})[0]
    return made


def _read(attribute: AttributeProto) -> object:
    """The value as graph-surgeon has it."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode(errors="replace")
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode(errors="replace") for text in value]
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _graph(graph: gs.Graph, said: Said) -> GraphProto:
    proto = GraphProto()
    proto.CopyFrom(said.graph)
    proto.name = graph.name
    tensors = graph.tensors()
    proto.node.extend(export_node(node, said) for node in graph.nodes)
    proto.input.extend(_inputs(graph, said))
    proto.output.extend(_info(t, said.infos) for t in graph.outputs)
    constants = [t for t in tensors.values() if isinstance(t, gs.Constant)]
    proto.initializer.extend(said.defaults.get(t.name) or weight(t) for t in constants if not is_sparse(t))
    proto.sparse_initializer.extend(OnnxExporter.export_sparse_tensor_proto(t) for t in constants if is_sparse(t))
    proto.initializer.extend(t for name, t in said.defaults.items() if name not in tensors)
    public = {t.name for t in [*graph.inputs, *graph.outputs]}
    between = [t for t in tensors.values() if isinstance(t, gs.Variable) and t.name not in public]
    proto.value_info.extend(_info(t, said.infos) for t in between if t.dtype is not None or t.shape is not None)
    there = {t.name for t in tensors.values()}
    lost = [a for a in proto.quantization_annotation if a.tensor_name not in there]
    for annotation in lost:
        proto.quantization_annotation.remove(annotation)
    return proto


def weight(tensor: gs.Constant) -> TensorProto:
    """A constant, under the name that it has now."""
    proto: TensorProto = OnnxExporter.export_tensor_proto(tensor)
    return proto


def _inputs(graph: gs.Graph, said: Said) -> Iterator[ValueInfoProto]:
    """Those of the original in their order, then those that were added."""
    now = {t.name: t for t in graph.inputs}
    for name in said.inputs:
        if name in now:
            yield _info(now[name], said.infos)
        elif name in said.defaults:
            yield said.infos[name]
    yield from (_info(t, said.infos) for name, t in now.items() if name not in said.inputs)


def _info(tensor: gs.Tensor, infos: Mapping[str, ValueInfoProto]) -> ValueInfoProto:
    """The declaration of the original where it still holds."""
    before = infos.get(tensor.name)
    if before is not None:
        imported = OnnxImporter.import_tensor(before)
        if isinstance(tensor, gs.Constant) or (imported.dtype, imported.shape) == (tensor.dtype, tensor.shape):
            return before
    made: ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
    return made
