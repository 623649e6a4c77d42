"""How far a command is: the stage, the layer, the time that has passed and the time that is left.

What is left is what remains of this stage and what the stages to come are expected to take. A stage's own steps say
more than what was expected of it, the more so the further it is; and what the stages behind took beside what was
expected of them says how fast this machine is. Nothing is said where nothing is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ndpass.listener import Step, Watcher, Within

SPEEDS = (0.2, 8.0)  # times as long as was expected that are believed of the stages to come
FIXED = "timing"  # how stages begin that last as long on any machine
BEFORE = ("reading", "measuring the original")  # stages of a run before it is known what it takes
TELLING = 1.0  # seconds; what was expected to take less says nothing about the speed
SMALLEST = 0.02  # share of a stage; before it the steps say nothing about what is left


@dataclass
class _Stage:
    name: str
    begun: float  # when, in seconds of the clock
    step: Step
    stepped: float  # when the step began


@dataclass
class Pace(Watcher):
    """Hears the steps of a run and knows how long it may still take. now: seconds since some moment."""

    now: Callable[[], float] = time.monotonic
    stage: _Stage | None = None
    _expected: dict[str, float] = field(default_factory=dict)
    _took: dict[str, float] = field(default_factory=dict)  # seconds of the stages behind
    _furthest: int = -1  # position, among the expected stages, of the furthest that was begun
    _limit: float | None = None  # seconds after which the command ends

    def __post_init__(self) -> None:
        self._start = self.now()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Seconds of the stages that come, in order."""
        self._expected, self._furthest = dict(seconds), -1
        self._limit = seconds.limit if isinstance(seconds, Within) else None

    def step(self, now: Step) -> None:
        """A step begins. One of no stage (0 steps in all) is news and changes nothing."""
        if not now.total:
            return
        moment = self.now()
        if self.stage is None or self.stage.name != now.stage:
            if self.stage is not None:
                self._took[self.stage.name] = self._took.get(self.stage.name, 0.0) + moment - self.stage.begun
            self.stage = _Stage(now.stage, moment, now, moment)
            self._furthest = max(self._furthest, self._position(now.stage))
        self.stage.step, self.stage.stepped = now, moment

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.now() - self._start

    @property
    def left(self) -> float | None:
        """Seconds to the end of the command; None where it cannot be told."""
        if self.stage is None:
            return None
        this = self._left_of(self.stage)
        if not self._expected and (this is None or self.stage.name in BEFORE):
            return None
        coming = [name for name in self._expected if self._position(name) > self._furthest]
        left = (this or 0.0) + sum(map(self._guess, coming))  # a stage that nobody expected is a short one
        to_limit = math.inf if self._limit is None else self._limit - self.elapsed
        return min(left, to_limit) if to_limit > 0 else left  # a run that is late is so by what it still has to do

    @property
    def share(self) -> float:
        """How far the command is, 0 to 1, by time; by steps of this stage where the time left is not known."""
        left = self.left
        if left is None:
            return self.stage.step.behind if self.stage else 0.0
        return self.elapsed / max(self.elapsed + left, 1e-9)

    def _left_of(self, stage: _Stage) -> float | None:
        """Of the stage that is under way: its length by its steps and by what was expected, the latter ever less."""
        expected, behind = self._expected.get(stage.name), stage.step.behind
        observed = (stage.stepped - stage.begun) / behind if behind >= SMALLEST else None
        if expected is None and observed is None:
            return None
        guess = self._guess(stage.name) if expected is not None else 0.0
        length = guess if observed is None else observed if expected is None else _between(guess, observed, behind)
        return max(length * (1 - behind) - (self.now() - stage.stepped), 0.0)

    def _guess(self, name: str) -> float:
        """Seconds that a stage takes on this machine."""
        return self._expected[name] * (1.0 if name.startswith(FIXED) else self._speed())

    def _speed(self) -> float:
        """Times as long as was expected that the stages behind took, and this one up to its last step."""
        took = {name: seconds for name, seconds in self._took.items() if self._tells(name)}
        spent, promised = sum(took.values()), sum(self._expected[name] for name in took)
        if self.stage is not None and self._tells(self.stage.name) and self.stage.step.behind >= SMALLEST:
            spent += self.stage.stepped - self.stage.begun
            promised += self._expected[self.stage.name] * self.stage.step.behind
        return min(max(spent / promised, SPEEDS[0]), SPEEDS[1]) if promised else 1.0

    def _tells(self, name: str) -> bool:
        """Whether a stage says how fast the machine is."""
        return not name.startswith(FIXED) and self._expected.get(name, 0.0) >= TELLING

    def _position(self, name: str) -> int:
        return list(self._expected).index(name) if name in self._expected else -1


def _between(guess: float, observed: float, behind: float) -> float:
    """The guess at the start of a stage, what was observed from a quarter of it on."""
    weight = min(4 * behind, 1.0)
    return weight * observed + (1 - weight) * guess


def clock(seconds: float) -> str:
    """1:05, 12:00 or 1:02:03."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """A length of time as one says it: 40 s, 9 min, 1.5 h."""
    if seconds < 90:
        return f"{5 * max(round(seconds / 5), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
