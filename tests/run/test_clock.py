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
