"""The passes: which convolutions each can rewrite, what a setting costs, and how it is done."""

from __future__ import annotations

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
    "parse",
]


def parse(spec: str) -> list[Pass]:
    """`nd:rank=2:form=dw-pw` as passes, in their order. Raises UsageError naming what there is."""
    known = {p.name: p for p in PASSES}
    passes: list[Pass] = []
    for part in spec.split(","):
        name, *options = part.strip().split(":")
        if name not in known:
            raise UsageError(f"there is no pass '{name}': the passes are {', '.join(known)}")
        pairs = [option.partition("=")[::2] for option in options]
        if any(not key or not value for key, value in pairs):
            raise UsageError(f"'{part}': a setting is written key=value, as in nd:rank=2")
        if len(dict(pairs)) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise UsageError(f"'{part}': setting '{twice}' is given twice")
        if any(p.name == name for p in passes):
            raise UsageError(f"--passes {spec}: pass '{name}' is given twice")
        passes.append(known[name](**dict(pairs)))
    return passes
