"""What tables say in short."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.results import summary


@pytest.mark.parametrize(
    ("points", "at"), [([(3.0, 0.5), (5.0, 1.5)], "4.0"), ([(3.0, 1.5)], "under 3.0"), ([(3.0, 0.5)], "3.0 or more")]
)
def test_macs_at_a_drop(points: list[tuple[float, float]], at: str) -> None:
    usual: dict[str, Any] = {"pipeline": "sd", "samples": 9, "compensated": True, "slopes": True}
    found = [{**usual, "macs": 1 / t, "times_fewer": t, "drop": d} for t, d in points]
    fewer_images = {**usual, "samples": 5, "macs": 0.1, "times_fewer": 10.0, "drop": 0.0}
    (curve,) = summary.curves([*found, fewer_images])
    assert curve.at(1.0) == at


def test_gains_leave_out_what_is_exact() -> None:
    """At full rank both errors are rounding, and their ratio says nothing."""
    errors_of = {"a": (0.5, 0.1), "b": (0.3, 0.2), "full rank": (1e-8, 1e-7)}
    found = [
        {"layer": layer, "form": "pw-dw", "rank": 1, "data_free": free, "calibrated": fitted}
        for layer, (free, fitted) in errors_of.items()
    ]
    assert summary.gains(found, 1) == (pytest.approx(1.5), pytest.approx(5.0))


def test_of_each_curve_the_fastest_plan_inside_the_drop_counts() -> None:
    plans = [("sd", 0.5, 4.0), ("sd", 0.2, 2.0), ("sd", 1.5, 9.0), ("cd", 1.0, 5.0), ("nd", 2.0, 8.0)]
    found = [{"curve": curve, "drop": drop, "speedup": speedup} for curve, drop, speedup in plans]
    assert [(row["curve"], row["speedup"]) for row in summary.fastest(found, 1.0)] == [("cd", 5.0), ("sd", 4.0)]
