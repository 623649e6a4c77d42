"""A metric that has a name, and why it is the one for a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ndpass.measuring.evaluate import Gathering


@dataclass(frozen=True)
class NamedMetric:
    """name: as --metric takes it; reason: what of the outputs makes it the one; begin: a fresh one to gather.

    one_by_one: whether a sample has to be run at a time, because the outputs do not tell which sample they are of.
    plain: of pictures of the input, what its plain interpolation is worth; None of others.
    """

    name: str
    reason: str
    begin: Callable[[], Gathering]
    one_by_one: bool = False
    plain: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
