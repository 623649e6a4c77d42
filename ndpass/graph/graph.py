"""A model as a graph that is asked and edited: sites(), splice(), tidy(); `normalise` prepares what it works on."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import onnx_graphsurgeon as gs

from ndpass.conv import Block, Conv
from ndpass.graph import branches, segments
from ndpass.graph.branches import Branch, Unmerged
from ndpass.graph.chains import chains
from ndpass.graph.channel_groups import Group, keep
from ndpass.graph.channel_walk import Labels
from ndpass.graph.choices import Choices
from ndpass.graph.comparison_outputs import compared
from ndpass.graph.dependencies import knows_values, upstream
from ndpass.graph.input_spec import static_batch
from ndpass.graph.layer_groups import group_of, groups_of
from ndpass.graph.macs import WEIGHTED, count_macs, node_macs
from ndpass.graph.normalise import import_graph, inlined, normalise
from ndpass.graph.onnx_export import export_model
from ndpass.graph.onnx_said import Said, keep_defaults, listen, shell_of
from ndpass.graph.shapes import Inferred, Shape
from ndpass.graph.shifts import fold_biases, fold_shifts
from ndpass.graph.sites import Found, Site, Skipped, read
from ndpass.graph.sized_graph import SizedGraph
from ndpass.graph.splice import perturb, put, residual_add, take_out
from ndpass.graph.tied_weights import said_of, share, tied
from ndpass.graph.transposed import Transposed
from ndpass.graph.transposed_pads import without_pads
from ndpass.graph.unique_names import Names, all_graphs, all_nodes, name_nodes, tensor_names

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["WEIGHTED", "Found", "Graph", "Site", "Skipped"]


class Graph(SizedGraph):
    """A normalised ONNX model whose convolutions can be found and replaced.

    sizes: the input shapes that costs are counted at, by input name; left out, a dynamic height or width counts as
    224 and any other dynamic axis as 1. Raises InputError for a model that is unsupported as a whole.
    """

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, Shape] | None = None) -> None:
        model = inlined(model)
        graph = import_graph(model)
        name_nodes(graph)
        self._shell, self._said = shell_of(model), listen(model.graph, graph)
        self._said.defaults = keep_defaults(model, graph)
        self._begin(normalise(graph), sizes)

    def _begin(self, graph: gs.Graph, sizes: Mapping[str, Shape] | None) -> None:
        self._names = Names(tensor_names(graph) | {n.name for n in all_nodes(graph)})
        self._written: dict[str, str] = {}  # node -> the site that `splice` put it in the place of
        self._origins: dict[str, str] = {}  # node -> the weight of that site
        self._whole: frozenset[str] = frozenset()  # layers whose input channels are not pruned
        self._groups: tuple[Inferred, dict[str, Group | str]] | None = None
        self._sums: tuple[Inferred, list[Branch | Unmerged]] | None = None
        super()._begin(graph, sizes)

    def outputs(self) -> list[str]:
        """The names of what the model gives."""
        return [str(t.name) for t in self._graph.outputs]

    def compared(self) -> list[str] | None:
        """What the model is compared by where its outputs are picked, see compared.py; None: its outputs."""
        names = compared(self._graph, self._inferred().types)
        return None if names == [t.name for t in self._graph.outputs] else names

    def sites(self) -> list[Found]:
        """Every operator with weights in graph order: what can be rewritten, and what not and why."""
        shapes, choices = self._inferred().shapes, Choices.of(self._graph)
        weighted = [n for n in self._graph.nodes if n.op in WEIGHTED]
        known = [read(n, shapes, self._fixed_hw(n)).unless_behind(choices.before(n)) for n in weighted]
        found = [self._apart(node, one) for node, one in zip(weighted, known, strict=True)]
        top = {id(node) for node in self._graph.nodes}
        inner = [n for n in all_nodes(self._graph) if n.op in WEIGHTED and id(n) not in top]
        return [*found, *(Skipped(n.name, n.op, None, None, "inside an If, Loop or Scan") for n in inner)]

    def _apart(self, node: gs.Node, found: Found) -> Found:
        """A layer that gives the same rows, as many, for any number of samples is none to fit to samples: skipped."""
        batch = static_batch(self._inputs)
        if not isinstance(found, Site) or (batch and batch.size == 1):
            return found
        if knows_values(node.inputs[0], {id(t) for t in self._graph.inputs}):
            return found
        y = node.outputs[0].name
        same = batch is not None or self.shapes(2).get(y) == self.shapes(3).get(y)
        return found.skipped("computed from shapes alone, the same for all samples") if same else found

    def blocks(self) -> list[Branch | Unmerged]:
        """Every residual sum in graph order: the branch that can become one convolution, or why there is none; then the
        plain chains that can, in the place of sums whose layers they have."""
        inferred = self._inferred()
        if self._sums is None or self._sums[0] is not inferred:
            shapes = inferred.shapes
            found = branches.blocks(self._graph, shapes, lambda n: read(n, shapes, self._fixed_hw(n)))
            taken = {layer for one in found if isinstance(one, Branch) for layer in one.layers}
            plain = chains(self._graph, taken, lambda n: read(n, shapes, self._fixed_hw(n)))
            chained = [{*one.layers} for one in plain]
            left = [one for one in found if not any(one.layers and layers.issuperset(one.layers) for layers in chained)]
            self._sums = inferred, [*left, *plain]
        return list(self._sums[1])

    def without_pads(self) -> list[str]:
        """Transposed convolutions of ONNX that the runtimes read differently: their pads follow from no fixed size."""
        return without_pads(self._graph)

    def tied(self, names: Collection[str], by_data: bool) -> str | None:
        """A sentence where layers share weights and some of them are among `names`, those that may be rewritten.

        by_data: whether they are fitted to data."""
        return said_of(tied(self._graph, names), by_data)

    def macs(self) -> int:
        """Multiply-accumulates of one inference, counted from the nodes as they are now."""
        return count_macs(self._graph, self._inferred().shapes)

    def input_of(self, site: Site) -> str:
        return str(self._node(site.name).inputs[0].name)

    def output_of(self, site: Site) -> str:
        return str(self._node(site.name).outputs[0].name)

    def behind(self, site: Site) -> list[str]:
        """What the site's output goes into: operators, and "an output of the model" where it is one."""
        y = self._node(site.name).outputs[0]
        given = any(y is t for t in self._graph.outputs)
        return [str(node.op) for node in y.outputs] + ["an output of the model"] * given

    def depends_on(self, names: Collection[str]) -> set[str]:
        """The names of all nodes before those with these names."""
        inputs = [t for node in self._graph.nodes if node.name in names for t in node.inputs]
        return {str(node.name) for node in upstream(inputs, set())}

    def live(self, site: Site) -> tuple[str, ...]:
        """The computed tensors that the site and what follows it need of what comes before."""
        return segments.live(self._graph, self._node(site.name))

    def not_before(self, site: Site, names: Sequence[str]) -> list[str]:
        """Those of the tensors that no node before the site makes, so that the site may have a part in them."""
        return segments.not_before(self._graph, self._node(site.name), names)

    def segment(self, outputs: Sequence[str], cut: Sequence[str] | None, batch: int) -> bytes | ov.Model:
        """The part of the model that computes `outputs` from the tensors `cut` (None: its inputs), to be run.

        Its shapes are fixed at `batch` samples, but for tensors whose lengths depend on values.
        """
        known, version = self._inferred(batch), self._shell.ir_version
        part = segments.segment(self._graph, outputs, cut, known, self._said, version)
        return bytes(part.SerializeToString())

    def _node(self, name: str) -> gs.Node:
        return next(n for n in self._graph.nodes if n.name == name)

    def params(self) -> int:
        """Elements of all weights, those inside an If, Loop or Scan among them."""
        tensors = {id(t): t for part in all_graphs(self._graph) for t in part.tensors().values()}
        return sum(math.prod(t.shape) for t in tensors.values() if isinstance(t, gs.Constant))

    def release(self) -> None:
        """Let go of all nodes and weights; only `sizes` can be asked for afterwards."""
        self._graph, self._said = gs.Graph(), Said()
        self._known.clear()

    def splice(self, site: Site, block: Block) -> None:
        """Put `block` in the place of the site's node; its output keeps its name, its type and its consumers."""
        self._put(site.name, block, site.transposed)

    def merge(self, branch: Branch, block: Block) -> None:
        """Put `block` in the place of the branch, in the name of its last layer; of a constant nothing but the sum."""
        self.merge_layers(branch.first, branch.last, branch.inner, block)

    def merge_layers(self, first: str, last: str, inner: Sequence[str], block: Block) -> None:
        """The same of the nodes of a branch: the first and the last convolution, and all."""
        end = self._node(last)
        add = residual_add(self._graph, end.outputs[0], lambda: self._inferred().shapes)
        end.inputs[0] = self._node(first).inputs[0]
        for name in inner:
            if name != last:
                take_out(self._graph, self._node(name))
        self._put(last, block, add=add)

    def _put(self, name: str, block: Block, transposed: Transposed | None = None, add: gs.Node | None = None) -> None:
        """add: the residual sum behind the node, where it is known."""
        node, shapes = self._node(name), lambda: self._inferred().shapes
        weight = str(node.inputs[1].name)
        made = put(self._graph, node, block, self._names, shapes, transposed, add)
        self._written |= {n.name: name for n in made}
        self._origins |= {str(n.name): self._origins.get(name, weight) for n in made}
        self._known.clear()

    def copy(self) -> Graph:
        """A graph that can be edited apart from this one; weights are shared."""
        other = copy.copy(self)
        other._graph, other._names, other._written = self._graph.copy(), copy.deepcopy(self._names), {**self._written}
        other._origins = {**self._origins}
        other._known, other._inference = {}, self._inference.copy()
        return other

    def perturb(self, site: Site, by: Conv, switch: str) -> None:
        """Let the site's output y become y + a by(y); a is a new input of the model, named `switch`, of one element."""
        perturb(self._graph, self._node(site.name), by, switch, self._names)
        self._known.clear()

    def leave(self, names: Collection[str]) -> None:
        """Prune no input channels of these layers, nor, as they go together, of others that read the same."""
        self._whole, self._groups = frozenset(names), None

    def channel_group(self, site: Site) -> Group | str:
        """Who makes and who reads the site's input channels; or why they cannot be pruned.

        All that read them are sites, because each is fitted anew to the channels that are left.
        """
        return group_of(self._graph, site, self.sites(), self._inferred().shapes, self._whole)

    def channel_groups(self) -> dict[str, Group | str]:
        """Site name -> the group that its input channels are pruned in, as it sees it, or why they are not.

        Each layer is in one group at most, with all that read the same channels; the first of them reads no others.
        """
        inferred = self._inferred()
        if self._groups is None or self._groups[0] is not inferred:
            self._groups = inferred, groups_of(self._graph, self.sites(), inferred.shapes, self._whole)
        return dict(self._groups[1])

    def keep_channels(self, group: Group, channels: Labels) -> None:
        """Slice every layer of the group, and what lies between, to these channels."""
        keep(self._graph, group, channels)
        self._known.clear()
        self._inference.forget()

    def macs_by(self, names: Collection[str]) -> dict[str, int]:
        """Multiply-accumulates of the nodes that stand for each of these sites now."""
        shapes, total = self._inferred().shapes, dict.fromkeys(names, 0)
        for node in self._graph.nodes:
            name = self._written.get(node.name, node.name)
            if name in total:
                total[name] += node_macs(node, shapes) or 0
        return total

    def tidy(self) -> None:
        """Drop what nothing uses, fold constants that are added into biases, share equal ones, and order the nodes."""
        self._graph.cleanup(remove_unused_graph_inputs=False)
        fold_shifts(self._graph, self._written, self._names)
        fold_biases(self._graph, self._written, self._names)
        share(self._graph.nodes, self._origins)
        self._graph.toposort()
        self._known.clear()

    def runnable(self) -> bytes | ov.Model:
        """The model as it is now, for a runtime."""
        return bytes(self.to_model().SerializeToString())

    def to_model(self) -> Any:
        """The model as it is now, of the kind that was given, with the original's metadata; weights are copied."""
        return export_model(self._graph, self._said, self._shell)
