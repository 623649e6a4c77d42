"""The only module that edits an ONNX graph: sites(), splice(), tidy(); `normalise` prepares what it works on."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ndpass.conv import Block, Conv, Sum
from ndpass.graph import branches
from ndpass.graph.branches import Branch, Unmerged
from ndpass.graph.channel_groups import Group, keep
from ndpass.graph.channel_walk import Labels
from ndpass.graph.comparison_outputs import compared
from ndpass.graph.dependencies import index_of, reads, upstream
from ndpass.graph.emit import Emitter
from ndpass.graph.full_inference import FullInference
from ndpass.graph.input_axes import DEFAULT_HW, OTHER_HW, HeightWidth, likely_size, size_at, with_batches
from ndpass.graph.input_spec import InputSpec, numpy_type
from ndpass.graph.layer_groups import group_of, groups_of
from ndpass.graph.macs import WEIGHTED, count_macs, node_macs
from ndpass.graph.normalise import import_graph, inlined, normalise
from ndpass.graph.onnx_export import export_model, export_node, weight
from ndpass.graph.onnx_said import Said, keep_defaults, listen, shell_of
from ndpass.graph.shapes import Inferred, Shape
from ndpass.graph.shifts import fold_shifts
from ndpass.graph.sites import Found, Site, Skipped, read
from ndpass.graph.transposed import Transposed
from ndpass.graph.unique_names import Names, all_nodes, name_nodes, tensor_names

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["WEIGHTED", "Found", "Graph", "Site", "Skipped"]


class Graph:
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
        self._graph = graph
        self._names = Names(tensor_names(self._graph) | {n.name for n in all_nodes(self._graph)})
        self._inference = FullInference()
        self._written: dict[str, str] = {}  # node -> the site that `splice` put it in the place of
        self._whole: frozenset[str] = frozenset()  # layers whose input channels are not pruned
        self._groups: tuple[Inferred, dict[str, Group | str]] | None = None
        self._sums: tuple[Inferred, list[Branch | Unmerged]] | None = None
        self._inputs = with_batches(graph, self._specs())
        self.dynamic_hw = any(axis is None for spec in self._inputs for axis in spec.sample)
        self._declared = self._infer({}, True)
        # what nobody asked for proves nothing: a model may well be too large for an open axis taken as 1
        self._count_at(sizes or self._likely_sizes(DEFAULT_HW), False)
        if not sizes and self.dynamic_hw:
            self._try_other_sizes()

    def _likely_sizes(self, hw: HeightWidth) -> dict[str, Shape]:
        pairs = zip(self._graph.inputs, self._inputs, strict=True)
        return {spec.name: likely_size(t, spec, hw) for t, spec in pairs if t.shape is not None}

    def _try_other_sizes(self) -> None:
        """Where the model does not run at the sizes assumed, take the first at which all costs are known."""
        assumed = self.sizes
        for hw in OTHER_HW:
            if not self._unknown_costs():
                return
            self._count_at(self._likely_sizes(hw), False)
        if self._unknown_costs():
            self._count_at(assumed, False)

    def _unknown_costs(self) -> bool:
        shapes = self._inferred().shapes
        return any(node_macs(node, shapes) is None for node in self._graph.nodes)

    def sizes_at(self, hw: Sequence[int]) -> dict[str, Shape]:
        """Input shapes with this height and width where the model leaves them open, NHWC or NCHW; 1 elsewhere."""
        pairs = zip(self._graph.inputs, self._inputs, strict=True)
        return {spec.name: size_at(t, spec, hw) for t, spec in pairs if t.shape is not None}

    def assume(self, sizes: Mapping[str, Shape]) -> None:
        """Count costs at these input shapes from now on. Raises InputError where the model does not run at them."""
        self._count_at(sizes, True)
        self._inferred()

    def assume_feed(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """As `assume`, at the sizes of these samples: {input name: (samples, ...)}."""
        self.assume({s.name: feed[s.name].shape if s.batched else feed[s.name].shape[1:] for s in self._inputs})

    def _count_at(self, sizes: Mapping[str, Shape], strict: bool) -> None:
        self.sizes, self._strict = dict(sizes), strict
        self._known: dict[int | None, Inferred] = {}

    def _inferred(self, batch: int | None = None) -> Inferred:
        """What is known of the graph as it is now, at `sizes` or at another batch; inferred once between changes."""
        if batch not in self._known:
            batched = {spec.name for spec in self._inputs if spec.batched}
            sizes = {
                name: size if batch is None or name not in batched else (batch, *size[1:])
                for name, size in self.sizes.items()
            }
            self._known[batch] = self._infer(sizes, self._strict)
        return self._known[batch]

    def _infer(self, sizes: Mapping[str, Shape], strict: bool) -> Inferred:
        return self._inference(self._graph, sizes, strict)

    def inputs(self) -> list[InputSpec]:
        """What the model takes; None stands for a dynamic axis. Inputs with a default are left out."""
        return list(self._inputs)

    def _specs(self) -> list[InputSpec]:
        """The inputs as the model declares them."""
        return [
            InputSpec(
                t.name,
                tuple(d if isinstance(d, int) and d > 0 else None for d in t.shape or ()),
                numpy_type(t.dtype),
            )
            for t in self._graph.inputs
        ]

    def outputs(self) -> list[str]:
        """The names of what the model gives."""
        return [str(t.name) for t in self._graph.outputs]

    def compared(self) -> list[str] | None:
        """What the model is compared by where its outputs are picked, see compared.py; None: its outputs."""
        names = compared(self._graph, self._inferred().types)
        return None if names == [t.name for t in self._graph.outputs] else names

    def sites(self) -> list[Found]:
        """Every operator with weights in graph order: what can be rewritten, and what not and why."""
        shapes = self._inferred().shapes
        found = [read(n, shapes, self._fixed_hw(n)) for n in self._graph.nodes if n.op in WEIGHTED]
        top = {id(node) for node in self._graph.nodes}
        inner = [n for n in all_nodes(self._graph) if n.op in WEIGHTED and id(n) not in top]
        return [*found, *(Skipped(n.name, n.op, None, None, "inside an If, Loop or Scan") for n in inner)]

    def blocks(self) -> list[Branch | Unmerged]:
        """Every residual sum in graph order: the branch that can become one convolution, or why there is none."""
        inferred = self._inferred()
        if self._sums is None or self._sums[0] is not inferred:
            shapes = inferred.shapes
            found = branches.blocks(self._graph, shapes, lambda n: read(n, shapes, self._fixed_hw(n)))
            self._sums = inferred, found
        return list(self._sums[1])

    def macs(self) -> int:
        """Multiply-accumulates of one inference, counted from the nodes as they are now."""
        return count_macs(self._graph, self._inferred().shapes)

    def shapes(self, batch: int | None) -> dict[str, Shape]:
        """Tensor name -> shape at a batch of `batch` samples, of the graph as it is now; not to be written to.

        None: at `sizes`, at which costs are counted.
        """
        return self._inferred(batch).shapes

    def widest(self) -> int:
        """Elements of the largest tensor that is computed from one sample."""
        shapes = self.shapes(1)
        made = [t.name for node in self._graph.nodes for t in node.outputs if t.name in shapes]
        return max((math.prod(shapes[name]) for name in made), default=1)

    def input_of(self, site: Site) -> str:
        return str(self._node(site.name).inputs[0].name)

    def output_of(self, site: Site) -> str:
        return str(self._node(site.name).outputs[0].name)

    def behind(self, site: Site) -> list[str]:
        """What the site's output goes into: operators, and "an output of the model" where it is one."""
        y = self._node(site.name).outputs[0]
        given = any(y is t for t in self._graph.outputs)
        return [str(node.op) for node in y.outputs] + ["an output of the model"] * given

    def places(self, site: Site, batch: int) -> int:
        """How many positions the site's output has for one sample."""
        shape = self.shapes(batch)[self.output_of(site)]
        return math.prod(shape) // site.outline.n_o // batch

    def live(self, site: Site) -> tuple[str, ...]:
        """The computed tensors that the site and what follows it need of what comes before."""
        index = index_of(self._graph.nodes, self._node(site.name))
        made = {id(t) for node in self._graph.nodes[:index] for t in node.outputs} | {id(t) for t in self._graph.inputs}
        needed = {t.name: None for node in self._graph.nodes[index:] for t in reads(node) if id(t) in made}
        return tuple(needed)

    def not_before(self, site: Site, names: Sequence[str]) -> list[str]:
        """Those of the tensors that no node before the site makes, so that the site may have a part in them."""
        tensors, index = self._graph.tensors(), index_of(self._graph.nodes, self._node(site.name))
        made = {id(t) for node in self._graph.nodes[:index] for t in node.outputs}
        return [name for name in names if id(tensors[name]) not in made]

    def segment(self, outputs: Sequence[str], cut: Sequence[str] | None, batch: int) -> bytes | ov.Model:
        """The part of the model that computes `outputs` from the tensors `cut` (None: its inputs), to be run.

        Its shapes are fixed at `batch` samples, but for tensors whose lengths depend on values.
        """
        known, tensors = self._inferred(batch), self._graph.tensors()
        start, nodes = self._part(outputs, cut)
        used, chosen = {id(t) for node in nodes for t in reads(node)}, {id(node) for node in nodes}
        part = onnx.helper.make_graph(
            [export_node(n, self._said) for n in self._graph.nodes if id(n) in chosen],
            "segment",
            [
                onnx.helper.make_tensor_value_info(t.name, known.types.get(t.name, 0), known.axes.get(t.name))
                for t in start
                if id(t) in used
            ],
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
            [weight(t) for t in tensors.values() if isinstance(t, gs.Constant) and id(t) in used],
        )
        opsets = self._graph.import_domains
        model = onnx.helper.make_model(part, opset_imports=opsets, ir_version=max(self._shell.ir_version, 4))
        return bytes(model.SerializeToString())

    def _part(self, outputs: Sequence[str], cut: Sequence[str] | None) -> tuple[list[gs.Tensor], list[gs.Node]]:
        """Where the part of the graph that computes `outputs` from `cut` may begin, and its nodes."""
        tensors = self._graph.tensors()
        start = [tensors[name] for name in cut] if cut is not None else list(self._graph.inputs)
        return start, upstream([tensors[name] for name in outputs], {id(t) for t in start})

    def _read_by(self, outputs: Sequence[str], cut: Sequence[str] | None) -> list[str]:
        """What of `cut` (None: the inputs) the computation of `outputs` reads."""
        start, nodes = self._part(outputs, cut)
        used = {id(t) for node in nodes for t in reads(node)} | {id(self._graph.tensors()[name]) for name in outputs}
        return [str(t.name) for t in start if id(t) in used]

    def _node(self, name: str) -> gs.Node:
        return next(n for n in self._graph.nodes if n.name == name)

    def params(self) -> int:
        """Elements of all weights at the top level."""
        return sum(math.prod(t.shape) for t in self._graph.tensors().values() if isinstance(t, gs.Constant))

    def release(self) -> None:
        """Let go of all nodes and weights; only `sizes` can be asked for afterwards."""
        self._graph, self._said = gs.Graph(), Said()
        self._known.clear()

    def splice(self, site: Site, block: Block) -> None:
        """Put `block` in the place of the site's node; its output keeps its name, its type and its consumers."""
        self._put(site.name, block, site.transposed)

    def merge(self, branch: Branch, block: Block) -> None:
        """Put `block` in the place of the branch, in the name of its last layer; of a constant nothing but the sum."""
        last = self._node(branch.last)
        add = self._residual_add(last.outputs[0])
        last.inputs[0] = self._node(branch.first).inputs[0]
        for name in branch.inner:
            if name != branch.last:
                self._take_out(self._node(name))
        self._put(branch.last, block, add=add)

    def _put(self, name: str, block: Block, transposed: Transposed | None = None, add: gs.Node | None = None) -> None:
        """add: the residual sum behind the node, where it is known."""
        node = self._node(name)
        x, y = node.inputs[0], node.outputs[0]
        plus = "Add" if self._graph.opset >= 7 else "Sum"
        emit = Emitter(name, node.op, np.dtype(node.inputs[1].dtype), plus, self._names)
        constant = isinstance(block, Conv) and block.is_constant
        sums = isinstance(block, Sum) and len(block.blocks) > 1 and transposed is None
        add = (add or self._residual_add(y)) if sums or constant else None
        index = self._take_out(node)
        if transposed is not None:
            emit.phases(block, x, y, transposed)
        elif add is None:
            emit(block, x, y)
        else:  # the identity enters first, so that each branch absorbs one Add
            carry = next(t for t in add.inputs if t is not y)
            out = add.outputs[0]
            index = self._take_out(add)  # what is added to y may be made after it
            if isinstance(block, Conv):
                emit.shift(block, carry, out)
            else:
                emit(block, x, out, carry)
        # not sorted anew: calibration cuts the graph between sites, so that their order must stay
        self._graph.nodes[index:index] = emit.nodes
        self._written |= {n.name: name for n in emit.nodes}
        self._known.clear()

    def copy(self) -> Graph:
        """A graph that can be edited apart from this one; weights are shared."""
        other = copy.copy(self)
        other._graph, other._names, other._written = self._graph.copy(), copy.deepcopy(self._names), {**self._written}
        other._known, other._inference = {}, self._inference.copy()
        return other

    def perturb(self, site: Site, by: Conv, switch: str) -> None:
        """Let the site's output y become y + a by(y); a is a new input of the model, named `switch`, of one element."""
        node = self._node(site.name)
        y, index, dtype = node.outputs[0], index_of(self._graph.nodes, node) + 1, np.dtype(node.inputs[1].dtype)
        raw, scaled = (gs.Variable(self._names.fresh(f"{switch}.{role}"), dtype) for role in ("raw", "scaled"))
        strength = gs.Variable(switch, dtype, [1])
        node.outputs = [raw]
        emit = Emitter(switch, node.op, dtype, "Add", self._names)
        emit(by, raw)
        lost = emit.nodes[-1].outputs[0]
        behind = [
            gs.Node("Mul", f"{switch}.mul", {}, [lost, strength], [scaled]),
            gs.Node("Add", f"{switch}.add", {}, [raw, scaled], [y]),
        ]
        self._graph.nodes[index:index] = [*emit.nodes, *behind]
        self._graph.inputs.append(strength)
        self._known.clear()

    def _take_out(self, node: gs.Node) -> int:
        """Remove the node from the graph; returns where it was."""
        index = index_of(self._graph.nodes, node)
        node.inputs.clear()
        node.outputs.clear()
        del self._graph.nodes[index]
        return index

    def _residual_add(self, y: gs.Variable) -> gs.Node | None:
        """The Add of two computed tensors of equal shape that alone consumes y, in the same graph, or None."""
        if len(y.outputs) != 1 or any(y is t for t in self._graph.outputs):
            return None
        add = y.outputs[0]
        if add.op != "Add" or len(add.inputs) != 2 or any(isinstance(t, gs.Constant) for t in add.inputs):
            return None
        if not any(add is n for n in self._graph.nodes):  # it is inside an If, Loop or Scan
            return None
        a, b = (self._inferred().shapes.get(t.name) for t in add.inputs)
        return add if a is not None and a == b else None

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
        """Drop what nothing uses, fold constants that are added into biases, and order the nodes."""
        self._graph.cleanup(remove_unused_graph_inputs=False)
        fold_shifts(self._graph, self._written, self._names)
        self._graph.toposort()
        self._known.clear()

    def runnable(self) -> bytes | ov.Model:
        """The model as it is now, for a runtime."""
        return bytes(self.to_model().SerializeToString())

    def to_model(self) -> Any:
        """The model as it is now, of the kind that was given, with the original's metadata; weights are copied."""
        return export_model(self._graph, self._said, self._shell)

    def _fixed_hw(self, node: gs.Node) -> tuple[int, ...] | None:
        """Spatial size of the node's input where the model itself fixes it, whatever is assumed for counting."""
        spatial = self._declared.axes.get(node.inputs[0].name, (None,) * 3)[2:]
        known = tuple(d for d in spatial if d is not None)
        return known if len(known) == len(spatial) else None
