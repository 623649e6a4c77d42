"""The small model that a block is timed in: a head, copies of the block side by side, and a cheap end behind each.

    x ─ head ─┬─ block ─ Relu ─ one channel of one pixel ─┐
              ├─ block ─ Relu ─ one channel of one pixel ─┼─ Concat ─ y      base: the same without the blocks
              └─ …                                        ┘

The time of a block is (model − base) / copies. The head hands the activations over in the layout and the type that the
runtime likes best, as the layer before does in a network. Without it, and with the whole output as the result, most of
the time would go into reordering from and to NCHW. Every copy has its own weights: they push each other out of the
caches, as the layers of a network do. The Relu is there because a runtime fuses bias, Adds and Relu into a convolution.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from ndpass.conv import Block, Chain, Conv
from ndpass.graph.emit import Emitter
from ndpass.graph.transposed import Transposed
from ndpass.graph.unique_names import Names

MOST_COPIES = 8
LONG = 2.5e8  # MACs of all copies together; more copies would only take time
HEAVY = 2**20  # bytes of weights above which it shows whether they are in the caches
COLD = 2**25  # bytes of weights that no core's cache holds
FEW = 512  # positions of the output, from which on reading the weights takes next to nothing of the time
INPUT = "x"  # name of the small model's input


def geometry(block: Block) -> str:
    """The block's shape as one canonical text: all of the block that its latency depends on."""
    if isinstance(block, Conv):
        parts = [("", block.weight.shape), ("s", block.strides), ("p", block.pads), ("d", block.dilations)]
        text = "/".join(mark + "x".join(map(str, numbers)) for mark, numbers in parts)
        return f"{text}/g{block.group}" + ("" if block.bias is None else "/b")
    mark = ">" if isinstance(block, Chain) else "+"
    return f"({mark.join(map(geometry, block.blocks))})"


def copies_for(dense: Conv, in_hw: tuple[int, ...], rows: int) -> int:
    """How many copies make the model long enough to be timed, and its weights as cold as they are in a network."""
    size = 4 * int(dense.weight.size)
    by_time = math.ceil(LONG / max(rows * dense.macs(in_hw), 1))
    positions = rows * math.prod(dense.out_hw(in_hw))
    by_weight = min(4, math.ceil(COLD / size)) if size > HEAVY and positions < FEW else 1
    return max(1, min(MOST_COPIES, max(by_time, by_weight), 4 * COLD // size))


def width_of(block: Block) -> int:
    """Channels of the block's input: fewer than the dense layer's where its input has been pruned."""
    return block.leaves()[0].n_i


def small_model(
    block: Block | None,
    dense: Conv,
    in_hw: tuple[int, ...],
    rows: int,
    copies: int,
    width: int | None = None,
    transposed: Transposed | None = None,
) -> bytes:
    """An ONNX model of `copies` times `block` with seeded random weights; None: the base, without blocks.

    Its input, INPUT, is (rows, n_i, *in_hw) with n_i of the block; for the base `width`, or n_i of the dense layer.
    transposed: where the blocks make the phases of this layer.
    """
    rng, names = np.random.default_rng(0), Names([INPUT, "y"])
    n_i = (width or dense.n_i) if block is None else width_of(block)
    x, head = (gs.Variable(name, np.float32, (rows, n_i, *in_hw)) for name in (INPUT, "head.out"))
    nodes, ends = _head(x, head, rng), []
    for copy in range(copies):
        out = head
        if block is not None:
            emit = Emitter(f"block{copy}", "Conv" if in_hw else "Gemm", np.dtype(np.float32), "Add", names)
            made = _emitted(emit, block.map_leaves(lambda leaf: filled(leaf, rng)), head, transposed)
            out = gs.Variable(f"relu{copy}.out", np.float32)
            nodes += [*emit.nodes, gs.Node("Relu", f"relu{copy}", {}, [made], [out])]
        n_o = dense.n_o // (transposed.phases if transposed else 1)
        channel = copy % (n_i if block is None else n_o)  # equal slices of the base would be merged
        ends.append(gs.Variable(f"end{copy}.out", np.float32))
        nodes.append(_corner(f"end{copy}", out, ends[-1], channel, len(in_hw)))
    y = gs.Variable("y", np.float32, (rows, copies, *(1,) * len(in_hw)))
    nodes.append(gs.Node("Concat", "join", {"axis": 1}, ends, [y]))
    graph = gs.Graph(nodes=nodes, inputs=[x], outputs=[y], opset=17)
    return bytes(gs.export_onnx(graph, ir_version=8).SerializeToString())


def _emitted(emit: Emitter, block: Block, head: gs.Tensor, transposed: Transposed | None) -> gs.Tensor:
    """The block, or where it is one convolution that makes phases the transposed layer that it stands for."""
    if transposed is None:
        return emit(block, head)
    if not isinstance(block, Conv):
        return emit.phases(block, head, None, transposed)
    bias = None if block.bias is None else block.bias[: transposed.shape[1]]
    return emit.transposed(transposed, transposed.weight(block.weight), bias, head)


def _head(x: gs.Variable, out: gs.Variable, rng: np.random.Generator) -> list[gs.Node]:
    """A Relu, after a depthwise convolution with kernel 1 where there are spatial axes; x (rows, n_i, *in_hw)."""
    channels, axes = x.shape[1], len(x.shape) - 2
    if axes == 0:
        return [gs.Node("Relu", "head", {}, [x], [out])]
    weight = gs.Constant("head.weight", _random((channels, 1, *(1,) * axes), rng))
    mid = gs.Variable("head.mid", np.float32)
    attrs = {"kernel_shape": [1] * axes, "group": channels}
    return [gs.Node("Conv", "head", attrs, [x, weight], [mid]), gs.Node("Relu", "head.relu", {}, [mid], [out])]


def _corner(name: str, x: gs.Variable, out: gs.Variable, channel: int, axes: int) -> gs.Node:
    """x (rows, n, *hw) -> (rows, 1, *1): one channel of the first pixel."""
    start, end = [channel] + [0] * axes, [channel + 1] + [1] * axes
    bounds = [("start", start), ("end", end), ("axes", list(range(1, axes + 2)))]
    inputs = [gs.Constant(f"{name}.{role}", np.array(values, np.int64)) for role, values in bounds]
    return gs.Node("Slice", name, {}, [x, *inputs], [out])


def filled(conv: Conv, rng: np.random.Generator) -> Conv:
    """The convolution with random weights, scaled so that responses neither grow nor vanish (denormals are slow)."""
    bias = None if conv.bias is None else _random((conv.n_o,), rng)
    scale = np.float32(max(conv.unknowns, 1) ** -0.5)
    return replace(conv, weight=_random(conv.weight.shape, rng) * scale, bias=bias)


def _random(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    values: NDArray[np.float32] = (rng.random(shape, np.float32) - np.float32(0.45)) * np.float32(3.5)
    return values
