"""What models are compared by where outputs are picked and not computed, as boxes are by NonMaxSuppression.

What lies behind a choice jumps (`ndpass.graph.choices`). What goes into it is continuous, so it stands for the outputs
behind it. That tells all, for layers behind a choice stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_graphsurgeon as gs

from ndpass.errors import InputError
from ndpass.graph.choices import Choices
from ndpass.graph.dependencies import SHAPES, reads

if TYPE_CHECKING:
    import openvino as ov

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def compared(graph: gs.Graph, types: Mapping[str, int]) -> list[str]:
    """Names of the outputs, those behind a choice replaced by the computed floats that go into it and what follows it.

    A mask or an index stands for the floats that it is computed from.

    types: tensor name -> ONNX's number of its type. The graph's nodes are in order.
    """
    outputs = [str(t.name) for t in graph.outputs]
    choices = Choices.of(graph)
    if not any(id(t) in choices.behind for t in graph.outputs):
        return outputs
    floats = _floats(choices.entering.values(), types)
    kept = _independent(graph, floats)
    kept += [str(t.name) for t in graph.outputs if id(t) not in choices.behind and t.name not in kept]
    return kept or outputs


def _floats(tensors: Iterable[gs.Tensor], types: Mapping[str, int]) -> dict[int, str]:
    """Their names by id; of one that is no float, as a comparison with a limit, those that it is computed from."""
    found, todo, met = dict[int, str](), list(tensors), set[int]()
    while todo:
        tensor = todo.pop()
        if id(tensor) in met or isinstance(tensor, gs.Constant):
            continue
        met.add(id(tensor))
        if types.get(tensor.name) in FLOATS:
            found[id(tensor)] = str(tensor.name)
        else:
            todo += [t for node in tensor.inputs if node.op not in SHAPES for t in reads(node)]
    return found


def _independent(graph: gs.Graph, names: Mapping[int, str]) -> list[str]:
    """Of these tensors, by id, those that are no function of the others, in graph order; inputs are none."""
    free = {id(t) for t in graph.inputs}  # reached from the inputs past all that are named
    kept = []
    for node in graph.nodes:
        if any(id(t) in free and id(t) not in names for t in reads(node)):
            free |= {id(t) for t in node.outputs}
            kept += [names[id(t)] for t in node.outputs if id(t) in names]
    return kept


def shown(model: Path | bytes | ov.Model, names: Sequence[str] | None) -> Path | bytes | ov.Model:
    """The model with these tensors as its outputs, for the runtimes; None: as it is. IR names them by their makers."""
    if names is None:
        return model
    if isinstance(model, Path) and model.suffix != ".xml":
        return _onnx_showing(onnx.load(model), names)
    if isinstance(model, bytes):
        return _onnx_showing(onnx.load_from_string(model), names)
    import openvino as ov

    return _ov_showing(ov.Core().read_model(model) if isinstance(model, Path) else model, names)


def _onnx_showing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return bytes(model.SerializeToString())


def _ov_showing(model: ov.Model, names: Sequence[str]) -> ov.Model:
    """Raises InputError where a tensor has gone."""
    import openvino as ov
    from openvino import opset13

    ports = {op.get_friendly_name(): op.output(0) for op in model.get_ops() if op.get_output_size() == 1}
    ports |= {name: port for op in model.get_ops() for port in op.outputs() for name in port.get_names()}
    if lost := set(names) - ports.keys():
        raise InputError(f"the model has no tensor {', '.join(sorted(lost))} any more, by which it is to be compared")
    results = [opset13.result(ports[name]) for name in names]
    for name, result in zip(names, results, strict=True):
        result.set_friendly_name(f"{name}/sink_port_0")
    return ov.Model(results, model.get_parameters(), model.get_friendly_name())
