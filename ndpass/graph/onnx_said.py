"""What an ONNX model says about itself beside what it computes, kept for the model that is written.

graph-surgeon forgets doc strings and metadata of nodes, graphs and inputs, denotations, types other than tensors,
attributes of some kinds, and that an input may have a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from ndpass.graph.constants import Default
from ndpass.graph.macs import PRODUCTS, RECURRENT

NOTHING = slice(0)
HOLDING = dict.fromkeys((*PRODUCTS, "BatchNormalization"), slice(1, None))  # operator -> which inputs are weights
HOLDING |= dict.fromkeys(RECURRENT, slice(1, 4)) | {"DeformConv": slice(1, 2)}
NODE_TEXT = ("doc_string", "overload")
NODE_LISTS = ("metadata_props", "device_configurations")
BULKY = (AttributeProto.TENSOR, AttributeProto.GRAPH)  # attributes that graph-surgeon keeps, and that hold weights


@dataclass
class Said:
    """What an ONNX graph says about itself beside what it computes.

    graph: its name, doc string, metadata and annotations. inputs: their names in order, defaults included.
    infos: name -> declaration of an input, an output or a tensor between. nodes: unique name of a node -> the node
    without its weights. defaults: inputs that need not be fed -> their values. inner: (node, attribute) -> what the
    graph in that attribute says.
    """

    graph: GraphProto = field(default_factory=GraphProto)
    inputs: list[str] = field(default_factory=list)
    infos: dict[str, ValueInfoProto] = field(default_factory=dict)
    nodes: dict[str, NodeProto] = field(default_factory=dict)
    defaults: dict[str, TensorProto] = field(default_factory=dict)
    inner: dict[tuple[str, str], Said] = field(default_factory=dict)


def listen(proto: GraphProto, graph: gs.Graph) -> Said:
    """What `proto` says. graph: its import, nodes in the same order, each with a name of its own."""
    said = Said(inputs=[info.name for info in proto.input])
    if proto.doc_string:
        said.graph.doc_string = proto.doc_string
    said.graph.metadata_props.extend(proto.metadata_props)
    said.graph.quantization_annotation.extend(proto.quantization_annotation)
    for info in [*proto.value_info, *proto.input, *proto.output]:
        said.infos[info.name] = ValueInfoProto()
        said.infos[info.name].CopyFrom(info)
    for node, before in zip(graph.nodes, proto.node, strict=True):
        said.nodes[node.name] = _without_weights(before)
        for attribute in before.attribute:
            if isinstance(node.attrs.get(attribute.name), gs.Graph):
                said.inner[node.name, attribute.name] = listen(attribute.g, node.attrs[attribute.name])
    return said


def _without_weights(node: NodeProto) -> NodeProto:
    """A copy: a part of a message keeps all of it in memory."""
    copy = NodeProto()
    for name in NODE_TEXT:
        if node.HasField(name):
            setattr(copy, name, getattr(node, name))
    for name in NODE_LISTS:
        getattr(copy, name).extend(getattr(node, name))
    copy.attribute.extend(a for a in node.attribute if a.type not in BULKY)
    return copy


def shell_of(model: ModelProto) -> ModelProto:
    """All of the model but its graph and its functions."""
    shell = ModelProto()
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(shell, name, getattr(model, name))
    for descriptor, value in model.ListFields():
        if descriptor.name in ("graph", "functions", "training_info"):
            continue
        if descriptor.is_repeated:
            getattr(shell, descriptor.name).extend(value)
        else:
            setattr(shell, descriptor.name, value)
    shell.ir_version = max(shell.ir_version, 4)  # before 4 every initializer had to be listed as an input
    return shell


def keep_defaults(model: ModelProto, graph: gs.Graph) -> dict[str, TensorProto]:
    """Mark the constants of `graph` that are defaults of inputs; name of the input -> its default.

    An initializer with the name of an input is its default since IR version 4. Exporters of before listed every
    initializer as an input, and some went on: a model that lists the weights of its layers lists them by that habit.
    """
    listed, layers = {info.name for info in model.graph.input}, weights_of(model.graph)
    if model.ir_version < 4 or listed & layers & {t.name for t in model.graph.initializer}:
        return {}
    found = {}
    for tensor in model.graph.initializer:
        if tensor.name in listed:
            found[tensor.name] = TensorProto()
            found[tensor.name].CopyFrom(tensor)
    for tensor in [t for t in graph.tensors().values() if t.name in found]:
        tensor.values = numpy_helper.to_array(found[tensor.name]).view(Default)
    return found


def weights_of(graph: GraphProto) -> set[str]:
    """Names of the weights, biases and statistics of layers; in inner graphs too."""
    own = {name for node in graph.node for name in node.input[HOLDING.get(node.op_type, NOTHING)]}
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return own.union(*(weights_of(g) for g in inner))
