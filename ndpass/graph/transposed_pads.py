"""The pads of a ConvTranspose that says how large its output is, by `output_shape` or `auto_pad`, instead of its pads.

ONNX's rule: what the output would have without pads, less what it is to have, is cut off, half at each end; of an odd
number more at the end for SAME_UPPER, at the begin for all else. SAME asks for the input's size times the stride.
OpenVINO's reader of ONNX passes over SAME, and halves the other way; so it is given the pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from ndpass.graph.shapes import inference
from ndpass.graph.unique_names import all_nodes, label

SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Wanted:
    """What a transposed convolution says of its output, each along its spatial axes.

    mode: of auto_pad; out_hw: of output_shape, None where it is not given; extra: output_padding.
    """

    mode: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    extra: tuple[int, ...]
    out_hw: tuple[int, ...] | None = None

    def resolved(self, in_hw: Sequence[int | None]) -> tuple[list[int], list[int]] | None:
        """Its pads (begins, then ends) and output_padding; None where they depend on sizes that are not known.

        As onnxruntime has it, nothing is put on where SAME asks for more than the kernel gives. What `output_shape`
        asks for beyond that is output_padding, unless that would be as much as the stride: then there is no such layer.
        """
        if self.out_hw is None and self.mode not in SAME:
            return [0] * 2 * len(self.kernel), list(self.extra)
        begins, ends, extra = [], [], list(self.extra)
        for axis, total in enumerate(self._cut(in_hw)):
            if total is None:
                return None
            if total < 0 and self.out_hw is not None:
                extra[axis] -= total
                if extra[axis] >= max(self.strides[axis], self.dilations[axis]):
                    return None
            less = max(total, 0) // 2
            more = max(total, 0) - less
            begins.append(less if self.mode == "SAME_UPPER" else more)
            ends.append(more if self.mode == "SAME_UPPER" else less)
        return [*begins, *ends], extra

    def _cut(self, in_hw: Sequence[int | None]) -> list[int | None]:
        """What is to be cut off along each axis; of SAME, where the input's size does not matter, at any size."""
        found: list[int | None] = []
        for axis, (k, s, d, e) in enumerate(zip(self.kernel, self.strides, self.dilations, self.extra, strict=True)):
            beyond = d * (k - 1) + 1 + e - s  # of the input's size times the stride
            size = in_hw[axis] if axis < len(in_hw) else None
            if self.out_hw is None:
                found.append(beyond)
            else:
                found.append(None if size is None else s * size + beyond - self.out_hw[axis])
        return found


def give_pads(graph: gs.Graph) -> None:
    """Write the pads of every such layer into it, in place, where they follow from the model alone."""
    found = [node for node in all_nodes(graph) if _is_open(node)]
    late = [node for node in found if not _give(node, ())]
    if late:
        axes = inference(graph, {}, strict=False).axes
        for node in late:
            _give(node, axes.get(node.inputs[0].name, ())[2:])


def without_pads(graph: gs.Graph) -> list[str]:
    """The layers that still say how large their output is, which the runtimes read differently."""
    return [label(node) for node in all_nodes(graph) if _is_open(node)]


def _is_open(node: gs.Node) -> bool:
    said = node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or bool(node.attrs.get("output_shape"))
    return node.op == "ConvTranspose" and node.domain in (None, "") and said


def _give(node: gs.Node, in_hw: Sequence[int | None]) -> bool:
    wanted = _wanted(node)
    found = wanted.resolved(in_hw) if wanted else None
    if found is None:
        return False
    for key in ("auto_pad", "output_shape"):
        node.attrs.pop(key, None)
    node.attrs["pads"], node.attrs["output_padding"] = found
    return True


def _wanted(node: gs.Node) -> Wanted | None:
    """None where the kernel's size is not known."""
    attrs, weight = node.attrs, node.inputs[1].shape
    kernel = attrs.get("kernel_shape") or (weight[2:] if weight else None)
    if not kernel or not all(isinstance(k, int) for k in kernel):
        return None
    axes = len(kernel)
    if len(attrs.get("output_shape") or kernel) != axes:  # ONNX knows no such layer
        return None
    strides, dilations = (tuple(attrs.get(key) or [1] * axes) for key in ("strides", "dilations"))
    wanted = Wanted(
        attrs.get("auto_pad", "NOTSET"),
        tuple(kernel),
        strides,
        dilations,
        tuple(attrs.get("output_padding") or [0] * axes),
    )
    shape = attrs.get("output_shape")
    return replace(wanted, out_hw=tuple(shape)) if shape else wanted
