"""Plans that fit only what they ask for are as good as those made from everything, after a part of the fits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from paper_machine import PaperMachine

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import BudgetError
from ndpass.files.model_file import open_graph
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import parse
from ndpass.planning import plan
from ndpass.planning.candidate import Budget, Candidate, Choice, damage, pareto, possible
from ndpass.planning.candidate_times import timed_table
from ndpass.planning.candidates import refused
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.ledger import CLOSE, Ledger, decided
from ndpass.planning.plan import Planner
from ndpass.planning.shelf import Shelf
from ndpass.planning.stand_in import StandIns
from ndpass.planning.timed_search import TimedSearch
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run import digits

PASSES = "cp,cd,sd,nd"
LAYERS = ("block1.conv1", "down")


@pytest.fixture(autouse=True)
def no_layer_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers of the digits model are."""
    monkeypatch.setattr(plan, "NARROW", 0)


def silent(*_: object) -> None:
    pass


@cache
def subject() -> tuple[Graph, list[Site], Calibration]:
    """Some layers of the digits model, with few data."""
    graph = open_graph(digits.model_path()).graph
    sites = [s for s in graph.sites() if isinstance(s, Site) and s.name in LAYERS]
    sites = [s for s in sites if refused(graph, s, parse(PASSES), True) is None]
    feeds = open_feeds(digits.images()[0][0][:16], graph.inputs())
    return graph, sites, Calibration.of(graph, sites, feeds, 1, 0, 1 << 30)


def planner(jobs: int = 1, store: Checkpoint | None = None, shelf: Shelf | None = None) -> Planner:
    graph, _, calibration = subject()
    return Planner(graph, parse(PASSES), calibration, 2, jobs, store, shelf or Shelf(None, 1 << 30))


@cache
def full() -> Ledger:
    """Of all candidates, fitted."""
    return planner().ledger(subject()[1], silent, fitted=True)


def fits(ledger: Ledger) -> int:
    return sum(len(estimates.known.fitted) for estimates in ledger.estimates.values())


@pytest.mark.parametrize("share", [0.73, 0.85])
def test_a_plan_does_no_more_damage_than_one_from_the_whole_table(share: float) -> None:
    _, sites, _ = subject()
    budget, lazy = Budget("macs", share), planner()
    ledger = lazy.ledger(sites, silent)
    assert fits(ledger) == 0
    found, best = lazy.plan_with(ledger, sites, budget), lazy.plan_with(full(), sites, budget)
    assert damage(found) <= CLOSE * damage(best)
    assert 0 < fits(ledger) < 0.7 * fits(full())
    exact = {name: {str(c.setting): c for c in ways} for name, ways in full().table().items()}
    for name, choice in found.items():
        assert not choice.candidate.bound
        known = exact[name].get(str(choice.candidate.setting), choice.candidate)  # cp goes with what was on the front
        assert choice.candidate == known


def test_bounds_are_below_what_fits_say_and_come_to_it() -> None:
    """After fits through the shelf, to the last bit; nearly all bounds hold, for fits take turns and end early."""
    ledger = planner().ledger(subject()[1], silent)
    exact = {(name, str(c.setting)): c.error for name, ways in full().table().items() for c in ways}
    bounds = [(name, c) for name, ways in ledger.table().items() for c in ways if "cp" not in c.setting]
    assert sum(c.bound for _, c in bounds) > 50
    assert all(c.bound == (len(c.setting) > 1) for _, c in bounds)
    kept = [c.error <= exact[name, str(c.setting)] + 1e-12 for name, c in bounds]
    assert sum(kept) >= 0.97 * len(kept)
    settle_all(ledger)
    assert ledger.table() == full().table()
    assert fits(ledger) <= fits(full())


def test_what_was_known_at_some_moment_is_known_again() -> None:
    """Of fits that a run has made before it was cut off, those count that had been asked for at the moment."""
    ledger, again = (planner().ledger(subject()[1], silent) for _ in range(2))
    for name, ways in ledger.table().items():
        ledger.settle({name: Choice(next(c for c in ways if c.bound))})
    asked, then = json.loads(json.dumps(ledger.asked)), ledger.table()
    settle_all(ledger)
    for name, estimates in again.estimates.items():
        estimates.known.fitted.update(ledger.estimates[name].known.fitted)
    assert again.table() != then != ledger.table()
    again.recall(asked)
    assert again.table() == then


def settle_all(ledger: Ledger) -> None:
    """Ask for one bound after the other."""
    while wanted := {
        name: Choice(next(c for c in ways if c.bound))
        for name, ways in ledger.table().items()
        if any(c.bound for c in ways)
    }:
        ledger.settle(wanted)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.usefixtures("folder")
