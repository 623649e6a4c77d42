"""Whether a model can run here at all."""

from __future__ import annotations

import math

from ndpass.errors import InputError
from ndpass.graph.graph import Graph
from ndpass.measuring.memory import memory_here

FLOAT = 4  # bytes; what both runtimes compute in


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
