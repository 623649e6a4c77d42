"""Models beside the original they come from, on data that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndpass.calibration.feeds import Feeds
from ndpass.evaluate import Evaluation, Metric, evaluate, measure, resolve_metric, score_output, stored
from ndpass.runtime import OpenVINO, Precision

if TYPE_CHECKING:
    import openvino as ov

BATCH = 32  # samples per inference while the metric is measured

OwnMetric = str | Callable[[Any], float]


class Judge:
    """What `evaluate` finds on `feeds`, or a metric of one's own in the place of accuracy.

    metric: a callable (compiled OpenVINO model) -> float or 'module:function'; UsageError where there is none such. The
    original runs once, in f32, at the first model that is judged.
    """

    def __init__(self, original: Path, feeds: Feeds, threads: int | None, metric: OwnMetric | None = None) -> None:
        self.feeds, self._original, self._threads = feeds, original, threads
        self._metric = None if metric is None else resolve_metric(metric)
        self._reference: list[dict[str, Any]] | None = None
        self._before: Metric | None = None

    @property
    def can_drop(self) -> bool:
        """Whether there is a metric that may fall: one's own, or answers that are class scores."""
        return self._metric is not None or score_output(self._stored()[0]) is not None

    def __call__(self, model: Path | bytes | ov.Model | OpenVINO, precision: Precision = "f32") -> Evaluation:
        """One model, compiled at `precision` unless it is already, beside the original."""
        reference = self._stored()
        runner = model if isinstance(model, OpenVINO) else OpenVINO(model, precision=precision, threads=self._threads)
        found = evaluate(reference, runner, self.feeds, BATCH)
        return found if self._metric is None else replace(found, before=self._before, after=self._own(runner))

    def _stored(self) -> list[dict[str, Any]]:
        if self._reference is None:
            runner = OpenVINO(self._original, threads=self._threads)
            self._reference = stored(runner, self.feeds, BATCH)
            self._before = None if self._metric is None else self._own(runner)
        return self._reference

    def _own(self, runner: OpenVINO) -> Metric:
        assert self._metric is not None
        return measure(self._metric, runner.compiled, len(self.feeds))


def drop_of(evaluation: Evaluation) -> float:
    """Points by which the metric is worse: of accuracy or one's own, else of top-1 answers that have changed."""
    before, after = evaluation.before, evaluation.after
    if before is not None and after is not None:
        return (before.value - after.value) * (1 if before.higher_is_better else -1)
    assert evaluation.agreement.top1_agreement is not None
    return 100 - evaluation.agreement.top1_agreement
