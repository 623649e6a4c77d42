"""Compute once and for all what an ONNX graph computes from constants, and from sizes that the model fixes.

onnxruntime computes the values. What it cannot run stays as it is, and so does whatever may differ between two runs, or
would be stored in many times as many bytes as it is computed from: zeros of the size of a picture, a grid of places.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from numpy.typing import NDArray

from ndpass.graph.constants import is_known, is_sparse, values
from ndpass.graph.dependencies import outer_reads
from ndpass.graph.fixed_sizes import fixed_sizes
from ndpass.graph.onnx_export import export_node, weight
from ndpass.graph.onnx_said import HOLDING, NOTHING
from ndpass.graph.unique_names import Names, tensor_names

log = logging.getLogger(__name__)

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
QUANTISING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
STANDARD = (None, "", "ai.onnx")  # names of ONNX's own domain
CONSTANT_TYPES: dict[str, Any] = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}

SMALL = 1 << 20  # bytes that any node may be folded to
INFLATED = 4  # times the constants that it is computed from, from which on a larger one is not

Array = NDArray[Any]


def fold_constants(graph: gs.Graph) -> None:
    """Fold in place, the graph first and then those inside its nodes, whose constants may come from outside.

    An If whose condition is constant is replaced by the branch that it always takes. The nodes are in order.
    """
    onnxruntime.set_default_logger_severity(4)  # its remarks are about a graph that nobody will run
    _fold_graph(graph)
    if sizes := fixed_sizes(graph):
        _replace(graph, [(node, [found]) for node, found in sizes])
        _fold_graph(graph)


def _fold_graph(graph: gs.Graph) -> None:
    _lower_constants(graph)
    _fold_nodes(graph)
    for inner in graph.subgraphs():
        inner.ir_version = graph.ir_version
        _fold_graph(inner)
    if _take_branches(graph):
        _fold_nodes(graph)


def _lower_constants(graph: gs.Graph) -> None:
    """Constant nodes become constants of the type that ONNX gives them."""
    lowered = []
    for node in graph.nodes:
        if node.op != "Constant" or node.domain not in STANDARD or len(node.attrs) != 1:
            continue
        ((name, value),) = node.attrs.items()
        if name in CONSTANT_TYPES:
            stored = value._values if isinstance(value, gs.Constant) else np.array(value, CONSTANT_TYPES[name])
            lowered.append((node, [stored]))
    _replace(graph, lowered)


def _replace(graph: gs.Graph, computed: Sequence[tuple[gs.Node, Sequence[Any]]]) -> None:
    """Put constants in the place of nodes. computed: each with the values of its outputs, None for an unused one."""
    for node, found in computed:
        for tensor, value in zip([t for t in node.outputs if not t.is_empty()], found, strict=True):
            tensor.inputs.clear()
            if value is not None:
                tensor.to_constant(value)
        node.inputs.clear()
    gone = {id(node) for node, _ in computed}
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _fold_nodes(graph: gs.Graph) -> None:
    """Fold the nodes of the graph itself, but for those that would make the model far larger than it is."""
    nodes, known = _foldable(graph), _Origins()
    while nodes:
        wanted = _wanted(graph, nodes)
        try:
            found = {id(t): value for t, value in zip(wanted, _computed(graph, nodes, wanted), strict=True)}
        except Exception:  # a custom operator, say: onnxruntime raises many types here
            log.debug("folding constants node by node", exc_info=True)
            found = {}
        if not found or not all(map(_is_array, found.values())):
            _fold_one_by_one(graph, nodes)
            return
        inflated = [n for n in nodes if known.inflates(n, {id(t): found[id(t)] for t in n.outputs if id(t) in found})]
        if not inflated:
            _replace(graph, [(n, [found.get(id(t)) for t in n.outputs if not t.is_empty()]) for n in nodes])
            return
        gone = {id(n) for n in inflated}
        nodes = [n for n in nodes if id(n) not in gone]


def _fold_one_by_one(graph: gs.Graph, nodes: Sequence[gs.Node]) -> None:
    known = _Origins()
    for node in nodes:
        if not all(map(is_known, outer_reads(node))):
            continue
        outputs = [t for t in node.outputs if not t.is_empty()]
        try:
            found = _computed(graph, [node], outputs)
        except Exception:  # as above
            log.debug("'%s' stays", node.name, exc_info=True)
            continue
        if all(map(_is_array, found)) and not known.inflates(node, dict(zip(map(id, outputs), found, strict=True))):
            _replace(graph, [(node, found)])


class _Origins:
    """The constants that a node computes its outputs from; to be asked about nodes in their order."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self._of: dict[int, frozenset[int]] = {}  # node -> constants, by id

    def inflates(self, node: gs.Node, found: Mapping[int, Array]) -> bool:
        """Whether its outputs, those by id whose values would be stored, are far larger, and no weights of layers."""
        limit = max(SMALL, INFLATED * sum(self._bytes[i] for i in self._constants(node)))
        return sum(array.nbytes for array in found.values()) > limit and not any(map(_is_held, node.outputs))

    def _constants(self, node: gs.Node) -> frozenset[int]:
        if id(node) not in self._of:
            read = list(outer_reads(node))
            own = {id(t): int(t._values.nbytes) for t in read if isinstance(t, gs.Constant) and not is_sparse(t)}
            self._bytes |= own
            self._of[id(node)] = frozenset(own).union(*(self._constants(t.inputs[0]) for t in read if t.inputs))
        return self._of[id(node)]


