"""The learning rate: how high it may be, and its course over the steps.

The range test raises the rate from step to step until the loss, beside that of the first weights on the same samples,
has grown BLOWN times; a rate SAFE times lower is taken. A test of a few steps would prefer far lower rates: the loss
rises at first at every rate that serves in the end.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndpass.refining.trainer import Trainer

WARM_UP = 20  # steps
LOWEST, HIGHEST = 3e-5, 3e-2  # of the range test
TRIED, FEWEST_TRIED = 38, 12  # rates between them, at most and at least
BLOWN, SAFE = 2.0, 3.0
FORWARD = 1 / 3  # of a step, what its loss with the first weights takes
SMOOTHED = 3  # steps whose mean counts


def course(step: int, steps: int) -> float:
    """Share of the highest rate at a step: a rise over WARM_UP steps, then half a cosine down to 0."""
    return min((step + 1) / min(WARM_UP, max(steps // 4, 1)), 1.0) * (1 + math.cos(math.pi * step / steps)) / 2


def range_test(
    trainer: Trainer, tried: int = TRIED, told: Callable[[int], object] = lambda _: None
) -> tuple[float, float]:
    """(rate, seconds of a step); the trainer is then as it was. tried: rates, at most; told: called before each."""
    from ndpass.refining.trainer import NotFiniteError

    rate, seconds, grown = LOWEST, list[float](), deque[float](maxlen=SMOOTHED)
    number, factor = 0, (HIGHEST / LOWEST) ** (1 / tried)
    while rate < HIGHEST:
        told(number)
        first = trainer.first_loss(number)
        begun = time.perf_counter()
        try:
            value = trainer.step(number, rate)
        except NotFiniteError:
            break
        seconds.append(time.perf_counter() - begun)
        grown.append(value / max(first, 1e-30))
        if sum(grown) / len(grown) > BLOWN:
            break
        rate, number = rate * factor, number + 1
    trainer.restart()
    return rate / SAFE, statistics.median(seconds[1:] or seconds or [1.0])
