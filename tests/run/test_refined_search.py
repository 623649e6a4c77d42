"""A budget of a loss is met after refinement: plans that lose more as they are fitted, and are faster for it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from models import run_options
from paper_machine import PaperMachine

from ndpass import passes
from ndpass.calibration.feeds import open_feeds
from ndpass.graph.graph import Graph
from ndpass.planning.candidate import Budget
from ndpass.run import digits, pipeline
from ndpass.run.refined_search import MARGIN, STEP, Produced, _fastest, _next, _Round
from ndpass.run.rewrite import Rewritten

LIMIT = 1.0


def one(loss: float, damage: float, speedup: float = 1.0) -> _Round:
    done = Rewritten(Graph.__new__(Graph), (), 0, 0)
    return _Round(Produced(done, speedup), loss, damage, speedup)


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        ([(0.3, 2.0)], 2.0 * MARGIN / 0.3),
        ([(0.0, 2.0)], 2.0 * STEP),
        ([(0.01, 2.0)], 2.0 * STEP),
        ([(0.9, 2.0)], None),  # hardly any more damage
        ([(0.3, 2.0), (1.7, 6.0)], 12.0**0.5),
        ([(0.3, 2.0), (1.7, 2.2)], None),
        ([(1.7, 2.0)], None),  # refinement broke it, which is taken back before
    ],
)
def test_the_next_plan_aims_at_the_limit(rounds: list[tuple[float, float]], wanted: float | None) -> None:
    found = _next([one(*values) for values in rounds], LIMIT)
    assert found == (wanted if wanted is None else pytest.approx(wanted))


def test_the_fastest_within_the_limit_is_taken() -> None:
    rounds = [one(0.3, 2.0, 1.2), one(0.8, 6.0, 1.6), one(1.2, 9.0, 1.9)]
    found = _fastest(rounds, LIMIT)
    assert found.model == 1.6
    assert [(plan.speedup, plan.chosen, plan.refined) for plan in found.rewritten.plans] == [
        (1.2, False, True),
        (1.6, True, True),
        (1.9, False, True),
    ]


def test_the_fastest_refined_plan_within_the_budget_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine on paper, where times follow from MACs. Ten seconds: a plan or two are planned, fitted and trained.

    Whether there is a faster plan that training brings within the limit hangs by how a CPU rounds: the network has few.
    """
    pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")
    from ndpass.refining.options import Refine

    monkeypatch.setenv("NDPASS_CACHE", str(folder / "cache"))
    (images, _), (unseen, _) = digits.images()
    options = run_options(
        passes.parse("nd"),
        Budget("max_error", 0.05),
        threads=1,
        precision="f32",
        machine=PaperMachine,
        calibration=partial(open_feeds, images[:300]),
        validation=partial(open_feeds, unseen[:300]),
    )
    found = pipeline.run(digits.model_path(), Path("fast.onnx"), replace(options, refine=Refine(epochs=8)))
    (chosen,) = [plan for plan in found.plans if plan.chosen]
    fitted = [plan for plan in found.plans if not plan.refined]
    assert chosen.refined
    assert chosen.loss <= 5
    assert chosen.speedup >= max(plan.speedup for plan in fitted if plan.loss <= 5)
    refined = [plan for plan in found.plans if plan.refined]
    assert 1 <= len(refined) <= 3
    assert chosen.speedup == max(plan.speedup for plan in refined if plan.loss <= 5)
    assert chosen.loss < min(plan.loss for plan in fitted if plan.speedup >= chosen.speedup)
    assert max(error or 0.0 for error in found.verified["the original"].outputs.values()) <= 0.05
