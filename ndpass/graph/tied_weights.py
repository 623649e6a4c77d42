"""Layers that read one weight: the towers of a Siamese network, a head that several levels share.

Each layer is fitted to its own inputs and written by itself, so they are told apart from then on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.graph.constants import is_weight
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


def said_of(found: Sequence[Tied]) -> str | None:
    """What a user should know of them, in a sentence; None where there are none."""
    if not found:
        return None
    layers = sum(len(one.layers) for one in found)
    shown = "; ".join(", ".join(f"'{name}'" for name in one.layers) for one in found[:SHOWN])
    weights = "one weight" if len(found) == 1 else f"{len(found)} weights"
    return (
        f"{layers} layers share {weights} ({shown}{'; …' if len(found) > SHOWN else ''}): each is fitted to its own "
        f"inputs and stored by itself, so up to {_size(sum(one.more for one in found))} are stored more, and equal "
        "inputs of such layers give equal outputs no longer; where they must, leave them out with --ignore"
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
