"""Models beside the original they come from, on data that no fit has seen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ndpass.calibration.feeds import Feeds
from ndpass.graph.comparison_outputs import shown
from ndpass.listener import Listener
from ndpass.measuring.evaluate import Counting, Evaluation, Gathering, evaluate, of_samples, stored
from ndpass.measuring.heard import Heard
from ndpass.measuring.metrics import NAMES, NamedMetric, Seen, default_metric, named_metric
from ndpass.measuring.own_metric import Metric, measure, resolve_metric
from ndpass.measuring.runtime import OpenVINO, Outputs, Precision
from ndpass.planning.candidate import Budget

if TYPE_CHECKING:
    import openvino as ov

log = logging.getLogger(__name__)

MEASURED = ("top1", "top5")  # metrics of the original itself, against labels
BATCH = 32  # samples per inference while the metric is measured, if their tensors are small

OwnMetric = str | Callable[[Any], float]
Model: TypeAlias = "Path | bytes | ov.Model"


class Judge:
    """What `evaluate` finds on `feeds`, and the metric of each model beside that of the original.

    metric: one of `ndpass.measuring.metrics.NAMES`, a callable (compiled OpenVINO model) -> float, or
    'module:function'; UsageError where there is none such. None: the one that goes with the kind of the outputs where
    `by_kind`, else accuracy where the data have labels. compared: the tensors that models are compared by, None for
    their outputs; batch: samples that are run at once. The original runs once, in f32, at the first model that is
    judged.
    """

    def __init__(
        self,
        original: Model,
        feeds: Feeds,
        threads: int | None,
        metric: OwnMetric | None = None,
        compared: Sequence[str] | None = None,
        *,
        by_kind: bool = False,
        batch: int = BATCH,
    ) -> None:
        self.batch = batch
        self.feeds, self.original, self._threads, self._compared = feeds, original, threads, compared
        self._name = metric if isinstance(metric, str) and metric in NAMES else None
        self._own = None if metric is None or self._name else resolve_metric(metric)
        self._by_kind = by_kind
        self._reference: list[Outputs] | None = None
        self.inference: float | None = None  # seconds of the original for a sample, once it has run
        self._before: Metric | None = None
        self._named: NamedMetric | None = None
        self._answers: Sequence[Outputs] = ()  # of the original, for the named metric

    @property
    def metric(self) -> NamedMetric | None:
        """The metric with a name that models are judged by; None for one of the user's own, and for none."""
        self.reference()
        return self._named

    @property
    def has_own_metric(self) -> bool:
        """Whether the metric is the user's own function."""
        return self._own is not None

    def undefined(self) -> str:
        """Why the metric has no value even for the original; empty where it has one."""
        named = self.metric
        if named is None:
            return "" if self._own else "the data have no labels and no metric was named"
        gathering = self._itself(named)
        return "" if gathering.values() else "; ".join(gathering.warnings())

    def answers(self) -> int | None:
        """How many answers of the original the metric is a share of; None of a metric that counts none."""
        if self.metric is None:
            return None
        gathering = self._itself(self.metric)
        return gathering.answers if isinstance(gathering, Counting) else None

    def _itself(self, named: NamedMetric) -> Gathering:
        """The original beside itself."""
        gathering = named.begin()
        for outputs in self._answers:
            gathering.add(outputs, outputs)
        return gathering

    def baseline(self, listen: Listener = lambda *_: None) -> str:
        """What the original is worth, in a line, and by which metric; empty where there is none."""
        self.reference(listen)
        named, own = self._named, self._before
        if named is None:
            return "" if own is None else f"original: {own.name} {own.value:g}"
        values = self._itself(named).values()
        if values is None or named.name not in MEASURED:
            return f"metric: {named}"  # the original beside itself is perfect
        return f"original: {named.name} {values[0].value:.2f} % on {values[0].samples} samples ({named.reason})"

    def __call__(self, model: Model, precision: Precision = "f32", runner: OpenVINO | None = None) -> Evaluation:
        """One model beside the original, in OpenVINO at `precision`; runner: of what is compared, compiled already."""
        reference = self.reference()
        runner = runner or self._runner(shown(model, self._compared), precision)
        if self._own is not None:
            found = evaluate(reference, runner, self.feeds, self.batch)
            return replace(found, before=self._before, after=self._measured(model, precision, runner))
        if self._named is None:
            return evaluate(reference, runner, self.feeds, self.batch)
        gathering = self._named.begin()
        if self._answers is reference:
            return evaluate(reference, runner, self.feeds, self.batch, gathering)
        found = evaluate(reference, runner, replace(self.feeds, labels=None), self.batch)
        return self._beside(found, gathering, self._whole(model, precision, runner))

    def _beside(self, found: Evaluation, gathering: Gathering, whole: OpenVINO) -> Evaluation:
        """With the metric of outputs that are others than those compared, or that tell no samples apart."""
        for feed, outputs in zip(self.feeds.batches(self._batch), self._answers, strict=True):
            gathering.add(outputs, whole(feed))
        before, after = of_samples(gathering.values(), len(self.feeds))
        return replace(found, before=before, after=after, warnings=[*found.warnings, *gathering.warnings()])

    def reference(self, listen: Listener = lambda *_: None) -> list[Outputs]:
        """What the original gives, run now if it has not been: before another model is in memory."""
        if self._reference is None:
            runner = self._runner(shown(self.original, self._compared), "f32")
            heard = Heard(runner, listen, "measuring the original", -(-len(self.feeds) // self.batch))
            begun = time.perf_counter()
            self._reference = stored(heard, self.feeds, self.batch)
            self.inference = (time.perf_counter() - begun) / max(len(self.feeds), 1)
            if self._own is not None:
                self._before = self._measured(self.original, "f32", runner)
            elif self._name or self._by_kind:
                self._choose(self._reference, runner)
        return self._reference

    def _choose(self, reference: Sequence[Outputs], runner: OpenVINO) -> None:
        """The named metric and what the original gives for it; runner: of what is compared."""
        whole = self._whole(self.original, "f32", runner)
        answers = reference if whole is runner else stored(whole, self.feeds, self.batch)
        seen = Seen.of(answers, self.feeds, self.batch)
        self._named = named_metric(self._name, seen) if self._name else default_metric(seen)
        if self._named.name == "explained" and whole is not runner:  # of rows that a choice picks there may be others
            answers = reference
            self._named = named_metric("explained", Seen.of(reference, self.feeds, self.batch))
        log.info("metric: %s", self._named)
        self._answers = stored(whole, self.feeds, 1) if self._named.one_by_one else answers

    @property
    def _batch(self) -> int:
        return 1 if self._named is not None and self._named.one_by_one else self.batch

    def _runner(self, model: Model, precision: Precision) -> OpenVINO:
        return OpenVINO(model, precision=precision, threads=self._threads)

    def _whole(self, model: Model, precision: Precision, runner: OpenVINO) -> OpenVINO:
        """runner: of what is compared; a metric is about the outputs that the model really has."""
        return runner if self._compared is None else self._runner(model, precision)

    def _measured(self, model: Model, precision: Precision, runner: OpenVINO) -> Metric:
        assert self._own is not None
        return measure(self._own, self._whole(model, precision, runner).compiled)


def drop_of(evaluation: Evaluation) -> float:
    """Points by which the metric is worse; without one, by which fewer best classes are the original's."""
    before, after = evaluation.before, evaluation.after
    if before is not None and after is not None:
        return (before.value - after.value) * (1 if before.higher_is_better else -1)
    assert evaluation.agreement.top1_agreement is not None
    return 100 - evaluation.agreement.top1_agreement


def loss_of(evaluation: Evaluation, budget: Budget) -> float:
    """What the budget counts, in points: the drop of the metric, or the worst output's error in per cent."""
    if budget.kind == "max_error":
        _, error = evaluation.agreement.worst
        return 100 * error
    return drop_of(evaluation)
