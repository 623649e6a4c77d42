"""The model that a run writes: rewritten, and where that was asked for refined, so that a budget is met after that.

A budget of a loss is searched in closed form first. What refinement gives back of that plan says how much more damage
the next may do: at most MOST plans are refined, the fastest that is within the budget afterwards is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ndpass.listener import Listener
from ndpass.report import Refinement, TriedPlan
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run.clock import Clock
from ndpass.run.job import Job
from ndpass.run.refiner import Refiner, runnable
from ndpass.run.rewrite import Rewritten, measured_loss, rewritten

log = logging.getLogger(__name__)

MOST = 3  # plans that are refined
MARGIN = 0.9  # of the loss that is allowed, which the next plan aims at
STEP = 4.0  # times the damage of the last plan, at most
WORTH = 1.2  # times the damage from which on another plan is worth its time
FASTER = 1.02  # times as fast as the best plan so far that another has to be


@dataclass(frozen=True)
class Produced:
    """rewritten: the plan, its graph let go of; model: what is to be written; refinement: None where not asked for."""

    rewritten: Rewritten
    model: Any
    refinement: Refinement | None = None


@dataclass(frozen=True)
class _Round:
    """A plan that was refined. loss: of the model, in the budget's points; damage, speedup: of its plan."""

    made: Produced
    loss: float
    damage: float
    speedup: float


def produced(job: Job, checkpoint: Checkpoint | None, clock: Clock, listen: Listener) -> Produced:
    """Raises as `rewritten`. Whether torch can run the model is known before anything is spent."""
    refiner = Refiner.of(job, checkpoint, clock, listen)
    first = rewritten(job, checkpoint, clock, listen)
    made = _refined(first, refiner, clock, 0)
    limit, found = job.options.budget.loss_limit, made.refinement
    if limit is None or first.tuned is None or found is None or not found.kept or found.interrupted:
        return made
    rounds = [_round(job, made, clock)]
    while len(rounds) < MOST and (damage := _next(rounds, limit)) is not None:
        listen("refining a faster plan", 0, 0)
        with clock("plan"):
            further = first.further(damage, len(rounds))
        best = max((r.speedup for r in rounds if r.loss <= limit), default=1.0)
        if further is None or further.tuned is None or further.tuned.speedup < FASTER * best:
            break
        rounds.append(_round(job, _refined(further, refiner, clock, len(rounds)), clock))
        done = rounds[-1].made.refinement
        if done is not None and done.interrupted:
            break
    return _fastest(rounds, limit)


def _refined(done: Rewritten, refiner: Refiner | None, clock: Clock, number: int) -> Produced:
    """The rewritten model, refined; its graph is let go of, for what follows needs the room."""
    with clock("rewrite"):
        model = done.graph.to_model()
        done.graph.release()
    if refiner is None:
        return Produced(done, model)
    model, found = refiner(model, number)
    return Produced(done, model, found)


def _round(job: Job, made: Produced, clock: Clock) -> _Round:
    tuned = made.rewritten.tuned
    assert tuned is not None
    with clock("verify"):
        loss = measured_loss(job, runnable(made.model))
    log.info("refined: %.2f times as fast, loss %.2f, predicted damage %.3g", tuned.speedup, loss, tuned.damage)
    return _Round(made, loss, tuned.damage, tuned.speedup)


def _next(rounds: Sequence[_Round], limit: float) -> float | None:
    """The predicted damage to try next, taking the loss as proportional to it; None where little is to be gained."""
    passed = max((r.damage for r in rounds if r.loss <= limit), default=0.0)
    failed = min((r.damage for r in rounds if r.loss > limit), default=math.inf)
    last = rounds[-1]
    if failed < math.inf:
        wanted = math.sqrt(passed * failed)
    else:
        wanted = last.damage * min(MARGIN * limit / last.loss if last.loss > 0 else STEP, STEP)
    return wanted if wanted > WORTH * passed > 0 else None


def _fastest(rounds: Sequence[_Round], limit: float) -> Produced:
    """The fastest that is within the limit, else the first; its plans with the losses after refinement."""
    best = max((r for r in rounds if r.loss <= limit), key=lambda r: r.speedup, default=rounds[0])
    done = best.made.rewritten
    fitted = [plan.model_copy(update={"chosen": False}) for plan in rounds[0].made.rewritten.plans]
    refined = [TriedPlan(speedup=r.speedup, loss=r.loss, chosen=r is best, refined=True) for r in rounds]
    return replace(best.made, rewritten=replace(done, plans=[*fitted, *refined]))
