"""Whether a model can run here at all, and about how much memory a run takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ndpass.errors import InputError
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.memory import memory_here
from ndpass.planning.shelf import DERIVED

FLOAT = 4  # bytes; what both runtimes compute in
LEAST = 9 * 10**8  # bytes that libraries and runtimes take whatever the model
COPIES = 4  # of the weights, in two runtimes and in what is rewritten
TENSORS = 10  # as large as the largest of a batch, that runtimes hold at once at most
LIVE = 3  # as large as the largest, that are alive before a layer at most
MORE = 10**9  # bytes for quantising, and for training
WORTH_SAYING = 2 * 10**9  # bytes


@dataclass(frozen=True)
class Needs:
    """Bytes that parts of a run take: the moments of the widest layer and of all, and the largest tensor of a sample;
    batch: samples that are run at once."""

    widest: int
    layers: int
    tensor: int
    batch: int

    @classmethod
    def of(cls, graph: Graph, sites: Sequence[Site], batch: int) -> Needs:
        moments = [DERIVED * 8 * (s.outline.n_i * s.outline.kernel_size) ** 2 for s in sites]
        return cls(max(moments, default=0), sum(moments), FLOAT * graph.widest(), batch)

    def most(self, weights: int, samples: int, memory: int, beside: int, further: int = 0) -> int:
        """Bytes that a run takes at most, about.

        weights: bytes of the model's file; samples: that it is fitted to; memory: as the option, for what is stored of
        the samples; beside: for the moments of layers side by side; further: how many of int8 and refinement are asked
        for.
        """
        stored = min(memory, LIVE * samples * self.tensor)
        moments = max(min(beside, self.layers), self.widest) if samples else 0
        return LEAST + COPIES * weights + stored + moments + TENSORS * self.batch * self.tensor + further * MORE


def check_memory(graph: Graph) -> None:
    """Raise InputError naming the model's largest tensor where that alone takes more memory than there is."""
    room, shapes = memory_here(), graph.shapes(None)
    name = max(shapes, key=lambda tensor: math.prod(shapes[tensor]), default=None)
    if name is None or room is None or FLOAT * math.prod(shapes[name]) <= room:
        return
    size, gigabytes = "x".join(map(str, shapes[name])), FLOAT * math.prod(shapes[name]) / 1e9
    raise InputError(
        f"tensor '{name}' of the model is {size} and takes {gigabytes:.0f} GB, there are {room / 1e9:.0f} GB of "
        "memory: export the model for smaller inputs or a smaller batch"
    )
