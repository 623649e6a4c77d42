"""The best classes of two models: how many are right, and how many are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError
from ndpass.measuring.class_scores import Floats, are_logits, check_classes, heads_of, log_probabilities
from ndpass.measuring.own_metric import Metric


class Hits:
    """Counts right answers; labels are taken in order."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels, self.seen, self.right = labels, 0, 0

    def add(self, scores: Floats) -> None:
        """(n, C) of the next samples. Raises InputError where the labels are not theirs."""
        labels = self.labels[self.seen : self.seen + len(scores)]
        if len(labels) != len(scores):
            raise InputError(f"a sample has one label and one row of scores: {len(labels)} labels, {len(scores)} rows")
        check_classes(labels, scores.shape[1])
        self.seen += len(scores)
        self.right += int((scores.argmax(axis=1) == labels).sum())

    @property
    def per_cent(self) -> float:
        return 100 * self.right / self.seen


@dataclass
class _Head:
    """What two models say in one output: their best classes, batch by batch, and the sum of divergences."""

    best: tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]] = field(default_factory=lambda: ([], []))
    divergence: float = 0.0
    classes: int = 0

    def add(self, a: Floats, b: Floats) -> None:
        self.classes = a.shape[1]
        for best, scores in zip(self.best, (a, b), strict=True):
            best.append(scores.argmax(axis=1))
        logits = are_logits(a)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so, and compare() says it
            p, q = log_probabilities(a, logits=logits), log_probabilities(b, logits=logits)
            self.divergence += float((np.exp(p) * (p - q)).sum())

    @property
    def same(self) -> NDArray[np.bool_]:
        """(n,) whether the best classes are the same."""
        a, b = map(np.concatenate, self.best)
        return np.asarray(a == b)


class Top1:
    """Best classes and probabilities of two models, and their accuracy if there are labels, which are of one output."""

    def __init__(self, labels: NDArray[np.int64] | None) -> None:
        self.hits = None if labels is None else (Hits(labels), Hits(labels))
        self._heads: dict[str, _Head] = {}

    def add(self, scores: Mapping[str, tuple[Floats, Floats]]) -> None:
        """One batch: scores (n, C) of the two models, by the output; none where no output is class scores."""
        for name, (a, b) in scores.items():
            self._heads.setdefault(name, _Head()).add(a, b)
        for hits, own in zip(self.hits or (), next(iter(scores.values()), ()), strict=False):
            hits.add(own)

    def _counted(self) -> list[_Head]:
        """The heads that answer something of their own."""
        best = {name: (np.concatenate(head.best[0]), head.classes) for name, head in self._heads.items()}
        return [self._heads[name] for name in heads_of(best)]

    @property
    def agreement(self) -> float | None:
        """Per cent of samples whose best class is the same in every head."""
        same = [head.same for head in self._counted()]
        return 100 * float(np.all(same, axis=0).mean()) if same and same[0].size else None

    @property
    def kl(self) -> float | None:
        """Never below zero, which rounding and the smallest probability could make it; infinite rather than NaN."""
        heads = self._counted()
        if not heads or not heads[0].same.size:
            return None
        divergence = sum(head.divergence for head in heads)
        return max(divergence / heads[0].same.size, 0.0) if math.isfinite(divergence) else math.inf

    def metrics(self) -> tuple[Metric | None, Metric | None]:
        """The accuracy of both models, where there are labels."""
        if self.hits is None or not self.hits[0].seen:
            return None, None
        before, after = (Metric("accuracy", hits.per_cent, hits.seen) for hits in self.hits)
        return before, after

    def warnings(self) -> Iterator[str]:
        before, _ = self.metrics()
        if before is None or not before.samples:
            return
        (head,) = self._heads.values()
        if at_chance(before.value, before.samples, head.classes):
            yield chance_warning(before.value, before.samples, head.classes)


def at_chance(per_cent: float, samples: int, classes: int) -> bool:
    """Whether an accuracy is at most three standard deviations above 1/classes; never where samples are too few."""
    chance = 1 / classes
    limit = chance + 3 * math.sqrt(chance * (1 - chance) / samples)
    return classes > 1 and limit < 1 and per_cent / 100 <= limit


def chance_warning(per_cent: float, samples: int, classes: int) -> str:
    """What to say of an original whose accuracy is that of guessing."""
    return (
        f"accuracy before is {per_cent:.3g} % on {samples} samples and guessing among {classes} classes gives "
        f"{100 / classes:.3g} %: does --preprocess fit, and are the labels in the model's order?"
    )
