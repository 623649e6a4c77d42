"""A graph and what is known of its shapes, at the sizes that costs are counted at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ndpass.graph.full_inference import FullInference
from ndpass.graph.input_axes import DEFAULT_HW, OTHER_HW, HeightWidth, likely_size, size_at, with_batches
from ndpass.graph.input_spec import InputSpec, numpy_type
from ndpass.graph.macs import node_macs
from ndpass.graph.shapes import Inferred, Shape


class SizedGraph:
    """The shapes of a normalised graph, inferred once between two changes of it.

    sizes: the input shapes that costs are counted at, by input name; left out, a dynamic height or width counts as
    224 and any other dynamic axis as 1. What changes `_graph` clears `_known`.
    """

    def _begin(self, graph: gs.Graph, sizes: Mapping[str, Shape] | None) -> None:
        self._graph = graph
        self._inference = FullInference()
        self._inputs = with_batches(graph, self._specs())
        self.dynamic_hw = any(axis is None for spec in self._inputs for axis in spec.sample)
        self._declared = self._infer({}, True)
        # what nobody asked for proves nothing: a model may well be too large for an open axis taken as 1
        self._count_at(sizes or self._likely_sizes(DEFAULT_HW), False)
        if not sizes and self.dynamic_hw:
            self._try_other_sizes()

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

    def _fixed_hw(self, node: gs.Node) -> tuple[int, ...] | None:
        """Spatial size of the node's input where the model itself fixes it, whatever is assumed for counting."""
        spatial = self._declared.axes.get(node.inputs[0].name, (None,) * 3)[2:]
        known = tuple(d for d in spatial if d is not None)
        return known if len(known) == len(spatial) else None
