"""Errors by output and by group of channels, against the formula on all samples at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ndpass.measuring.output_errors import OutputError, OutputErrors, channel_axis, channel_groups, flat, worst

Floats = NDArray[np.float64]


def yolo(samples: int = 6, anchors: int = 150, seed: int = 0) -> NDArray[np.float32]:
    """(samples, 84, anchors): four rows of boxes in 0..320 and 80 of scores in 0..1, one class in ten ever seen."""
    rng = np.random.default_rng(seed)
    boxes = 320 * rng.random((samples, 4, anchors))
    scores = rng.random((samples, 80, anchors)) ** 4
    scores[:, np.arange(80) % 10 > 0] *= 1e-3
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


def naive(y: NDArray[np.float32], z: NDArray[np.float32], axis: int = 1) -> float:
    """E|y − ŷ|² / Var(y), the mean of each channel taken off."""
    rest = tuple(i for i in range(y.ndim) if i != axis)
    a, b = y.astype(np.float64), z.astype(np.float64)
    return float(np.square(a - b).sum() / np.square(a - a.mean(axis=rest, keepdims=True)).sum())


def found(y: NDArray[np.float32], z: NDArray[np.float32], batch: int = 100) -> OutputError:
    errors = OutputErrors()
    for start in range(0, len(y), batch):
        errors.add({"y": y[start : start + batch]}, {"y": z[start : start + batch]})
    return errors.errors()["y"]


@pytest.mark.parametrize("batch", [1, 4, 6])
def test_boxes_and_scores_are_normalised_by_their_own_variance(batch: int) -> None:
    y = yolo()
    z = y + np.random.default_rng(1).normal(0, 0.02, y.shape).astype(np.float32)
    errors = found(y, z, batch)
    assert errors.error == pytest.approx(naive(y, z), rel=1e-9)
    assert errors.groups == pytest.approx(
        {"y[0:4]": naive(y[:, :4], z[:, :4]), "y[4:84]": naive(y[:, 4:], z[:, 4:])}, rel=1e-9
    )
    assert errors.parts == list(errors.groups.values())


@pytest.mark.parametrize("batch", [1, 4, 6])
def test_distances_are_those_that_numpy_gives_of_each_output_and_group(batch: int) -> None:
    y = yolo()
    z = y + np.random.default_rng(1).normal(0, 0.02, y.shape).astype(np.float32)
    errors = OutputErrors()
    for start in range(0, len(y), batch):
        part = slice(start, start + batch)
        errors.add({"y": y[part], "one": y[part, :4]}, {"y": z[part], "one": y[part, :4]})
    norm = np.linalg.norm
    channels = {"y": slice(None), "y[0:4]": slice(0, 4), "y[4:84]": slice(4, None)}
    wanted = {label: float(norm(y[:, c] - z[:, c]) / norm(y[:, c])) for label, c in channels.items()}
    assert errors.distances() == pytest.approx({**wanted, "one": 0.0}, rel=1e-5)


def test_lost_scores_are_the_worst_though_the_boxes_drown_them() -> None:
    y = yolo()
    z = y.copy()
    z[:, 4:] = y[:, 4:].mean(axis=(0, 2), keepdims=True)
    errors = {"y": found(y, z), "other": OutputError(0.2, {})}
    assert errors["y"].error < 1e-4
    label, error = worst(errors)
    assert (label, error) == ("y[4:84]", pytest.approx(1.0, rel=1e-5))
    assert list(flat(errors)) == ["y", "y[0:4]", "y[4:84]", "other"]


def test_channels_of_a_detector_may_come_last() -> None:
    y, z = (yolo(seed=seed).swapaxes(1, 2) for seed in (0, 1))
    assert found(y, z).groups == pytest.approx(
        {"y[0:4]": naive(y[..., :4], z[..., :4], 2), "y[4:84]": naive(y[..., 4:], z[..., 4:], 2)}, rel=1e-9
    )


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 84, 8400), 1),
        ((2, 25200, 85), 2),
        ((2, 1000), 1),
        ((7,), 0),
        ((), -1),
        ((2, 21, 64, 64), 1),
        ((2, 512, 7, 7), 1),
        ((2, 192, 192, 2), 3),
        ((2, 20, 20, 255), 3),
        ((2, 96, 128, 3), 3),
        ((2, 3, 80, 80, 85), 4),
    ],
)
def test_channel_axis(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis(shape) == axis


@pytest.mark.parametrize(
    ("ranges", "bounds"),
    [
        ([300, 200, 2, 1.5, 40], [0, 2, 4, 5]),
        ([20, 2], [0, 2]),  # ten times is not more than ten times
        ([20, 1.99], [0, 1, 2]),
        ([300, 0, 2, 0, 0], [0, 2, 5]),  # constant channels go with the one before
        ([0, 0, 2, 300], [0, 3, 4]),
        ([0, 0], [0, 2]),
        ([5 * 100.0 ** (i % 2) for i in range(40)], [0, 40]),  # no order: one group
    ],
)
def test_neighbours_of_one_scale_are_a_group(ranges: list[float], bounds: list[int]) -> None:
    widths = np.array(ranges)
    groups = channel_groups(-widths / 2 + 5, widths / 2 + 5)
    assert [groups[0].start, *(group.stop for group in groups)] == bounds


def test_probabilities_that_never_rise_are_of_the_scale_of_probabilities() -> None:
    high = np.array([320, 320, 0.9, 1e-6, 0, 1, 1e-3])
    assert channel_groups(np.zeros(7), high) == [slice(0, 2), slice(2, 7)]


@pytest.mark.parametrize("batch", [1, 6])
def test_scores_of_which_none_rises_are_not_divided_by_their_rounding(batch: int) -> None:
    y = yolo()
    y[:, 4:] *= 1e-4
    z = y.copy()
    z[:, 4:] += 1e-4
    assert found(y, z, batch).groups == pytest.approx({"y[0:4]": 0, "y[4:84]": 80 * 150 * 1e-8 / 0.01}, rel=1e-3)
    z[:, 10, 0] = 0.8  # of each sample one score rises
    assert found(y, z, batch).groups["y[4:84]"] == pytest.approx(64, rel=0.01)


def test_a_few_small_numbers_keep_their_own_variance() -> None:
    y = (0.05 * np.random.default_rng(0).random((40, 3))).astype(np.float32)
    assert found(y, y + 0.01).error == pytest.approx(naive(y, y + 0.01), rel=1e-6)


def test_what_is_constant_is_relative_to_its_square() -> None:
    y = np.full((4, 3), 2.0, np.float32)
    assert found(y, y).error == 0
    assert found(y, y + 0.2).error == pytest.approx(0.01, rel=1e-5)
    assert found(0 * y, 0 * y).error == 0
    assert found(0 * y, y).error == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far(bad: float) -> None:
    y = yolo()
    z = y.copy()
    z[0, 10, 0] = bad
    assert found(y, z).groups["y[4:84]"] == math.inf
    assert found(z, y).error == math.inf


def test_channels_of_another_number_in_every_batch_are_one() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 1, (2, count)).astype(np.float32) for count in (5, 3)]
    errors = OutputErrors()
    for part in parts:
        errors.add({"y": part}, {"y": part + 1})
    values = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
    assert errors.errors()["y"].error == pytest.approx(1 / values.var(), rel=1e-6)


def test_no_outputs_have_no_worst() -> None:
    assert worst({}) == ("", 0.0)
