"""An OpenVINO model as a `Graph`: the same sites, edits and questions, no pass knows the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs
import openvino as ov
from onnx import TensorProto
from openvino import opset13 as ops

from ndpass.errors import InputError, last_words
from ndpass.graph.channel_groups import Group
from ndpass.graph.channel_walk import Labels
from ndpass.graph.graph import Found, Graph, Site, Skipped
from ndpass.graph.input_spec import InputSpec
from ndpass.graph.openvino.describe import describe
from ndpass.graph.openvino.fold import fold
from ndpass.graph.openvino.lower import Lowered, lower
from ndpass.graph.openvino.operators import CELLS, CONVOLUTIONS, SEQUENCES
from ndpass.graph.openvino.port_names import port_bounds, port_name
from ndpass.graph.openvino.transposes import take_apart
from ndpass.graph.segments import read_by
from ndpass.graph.shapes import Axes, Inferred, Shape

BODIES = {"If": ("get_then_body", "get_else_body"), "Loop": ("get_function",), "TensorIterator": ("get_function",)}
TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "f64": TensorProto.DOUBLE}
INNER = {*CONVOLUTIONS, "DeformableConvolution", "MatMul", "Einsum", *SEQUENCES, *CELLS}


class OvGraph(Graph):
    """A model whose convolutions and matrix products can be found and replaced.

    Found and edited in a description in ONNX's operators; the model itself is edited when it is asked for. Weights
    stay as they are stored until their layer is rewritten. model: not changed unless in_place, and then it is what
    `to_model` gives. sizes: as of `Graph`. Raises InputError for a model that is unsupported as a whole.
    """

    def __init__(self, model: ov.Model, sizes: Mapping[str, Shape] | None = None, *, in_place: bool = False) -> None:
        self._model = model if in_place else model.clone()
        self._in_place = in_place
        fold(self._model)
        take_apart(self._model)
        graph, self._places = describe(self._model)
        self._pruned = False
        self._results = {
            port_name(r.output(0)): t.name for r, t in zip(self._model.get_results(), graph.outputs, strict=True)
        }
        self._inner = [found for op in self._model.get_ops() for found in _inside(op)]
        self._begin(graph, sizes)

    def _specs(self) -> list[InputSpec]:
        parameters = {port_name(op.output(0)): op for op in self._model.get_parameters()}
        return [
            replace(spec, bounds=port_bounds(list(parameters[spec.name].get_output_partial_shape(0))))
            for spec in super()._specs()
        ]

    def outputs(self) -> list[str]:
        return list(self._results)

    def sites(self) -> list[Found]:
        """As `Graph.sites`; MatMul with a constant matrix is listed as Gemm, ONNX's name for it."""
        return [*super().sites(), *self._inner]

    def without_pads(self) -> list[str]:
        return []  # only OpenVINO reads IR

    def _lowered(self) -> Lowered:
        return lower(self._graph, self._places, self._model.clone(), self._pruned)

    def _infer(self, sizes: Mapping[str, Shape], strict: bool) -> Inferred:
        now = self._lowered()
        try:
            _set_sizes(now.model, sizes)
        except RuntimeError as e:
            if strict:
                given = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sizes.items())
                law = f"the graph contradicts itself at input {given}: {last_words(str(e))}"
                raise InputError(f"{law}; give sizes that the model is made for") from e
            now = self._lowered()
        axes = {name: _axes(port) for name, port in now.tensors.items()}
        constants = {t.name: tuple(t.shape) for t in self._graph.tensors().values() if isinstance(t, gs.Constant)}
        types = {name: TYPES.get(port.get_element_type().get_type_name(), 0) for name, port in now.tensors.items()}
        return Inferred({n: a for n, a in axes.items() if a is not None} | constants, types)

    def not_before(self, site: Site, names: Sequence[str]) -> list[str]:
        return [name for name in names if super(OvGraph, self).not_before(site, [self._results.get(name, name)])]

    def segment(self, outputs: Sequence[str], cut: Sequence[str] | None, batch: int) -> ov.Model:
        """The part of the model that computes `outputs` from the tensors `cut` (None: its inputs), as a model.

        Its shapes are fixed at `batch` samples, but for tensors whose lengths depend on values.
        """
        axes, now = self._inferred(batch).axes, self._lowered()
        known = {port_name(op.output(0)): op for op in now.model.get_parameters()}
        start = []
        for name in read_by(self._graph, [self._results.get(name, name) for name in outputs], cut):
            parameter = known.get(name) if cut is None else None
            if parameter is None:
                port = now.tensors[name]
                parameter = ops.parameter(_partial(axes.get(name)), port.get_element_type())
                parameter.set_friendly_name(name)
                port.replace(parameter.output(0))
                parameter.output(0).set_names({name})  # not those that the tensor has in the whole model
            start.append(parameter)
        results = [ops.result(now.tensors[self._results.get(name, name)]) for name in outputs]
        for name, result in zip(outputs, results, strict=True):
            result.set_friendly_name(f"{name}/sink_port_0")
        part = ov.Model(results, start, "segment")
        part.reshape({port: _partial(axes.get(port_name(port))) for port in part.inputs})
        return part

    def keep_channels(self, group: Group, channels: Labels) -> None:
        self._pruned = True
        super().keep_channels(group, channels)

    def to_model(self) -> ov.Model:
        """The model as it is now; names, shapes and info of inputs, outputs and the model are the original's."""
        model = self._model if self._in_place else self._model.clone()
        return lower(self._graph, self._places, model, self._pruned).model

    def runnable(self) -> ov.Model:
        return self._lowered().model

    def release(self) -> None:
        super().release()
        self._model, self._places = None, type(self._places)()


def _set_sizes(model: ov.Model, sizes: Mapping[str, Shape]) -> None:
    """Give the inputs these shapes and infer all others. Raises RuntimeError where the model does not run at them.

    Not by `Model.reshape`, which replaces operators on the way: their tensors would not be found any more.
    """
    for op in model.get_parameters():
        if (name := port_name(op.output(0))) in sizes:
            op.set_partial_shape(ov.PartialShape(list(sizes[name])))
    model.validate_nodes_and_infer_types()


def _axes(port: Any) -> tuple[int | None, ...] | None:
    shape = port.get_partial_shape()
    return None if shape.rank.is_dynamic else tuple(a.get_length() if a.is_static else None for a in shape)


def _partial(axes: Axes | None) -> ov.PartialShape:
    """None: any number of axes."""
    return ov.PartialShape.dynamic() if axes is None else ov.PartialShape([-1 if a is None else a for a in axes])


def _inside(op: ov.Node) -> list[Skipped]:
    """The weighted operators of the models inside an If, Loop or TensorIterator."""
    bodies = [getattr(op, get)() for get in BODIES.get(op.get_type_name(), ())]
    inner = [o for body in bodies for o in body.get_ops()]
    here = [
        Skipped(o.get_friendly_name(), o.get_type_name(), None, None, f"inside a {op.get_type_name()}")
        for o in inner
        if o.get_type_name() in INNER
    ]
    return [*here, *(found for o in inner for found in _inside(o))]
