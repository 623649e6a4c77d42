"""Passes by what they act on: inside a layer, or on the channels that it reads."""

from __future__ import annotations

from collections.abc import Sequence

from ndpass.passes import Decomposition, Pass, Pruning


def split(passes: Sequence[Pass]) -> tuple[list[Decomposition], Pruning | None]:
    """The passes that act inside a layer, in order, and the one that prunes channels, which comes before them."""
    rules = [p for p in passes if isinstance(p, Decomposition)]
    return rules, next((p for p in passes if isinstance(p, Pruning)), None)
