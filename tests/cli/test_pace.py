"""Elapsed and remaining time on recorded ticks; no test looks at a real clock."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import pytest

from ndpass.cli.pace import Pace, about, clock
from ndpass.cli.progress import BEAT, EVERY, Lines, announcement, where
from ndpass.listener import Renamed, Step, Within, expect, shares, tell

Tick = tuple[float, Step]
SECONDS = {"planning": 40.0, "rewriting": 20.0, "verifying": 4.0}
# a run of five layers, recorded: the stage, the step and the second at which it began; the last layer is the largest
WORK = (1.0, 2.0, 3.0, 4.0, 10.0)
PLANNING = [Step("planning", i, 5, f"conv{i}", share) for i, share in enumerate(shares(WORK))]
REWRITING = [Step("rewriting", i, 5, f"conv{i}", share) for i, share in enumerate(shares(WORK))]
RECORDED: list[Tick] = [
    *((2.0 + 80 * step.behind, step) for step in PLANNING),  # twice as long as expected
    *((82.0 + 38 * step.behind, step) for step in REWRITING),
    (120.0, Step("verifying", 0, 2)),
    (124.0, Step("verifying", 1, 2)),
]
END = 128.0


class Hands:
    """A clock that shows what it is set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def lefts(ticks: Sequence[Tick], expected: dict[str, float], every: float = 1.0) -> dict[float, float | None]:
    """What is said to be left, at each moment from the first tick on."""
    hands = Hands()
    pace = Pace(hands)
    expect(pace, expected)
    todo, said = list(ticks), {}
    for moment in itertools.takewhile(lambda t: t < END, itertools.count(ticks[0][0], every)):
        while todo and todo[0][0] <= moment:
            hands.seconds, step = todo.pop(0)
            tell(pace, step)
        hands.seconds = moment
        said[moment] = pace.left
    return said


def test_every_frame_after_the_reading_has_an_estimate() -> None:
    said = lefts(RECORDED, SECONDS)
    assert len(said) > 100
    assert None not in said.values()


def test_the_estimate_is_right_once_a_quarter_is_behind_however_slow_the_machine() -> None:
    said = lefts(RECORDED, SECONDS)
    for moment, left in said.items():
        assert left is not None
        if moment >= END / 4:
            assert left == pytest.approx(END - moment, rel=0.35, abs=6)


def test_without_knowledge_of_the_stages_the_steps_tell_what_is_left_of_this_one() -> None:
    said = lefts(RECORDED[:5], {})
    assert said[2.0] is None
    assert said[20.0] == pytest.approx(62.0)  # 82 is the end of the stage


def test_before_it_is_known_what_comes_the_steps_of_the_first_stages_tell_nothing_of_the_whole() -> None:
    hands = Hands()
    pace = Pace(hands)
    for done in range(3):
        hands.seconds = 10.0 * done
        tell(pace, Step("measuring the original", done, 4))
    assert pace.left is None
    assert pace.share == 0.5


def test_work_is_weighted_so_the_largest_layer_does_not_come_as_a_surprise() -> None:
    def counted(step: Step) -> Step:
        return Step(step.stage, step.done, step.total)

    alike = lefts([(moment, counted(step)) for moment, step in RECORDED[:5]], {})
    weighted = lefts(RECORDED[:5], {})
    assert weighted[30.0] == pytest.approx(52.0)
    assert alike[30.0] is not None
    assert alike[30.0] < 20


def test_time_left_runs_down_between_steps_and_never_below_zero() -> None:
    hands = Hands()
    pace = Pace(hands)
    expect(pace, {"verifying": 10.0})
    tell(pace, Step("verifying", 0, 1))
    said = []
    for moment in (0.0, 4.0, 9.0, 30.0):
        hands.seconds = moment
        said.append(pace.left)
    assert said == [10.0, 6.0, 1.0, 0.0]
    assert pace.share == 1.0


def test_a_stage_that_comes_again_does_not_bring_back_those_behind_it() -> None:
    hands = Hands()
    pace = Pace(hands)
    expect(pace, {"timing plans": 5.0, "fit 1": 30.0, "fit 2": 30.0})
    for moment, stage in ((0, "timing plans"), (5, "fit 1"), (35, "timing plans")):
        hands.seconds = float(moment)
        tell(pace, Step(stage, 0, 4))
    assert pace.left == pytest.approx(35.0)


