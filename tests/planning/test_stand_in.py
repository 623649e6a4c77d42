"""Stand-ins have the planned shapes, and their times are those of the machine they run on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from models import deep
from paper_machine import EACH, PER_MAC, PaperMachine

from ndpass.graph.graph import Graph, Site
from ndpass.measuring.layer_profile import inference
from ndpass.measuring.machine import ThisMachine
from ndpass.measuring.random_inputs import feed_of
from ndpass.measuring.target import Target
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.stand_in import StandIns, stand_in, time_original

SETTINGS: dict[str, dict[str, dict[str, int | str]]] = {
    "nd": {"nd": {"rank": 1, "form": "dw-pw"}},
    "sd": {"sd": {"rank": 16, "order": "vh"}},
    "cp,nd": {"cp": {"channels": 16, "criterion": "l2"}, "nd": {"rank": 1, "form": "dw-pw"}},
}
DENSE = EACH + 784 * 64 * 64 * 9 * PER_MAC  # seconds of one convolution of `deep` on paper
LAST = EACH + 640 * PER_MAC  # of its Gemm


def plan(setting: dict[str, dict[str, int | str]], names: str = "abc") -> dict[str, Choice]:
    return {name: Choice(Candidate(0, 0.0, setting if name in names else {})) for name in "abc"}


def on_paper(machine: PaperMachine, spec: str = "sd") -> StandIns:
    return StandIns(lambda: Graph(deep()), parse(spec), machine)


@pytest.mark.parametrize("spec", SETTINGS)
def test_a_stand_in_has_the_planned_shapes_and_runs(spec: str) -> None:
    graph, target = Graph(deep()), Target(threads=1)
    assert [s.name for s in graph.sites() if isinstance(s, Site)] == [*"abc", "scores"]
    # the input of the model is nobody's to prune
    made = stand_in(Graph(deep()), plan(SETTINGS[spec], "bc" if "cp" in spec else "abc"), parse(spec))
    assert made.macs() < graph.macs() / 2
    inference(made.runnable(), target, feed_of(graph.inputs(), graph.sizes, target))()
    assert made.outputs() == graph.outputs()


def test_a_plan_takes_what_its_shapes_take() -> None:
    times = on_paper(PaperMachine()).time(plan(SETTINGS["sd"], "b"))
    split = 2 * EACH + 784 * 2 * 64 * 16 * 3 * PER_MAC
    whole = 2 * DENSE + split + LAST
    assert times.shares == pytest.approx({"a": DENSE / whole, "b": split / whole, "c": DENSE / whole})
    assert times.speedups == pytest.approx([(3 * DENSE + LAST) / whole] * len(times.speedups))
    assert len(times.speedups) >= 8  # enough for a verdict


def test_plans_that_are_compared_are_timed_in_the_same_rounds() -> None:
    """The machine is slower every time; ratios within rounds hardly show it."""
    machine = PaperMachine()
    machine.noise = lambda: 1 + machine.seconds / 10
    first, second = on_paper(machine).compare([plan({}), plan(SETTINGS["sd"])])
    assert len(first) == len(second) >= 16
    assert np.median(first) == pytest.approx(1, rel=0.02)
    assert np.median(second) == pytest.approx(
        (3 * DENSE + LAST) / (6 * EACH + 3 * 784 * 6144 * PER_MAC + LAST), rel=0.02
    )


def test_the_original_on_paper() -> None:
    whole, in_place = time_original(Graph(deep()), PaperMachine(hidden=("c",)), "abc")
    assert whole == pytest.approx(3 * DENSE + LAST)
    assert in_place == pytest.approx({"a": DENSE, "b": DENSE, "c": 0.0})


def test_real_times_have_the_form_of_those_on_paper() -> None:
    machine = ThisMachine(Target(threads=1))
    timer = StandIns(lambda: Graph(deep()), parse("sd"), machine, seconds=0.1)
    times = timer.time(plan(SETTINGS["sd"]))
    whole, in_place = time_original(Graph(deep()), machine, "abc", seconds=0.1)
    assert len(times.speedups) >= 10
    assert all(0 < value < math.inf for value in (whole, *in_place.values(), *times.speedups))
    assert times.shares.keys() >= set("abc")
    assert in_place.keys() == set("abc")
    assert all(0 <= share <= 1 for share in times.shares.values())
