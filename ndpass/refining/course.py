"""The course of a refinement: range test, schedule as long as was asked for, looks at the held-out figure, its file."""

from __future__ import annotations

import math
import pickle
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndpass.files.staging import write_bytes
from ndpass.listener import Listener, Step, tell
from ndpass.refining.options import Refine
from ndpass.refining.rate import FEWEST_TRIED, FORWARD, TRIED, range_test
from ndpass.refining.trainer import NotFiniteError, State, Trainer, Weights

STAGE = "refining"
LOOKS = 40  # at the held-out figure, at most
LOOKING, TRYING = 0.1, 0.15  # share of the time for them, and for finding the rate
# Steps that a short time shall have room for. The batch is made smaller for that alone, as large ones are better
# otherwise: ResNet-20 for CIFAR-10 with nd:rank=2, 6,000 samples in steps of 64 or of 30: KL 0.700 and 0.726 with 1,000
# images, 0.764 and 0.846 with 300.
STEPS = 80
BATCH, SMALLEST = 64, 4  # samples of a step
FEWEST_STEPS = 8
FEW_STEPS = 40  # below which a training is said to be short
KEEP_EVERY = 60.0  # seconds
ROUNDING, ROUNDING_SHARE = 1e-6, 1e-3  # by which a held-out figure has to fall, as such and as a share of it


