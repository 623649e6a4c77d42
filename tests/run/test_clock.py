"""Seconds by stage: each second counts once."""

from __future__ import annotations

import pytest

from ndpass.run.clock import Clock


def test_a_stage_inside_another_stops_the_outer_one() -> None:
    now = [0.0]
    clock = Clock(lambda: now[0])
    with clock("plan"):
        now[0] += 2
        with clock("rewrite"):
            now[0] += 5
        now[0] += 1
    now[0] += 10
    with clock("rewrite"):
        now[0] += 1
    assert clock.seconds == {"plan": 3.0, "rewrite": 6.0, "total": 19.0}


def test_a_stage_that_fails_counts_too() -> None:
    now = [0.0]
    clock = Clock(lambda: now[0])

    def fails() -> None:
        with clock("plan"):
            now[0] += 2
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    with clock("verify"):
        now[0] += 1
    assert clock.seconds == {"plan": 2.0, "verify": 1.0, "total": 3.0}


def test_what_listeners_are_told_of_is_counted_from_step_to_step() -> None:
    now, heard = [0.0], []
    clock = Clock(lambda: now[0])
    listen = clock.hearing(lambda *step: heard.append(step))
    for stage, done, total, took in [("read", 0, 1, 1), ("plan", 0, 2, 4), ("plan", 1, 2, 2), ("news", 0, 0, 3)]:
        listen(stage, done, total)
        now[0] += took
    assert clock.told == {"read": 1.0, "plan": 9.0}
    listen("read", 0, 1)
    now[0] += 5
    assert clock.told == {"read": 6.0, "plan": 9.0}
    assert heard == [("read", 0, 1), ("plan", 0, 2), ("plan", 1, 2), ("news", 0, 0), ("read", 0, 1)]
