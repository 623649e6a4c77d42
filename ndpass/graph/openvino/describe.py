"""Describe an OpenVINO model in the operators of ONNX, so that sites, channel groups and costs have one implementation.

What has a counterpart that `ndpass.graph.sites` or `ndpass.graph.channel_rules` knows becomes that operator; all else
keeps its type as a name that no rule knows. The description names its parts; where they are in the model, `Places`
tells.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import openvino as ov

from ndpass.conv import Array
from ndpass.errors import InputError
from ndpass.graph.normalise import fold_batchnorms
from ndpass.graph.openvino.fold import PLAIN, constant_value, decompressed, name_of
from ndpass.graph.openvino.operators import DOMAIN, Told, told, unpacks
from ndpass.graph.openvino.port_names import port_name
from ndpass.graph.scales import absorb_biases, fold_scales, takes
from ndpass.graph.unique_names import Names

NUMPYS = (*PLAIN, "i8", "u8", "i16", "u16")  # types that NumPy has too

NAMELESS = re.compile(r"ConvolutionBackpropData_\d+")  # as OpenVINO calls one that has no name

Key = tuple[str, int]  # OpenVINO's unique name of an operator, number of its output
Place = tuple[int, int]  # number of the operator in the model's order, number of its output


class Stored(gs.ir.tensor.LazyValues):  # type: ignore[misc] # graph-surgeon brings no types
    """The values of a Constant, read from the model at each use."""

    def __init__(self, op: ov.Node, shape: tuple[int, ...]) -> None:
        self._op, self.shape = op, shape
        self.dtype = np.dtype(op.get_output_element_type(0).to_dtype())
        self.nbytes = math.prod(shape) * self.dtype.itemsize

    def load(self) -> Array:
        value = constant_value(self._op)
        assert value is not None
        return value.reshape(self.shape)


@dataclass
class Places:
    """Where in the model the parts of its description are.

    tensors: name -> operator and output; slots: node -> for each of its inputs, the operator's input that it is;
    layers: Conv, Gemm or ConvTranspose -> (names of its constants, of its output) as the model has it, its bias being
    an Add behind.
    """

    tensors: dict[str, Place] = field(default_factory=dict)
    slots: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    layers: dict[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)


def layer(node: gs.Node) -> tuple[tuple[str, ...], str]:
    """What tells whether a Conv or Gemm is still the one that was read."""
    return tuple(t.name for t in node.inputs[1:]), node.outputs[0].name


def describe(model: ov.Model) -> tuple[gs.Graph, Places]:
    """The description of a model whose constants are folded (`ov_fold.fold`), normalised as an ONNX graph would be.

    Raises InputError for a model that keeps state between inferences, or whose inputs have no known number of axes.
    """
    if model.get_sinks():
        raise InputError("the model keeps state between inferences (ReadValue, Assign): ndpass rewrites models without")
    for op in model.get_parameters():
        if op.get_output_partial_shape(0).rank.is_dynamic:
            name = port_name(op.output(0))
            raise InputError(f"input '{name}' may have any number of axes: convert the model with its input's shape")
    reader = _Reader(model)
    graph = reader.graph()
    absorb_biases(graph, reader.reshaped)
    reader.places.layers = {n.name: layer(n) for n in graph.nodes if takes(n)}
    fold_batchnorms(graph)
    fold_scales(graph)
    return graph.cleanup(remove_unused_graph_inputs=False), reader.places


def _name_by_bias(op: ov.Node) -> None:
    """Name a transposed convolution without a name after the Add of its bias, as OpenVINO names convolutions."""
    readers = [port.get_node() for port in op.output(0).get_target_inputs()] if op.outputs() else []
    if NAMELESS.fullmatch(op.get_friendly_name()) and len(readers) == 1 and readers[0].get_type_name() == "Add":
        op.set_friendly_name(f"{readers[0].get_friendly_name()}/WithoutBiases")


class _Reader:
    """Makes nodes and tensors as they are met; constants when they are first read."""

    def __init__(self, model: ov.Model) -> None:
        self.model, self.places = model, Places()
        self.ops = model.get_ordered_ops()
        self.number = {op.get_name(): i for i, op in enumerate(self.ops)}
        self.names, self.node_names = Names(), Names()
        self.made: dict[tuple[Key, tuple[int, ...] | None], gs.Tensor] = {}

    def graph(self) -> gs.Graph:
        inputs = [self._variable(op.output(0), port_name(op.output(0))) for op in self.model.get_parameters()]
        results = self.model.get_results()
        for op in results:  # before the others, so that they get the names by which they are known outside
            if self._key(op.input_value(0)) not in {key for key, _ in self.made}:
                self._maybe_variable(op.input_value(0), port_name(op.output(0)))
        nodes = [self._node(op) for op in self.ops if self._is_node(op)]
        outputs = [self._tensor(op.input_value(0), None) for op in results]
        return gs.Graph(nodes=nodes, inputs=inputs, outputs=outputs, opset=17, name=self.model.get_friendly_name())

    def reshaped(self, constant: gs.Constant, shape: tuple[int, ...]) -> gs.Constant:
        """The same stored constant seen in another shape."""
        number, port = self.places.tensors[constant.name]
        return self._tensor(self.ops[number].output(port), shape)

    def _is_node(self, op: ov.Node) -> bool:
        return op.get_type_name() not in ("Parameter", "Result") and not _readable(op)

    def _node(self, op: ov.Node) -> gs.Node:
        plain = [self._tensor(port, None) for port in op.input_values()]
        everything = tuple(range(len(plain)))
        if unpacks(op, plain):
            said = Told("Dequantize", everything)
        else:
            said = told(op, plain) or Told(str(op.get_type_name()), everything)
        plain.append(gs.Variable.empty())  # for NOTHING
        inputs = [
            plain[i] if shape is None else self._tensor(op.input_value(i), shape)
            for i, shape in zip(said.inputs, said.shapes or (None,) * len(said.inputs), strict=True)
        ]
        outputs = [self._tensor(port, None) for port in op.outputs()]
        _name_by_bias(op)
        name = self.node_names.fresh(op.get_friendly_name())
        self.places.slots[name] = self.number[op.get_name()], said.inputs
        return gs.Node(said.op, name, dict(said.attrs), inputs, outputs, None if said.known else DOMAIN)

    def _tensor(self, port: Any, shape: tuple[int, ...] | None) -> gs.Tensor:
        """shape: what a constant is seen in, its own if left out."""
        key = self._key(port)
        if (key, shape) in self.made:
            return self.made[key, shape]
        op = port.get_node()
        if not _readable(op):
            return self._variable(port, None)
        name = self._placed(self.names.fresh(op.get_friendly_name()), port)
        own = shape if shape is not None else tuple(port.get_shape())
        return self.made.setdefault((key, shape), gs.Constant(name, Stored(op, own)))

    def _maybe_variable(self, port: Any, name: str) -> None:
        if not _readable(port.get_node()):
            self._variable(port, name)

    def _variable(self, port: Any, name: str | None) -> gs.Variable:
        op = port.get_node()
        base = name or (op.get_friendly_name() if len(op.outputs()) == 1 else f"{op.get_friendly_name()}:{port.index}")
        axes = port.get_partial_shape()
        known = not axes.rank.is_dynamic
        shape = [a.get_length() if a.is_static else None for a in axes] if known else None
        variable = gs.Variable(self._placed(self.names.fresh(base), port), _dtype(port), shape)
        self.made[self._key(port), None] = variable
        return variable

    def _placed(self, name: str, port: Any) -> str:
        self.places.tensors[name] = self.number[port.get_node().get_name()], port.get_index()
        return name

    def _key(self, port: Any) -> Key:
        return port.get_node().get_name(), port.get_index()


def _readable(op: ov.Node) -> bool:
    """Whether it is a constant whose values NumPy can hold, stored as it is or in half precision."""
    return decompressed(op) is not None or (op.get_type_name() == "Constant" and _dtype(op.output(0)) is not None)


def _dtype(port: Any) -> np.dtype[Any] | None:
    """None where NumPy has no such type."""
    return np.dtype(port.get_element_type().to_dtype()) if name_of(port) in NUMPYS else None
