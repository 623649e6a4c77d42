"""Tables fit the terminal: names are shortened, columns go, numbers are never broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndpass.cli.table import Column, grouped, lines_of, middle

COLUMNS = (
    Column("layer", least=10),
    Column("op", need=2),
    Column("status"),
    Column("MACs", need=1, right=True),
    Column("empty"),
)
ROWS = [
    ["/model/backbone/stage1/block0/conv1/Conv", "Conv", "done", "15.35 G -> 313 M", ""],
    ["/model/backbone/stage1/block0/conv2/Conv", "Conv", "skipped", "1.20 M", ""],
]


def test_without_a_terminal_every_word_is_there() -> None:
    lines = lines_of(COLUMNS, ROWS)
    assert lines[0].split() == ["layer", "op", "status", "MACs"]
    for row, line in zip(ROWS, lines[1:], strict=True):
        assert all(cell in line for cell in row)
    assert lines[1].index("15.35") > lines[1].index("done")
    assert lines[1].endswith("15.35 G -> 313 M")
    assert lines[2].endswith("          1.20 M")  # numbers end in one column


def test_names_are_shortened_in_the_middle_before_a_column_goes() -> None:
    lines = lines_of(COLUMNS, ROWS, 60)
    assert max(map(len, lines)) <= 60
    assert lines[0].split() == ["layer", "op", "status", "MACs"]
    assert lines[1].startswith("/model/backb")
    assert "…" in lines[1]
    assert "conv1/Conv " in lines[1]
    assert "conv2/Conv " in lines[2]


def test_what_is_least_needed_goes_first_and_names_get_their_room_back() -> None:
    assert lines_of(COLUMNS, ROWS, 40)[0].split() == ["layer", "status", "MACs"]
    narrow = lines_of(COLUMNS, ROWS, 30)
    assert narrow[0].split() == ["layer", "status"]
    assert len(narrow[1].split()[0]) > 10


@given(st.integers(30, 200))
def test_a_number_is_whole_or_its_column_is_gone(width: int) -> None:
    lines = lines_of(COLUMNS, ROWS, width)
    assert max(map(len, lines)) <= width
    assert ("15.35 G -> 313 M" in lines[1]) == ("MACs" in lines[0])


@pytest.mark.parametrize(("text", "width", "short"), [("abc", 3, "abc"), ("abcdefgh", 5, "ab…gh"), ("abcdef", 2, "ab")])
def test_the_ends_of_a_name_are_what_tells_it_apart(text: str, width: int, short: str) -> None:
    assert middle(text, width) == short


def test_a_name_cannot_move_the_cursor() -> None:
    (_, line) = lines_of((Column("layer"),), [["conv\x1b[2J\r\n"]])
    assert line == "conv?[2J??"


def test_equal_reasons_are_said_once() -> None:
    assert grouped({"a": "too small", "b": "", "c": "grouped", "d": "too small"}) == {
        "too small": ["a", "d"],
        "grouped": ["c"],
    }
