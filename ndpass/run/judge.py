"""Models beside the original they come from, on data that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ndpass.calibration.feeds import Feeds
from ndpass.graph.comparison_outputs import shown
from ndpass.measuring.evaluate import Evaluation, evaluate, score_output, stored
from ndpass.measuring.own_metric import Metric, measure, resolve_metric
from ndpass.measuring.runtime import OpenVINO, Precision

if TYPE_CHECKING:
    import openvino as ov

BATCH = 32  # samples per inference while the metric is measured

OwnMetric = str | Callable[[Any], float]
Model: TypeAlias = "Path | bytes | ov.Model"


class Judge:
    """What `evaluate` finds on `feeds`, or a metric of one's own in the place of accuracy.

    metric: a callable (compiled OpenVINO model) -> float or 'module:function'; UsageError where there is none such.
    compared: the tensors that models are compared by, None for their outputs. The original runs once, in f32, at the
    first model that is judged.
    """

    def __init__(
        self,
        original: Model,
        feeds: Feeds,
        threads: int | None,
        metric: OwnMetric | None = None,
        compared: Sequence[str] | None = None,
    ) -> None:
        self.feeds, self.original, self._threads, self._compared = feeds, original, threads, compared
        self._metric = None if metric is None else resolve_metric(metric)
        self._reference: list[dict[str, Any]] | None = None
        self._before: Metric | None = None

    @property
    def can_drop(self) -> bool:
        """Whether there is a metric that may fall: one's own, or answers that are class scores."""
        if self._metric is not None:
            return True
        return score_output(self.reference()[0], next(self.feeds.batches(BATCH))) is not None

    def __call__(self, model: Model, precision: Precision = "f32", runner: OpenVINO | None = None) -> Evaluation:
        """One model beside the original, in OpenVINO at `precision`; runner: of what is compared, compiled already."""
        reference = self.reference()
        runner = runner or self._runner(shown(model, self._compared), precision)
        found = evaluate(reference, runner, self.feeds, BATCH)
        if self._metric is None:
            return found
        return replace(found, before=self._before, after=self._own(model, precision, runner))

    def reference(self) -> list[dict[str, Any]]:
        """What the original gives, run now if it has not been: before another model is in memory."""
        if self._reference is None:
            runner = self._runner(shown(self.original, self._compared), "f32")
            self._reference = stored(runner, self.feeds, BATCH)
            self._before = None if self._metric is None else self._own(self.original, "f32", runner)
        return self._reference

    def _runner(self, model: Model, precision: Precision) -> OpenVINO:
        return OpenVINO(model, precision=precision, threads=self._threads)

    def _own(self, model: Model, precision: Precision, runner: OpenVINO) -> Metric:
        """runner: of what is compared; a metric is about the outputs that the model really has."""
        assert self._metric is not None
        whole = runner if self._compared is None else self._runner(model, precision)
        return measure(self._metric, whole.compiled)


def drop_of(evaluation: Evaluation) -> float:
    """Points by which the metric is worse: of accuracy or one's own, else of top-1 answers that have changed."""
    before, after = evaluation.before, evaluation.after
    if before is not None and after is not None:
        return (before.value - after.value) * (1 if before.higher_is_better else -1)
    assert evaluation.agreement.top1_agreement is not None
    return 100 - evaluation.agreement.top1_agreement
