"""The table's arithmetic, and what it learns from plans whose times are given."""

from __future__ import annotations

import pytest
from planned_times import table, timed, way

from ndpass.planning.latency_table import COUNTABLE, LatencyTable, kind


def seconds(of: LatencyTable, name: str) -> list[float | None]:
    return [c.seconds for c in of.candidates[name]]


def test_rest_is_what_the_layers_do_not_take() -> None:
    one = table()
    assert one.rest == pytest.approx(100e-6)
    chosen = {"a": one.candidates["a"][1], "b": one.candidates["b"][0]}
    assert one.predicted(chosen) == pytest.approx(250e-6)


def test_a_kind_is_what_remains_of_a_setting_without_its_numbers() -> None:
    one = way(1e-6, 0.0, cp={"channels": 3, "criterion": "l2"}, nd={"form": "dw-pw", "rank": 2})
    assert kind(one) == ("cp:l2", "nd:dw-pw")


# ------------------------------------------------------------------------------------------------------- corrections


def test_what_was_timed_corrects_its_kind_and_all_others_together() -> None:
    one = table()
    assert one.learn(timed(one, {"a": 1, "b": 0}, {"a": 25e-6, "b": 100e-6})) == []
    assert seconds(one, "a") == pytest.approx([100e-6, 25e-6, 10e-6])
    # what was not timed shares what lies between a small model and the whole one, as far as that was seen
    assert seconds(one, "b") == pytest.approx([100e-6, 50e-6, 25e-6])
    assert one.scale == pytest.approx(125 / 150)


def test_the_same_times_are_learnt_once() -> None:
    """Though the plan still says what was predicted when it was made."""
    one = table()
    found = timed(one, {"a": 1, "b": 0}, {"a": 25e-6, "b": 100e-6})
    for _ in range(3):
        one.learn(found)
    assert seconds(one, "a") == pytest.approx([100e-6, 25e-6, 10e-6])
    assert seconds(one, "b") == pytest.approx([100e-6, 50e-6, 25e-6])
    assert one.scale == pytest.approx(125 / 150)


def test_a_plan_that_is_kept_gets_the_seconds_of_now() -> None:
    one = table()
    found = timed(one, {"a": 1, "b": 1}, {"a": 25e-6, "b": 30e-6})
    one.learn(found)
    again = one.without(found.plan, ["b"])
    assert again["a"].candidate.seconds == pytest.approx(25e-6)
    assert again["b"].candidate is one.candidates["b"][0]


def test_a_layer_where_something_was_taken_back_is_corrected_too() -> None:
    one = table()
    assert one.learn(timed(one, {"a": 1, "b": 0}, {"a": 150e-6, "b": 100e-6})) == ["a"]
    assert seconds(one, "a") == pytest.approx([100e-6, 60e-6])  # three times as long as predicted
    assert one.learn(timed(one, {"a": 1, "b": 0}, {"a": 30e-6, "b": 100e-6})) == []
    assert seconds(one, "a") == pytest.approx([100e-6, 30e-6])  # half of that


# -------------------------------------------------------------------------------------------------- what is taken back


def test_what_is_slower_in_place_is_ruled_out_with_its_reason() -> None:
    one = table()
    assert one.learn(timed(one, {"a": 1, "b": 1}, {"a": 120e-6, "b": 40e-6})) == ["a"]
    assert [c.setting for c in one.candidates["a"]] == [{}, {"nd": {"rank": 1}}]  # the cheaper one may pay
    kept = one.kept("a")
    assert (kept.status, kept.candidate.setting) == ("reverted", {})
    assert kept.reason == "in place it took 120 µs, as it is 100 µs"


def test_why_a_layer_is_kept() -> None:
    one = table()
    assert one.kept("a").reason == "the budget is met with less damage elsewhere"
    one.candidates["a"] = [one.candidates["a"][0], way(110e-6, 0.1, nd={"rank": 2})]
    assert one.kept("a").reason == "nothing that was timed is faster than it is"
    assert one.kept("a").status == "kept"


def hidden(before: float) -> LatencyTable:
    """Layer "m" takes some of the 100 µs that no counter shows for other layers."""
    one = table()
    one.candidates["m"] = [way(15e-6, 0.0), way(8e-6, 0.1, sd={"rank": 1}), way(5e-6, 0.2, nd={"rank": 1})]
    one.in_place["m"] = before
    return one


@pytest.mark.parametrize("before", [0.0, COUNTABLE / 2])
def test_a_layer_that_no_counter_showed_is_taken_back_where_the_model_is_no_faster(before: float) -> None:
    """0.0 µs before and 19.8 after are no gain, and no loss either: the whole of 305 µs says that it is one."""
    one = hidden(before)
    found = timed(one, {"a": 0, "b": 0, "m": 1}, {"a": 100e-6, "b": 100e-6, "m": 19.8e-6}, whole=305e-6)
    assert one.learn(found) == ["m"]
    assert [c.setting for c in one.candidates["m"]] == [{}]
    assert one.kept("m").status == "reverted"
    assert one.kept("m").reason == (
        "counters do not show it, and with it the rest of the model took 305 µs, as it is 300 µs"
    )


def test_a_layer_that_no_counter_showed_stays_where_the_model_is_faster_for_it() -> None:
    one = hidden(0.0)
    found = timed(one, {"a": 0, "b": 0, "m": 1}, {"a": 100e-6, "b": 100e-6, "m": 19.8e-6}, whole=290e-6)
    assert one.learn(found) == []
    assert len(one.candidates["m"]) == 3
    assert one.seconds_in_place("m", found, changed=True) is None


def test_what_counters_show_is_no_excuse_for_what_they_do_not() -> None:
    """Layer "a" saves 50 µs by its own counters, and the whole is faster by 40 only."""
    one = hidden(0.0)
    found = timed(one, {"a": 1, "b": 0, "m": 1}, {"a": 50e-6, "b": 100e-6, "m": 19.8e-6}, whole=260e-6)
    assert one.learn(found) == ["m"]
    assert one.kept("m").reason.endswith("the rest of the model took 210 µs, as it is 200 µs")
    assert [c.setting for c in one.candidates["a"]][1:] == [{"nd": {"rank": 2}}, {"nd": {"rank": 1}}]


def test_a_layer_that_vanished_from_the_counters_did_not_become_free() -> None:
    """It was fused into another node: what it takes is in the rest, which grew by 60 µs where it should by 50."""
    one = table()
    found = timed(one, {"a": 1, "b": 0}, {"a": 0.0, "b": 100e-6}, whole=310e-6)
    assert one.learn(found) == ["a"]
    assert one.seconds_in_place("a", found, changed=True) is None


# ----------------------------------------------------------------------------------------------------------- the rows


def test_the_seconds_of_a_row_are_those_that_counters_show() -> None:
    one = hidden(0.0)
    found = timed(one, {"a": 1, "b": 0, "m": 0}, {"a": 40e-6, "b": 13.4e-6, "m": 3e-6}, whole=230e-6)
    assert one.seconds_in_place("a", found, changed=True) == (100e-6, 40e-6)
    assert one.seconds_in_place("b", found, changed=False) == (
        100e-6,
        100e-6,
    )  # it was left alone: it takes what it did
    assert one.seconds_in_place("m", found, changed=False) is None
