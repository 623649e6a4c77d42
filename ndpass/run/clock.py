"""Wall-clock seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """`with clock("plan"): ...` adds to the seconds of that stage; a stage inside another one stops the outer one.

    now: seconds since some moment.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = self._mark = now()
        self._stages: dict[str, float] = {}
        self._open: list[str] = []

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
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds, and `total` since the clock was made."""
        return {**self._stages, "total": self._now() - self._start}
