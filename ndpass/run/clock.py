"""Wall-clock seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ndpass.listener import Listener, Step, Watcher, expect, tell


class Clock:
    """`with clock("plan"): ...` adds to the seconds of that stage; a stage inside another one stops the outer one.

    now: seconds since some moment.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = self._mark = now()
        self._stages: dict[str, float] = {}
        self._open: list[str] = []
        self._told: str | None = None
        self._told_at = self._start
        self._told_seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._charge()
        self._open.append(stage)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """The seconds since the last mark go to the innermost stage."""
        now = self._now()
        if self._open:
            self._stages[self._open[-1]] = self._stages.get(self._open[-1], 0.0) + now - self._mark
        self._mark = now

    @property
    def passed(self) -> float:
        """Seconds since the clock was made."""
        return self._now() - self._start

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds, and `total` since the clock was made."""
        return {**self._stages, "total": self._now() - self._start}

    def hearing(self, listen: Listener) -> Watcher:
        """A listener that hands on what it hears, while the seconds between one step and the next go to the first."""
        return _Heard(listen, self)

    def heard(self, stage: str) -> None:
        """A step of this stage begins."""
        now = self._now()
        if self._told is not None:
            self._told_seconds[self._told] = self._told_seconds.get(self._told, 0.0) + now - self._told_at
        self._told, self._told_at = stage, now

    @property
    def told(self) -> dict[str, float]:
        """Stage as listeners were told of it -> seconds, in the order in which they began."""
        if self._told is not None:
            self.heard(self._told)
        return dict(self._told_seconds)


@dataclass(frozen=True)
class _Heard(Watcher):
    listen: Listener
    clock: Clock

    def step(self, now: Step) -> None:
        if now.total:  # else it is news
            self.clock.heard(now.stage)
        tell(self.listen, now)

    def expect(self, seconds: Mapping[str, float]) -> None:
        expect(self.listen, seconds)
