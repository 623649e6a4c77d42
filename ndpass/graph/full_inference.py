"""Shapes by ONNX's inference, and by OpenVINO's where that gives up.

ONNX's own loses a shape behind a loop, a lookup or arithmetic that it does not follow. OpenVINO reads the graph without
its large weights and infers once for each set of input sizes; what it knows then stands in the graph as a declaration,
so that ONNX's inference goes on from there when layers are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from ndpass.errors import InputError
from ndpass.graph.shapes import Inferred, Known, Shape, inference, skeleton


class FullInference:
    """Infers, and remembers what OpenVINO has said."""

    def __init__(self) -> None:
        self._said: dict[frozenset[tuple[str, Shape]], Known] = {}

    def forget(self) -> None:
        """To be called where tensors that stay in the graph get other shapes."""
        self._said.clear()

    def copy(self) -> FullInference:
        """One that can be asked about a graph of its own."""
        other = FullInference()
        other._said = dict(self._said)
        return other

    def __call__(self, graph: gs.Graph, sizes: Mapping[str, Shape], strict: bool) -> Inferred:
        """As `inference`. Without sizes OpenVINO is not asked: open axes leave too much open."""
        key = frozenset(sizes.items())
        if key in self._said:
            return _with_known(graph, sizes, strict, self._said[key])
        found = inference(graph, sizes, strict)
        if not sizes or not _unknown(graph, found):
            return found
        from ndpass.graph.openvino.inferred import ask_openvino

        said = ask_openvino(skeleton(graph, sizes))
        known = {name: told for name, told in said.items() if name not in found.shapes and told.kind}
        try:
            full = _with_known(graph, sizes, strict, known)
        except InputError:  # the two contradict each other: ONNX's own word holds
            known, full = {}, found
        self._said[key] = known
        return full


def _unknown(graph: gs.Graph, found: Inferred) -> bool:
    """Whether the shape of any tensor is not known."""
    return any(name not in found.shapes for name, t in graph.tensors().items() if isinstance(t, gs.Variable))


def _with_known(graph: gs.Graph, sizes: Mapping[str, Shape], strict: bool, known: Known) -> Inferred:
    found = inference(graph, sizes, strict, known)
    axes = {name: axes for name, (_, axes) in known.items() if name not in found.shapes}
    kinds = {name: kind for name, (kind, _) in known.items() if not found.types.get(name)}
    return Inferred(found.axes | axes, found.types | kinds)
