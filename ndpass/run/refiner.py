"""--refine in a run: whether it can be done is known before anything is spent; what it gave is held to the budget."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from ndpass.graph.comparison_outputs import shown
from ndpass.listener import Listener
from ndpass.measuring.runtime import OpenVINO, Runnable
from ndpass.report import Refinement
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run.clock import Clock
from ndpass.run.job import Job
from ndpass.run.rewrite import measured_loss

if TYPE_CHECKING:
    from ndpass.calibration.feeds import Feeds
    from ndpass.refining.options import Refine

log = logging.getLogger(__name__)

STATE = "refine{}.pt"  # in the folder of the checkpoint


@dataclass(frozen=True)
class Refiner:
    """Called with the rewritten model, it gives the model to be written and what came of refining it.

    reason: why torch cannot run the original, empty where it can.
    """

    job: Job
    asked: Refine
    fit: Feeds
    checkpoint: Checkpoint | None
    clock: Clock
    listen: Listener
    reason: str

    @classmethod
    def of(cls, job: Job, checkpoint: Checkpoint | None, clock: Clock, listen: Listener) -> Refiner | None:
        """None where it was not asked for. Torch is imported here."""
        asked = job.options.refine
        if asked is None or job.fit is None:
            return None
        from ndpass.refining.refine import torch_threads
        from ndpass.refining.refusal import refusal

        with clock("refine"), torch_threads(job.target.threads):
            graph = job.open().graph
            runner = OpenVINO(shown(job.judge.original, job.compared), threads=job.target.threads)
            memory, model = job.options.effort.memory, graph.to_model()
            reason = refusal(model, job.compared, job.inputs, job.fit, runner, memory, labelled=asked.labels)
        if reason:
            text = f"no refinement: {reason}; what is fitted is written as it is"
            log.warning(text)
            listen(text, 0, 0)
        return cls(job, asked, job.fit, checkpoint, clock, listen, reason)

    def __call__(self, model: Any, number: int = 0) -> tuple[Any, Refinement]:
        """model: as `Graph.to_model` gives it; number: of the plan, where several are refined."""
        from ndpass.refining.refine import Task, refine, refused, with_weights

        if self.reason:
            return model, refused(self.asked, len(self.fit), self.reason)
        job, options = self.job, self.job.options
        with self.clock("refine"):
            task = Task(
                original=job.open().graph.to_model(),
                rewritten=model,
                names=job.compared,
                inputs=job.inputs,
                fit=self.fit,
                held=job.measured,
                asked=self.asked,
                seed=options.data.seed,
                memory=options.effort.memory,
                threads=options.target.threads,
                state=self._state(number),
                by_errors=options.budget.kind == "max_error",
            )
            found = refine(task, self.listen)
            if found.weights is None:
                return model, found.report
            fitted = runnable(model)
            refined = with_weights(model, found.weights)
            if worse := self._worse(fitted, runnable(refined)):
                return (
                    _model(fitted),
                    found.report.model_copy(update={"kept": False, "reason": f"{worse}: taken back"}),
                )
            return refined, found.report

    def _state(self, number: int) -> Path | None:
        """Where training keeps what it can go on from."""
        if self.checkpoint is None or not self.checkpoint.begun:
            return None
        return self.checkpoint.folder / STATE.format(number)

    def _worse(self, fitted: Runnable, refined: Runnable) -> str:
        """Why the refined model may not be written where the budget is a loss: it loses more than the fitted one.

        Empty where it does not, or where the budget is none of a loss.
        """
        budget = self.job.options.budget
        if budget.loss_limit is None or self.job.options.plan is not None:
            return ""
        before, after = (measured_loss(self.job, model) for model in (fitted, refined))
        what = "points" if budget.kind == "max_drop" else "per cent of an output's variance"
        if after <= max(before, budget.loss_limit):
            return ""
        return f"{after:.2f} {what} are lost, {before:.2f} before"


def runnable(model: Any) -> Runnable:
    """A copy for a runtime."""
    return bytes(model.SerializeToString()) if isinstance(model, onnx.ModelProto) else model.clone()


def _model(copied: Runnable) -> Any:
    return onnx.load_from_string(copied) if isinstance(copied, bytes) else copied
