"""Axes that a model's inputs leave open: what they are taken as, and what `--size` can say of them."""

from __future__ import annotations

from ndpass.errors import UsageError
from ndpass.graph.graph import Graph
from ndpass.run.arguments import height_width

ONE, OTHER = 29, 31  # sizes that no axis has by itself


def assume_size(graph: Graph, size: str) -> None:
    """Count costs at this --size from now on.

    Raises UsageError for a height and a width of which the model has but one, InputError where it does not run at them.
    """
    if "x" in size.lower() and _takes(graph) == 1:
        spec = next(spec for spec in graph.inputs() if None in spec.sample)
        last = size.lower().rpartition("x")[2]
        raise UsageError(f"--size {size}: {spec} and no height and width: give one number, as --size {last}")
    graph.assume(graph.sizes_at(height_width(size)))


def size_option(graph: Graph) -> str:
    """How --size is typed for this model, and what it sets; empty where it sets nothing."""
    return ("", "--size N sets their length", "--size HxW sets height and width")[_takes(graph)]


def open_sizes(graph: Graph) -> str:
    """The sizes of the inputs that leave axes open, besides that of samples."""
    sizes = {spec.name: graph.sizes[spec.name] for spec in graph.inputs() if None in spec.sample}
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sizes.items())


def _takes(graph: Graph) -> int:
    """How many numbers of --size the model has use for: 2 of pictures, also where only the width of these is open; 1 of
    signals and sequences, which have a length; 0 where it sets nothing."""
    one, others = graph.sizes_at((ONE, ONE)), [graph.sizes_at(hw) for hw in ((ONE, OTHER), (OTHER, ONE))]
    if one == others[0] == others[1]:
        return 0
    pictures = any(len(spec.shape) > 3 and None in spec.sample for spec in graph.inputs())
    return 2 if pictures or (one != others[0] and one != others[1]) else 1