class Course:
    """before: the held-out figure at the start. state: how far it has come. looks: at that figure, at most. best: the
    lowest figure and its weights.

    file: what it can go on from, None keeps none. interrupted, diverged: how it ended, if not by itself.
    """

    def __init__(self, trainer: Trainer, asked: Refine, file: Path | None, listen: Listener) -> None:
        self.trainer, self.asked, self.file, self.listen = trainer, asked, file, listen
        begun = time.perf_counter()
        self.before = trainer.held.figure(trainer.pair)
        self._seconds_of_a_look = time.perf_counter() - begun
        self.best: tuple[float, Weights | None] = (math.inf, None)
        self.state, self.looks = State(0.0, 0), LOOKS
        self._ahead = 0.0  # share of the whole that is behind when training begins
        self.earlier = 0.0  # seconds of a training that was cut off
        self.interrupted = self.diverged = False
        self._kept = time.monotonic()

    def run(self, begun: float) -> None:
        """Train to the end. begun: when, by time.perf_counter. Interruptions end it where the best so far is better."""
        try:
            if not self._restored():
                self._begin(begun)
            self._to_the_end()
            if self.file is not None:
                self._keep(self.file)  # so that it is not done again where what follows is cut off
        except Exception:
            raise  # a fault, which ends the run; what follows is for interruptions, which are no Exceptions
        except BaseException:
            self._look()
            if not self.is_better:
                raise
            self.interrupted = True

    def _begin(self, begun: float) -> None:
        """Find out how many samples a step may have, the rate, and how many steps the time is for."""
        samples, asked = self.trainer.samples, self.asked
        if asked.seconds is None:
            tried = (asked.epochs or 0) * samples.steps // 2
        else:
            each = self._seconds_of_a_sample()
            left = asked.seconds - (time.perf_counter() - begun)
            self.looks = int(np.clip(LOOKING * left / max(self._seconds_of_a_look, 1e-9), 2, LOOKS))
            self._size((1 - LOOKING - TRYING) * left / (STEPS * each))
            tried = int(TRYING * left / (self.trainer.samples.size * each * (1 + FORWARD)))
        tried = int(np.clip(tried, FEWEST_TRIED, TRIED))
        rate, step_s = range_test(self.trainer, tried, lambda number: self._tell_rate(number, tried, begun))
        self.state = State(rate, self._steps(step_s, begun))
        epochs = self.state.steps / self.trainer.samples.steps
        figure = f"{self.trainer.pair.loss.measure} {self.before:.3g} held out"
        steps = f"{self.state.steps} steps of {self.trainer.samples.size} samples"
        short = f"; so few gain little, give more than {asked.text}" if self.state.steps < FEW_STEPS else ""
        self.listen(f"refining: {epochs:.3g} epochs, {steps}, rate {rate:.2g}, {figure}{short}", 0, 0)

    def _tell_rate(self, number: int, tried: int, begun: float) -> None:
        """Say what share of the whole is behind when the rate with this number is tried."""
        if self.asked.seconds is None:
            steps = (self.asked.epochs or 0) * self.trainer.samples.steps
            self._ahead = number * (1 + FORWARD) / (tried * (1 + FORWARD) + steps)
        else:
            self._ahead = min((time.perf_counter() - begun) / self.asked.seconds, 1.0)
        tell(self.listen, Step(STAGE, 0, 1, "rate", self._ahead))

    def _steps(self, step_s: float, begun: float) -> int:
        """step_s: seconds of one."""
        if self.asked.seconds is None:
            return max((self.asked.epochs or 0) * self.trainer.samples.steps, 1)
        left = self.asked.seconds - (time.perf_counter() - begun) - self.looks * self._seconds_of_a_look
        return max(FEWEST_STEPS, int(left / step_s))

    def _size(self, most: float) -> None:
        """Let steps have at most so many samples, within what is usual."""
        wanted = int(np.clip(most, SMALLEST, self.trainer.samples.size))
        self.trainer.samples = self.trainer.samples.sized(self.trainer.pair.batch(wanted))

    def _seconds_of_a_sample(self) -> float:
        """Of training; the trainer is then as it was."""
        samples = self.trainer.samples
        self.trainer.samples = samples.sized(self.trainer.pair.batch(min(samples.size, self.trainer.pair.size)))
        for _ in range(2):  # the first one sets up what the others use
            begun = time.perf_counter()
            with suppress(NotFiniteError):  # which training will find, too
                self.trainer.step(0, 0.0)
        each = (time.perf_counter() - begun) / self.trainer.samples.size
        self.trainer.samples = samples
        self.trainer.restart()
        return each

    def _to_the_end(self) -> None:
        while True:
            try:
                self.trainer.run(self.state, self._after)
                return
            except NotFiniteError:
                if self.state.halved:
                    self.diverged = True
                    return
                self.listen("refining: the loss is not finite: begun again at half the rate", 0, 0)
                self.state = State(self.state.rate / 2, self.state.steps, halved=True)
                self.trainer.restart()

    def _after(self, state: State) -> None:
        """After every step: look where it is time, say how far it is, keep what there is."""
        if state.step % self._every == 0 or state.step == state.steps:
            self._look()
        held = f", held out {state.figure:.3g}" if math.isfinite(state.figure) else ""
        text = f"loss {state.loss:.3g}{held}"
        share = self._ahead + (1 - self._ahead) * state.step / state.steps
        tell(self.listen, Step(STAGE, min(state.step, state.steps - 1), state.steps, text, share))
        if self.file is not None and time.monotonic() - self._kept > KEEP_EVERY and state.step < state.steps:
            self._keep(self.file)

    @property
    def _every(self) -> int:
        """Steps from one look to the next: an epoch, or more where there would be too many."""
        return max(self.trainer.samples.steps, math.ceil(self.state.steps / self.looks))

    def _look(self) -> None:
        figure = self.trainer.held.figure(self.trainer.pair)
        self.state.figure = figure
        if figure < self.best[0]:
            self.best = figure, self.trainer.weights()

    @property
    def is_better(self) -> bool:
        """Whether the best figure is lower than that at the start by more than rounding."""
        return self.best[0] < self.before - max(ROUNDING, ROUNDING_SHARE * self.before)

    def own_figure(self) -> float | None:
        """The best weights' figure on the samples trained on, None where there are none."""
        _, weights = self.best
        if weights is None:
            return None
        self.trainer.put(weights)
        return self.trainer.own_figure()

    def _keep(self, file: Path) -> None:
        content: dict[str, Any] = {
            "state": asdict(self.state),
            "weights": self.trainer.weights(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "best": list(self.best),
            "batch": self.trainer.samples.size,
            "looks": self.looks,
        }
        write_bytes(file, lambda out: torch.save(content, out))
        self._kept = time.monotonic()

    def _restored(self) -> bool:
        """Go on from the file; whether there is one that can be read."""
        if self.file is None or not self.file.exists():
            return False
        try:
            found = torch.load(self.file, weights_only=True)
            self.trainer.put(found["weights"])
            self.trainer.optimizer.load_state_dict(found["optimizer"])
            self.state, (figure, weights) = State(**found["state"]), found["best"]
            self.trainer.samples, self.looks = self.trainer.samples.sized(found["batch"]), found["looks"]
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
            self.trainer.restart()
            return False
        self.best, self.earlier = (figure, weights), self.state.seconds
        return True
