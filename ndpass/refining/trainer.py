"""Trains the student of a pair to its teacher: whole cosine, held-out figure after each epoch, steps that go on.

It gets worse before it gets better: the held-out figure rises for some epochs and falls below where it began only
towards the end of the schedule. So nothing is stopped early; what came out is judged at the end.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import torch

from ndpass.calibration.feeds import Feeds
from ndpass.refining.network import Tensors
from ndpass.refining.orthonormal import Regulariser
from ndpass.refining.pair import Pair
from ndpass.refining.rate import course
from ndpass.refining.samples import Batch, Samples, parts

log = logging.getLogger(__name__)

SMOOTHING = 0.05  # weight of the newest loss
Weights = dict[str, torch.Tensor]


class NotFiniteError(Exception):
    """A loss was NaN or infinite."""


@dataclass
class State:
    """How far training has come.

    rate: the highest; steps: in all; seconds: spent in steps; halved: whether the rate was halved for a loss that was
    not finite. loss: of the last steps, smoothed; figure: held out, when it was last looked at.
    """

    rate: float
    steps: int
    step: int = 0
    seconds: float = 0.0
    halved: bool = False
    loss: float = math.nan
    figure: float = math.inf


@dataclass(frozen=True)
class Held:
    """Samples that no step sees, with the teacher's answers to them."""

    parts: Sequence[tuple[Any, Tensors]]

    @classmethod
    def of(cls, pair: Pair, feeds: Feeds, most: int) -> Held:
        """At most so many of these samples, evenly drawn."""
        chosen = feeds.take(range(0, len(feeds), max(1, -(-len(feeds) // most))))
        found: list[tuple[Any, Tensors]] = []
        for feed in chosen.batches(pair.size):
            if not pair.fixed or len(next(iter(feed.values()))) == pair.size:
                answers = pair.answers(feed)
                found.append((feed, {name: answers[name] for name in pair.loss.given}))
        return cls(found)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(next(iter(feed.values()))) for feed, _ in self.parts)

    def figure(self, pair: Pair) -> float:
        """The mean over the samples of how far the student's answers are off."""
        total = count = 0.0
        with torch.no_grad():
            for feed, answers in self.parts:
                n = len(next(iter(feed.values())))
                total += n * float(pair.loss.answers(pair.student(feed), answers))
                count += n
        return total / count


def shares_of_rate(weights: Sequence[torch.Tensor]) -> list[float]:
    """What each tensor's rate is, beside that of all: the root of its own scale over the mean scale of all kernels.

    Adam moves every element by about the rate, whatever its size, and kernels of one network differ in scale by ten and
    more. ResNet-20 for CIFAR-10 with nd:rank=2, 1,000 images, 6 epochs: KL 0.700 at one rate for all, 0.684 at rates in
    proportion to the scale, 0.675 at the root of it. Vectors, as biases are, have the rate itself.
    """
    scales = [float(w.detach().square().mean().sqrt()) for w in weights]
    kernels = [sum(n > 1 for n in w.shape) > 1 and scale > 0 for scale, w in zip(scales, weights, strict=True)]
    mean = sum(compress(scales, kernels)) / max(sum(kernels), 1)
    return [math.sqrt(scale / mean) if kernel else 1.0 for scale, kernel in zip(scales, kernels, strict=True)]


class Trainer:
    """pair: its student's weights are trained in place. labelled: whether labels count. regulariser: what is added to
    the loss for the weights themselves.
    """

    def __init__(
        self, pair: Pair, samples: Samples, held: Held, *, labelled: bool, regulariser: Regulariser | None = None
    ) -> None:
        self.pair, self.samples, self.held = pair, samples, held
        self.labelled, self.regulariser = labelled, regulariser
        self._weights = list(pair.student.weights.values())
        self._shares = shares_of_rate(self._weights)
        self.start = self.weights()
        self.optimizer = self._fresh()

    def _fresh(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": [w]} for w in self._weights], lr=0.0, fused=True)

    def weights(self) -> Weights:
        """A copy of the student's weights as they are."""
        return {name: w.detach().clone() for name, w in self.pair.student.weights.items()}

    def put(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the student these weights."""
        with torch.no_grad():
            for name, w in self.pair.student.weights.items():
                w.copy_(weights[name])

    def restart(self) -> None:
        """The weights that training began with, and an optimizer that knows nothing."""
        self.put(self.start)
        self.optimizer = self._fresh()

    def step(self, number: int, rate: float) -> float:
        """One step at this rate; its loss. Raises NotFiniteError, with the weights as they were before."""
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        value = self._value(self.samples.batch(number), lambda loss: loss.backward())
        if not math.isfinite(value):
            raise NotFiniteError
        self.optimizer.step()
        return value

    def first_loss(self, number: int) -> float:
        """What the weights that training began with give for the samples of a step."""
        now = self.weights()
        self.put(self.start)
        with torch.no_grad():
            value = self._value(self.samples.batch(number), lambda _: None)
        self.put(now)
        return value

    def own_figure(self) -> float:
        """The figure on samples that are trained on, as many as are held out, as they are."""
        return Held.of(self.pair, self.samples.feeds, self.held.count).figure(self.pair)

    def _value(self, batch: Batch, each: Callable[[torch.Tensor], object]) -> float:
        """The loss of a batch, in parts that fit the memory; each: called with the share of every part.

        A device that runs out of memory goes on with parts of half the size. Raises torch.OutOfMemoryError where the
        parts cannot be smaller.
        """
        while True:
            try:
                return self._sum(batch, each)
            except torch.OutOfMemoryError:
                if self.pair.fixed or self.pair.size < 2:
                    raise
            self.optimizer.zero_grad(set_to_none=True)  # of the parts that did fit
            self.pair = replace(self.pair, size=self.pair.size // 2)
            log.warning("the device's memory is full: refining goes on with %d samples at once", self.pair.size)

    def _sum(self, batch: Batch, each: Callable[[torch.Tensor], object]) -> float:
        count, total = len(next(iter(batch.feed.values()))), 0.0
        for part in parts(batch, self.pair.size):
            share = len(next(iter(part.feed.values()))) / count
            answers = self.pair.answers(part.feed)
            labels = part.labels if self.labelled else None
            loss = self.pair.loss(self.pair.student(part.feed), answers, labels)
            if self.regulariser is not None:
                loss = loss + self.regulariser(self.pair.student.weights)
            loss = share * loss
            each(loss)
            total += float(loss.detach())
        return total

    def run(self, state: State, after: Callable[[State], None]) -> None:
        """The steps that are left. after: called after every step. Raises NotFiniteError."""
        while state.step < state.steps:
            begun = time.perf_counter()
            value = self.step(state.step, state.rate * course(state.step, state.steps))
            state.loss = value if math.isnan(state.loss) else state.loss + SMOOTHING * (value - state.loss)
            state.step += 1
            state.seconds += time.perf_counter() - begun
            after(state)