def _is_held(tensor: gs.Tensor) -> bool:
    """Whether a layer reads it as a weight."""
    return any(t is tensor for node in tensor.outputs for t in node.inputs[HOLDING.get(node.op, NOTHING)])


def _is_array(value: object) -> bool:
    """Not so for a sequence, and for text, which an initializer can hold but graph-surgeon cannot write."""
    return isinstance(value, np.ndarray) and value.dtype != object


def _foldable(graph: gs.Graph) -> list[gs.Node]:
    """The nodes that depend on constants alone, in order."""
    computed, nodes = set[int](), []
    for node in graph.nodes:
        if node.op == "Constant" or node.op in QUANTISING or draws(node):
            continue
        if node.outputs and all(is_known(t) or id(t) in computed for t in outer_reads(node)):
            nodes.append(node)
            computed |= {id(t) for t in node.outputs}
    return nodes


def _wanted(graph: gs.Graph, nodes: Sequence[gs.Node]) -> list[gs.Variable]:
    """What these nodes compute and others read, or the model gives."""
    inside = {id(node) for node in nodes}
    read = {id(t) for node in graph.nodes if id(node) not in inside for t in outer_reads(node)}
    read |= {id(t) for t in graph.outputs}
    return [t for node in nodes for t in node.outputs if id(t) in read]


def _computed(graph: gs.Graph, nodes: Sequence[gs.Node], wanted: Sequence[gs.Variable]) -> list[Array]:
    """The values of `wanted`. nodes: all that they depend on. Raises what onnxruntime raises."""
    constants = {t.name: t for node in nodes for t in outer_reads(node) if isinstance(t, gs.Constant)}
    proto = onnx.helper.make_graph(
        [export_node(node) for node in nodes],
        "constants",
        [],
        [onnx.helper.make_empty_tensor_value_info(t.name) for t in wanted],
        [weight(t) for t in constants.values() if not is_sparse(t)],
        sparse_initializer=[t._values.tensor for t in constants.values() if is_sparse(t)],
    )
    version = max(graph.ir_version or 8, 4)
    model = onnx.helper.make_model(proto, opset_imports=graph.import_domains, ir_version=version)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run([t.name for t in wanted], {})
    return found


def draws(node: gs.Node) -> bool:
    """Whether the node draws random numbers, itself or in a graph inside it: its value differs from run to run."""
    inner = any(draws(n) for part in node.subgraphs() for n in part.nodes)
    return inner or node.op in RANDOM or (node.op == "Dropout" and _training(node))


def _training(dropout: gs.Node) -> bool:
    """Whether it may drop anything: it does if its third input says so, and a computed one may."""
    if len(dropout.inputs) < 3 or dropout.inputs[2].is_empty():
        return False
    mode = dropout.inputs[2]
    return not is_known(mode) or bool(np.any(values(mode)))


# branches


def _take_branches(graph: gs.Graph) -> bool:
    """Put the branch that is always taken in the place of each If that has one; whether there was any."""
    names, taken = Names(tensor_names(graph)), False
    ifs = [n for n in graph.nodes if n.op == "If" and n.domain in STANDARD and n.outputs]
    for node in [n for n in ifs if is_known(n.inputs[0])]:
        index = next(i for i, n in enumerate(graph.nodes) if n is node)
        branch = node.attrs["then_branch" if np.reshape(values(node.inputs[0]), -1)[0] else "else_branch"]
        for tensor in _own_tensors(graph, branch):
            tensor.name = names.fresh(f"{tensor.name}_subg_{index}_{branch.name}")
        outputs = list(node.outputs)
        node.inputs.clear()
        node.outputs.clear()
        graph.nodes[index : index + 1] = [*branch.nodes, *_handed_out(node, branch, outputs)]
        taken = True
    return taken


def _own_tensors(graph: gs.Graph, branch: gs.Graph) -> list[gs.Tensor]:
    """What the nodes of the branch make, and constants of its own."""
    made = [t for node in branch.nodes for t in node.outputs if not t.is_empty()]
    outside = {id(t) for t in graph.tensors().values()}
    read = {id(t): t for node in branch.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    return [*made, *(t for i, t in read.items() if i not in outside)]


def _handed_out(node: gs.Node, branch: gs.Graph, outputs: Sequence[gs.Variable]) -> list[gs.Node]:
    """Let `outputs` be what the branch gives; an Identity hands out what it does not make, or makes for two of them."""
    identities, given = [], set[int]()
    for place, (out, inner) in enumerate(zip(outputs, branch.outputs, strict=True)):
        maker = next((n for n in branch.nodes if any(t is inner for t in n.outputs)), None)
        if maker is None or id(inner) in given:
            identities.append(gs.Node("Identity", f"{node.name}.{place}", {}, [inner], [out]))
            continue
        given.add(id(inner))
        readers = list(inner.outputs)
        maker.outputs[next(i for i, t in enumerate(maker.outputs) if t is inner)] = out
        for reader in readers:
            for i, t in enumerate(reader.inputs):
                if t is inner:
                    reader.inputs[i] = out
    return identities
