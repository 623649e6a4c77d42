"""How good a model is: accuracy where there are labels, agreement with the original where there are none.

Everything streams over batches and sums in float64:

    relative error   ‖a − b‖ / ‖a‖ over all samples and outputs, a of the reference and b of the other model
    output errors    E|a − b|² / Var(a) of each output and each group of its channels, and relative to what the
                     reference adds to its input where an output is a picture of that, see `output_errors`
    KL               mean over samples of Σ_c p_c (log p_c − log q_c), in nats, p of the reference and q of the other,
                     the sum over heads where a model has several
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError, UsageError
from ndpass.measuring.additions import Additions
from ndpass.measuring.class_scores import class_count, class_scores, score_output, score_outputs
from ndpass.measuring.furthest import SampleErrors
from ndpass.measuring.output_errors import OutputError, OutputErrors, distance, worst
from ndpass.measuring.own_metric import Metric
from ndpass.measuring.runtime import Feed, Outputs, Runner
from ndpass.measuring.top1 import Hits, Top1

__all__ = ["Agreement", "Counting", "Evaluation", "accuracy", "compare", "evaluate", "score_output", "stored"]

FURTHEST = 6  # samples that are named
SAME = 1e-5  # samples whose outputs differ by less, relative to the largest value, have the same output

Floats = NDArray[np.float64]
Reference = Runner | Iterable[Outputs]


class Samples(Protocol):
    """The part of `ndpass.calibration.feeds.Feeds` that is needed here."""

    @property
    def labels(self) -> NDArray[np.int64] | None: ...

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Feed]: ...


@dataclass(frozen=True)
class Agreement:
    """How close a model is to its reference.

    top1_agreement: per cent of samples with the same best class, in all outputs that are class scores of something of
    their own; kl: nats, their sum; both None where no output is class scores.
    relative_error: infinite where an output is not finite; distances: that of each output and of its groups of channels
    where their scales differ; worst_output: the output with the largest.
    outputs: of each output E|a − b|² / Var(a), that of its groups of channels where their scales differ, and that of
    what the reference adds to its input where the output is a picture of that.
    furthest: the samples that differ most, by number, with their errors (`ndpass.measuring.furthest`).
    """

    samples: int
    top1_agreement: float | None
    relative_error: float
    worst_output: str
    kl: float | None = None
    distances: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, OutputError] = field(default_factory=dict)
    furthest: Sequence[tuple[int, float]] = ()

    @property
    def worst(self) -> tuple[str, float]:
        """The label and the error of the output or group of channels that is furthest off, of `outputs`."""
        return worst(self.outputs)


@dataclass(frozen=True)
class Evaluation:
    """A model beside its reference, from one pass over the data.

    before, after: the metric of the reference and of the model; None where it has no value.
    """

    agreement: Agreement
    before: Metric | None
    after: Metric | None
    warnings: list[str] = field(default_factory=list)


class Gathering(Protocol):
    """A metric of two models that is gathered batch by batch; `ndpass.measuring.metrics` has those with a name."""

    def add(self, original: Outputs, other: Outputs) -> None: ...

    def values(self) -> tuple[Metric, Metric] | None: ...

    def warnings(self) -> list[str]: ...


@runtime_checkable
class Counting(Gathering, Protocol):
    """A metric that is a share of so many answers of the original, as of samples or of places of a sequence."""

    @property
    def answers(self) -> int: ...


def stored(runner: Runner, feeds: Samples, batch: int) -> list[Outputs]:
    """A reference's outputs, batch by batch, so that its model need not stay in memory beside the one compared."""
    return [runner(feed) for feed in feeds.batches(batch)]


def accuracy(runner: Runner, feeds: Samples, batch: int) -> float:
    """Top-1 accuracy in per cent; UsageError without labels, InputError without class scores or with other classes."""
    if feeds.labels is None:
        raise UsageError("accuracy is measured against labels and the data have none: give labels, or compare models")
    hits, classes = Hits(feeds.labels), class_count(feeds.labels)
    for feed in feeds.batches(batch):
        outputs = runner(feed)
        if (name := score_output(outputs, feed, labelled=True, classes=classes)) is None:
            shapes = {key: value.shape for key, value in outputs.items()}
            raise InputError(f"accuracy needs an output (samples, classes), the model has {shapes}: give --metric")
        hits.add(class_scores(outputs[name]))
    return hits.per_cent


