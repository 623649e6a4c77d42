"""The course of a refinement: range test, schedule as long as was asked for, looks at the held-out figure, its file."""

from __future__ import annotations

import math
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ndpass.files.staging import write_bytes
from ndpass.listener import Listener, Step, tell
from ndpass.refining.options import Refine
from ndpass.refining.rate import range_test
from ndpass.refining.trainer import NotFiniteError, State, Trainer, Weights

STAGE = "refining"
LOOKS = 40  # at the held-out figure, at most
FEWEST_STEPS = 40
KEEP_EVERY = 60.0  # seconds
ROUNDING, ROUNDING_SHARE = 1e-6, 1e-3  # by which a held-out figure has to fall, as such and as a share of it


class Course:
    """before: the held-out figure at the start. state: how far it has come. best: the lowest figure and its weights.

    file: what it can go on from, None keeps none. interrupted, diverged: how it ended, if not by itself.
    """

    def __init__(self, trainer: Trainer, asked: Refine, file: Path | None, listen: Listener) -> None:
        self.trainer, self.asked, self.file, self.listen = trainer, asked, file, listen
        self.before = trainer.held.figure(trainer.pair)
        self.best: tuple[float, Weights | None] = (math.inf, None)
        self.state = State(0.0, 0)
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
        """Find the rate, and how many steps the time is for."""
        tell(self.listen, Step(STAGE, 0, 1, "rate"))
        rate, step_s = range_test(self.trainer)
        steps = (self.asked.epochs or 0) * self.trainer.samples.steps
        if self.asked.seconds is not None:
            look = time.perf_counter()
            self.trainer.held.figure(self.trainer.pair)
            look = time.perf_counter() - look
            left = self.asked.seconds - (time.perf_counter() - begun) - LOOKS * look
            steps = max(FEWEST_STEPS, int(left / step_s))
        self.state = State(rate, max(steps, 1))
        epochs = self.state.steps / self.trainer.samples.steps
        figure = f"{self.trainer.pair.loss.measure} {self.before:.3g} held out"
        self.listen(f"refining: {epochs:.3g} epochs, rate {rate:.2g}, {figure}", 0, 0)

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
        tell(self.listen, Step(STAGE, min(state.step, state.steps - 1), state.steps, text, state.step / state.steps))
        if self.file is not None and time.monotonic() - self._kept > KEEP_EVERY and state.step < state.steps:
            self._keep(self.file)

    @property
    def _every(self) -> int:
        """Steps from one look to the next: an epoch, or more where there would be too many."""
        return max(self.trainer.samples.steps, math.ceil(self.state.steps / LOOKS))

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
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
            self.trainer.restart()
            return False
        self.best, self.earlier = (figure, weights), self.state.seconds
        return True
