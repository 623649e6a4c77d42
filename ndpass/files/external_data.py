"""The tensors of an ONNX model, wherever they stand, and the files that hold them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import (
    ExternalDataInfo,
    uses_external_data,
)


def data_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold the tensors of a model in `folder` whose external data were not loaded."""
    nodes = [node for function in model.functions for node in function.node]
    tensors = itertools.chain(tensors_of(model.graph), tensors_of_nodes(nodes))
    places = (ExternalDataInfo(t).location for _, t in tensors if uses_external_data(t))
    return [folder / place for place in dict.fromkeys(places)]


def tensors_of(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and the values in attributes, with the names that they go by; in inner graphs too."""
    yield from ((t.name, t) for t in graph.initializer)
    for sparse in graph.sparse_initializer:
        yield from ((sparse.values.name, t) for t in (sparse.values, sparse.indices))
    yield from tensors_of_nodes(graph.node)


def tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            yield from ((node.output[0], tensor) for tensor in tensors)
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from tensors_of(graph)
