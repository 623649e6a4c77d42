"""How far a network's answers are from the original's.

Class scores: KL(p || q) of probabilities at temperature T = 2, times T², as Hinton et al. 2015 have it. Every other
output: E (y − ŷ)² / Var(y), the mean of that of its groups of channels where their scales differ, as those of a
detector's boxes and scores. Besides, RESPONSES times the mean of E (r − r̂)² / Var(r) over layers that both have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ndpass.measuring.class_scores import SMALLEST

TEMPERATURE = 2.0
RESPONSES = 5.0  # weight of the layers' errors beside that of the outputs
LEAST = 1e-12  # of a variance that counts as one

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Part:
    """Channels of one scale along an axis of an output, and their mean variance over samples."""

    axis: int
    channels: slice
    variance: float

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """These channels of the output."""
        return x.narrow(self.axis, self.channels.start, self.channels.stop - self.channels.start)


@dataclass(frozen=True)
class Loss:
    """scores: the output that is class scores, None where there is none; logits: whether they are logits.

    variances: of every other output and of every response that is compared, by name. outputs: those among them that
    are outputs. mine: names of tensors in the trained network where they differ from those of the original. parts: of
    outputs whose channels are of several scales.
    """

    scores: str | None
    logits: bool
    variances: Mapping[str, float]
    outputs: Sequence[str]
    mine: Mapping[str, str]
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)

    @property
    def given(self) -> list[str]:
        """The outputs that count."""
        return [*([self.scores] if self.scores else []), *self.outputs]

    @property
    def measure(self) -> str:
        """What the held-out figure is."""
        return f"KL at temperature {TEMPERATURE:g}" if self.scores else "error over variance"

    def answers(self, student: Tensors, teacher: Tensors) -> torch.Tensor:
        """Of the outputs: the held-out figure."""
        total = torch.zeros(())
        if self.scores is not None:
            total = self.divergence(self._own(student, self.scores), teacher[self.scores])
        for name in self.outputs:
            total = total + self._error(student, teacher, name)
        return total

    def __call__(self, student: Tensors, teacher: Tensors, labels: NDArray[np.int64] | None = None) -> torch.Tensor:
        """What is trained on; labels: (n,) where they count."""
        inner = [name for name in self.variances if name not in self.outputs]
        total = self.answers(student, teacher)
        if inner:
            total = total + RESPONSES / len(inner) * sum(self._error(student, teacher, name) for name in inner)
        if labels is not None and self.scores is not None:
            likely = self._logarithms(self._own(student, self.scores), 1.0)
            total = total + functional.nll_loss(likely, torch.as_tensor(labels, device=likely.device))
        return total

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """KL of (n, classes, ...) at the temperature, times its square."""
        p, q = self._logarithms(teacher, TEMPERATURE), self._logarithms(student, TEMPERATURE)
        return TEMPERATURE**2 * functional.kl_div(q, p, reduction="batchmean", log_target=True)

    def _logarithms(self, scores: torch.Tensor, temperature: float) -> torch.Tensor:
        flat = scores.reshape(scores.shape[:2])
        logits = flat if self.logits else torch.log(flat.clamp_min(SMALLEST))
        return torch.log_softmax(logits / temperature, dim=1)

    def _error(self, student: Tensors, teacher: Tensors, name: str) -> torch.Tensor:
        own, wanted = self._own(student, name), teacher[name]
        parts = self.parts.get(name, ())
        if not parts:
            return functional.mse_loss(own, wanted) / self.variances[name]
        errors = [functional.mse_loss(part.of(own), part.of(wanted)) / part.variance for part in parts]
        return torch.stack(errors).mean()

    def _own(self, student: Tensors, name: str) -> torch.Tensor:
        return student[self.mine.get(name, name)]