def compare(reference: Reference, runner: Runner, feeds: Samples, batch: int) -> Agreement:
    """Agreement of `runner` with a reference that is run beside it or was `stored` with the same batch size."""
    return evaluate(reference, runner, feeds, batch).agreement


def evaluate(
    reference: Reference, runner: Runner, feeds: Samples, batch: int, metric: Gathering | None = None
) -> Evaluation:
    """Agreement, and the metric before and after, in one pass over the data.

    metric: a fresh one; None: accuracy, where there are labels and class scores. Raises InputError when outputs have
    other names or shapes than the reference's or labels other classes than the scores, UsageError when stored outputs
    are of other data or another batch size.
    """
    errors, constancy, top1 = OutputErrors(), _Constancy(), Top1(feeds.labels if metric is None else None)
    by_sample, additions, names = SampleErrors(), Additions(), list[str]()
    for number, (feed, a, b) in enumerate(_pairs(reference, runner, feeds, batch)):
        errors.add(a, b)
        additions.add(feed, a)
        by_sample.add(a, b, len(next(iter(feed.values()))))
        constancy.add(a)
        names = names if number else score_outputs(a, feed, feeds.labels)
        top1.add({name: (class_scores(a[name]), class_scores(b[name])) for name in names})
        if metric is not None:
            metric.add(a, b)
    agreement = replace(_agreement(len(feeds), errors, additions, top1), furthest=by_sample.ranked(FURTHEST))
    warnings = [*_not_finite(errors), *constancy.warnings(), *top1.warnings(), *(metric.warnings() if metric else ())]
    before, after = top1.metrics() if metric is None else of_samples(metric.values(), len(feeds))
    return Evaluation(agreement, before, after, warnings)


def of_samples(found: tuple[Metric, Metric] | None, samples: int) -> tuple[Metric | None, Metric | None]:
    """A metric of so many samples: outputs may have more rows, or as many for any number."""
    if found is None:
        return None, None
    before, after = found
    return replace(before, samples=samples), replace(after, samples=samples)


def _agreement(samples: int, errors: OutputErrors, additions: Additions, top1: Top1) -> Agreement:
    squares = errors.squares
    distances = errors.distances()
    off, norm = (sum(pair[i] for pair in squares.values()) for i in (0, 1))
    furthest = max(squares, key=lambda name: distances[name])
    found = errors.errors(additions.squares())
    return Agreement(samples, top1.agreement, distance(off, norm), furthest, top1.kl, distances, found)


def _not_finite(errors: OutputErrors) -> Iterator[str]:
    for name, (_, norm) in errors.squares.items():
        if not math.isfinite(norm):
            yield f"output '{name}' of the original model is not finite on these data: does --preprocess fit?"


class _Constancy:
    """Whether a model says the same of every sample."""

    def __init__(self) -> None:
        self.first: dict[str, Floats] = {}
        self.seen, self.constant = 0, True

    def add(self, outputs: Outputs) -> None:
        rows = {name: np.atleast_1d(value).astype(np.float64) for name, value in outputs.items()}
        self.first = self.first or {name: value[:1] for name, value in rows.items()}
        self.seen += max(len(value) for value in rows.values())
        self.constant = self.constant and all(_same(value, self.first[name]) for name, value in rows.items())

    def warnings(self) -> Iterator[str]:
        if self.constant and self.seen > 1:
            yield "the original model gives the same output for every sample: does --preprocess fit?"


def _same(rows: Floats, first: Floats) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((np.abs(rows - first) <= SAME * np.abs(first).max(initial=0)).all())


def _pairs(reference: Reference, runner: Runner, feeds: Samples, batch: int) -> Iterator[tuple[Feed, Outputs, Outputs]]:
    """Batch by batch the feed and what the two models give for it."""
    kept = None if callable(reference) else iter(reference)
    for feed in feeds.batches(batch):
        a = cast(Runner, reference)(feed) if kept is None else next(kept, None)
        b = runner(feed)
        if a is None:
            raise UsageError("outputs stored for comparison are of the same data and batch size; these are too few")
        _check(a, b)
        yield feed, a, b
    if kept is not None and next(kept, None) is not None:
        raise UsageError("outputs stored for comparison are of the same data and batch size; these are too many")


def _check(a: Outputs, b: Outputs) -> None:
    shapes_a, shapes_b = ({name: value.shape for name, value in outputs.items()} for outputs in (a, b))
    if shapes_a != shapes_b:
        raise InputError(f"models that are compared have the same outputs; one has {shapes_a}, the other {shapes_b}")