def test_a_stage_that_nobody_expected_leaves_what_is_known_of_the_others() -> None:
    hands = Hands()
    pace = Pace(hands)
    expect(pace, SECONDS)
    for moment, stage in ((0, "planning"), (40, "fitting candidates")):
        hands.seconds = float(moment)
        tell(pace, Step(stage, 0, 4))
    assert pace.left == pytest.approx(24.0)
    hands.seconds = 44.0
    tell(pace, Step("fitting candidates", 2, 4))
    assert pace.left == pytest.approx(28.0)


def test_news_is_no_stage() -> None:
    pace = Pace(Hands())
    pace("original: top1 91 %", 0, 0)
    assert pace.stage is None
    assert pace.left is None


def test_a_plain_line_comes_every_ten_seconds() -> None:
    hands, out = Hands(), io.StringIO()
    lines = Lines(Pace(hands), out)
    expect(lines, {"planning": 100.0})
    lines("original: top1 91 %", 0, 0)
    written = []
    steps = {0: Step("planning", 0, 4, "conv1", 0.0), 30: Step("planning", 1, 4, "conv2", 0.25)}
    for second in range(46):
        hands.seconds = float(second)
        if second in steps:
            tell(lines, steps[second])
        before = out.tell()
        lines.beat()
        if out.tell() > before:
            written.append(second)
    assert written == [10, 20, 30, 40]
    text = out.getvalue().splitlines()
    assert text[1] == "ndpass: original: top1 91 %"
    assert text[2] == "ndpass: planning"
    assert text[3] == "ndpass: planning conv1 (1 of 4), 0:10 elapsed, about 1:30 left"
    assert text[-1] == "ndpass: planning conv2 (2 of 4), 0:40 elapsed, about 1:20 left"
    assert max(b - a for a, b in itertools.pairwise([0, *written])) <= 10
    assert EVERY + BEAT < 10


def test_a_command_without_stages_is_silent_until_ten_seconds_have_passed() -> None:
    hands, out = Hands(), io.StringIO()
    lines = Lines(Pace(hands), out, stages=False)
    tell(lines, Step("timing openvino f32", 0, 1))
    lines.beat()
    assert out.getvalue() == ""
    hands.seconds = 10.0
    lines.beat()
    assert out.getvalue() == "ndpass: timing openvino f32, 0:10 elapsed, time left unknown\n"


def test_the_start_says_what_it_takes_and_what_else_the_machine_does() -> None:
    busy = announcement(540, lambda: (8.0, 7.0, 6.0), 2)
    assert busy == "this takes about 9 min on an idle machine; load is 8.0 on 2 cores"
    assert announcement(540, lambda: (0.4, 0.0, 0.0), 2) == "this takes about 9 min"
    assert announcement(8, lambda: (8.0, 7.0, 6.0), 2) == ""


def test_where_names_the_stage_the_layer_and_its_number() -> None:
    assert where(Step("planning", 6, 13, "conv3_1")) == "planning conv3_1 (7 of 13)"
    assert where(Step("writing", 0, 1)) == "writing"


def test_a_listener_of_three_arguments_hears_the_steps_under_the_stage_s_own_name() -> None:
    heard: list[tuple[str, int, int]] = []
    tell(Renamed(lambda *step: heard.append(step), "fit 1"), Step("rewriting", 1, 3, "conv", 0.2))
    expect(lambda *step: heard.append(step), {"fit 1": 3.0})
    assert heard == [("fit 1", 1, 3)]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(21, "20 s"), (88, "90 s"), (540, "9 min"), (7000, "1.9 h")])
def test_about(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_no_more_is_left_than_a_limit_leaves() -> None:
    """A machine four times as slow as expected: the run leaves work out, it does not take four times as long."""
    hands = Hands()
    pace = Pace(hands)
    expect(pace, Within({"planning": 20.0, "rewriting": 40.0}, 60.0))
    pace("planning", 0, 10)
    assert pace.left == pytest.approx(60)
    hands.seconds = 40
    pace("planning", 5, 10)
    assert pace.left == pytest.approx(20)
    hands.seconds = 70  # and if it is late all the same, by what it still has to do
    pace("rewriting", 1, 10)
    assert (pace.left or 0) > 36
