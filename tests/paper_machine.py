"""A machine on paper: times follow from MACs, and its clock moves only when a model runs.

What is decided by such times is the same on every computer, however busy it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ndpass.graph.macs import node_macs
from ndpass.graph.normalise import import_graph
from ndpass.graph.shapes import infer
from ndpass.measuring.runtime import Feed, Runnable
from ndpass.measuring.target import Target
from ndpass.measuring.turns import Timed, Turn, in_order

EACH = 1e-4  # seconds that a weighted node takes besides its MACs; long, so that few inferences fill a turn
PER_MAC = 1e-9  # seconds


@dataclass
class PaperMachine:
    """slow: layer -> how many times as long its nodes take once it is rewritten; hidden: layers that no counter shows;
    noise: what each inference's time is multiplied by; per_mac: seconds."""

    target: Target = field(default_factory=lambda: Target(threads=1))
    slow: Mapping[str, float] = field(default_factory=dict)
    hidden: Collection[str] = ()
    noise: Callable[[], float] = lambda: 1.0
    seconds: float = 0.0
    per_mac: float = PER_MAC

    def environment(self) -> Mapping[str, str]:
        return self.target.environment()

    def now(self) -> float:
        return self.seconds

    def turns(self, turn: Turn, calls: Sequence[Timed], *given: Sequence[Any]) -> list[float]:
        return in_order(turn, calls, *given, now=self.now)

    def load(self, model: Path | Runnable, feed: Feed) -> Callable[[], Timed]:
        took = sum(seconds for _, seconds in self._nodes(model, feed))

        def run() -> None:
            self.seconds += took * self.noise()

        return lambda: run

    def shares(self, model: Path | Runnable, feed: Feed, sites: Collection[str]) -> dict[str, float]:
        nodes = self._nodes(model, feed)
        whole = sum(seconds for _, seconds in nodes)
        own = {site: sum(seconds for name, seconds in nodes if _owner(name) == site) for site in sites}
        return {site: 0.0 if site in self.hidden else seconds / whole for site, seconds in own.items()}

    def _nodes(self, model: Path | Runnable, feed: Feed) -> list[tuple[str, float]]:
        """Name and seconds of each weighted node."""
        assert isinstance(model, Path | bytes)
        proto = onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model)
        graph = import_graph(proto)
        shapes = infer(graph, {name: x.shape for name, x in feed.items()})
        macs = [(node.name, node_macs(node, shapes)) for node in graph.nodes]
        return [(name, (EACH + n * self.per_mac) * self._factor(name)) for name, n in macs if n]

    def _factor(self, node: str) -> float:
        return self.slow.get(_owner(node), 1.0) if "/" in node else 1.0


def _owner(node: str) -> str:
    """The layer that a node belongs to; those of a rewritten layer are named `layer/...`."""
    return node.split("/")[0]
