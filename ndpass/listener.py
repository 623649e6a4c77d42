"""What is called as work goes on.

A listener is any callable (stage, steps done, steps in all). With 0 steps in all the text is news, no stage. A
`Watcher` hears more: the layer that is worked on, the share of the stage's work that is done, and what the stages may
take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

Listener = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Step:
    """A step of a stage that begins now.

    done, total: steps. layer: what it is about, empty where it is about no layer. share: of the stage's work, 0 to 1,
    that is behind; None where all steps are alike.
    """

    stage: str
    done: int
    total: int
    layer: str = ""
    share: float | None = None

    @property
    def behind(self) -> float:
        """Share of the stage's work that is behind, 0 to 1."""
        return self.share if self.share is not None else self.done / max(self.total, 1)


class Within(dict[str, float]):
    """Seconds of the stages that come, of a command that ends `limit` seconds after it began whatever they take."""

    def __init__(self, seconds: Mapping[str, float], limit: float) -> None:
        super().__init__(seconds)
        self.limit = limit


class Watcher(ABC):
    """A listener that hears everything there is to hear."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.step(Step(stage, done, total))

    @abstractmethod
    def step(self, now: Step) -> None:
        """A step begins."""

    @abstractmethod
    def expect(self, seconds: Mapping[str, float]) -> None:
        """The stages that come, in order, and about how many seconds each takes on an idle machine."""


@dataclass(frozen=True)
class Renamed(Watcher):
    """Hands on what happens in a stage under another name of the stage."""

    listen: Listener
    stage: str

    def step(self, now: Step) -> None:
        tell(self.listen, replace(now, stage=self.stage))

    def expect(self, seconds: Mapping[str, float]) -> None:
        expect(self.listen, seconds)


def tell(listen: Listener, step: Step) -> None:
    """Call a listener of either kind."""
    if isinstance(listen, Watcher):
        listen.step(step)
    else:
        listen(step.stage, step.done, step.total)


def expect(listen: Listener, seconds: Mapping[str, float]) -> None:
    """Tell a Watcher what the stages may take."""
    if isinstance(listen, Watcher):
        listen.expect(seconds)


def shares(work: Sequence[float]) -> list[float]:
    """The share of all work that is behind before each step. work: of each step, in any unit."""
    total = sum(work) or 1.0
    return [done / total for done in accumulate(work, initial=0.0)][: len(work)]
