"""The passes: which convolutions each can rewrite, what a setting costs, and how it is done."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TypeAlias

from ndpass.errors import UsageError
from ndpass.passes.base import Decomposition, Setting
from ndpass.passes.channel_decomposition import ChannelDecomposition
from ndpass.passes.channel_pruning import ChannelPruning
from ndpass.passes.network_decoupling import NetworkDecoupling
from ndpass.passes.spatial_decomposition import SpatialDecomposition

Pass: TypeAlias = "Decomposition | ChannelPruning"

DECOMPOSITIONS: tuple[type[Decomposition], ...] = (NetworkDecoupling, ChannelDecomposition, SpatialDecomposition)
PASSES: tuple[type[Decomposition] | type[ChannelPruning], ...] = (*DECOMPOSITIONS, ChannelPruning)
GROUP = "ndpass.passes"  # of entry points

__all__ = [
    "DECOMPOSITIONS",
    "PASSES",
    "ChannelDecomposition",
    "ChannelPruning",
    "Decomposition",
    "NetworkDecoupling",
    "Pass",
    "Setting",
    "SpatialDecomposition",
    "find",
    "names",
    "parse",
]


def names() -> list[str]:
    """Of the passes above, and of those that installed packages offer.

    A package offers a `Decomposition` in the entry-point group "ndpass.passes", under the name that it goes by.
    """
    return list(dict.fromkeys([*(p.name for p in PASSES), *(point.name for point in entry_points(group=GROUP))]))


def find(name: str) -> type[Decomposition] | type[ChannelPruning]:
    """The pass of that name, ndpass's own before others. Raises UsageError where there is none that can be used."""
    for rule in PASSES:
        if rule.name == name:
            return rule
    for point in entry_points(group=GROUP, name=name):
        return _load(point)
    raise UsageError(f"there is no pass '{name}': the passes are {', '.join(names())}")


def _load(point: EntryPoint) -> type[Decomposition]:
    """Raises UsageError where the package is broken or offers something else."""
    try:
        rule = point.load()
    except Exception as e:  # whatever an import can raise
        raise UsageError(f"pass '{point.name}' of {point.value} cannot be loaded: {e}") from e
    if not (isinstance(rule, type) and issubclass(rule, Decomposition)) or rule.name != point.name:
        raise UsageError(f"pass '{point.name}' of {point.value} is no ndpass.passes.Decomposition of that name")
    return rule


def parse(spec: str) -> list[Pass]:
    """`nd:rank=2:form=dw-pw` as passes, in their order. Raises UsageError naming what there is."""
    passes: list[Pass] = []
    for part in spec.split(","):
        name, *options = part.strip().split(":")
        rule = find(name)
        pairs = [option.partition("=")[::2] for option in options]
        if any(not key or not value for key, value in pairs):
            raise UsageError(f"'{part}': a setting is written key=value, as in nd:rank=2")
        if len(dict(pairs)) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise UsageError(f"'{part}': setting '{twice}' is given twice")
        if any(p.name == name for p in passes):
            raise UsageError(f"--passes {spec}: pass '{name}' is given twice")
        passes.append(rule(**dict(pairs)))
    return passes
