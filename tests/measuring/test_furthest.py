"""Which samples two models differ most on."""

from __future__ import annotations

import numpy as np
import pytest

from ndpass.measuring.furthest import SampleErrors


def ranked(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], most: int = 9, batch: int = 2
) -> list[tuple[int, float]]:
    found, count = SampleErrors(), len(next(iter(a.values())))
    for start in range(0, count, batch):
        rows = slice(start, start + batch)
        part, other = ({name: value[rows] for name, value in outputs.items()} for outputs in (a, b))
        found.add(part, other, len(next(iter(part.values()))))
    return found.ranked(most)


def test_the_error_of_a_sample_is_its_share_of_the_mean_square() -> None:
    a = np.array([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0]], np.float32)  # a square of 25 each
    b = a + np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]], np.float32)
    assert ranked({"y": a}, {"y": b}) == [(1, pytest.approx(1.0)), (2, pytest.approx(0.04))]
    assert ranked({"y": a}, {"y": b}, most=1) == [(1, pytest.approx(1.0))]


def test_an_output_of_large_values_counts_no_more_than_one_of_small_ones() -> None:
    boxes, scores = np.full((4, 2, 3), 320.0), np.full((4, 5), 0.5)
    other = scores.copy()
    other[2] = 0
    moved = boxes.copy()
    moved[0] *= 1.1
    found = ranked({"boxes": boxes, "scores": scores}, {"boxes": moved, "scores": other})
    assert found == [(2, pytest.approx(1.0)), (0, pytest.approx(0.01))]


def test_what_is_not_finite_is_furthest_and_what_has_no_rows_tells_nothing() -> None:
    found = SampleErrors()
    b = np.array([[1.0, 1.0], [np.nan, 1.0], [1.0, 2.0]])
    found.add({"y": np.ones((3, 2)), "count": np.array(3.0)}, {"y": b, "count": np.array(7.0)}, 3)
    assert found.ranked(9) == [(1, np.inf), (2, pytest.approx(0.5))]
    alone = SampleErrors()
    alone.add({"count": np.ones(1)}, {"count": np.zeros(1)}, 3)
    assert alone.ranked(9) == []


def test_an_output_of_one_row_is_none_of_a_last_batch_of_one_sample() -> None:
    found, ones = SampleErrors(), np.ones((2, 3))
    found.add({"count": np.ones(1), "y": ones}, {"count": np.zeros(1), "y": ones}, 2)
    found.add({"count": np.ones(1), "y": ones[:1]}, {"count": np.zeros(1), "y": 2 * ones[:1]}, 1)
    assert found.ranked(9) == [(2, pytest.approx(1.0))]
