"""Layers that read one weight: the towers of a Siamese network, a head that several levels share.

With data each layer is fitted to its own inputs and stored by itself, so they are told apart from then on. By the
weights alone equal settings give equal layers, which are stored once again: `share`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.graph.constants import is_weight, values
from ndpass.graph.macs import PRODUCTS

SHOWN = 3  # weights that a warning names the layers of


@dataclass(frozen=True)
class Tied:
    """layers: the names of all that read the weight, in the graph's order; more: bytes that are stored more at most."""

    layers: tuple[str, ...]
    more: int


def tied(graph: gs.Graph, names: Collection[str]) -> list[Tied]:
    """Weights that several layers read, at least one of which is among the `names` of those that may be rewritten."""
    readers: dict[int, tuple[gs.Constant, list[str]]] = {}
    for node in (n for n in graph.nodes if n.op in PRODUCTS and is_weight(n.inputs[1])):
        readers.setdefault(id(node.inputs[1]), (node.inputs[1], []))[1].append(str(node.name))
    found = []
    for weight, layers in readers.values():
        rewritten = sum(name in names for name in layers)
        if len(layers) > 1 and rewritten:
            size = math.prod(weight.shape) * np.dtype(weight.dtype).itemsize
            found.append(Tied(tuple(layers), size * (rewritten - (rewritten == len(layers)))))
    return found


def share(nodes: Sequence[gs.Node], origins: Mapping[str, str]) -> None:
    """Let nodes that were written in the places of layers with one weight read one constant where theirs are equal.

    origins: name of a node that was written -> name of the weight of the layer whose place it has. Those of other
    layers stay apart though they be equal, as biases of zeros are: a refinement changes each.
    """
    alike: dict[Hashable, list[tuple[gs.Node, int]]] = {}
    for node in nodes:
        for index, tensor in enumerate(node.inputs if node.name in origins else ()):
            if is_weight(tensor):
                axes = len(node.inputs[1].shape)  # a bias is seen in another shape beside a kernel of more axes
                seen = node.op, index, axes, node.attrs.get("group", 1), tuple(tensor.shape), np.dtype(tensor.dtype)
                alike.setdefault((origins[node.name], *seen), []).append((node, index))
    for places in (found for found in alike.values() if len(found) > 1):
        kept: dict[bytes, gs.Constant] = {}
        for node, index in places:
            node.inputs[index] = kept.setdefault(values(node.inputs[index]).tobytes(), node.inputs[index])


def said_of(found: Sequence[Tied], by_data: bool) -> str | None:
    """What a user should know of them, in a sentence; None where there are none. by_data: whether layers are fitted to
    data."""
    if not found:
        return None
    layers = sum(len(one.layers) for one in found)
    shown = "; ".join(", ".join(f"'{name}'" for name in one.layers) for one in found[:SHOWN])
    weights = "one weight" if len(found) == 1 else f"{len(found)} weights"
    apart = (
        "each is fitted to its own inputs and stored by itself"
        if by_data
        else "those of equal settings are stored once, others by themselves"
    )
    return (
        f"{layers} layers share {weights} ({shown}{'; …' if len(found) > SHOWN else ''}): {apart}, "
        f"so up to {_size(sum(one.more for one in found))} are stored more, and equal inputs of such layers "
        f"{'give' if by_data else 'may give'} equal outputs no longer; where they must, leave them out with --ignore"
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
