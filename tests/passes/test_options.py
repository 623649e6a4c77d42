"""Options of passes: what is a value, what is not, and help with typing errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndpass.errors import UsageError, did_you_mean
from ndpass.passes import ChannelPruning, NetworkDecoupling, parse
from ndpass.passes.options import usage


@pytest.mark.parametrize("value", [2, "2", "02", 2.0, np.int64(2), np.float64(2)])
def test_a_whole_number_is_taken_in_any_type(value: Any) -> None:
    pinned = NetworkDecoupling(rank=value).pinned
    assert pinned == {"rank": 2}
    assert type(pinned["rank"]) is int


@pytest.mark.parametrize(
    "value",
    [2.5, np.float32(2.5), float("nan"), float("inf"), True, np.True_, None, [2], "2.5", "-2", "+2", " 2", "two"],
)
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(UsageError) as refused:
        NetworkDecoupling(rank=value)
    assert str(refused.value) == f"nd:rank={value}: give a whole number or full"


@pytest.mark.parametrize("value", [0, -2, "0", 0.0, -3.0, np.int8(-1)])
def test_a_rank_is_at_least_one(value: Any) -> None:
    with pytest.raises(UsageError, match="a rank is at least 1"):
        NetworkDecoupling(rank=value)


@pytest.mark.parametrize("value", [2.5, True, 0, -3, "-3", "all", None])
def test_channels_are_whole_numbers_from_one_on(value: Any) -> None:
    with pytest.raises(UsageError) as refused:
        ChannelPruning(channels=value)
    assert str(refused.value) == f"cp:channels={value}: give a whole number, at least 1"


def test_a_number_of_more_digits_than_python_reads_is_refused() -> None:
    with pytest.raises(UsageError, match="give a whole number or full"):
        parse(f"nd:rank={'9' * 5_000}")


@pytest.mark.parametrize(
    ("spec", "end"),
    [
        ("ND", "the passes are nd, cd, sd, cp, bm; did you mean 'nd'?"),
        ("cpp", "; did you mean 'cp'?"),
        ("Auto", "; did you mean 'auto'?"),
        ("xy", "the passes are nd, cd, sd, cp, bm"),
        ("nd:rnk=2", "it has rank, form; did you mean 'rank'?"),
        ("nd:Rank=2", "it has rank, form; did you mean 'rank'?"),
        ("nd:width=2", "it has rank, form"),
        ("nd:rank=FULL", "give a whole number or full; did you mean 'full'?"),
        ("nd:form=dwpw", "give pw-dw or dw-pw; did you mean 'dw-pw'?"),
        ("nd:form=PW-DW", "give pw-dw or dw-pw; did you mean 'pw-dw'?"),
        ("sd:order=HV", "give vh or hv; did you mean 'hv'?"),
        ("cd:solver=linaer", "give linear or relu; did you mean 'linear'?"),
        ("cp:criterion=lass", "give greedy or lasso or l2; did you mean 'lasso'?"),
    ],
)
def test_a_typing_error_is_helped_with(spec: str, end: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(spec)
    assert str(refused.value).endswith(end)


def test_nothing_near_is_no_help() -> None:
    assert did_you_mean("zebra", ["rank", "form"]) == ""
    assert did_you_mean("", ["rank"]) == ""


def test_usage_says_what_each_option_takes() -> None:
    assert usage(NetworkDecoupling.options) == "rank=N|full; form=pw-dw|dw-pw"
    assert usage(ChannelPruning.options) == "channels=N; criterion=greedy|lasso|l2"
