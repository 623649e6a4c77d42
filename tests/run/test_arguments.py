"""Passes as a caller gives them: text, objects, or a list of both."""

from __future__ import annotations

from typing import Any

import pytest

from ndpass.errors import UsageError
from ndpass.passes import ChannelDecomposition, NetworkDecoupling
from ndpass.planning.candidate import Budget
from ndpass.run.arguments import parse_limit, passes_of


def test_auto_is_the_registry_s() -> None:
    assert [p.name for p in passes_of("auto", calibrated=True)] == ["bm", "cp", "cd", "sd", "nd"]
    assert [p.name for p in passes_of("auto", calibrated=False)] == ["cd", "sd", "nd"]


def test_text_and_objects_may_be_mixed() -> None:
    rules = passes_of([ChannelDecomposition(rank=4), "nd:rank=2"], calibrated=False)
    assert [(p.name, p.pinned) for p in rules] == [("cd", {"rank": 4}), ("nd", {"rank": 2})]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("auto,nd", "--passes auto stands alone: it uses every pass there is"),
        (["auto", "nd"], "--passes auto stands alone"),
        (["nd", NetworkDecoupling()], "give each pass once"),
        ([], "at least one"),
        ([NetworkDecoupling], "the class NetworkDecoupling is no pass: give names, as 'nd:rank=2', or objects"),
        ([2], "2 is no pass"),
    ],
)
def test_what_is_no_list_of_passes_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        passes_of(spec, calibrated=False)
    assert message in str(refused.value)


@pytest.mark.parametrize(("text", "seconds"), [("10min", 600), ("1.5h", 5400), (90, 90), ("45s", 45), (None, None)])
def test_a_time_limit_is_a_time(text: str | float | None, seconds: float | None) -> None:
    assert parse_limit(text, Budget("speedup", 2.0)) == seconds


@pytest.mark.parametrize("text", ["soon", "10 parsecs", "0min", "-3s", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--time-limit.*write a time, as 10min"):
        parse_limit(text, Budget("speedup", 2.0))


def test_a_time_limit_is_about_runs_that_plan() -> None:
    with pytest.raises(UsageError, match=r"--time-limit is about budgets that layers share"):
        parse_limit("10min", Budget("energy", 0.9))
