"""Which candidates are timed, and how the others follow from them, on a machine on paper."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
from models import deep

from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate, pareto, seconds_of
from ndpass.planning.candidates import candidates_for
from ndpass.planning.latency_table import kind
from ndpass.planning.timed_rounds import FEWER, MORE, PER_KIND, fronts_of, timed_in_rounds

RATES = {"cd": 1.0, "sd": 1.2, "nd": 2.0}  # seconds per MAC on the paper machine, times the layer's own
EACH = 2e-3  # of the layer's seconds, that a candidate of one more pass takes besides


class Paper:
    """Seconds of candidates along a straight line of its own for every kind; `asked`: what was timed."""

    def __init__(self, dense: Candidate) -> None:
        self.dense, self.asked = dense, list[Candidate]()

    def seconds(self, c: Candidate) -> float:
        rate = max((RATES[name] for name in c.setting), default=1.0)
        return rate * c.macs / self.dense.macs + EACH * len(c.setting)

    def __call__(self, few: Sequence[Candidate]) -> list[float]:
        assert few[0].setting == {}
        self.asked += few[1:]
        return [self.seconds(c) for c in few]


@functools.cache
def layer() -> list[Candidate]:
    """The candidates of a layer of three passes and their compositions, with exact errors."""
    site = next(s for s in Graph(deep()).sites() if isinstance(s, Site))
    return candidates_for(site, parse("cd,sd,nd"), most=2)


def test_where_time_is_a_line_the_front_is_that_of_a_full_table_after_a_part_of_the_timings() -> None:
    ways = layer()
    paper = Paper(ways[0])
    found = timed_in_rounds(ways, paper)
    every = [Candidate(c.macs, c.error, c.setting, paper.seconds(c)) for c in ways]
    wanted = pareto(every, seconds_of)
    assert [c.setting for c in pareto(found, seconds_of)] == [c.setting for c in wanted]
    assert [c.seconds for c in pareto(found, seconds_of)] == pytest.approx([c.seconds for c in wanted])
    assert len(paper.asked) < 0.5 * sum(min(len(front), 6) for front in fronts_of(ways))


def test_of_each_pass_alone_the_cheapest_and_the_dearest_are_timed_first() -> None:
    ways = layer()
    paper = Paper(ways[0])
    timed_in_rounds(ways, paper)
    alone = [front for front in fronts_of(ways) if len(front[0].setting) == 1]
    first = paper.asked[: 2 * len(alone)]
    assert [(c.setting, c.macs) for c in first] == [
        (c.setting, c.macs) for front in alone for c in (front[0], front[-1])
    ]


def test_no_candidate_is_timed_twice_and_no_kind_more_often_than_is_said() -> None:
    ways = layer()
    paper = Paper(ways[0])
    timed_in_rounds(ways, paper)
    settings = [repr(c.setting) for c in paper.asked]
    assert len(settings) == len(set(settings))
    kinds = [kind(c) for c in paper.asked]
    assert max(kinds.count(one) for one in kinds) <= PER_KIND


def test_a_composition_that_nothing_speaks_for_is_not_timed_and_a_bound_does_not_speak_against_one() -> None:
    dense = Candidate(1000)
    cd, sd = Candidate(100, 0.1, {"cd": {"rank": 1}}), Candidate(200, 0.05, {"sd": {"rank": 1}})
    both = {"cd": {"rank": 1}, "sd": {"rank": 1}}
    worse = Candidate(150, 0.2, both)
    assert [c.setting for c in timed_in_rounds([dense, cd, sd, worse], Paper(dense))] == [{}, cd.setting, sd.setting]
    open_cd = Candidate(100, 0.1, {"cd": {"rank": 1}}, bound=True)
    assert len(timed_in_rounds([dense, open_cd, sd, worse], Paper(dense))) == 4


def test_what_is_not_timed_lies_between_what_is() -> None:
    """On the line by MACs."""
    dense = Candidate(1000)
    ways = [dense, *(Candidate(macs, 1 / macs, {"sd": {"rank": macs}}) for macs in (100, 110, 120, 130))]
    seconds = {1000: 1.0, 100: 0.1, 110: 0.5, 130: 0.4}
    found = timed_in_rounds(ways, lambda few: [seconds[c.macs] for c in few])
    assert [c.seconds for c in found] == pytest.approx([1.0, 0.1, 0.2, 0.3, 0.4])


def test_candidates_beyond_what_was_worth_timing_are_no_bargain() -> None:
    """Of a composition only the middle was open: what lies outside is kept with a time that it can have, less than in
    proportion below and above."""
    dense = Candidate(1000)
    alone = [Candidate(macs, error, {"cd": {"rank": macs}}) for macs, error in ((50, 0.5), (190, 0.4), (600, 0.1))]
    both = [
        Candidate(macs, error, {"cd": {"rank": macs}, "sd": {"rank": 1}})
        for macs, error in ((60, 0.55), (200, 0.2), (300, 0.19), (800, 0.15))
    ]
    found = timed_in_rounds([dense, *alone, *both], Paper(dense))
    by_macs = {c.macs: seconds_of(c) for c in found if len(c.setting) == 2}
    (least, most) = (200, 300) if by_macs[200] < by_macs[300] else (300, 300)
    assert by_macs[60] == pytest.approx(by_macs[least] * (60 / least) ** FEWER)
    assert by_macs[800] == pytest.approx(by_macs[most] * (800 / most) ** MORE)


def test_a_composition_begins_with_one_timing_and_gets_more_where_it_has_a_part_in_the_front() -> None:
    dense = Candidate(1000)
    cd = [Candidate(macs, 90 / macs, {"cd": {"rank": macs}}) for macs in (500, 900)]
    both = [
        Candidate(macs, 0.5 / macs, {"cd": {"rank": macs}, "sd": {"rank": 1}}) for macs in (100, 200, 400, 600, 800)
    ]
    asked: list[list[int]] = []

    def time(few: Sequence[Candidate]) -> list[float]:
        asked.append([c.macs for c in few[1:]])
        return [c.macs / 1000 for c in few]

    found = timed_in_rounds([dense, *cd, *both], time)
    assert asked[:2] == [[500, 900], [400]]
    assert sorted(macs for later in asked[2:] for macs in later) == [100, 200, 800]  # 600 is near 400
    assert [seconds_of(c) for c in found if len(c.setting) == 2] == pytest.approx([0.1, 0.2, 0.4, 0.6, 0.8])


def test_pinned_compositions_alone_are_timed() -> None:
    dense = Candidate(1000)
    only = Candidate(200, 0.2, {"cd": {"rank": 1}, "nd": {"rank": 1}})
    assert np.isclose(seconds_of(timed_in_rounds([dense, only], Paper(dense))[1]), 0.4 + 2 * EACH)