def test_planning_that_is_cut_off_while_it_fits_comes_to_the_same_plan(jobs: int) -> None:
    """Cut off at each step of fitting, with moments kept, lost and damaged; what was fitted is not fitted again."""
    _, sites, _ = subject()
    budget, checkpoint = Budget("macs", 0.7), Checkpoint.beside(Path("out.onnx"))
    checkpoint.start({})
    want = planner().plan(sites, budget, silent)
    folder = checkpoint.part("moments").folder

    def again(stop: int) -> dict[str, Choice]:
        steps = itertools.count()

        def listen(stage: str, _done: int, _total: int) -> None:
            if stage == "fitting candidates" and next(steps) == stop:
                raise KeyboardInterrupt

        return planner(jobs, checkpoint.part("candidates"), Shelf(folder, 1 << 30)).plan(sites, budget, listen)

    for stop in range(2):
        with pytest.raises(KeyboardInterrupt):
            again(stop)
        kept = sorted(folder.iterdir())
        assert kept
        kept[stop % len(kept)].write_bytes(b"damaged") if stop % 2 else kept[stop % len(kept)].unlink()
    assert again(-1) == want


def test_without_room_for_moments_everything_is_fitted_at_once() -> None:
    _, sites, _ = subject()
    lazy = planner(shelf=Shelf(None, 0))
    ledger = lazy.ledger(sites, silent)
    assert ledger.table() == full().table()


def test_layers_have_room_on_the_shelf_in_their_order() -> None:
    sites = subject()[1]
    n = sites[0].outline.n_i * sites[0].outline.kernel_size
    shelf = Shelf(None, 8 * n * (n + 4 * sites[0].outline.n_o) // 4)
    assert [shelf.has_room(site) for site in sites] == [True, False]


def test_moments_come_back_from_the_shelf_as_they_were() -> None:
    graph, sites, calibration = subject()
    shelf, moments = Shelf(None, 1 << 30), calibration.walk(graph).moments(sites[0])
    assert shelf.get(sites[0].name) is None
    assert shelf.put(sites[0].name, moments)
    found = shelf.get(sites[0].name)
    assert found
    assert found.count == moments.count
    for name in ("x_mean", "y_mean", "C", "B", "g", "anchor", "best"):
        np.testing.assert_array_equal(getattr(found, name), getattr(moments, name))
        assert getattr(found, name).flags.f_contiguous == getattr(moments, name).flags.f_contiguous
    for name in ("diagonal", "B", "g", "noise"):
        np.testing.assert_array_equal(getattr(found.alone, name), getattr(moments.alone, name))


# ---------------------------------------------------------------------------------------------------------------- time


def test_a_search_by_time_fits_what_it_asks_for() -> None:
    """Both ways of asking: for a speedup, and for a damage."""
    graph, sites, _ = subject()
    passes, machine, damages, aims = parse(PASSES), PaperMachine(), [], []
    ledgers = planner().ledger(sites, silent), full()
    for ledger in ledgers:
        table = timed_table(graph, sites, ledger.table(), passes, Latencies(machine, None))
        timer = StandIns(lambda: open_graph(digits.model_path()).graph, passes, machine)
        names, fronts = [p.name for p in passes], Coupling(graph, sites, passes).fronts
        search = TimedSearch(table, timer, names, fronts, ledger)
        found = search.planned(table.whole / 1.2)
        assert not any(choice.candidate.bound for choice in found.values())
        damages.append(damage(found))
        aims.append(search.aim_for(damage(found)))
    assert damages[0] <= CLOSE * damages[1]
    assert aims[0] == pytest.approx(aims[1], rel=0.02)
    assert fits(ledgers[0]) < 0.7 * fits(full())


# --------------------------------------------------------------------------------------------------------------- pieces


def way(macs: int, error: float, *, bound: bool = False) -> Candidate:
    return Candidate(macs, error, {"cd": {"rank": macs}}, bound=bound)


def test_what_a_bound_may_yet_beat_is_possible() -> None:
    exact = [way(10, 0.5), way(20, 0.3), way(25, 0.4), way(30, 0.1)]
    bounds = [way(15, 0.4, bound=True), way(16, 0.5, bound=True), way(18, 0.39, bound=True), way(40, 0.05, bound=True)]
    assert possible(exact) == pareto(exact)
    assert possible([*exact, *bounds]) == [exact[0], bounds[0], bounds[2], exact[1], exact[3], bounds[3]]


def test_a_plan_is_decided_when_it_is_exact_or_as_good_as_exact() -> None:
    bound, near, far = way(10, 0.5, bound=True), way(10, 0.504), way(10, 0.6)

    def least(table: Mapping[str, Sequence[Candidate]]) -> dict[str, Choice]:
        if not all(table.values()):
            raise BudgetError("nothing")
        return {name: Choice(min(ways, key=lambda c: c.error)) for name, ways in table.items()}

    for ways, want in (([near, far], near), ([bound, near], near), ([bound, far], None), ([bound], None)):
        table = {"a": ways}
        found = decided(least(table), table, least)
        assert (found and found["a"].candidate) == want
