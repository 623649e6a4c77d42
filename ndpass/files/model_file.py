"""Models of either kind, ONNX or OpenVINO IR, from a path to a graph and back; the file's ending says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from ndpass.errors import InputError, about
from ndpass.files import onnx_file
from ndpass.files.interface import Interface, interface, ov_interface
from ndpass.files.model_path import check_model_path
from ndpass.files.staging import Staged
from ndpass.files.weight_files import IR as IR
from ndpass.files.weight_files import ONNX, check_beside, data_file
from ndpass.graph.graph import Graph
from ndpass.graph.input_spec import InputSpec
from ndpass.graph.shapes import Shape


class Opened(NamedTuple):
    """A model that was read.

    beside: files that hold its weights. interface: the inputs and outputs that the rewritten model must have, too.
    compared: the tensors by which both are compared, None for their outputs.
    """

    graph: Graph
    beside: Sequence[Path]
    interface: Interface
    compared: Sequence[str] | None


def open_graph(path: Path, sizes: Mapping[str, Shape] | None = None) -> Opened:
    """Read .xml as OpenVINO IR, anything else as ONNX.

    sizes: input name -> shape, where the model leaves axes open. Raises InputError.
    """
    check_model_path(path)
    if path.suffix != IR:
        proto, beside = onnx_file.read(path)
        with about(path):
            graph, made = Graph(proto, sizes), {name for node in proto.graph.node for name in node.output}
            names = graph.compared()  # those inside an If that was folded are not in the original
            compared = names if names and made.issuperset(names) else None
            return Opened(graph, beside, interface(proto), compared)
    from ndpass.files.ir_file import read_ir
    from ndpass.graph.openvino.graph import OvGraph

    model = read_ir(path)
    with about(path):
        weights = data_file(path)
        graph = OvGraph(model, sizes)
        return Opened(graph, [weights] * weights.exists(), ov_interface(model), graph.compared())


def inputs_of(path: Path, declared: Sequence[InputSpec]) -> Sequence[InputSpec]:
    """The inputs of a model as a run takes them, so that every command reads data alike.

    declared: as a runtime says, for a model that only that can read; which axis counts samples follows from the graph.
    """
    try:
        return open_graph(path).graph.inputs()
    except InputError:
        return declared


def write(model: Any, stage: Staged, as_external: bool) -> Path:
    """Write what `Graph.to_model` gave and return the path that it can be read from.

    An ONNX model is written as ONNX, whatever the stage is for: `Staged.finish` makes IR of it. Raises OutputError.
    """
    if isinstance(model, onnx.ModelProto):
        onnx_file.save(model, stage.onnx, as_external)
        return stage.onnx
    from ndpass.files.ir_file import write_ir

    write_ir(model, stage.path, stage.compress)
    return stage.path


def check_model(path: Path) -> None:
    """Raise InputError for a path that is no model file, or whose weights lie outside its folder; reads no weights.

    For commands that leave reading the model to a runtime.
    """
    check_model_path(path)
    if path.suffix == IR:
        check_beside(path, data_file(path))
    elif path.suffix == ONNX:  # a runtime may read other kinds too
        onnx_file.check_external_data(path)
