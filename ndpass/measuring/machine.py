"""The machine that models are timed on: it loads them, counts what their layers take, and has a clock.

Whatever decides by times takes a `Machine`. `ThisMachine` is the real one; a test gives one whose times are planned, so
that what it decides does not depend on how busy the computer is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ndpass.measuring.layer_profile import inference, loaded, node_shares
from ndpass.measuring.runtime import Feed, Runnable
from ndpass.measuring.target import Target
from ndpass.measuring.turns import COMPILED, Timed, Turn, in_order, time_anew

Loader = Callable[[], Timed]  # compiles a model; what it returns runs one inference


class Machine(Protocol):
    """What models of one target are timed on."""

    @property
    def target(self) -> Target: ...

    def environment(self) -> Mapping[str, str]:
        """All that a latency depends on besides block and size, as text."""
        ...

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def turns(self, turn: Turn, calls: Sequence[Timed], *given: Sequence[Any]) -> list[float]:
        """As `turns.in_order`, by the machine's clock."""
        ...

    def load(self, model: Path | Runnable, feed: Feed) -> Loader:
        """The model, to be compiled as often as it is called for; each inference runs on `feed`."""
        ...

    def shares(self, model: Path | Runnable, feed: Feed, sites: Collection[str]) -> dict[str, float]:
        """What each layer takes of the time of one inference, as `layer_profile.node_shares` has it."""
        ...


@dataclass(frozen=True)
class ThisMachine:
    """The device of the target in OpenVINO. Raises UsageError where it lacks the target's precision."""

    target: Target

    def __post_init__(self) -> None:
        self.target.properties()

    def environment(self) -> Mapping[str, str]:
        return self.target.environment()

    def now(self) -> float:
        return time.perf_counter()

    def turns(self, turn: Turn, calls: Sequence[Timed], *given: Sequence[Any]) -> list[float]:
        return in_order(turn, calls, *given)

    def load(self, model: Path | Runnable, feed: Feed) -> Loader:
        """A file is read at each compilation, so that its weights are not held; a model in memory is read once."""
        read = model if isinstance(model, Path) else loaded(model, self.target, feed)
        return lambda: inference(read, self.target, feed)

    def shares(self, model: Path | Runnable, feed: Feed, sites: Collection[str]) -> dict[str, float]:
        return node_shares(model, self.target, feed, sites)


def time_models(
    machine: Machine,
    models: Sequence[Path | Runnable],
    feed: Feed,
    *,
    seconds: float,
    min_rounds: int,
    compiled: int = COMPILED,
) -> list[list[float]]:
    """Seconds of an inference, [model][round], the models in turns; options as of `turns.time_anew`."""
    loaders = [machine.load(model, feed) for model in models]
    return time_anew(
        lambda: [load() for load in loaders],
        seconds=seconds,
        min_rounds=min_rounds,
        compiled=compiled,
        now=machine.now,
        turns=machine.turns,
    )
