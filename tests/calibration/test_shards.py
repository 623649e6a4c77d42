"""Sums of shards against those of all data at once; the order and the threads that they are made in do not matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from models import network, normal, residual
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration, ShardedCalibration, batched
from ndpass.calibration.shards import tree
from ndpass.calibration.sums import Sums
from ndpass.graph.graph import Graph, Site

F = NDArray[np.floating[Any]]

PLENTY = 1 << 30
F32 = 2e-5  # of the largest entry: blocks are centred elsewhere, in float32


def pictures(count: int) -> F:
    return np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32)


def subject() -> tuple[Graph, list[Site]]:
    graph = Graph(residual())
    return graph, [site for site in graph.sites() if isinstance(site, Site)]


def calibrated(images: F, shards: int, jobs: int = 1, memory: int = PLENTY) -> ShardedCalibration:
    graph, sites = subject()
    data = batched(graph, open_feeds(images, graph.inputs()), None, 0, memory, shards)
    return ShardedCalibration.of_shards(graph, sites, data, memory, (), shards, jobs)


def walked(calibration: Calibration) -> list[Moments]:
    graph, sites = subject()
    walk = calibration.walk(graph)
    return [walk.moments(site) for site in sites]


def assert_same_bytes(found: Sequence[Moments], wanted: Sequence[Moments]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.count == other.count
        for name in ("x_mean", "y_mean", "C", "B", "g"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_merged_sums_are_those_of_all_samples(dtype: type[np.floating[Any]]) -> None:
    """Far from zero and of unlike means, so that the shifts of the two differ."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((900, n)) + 30 for n in (12, 5))
    x[300:] -= 4
    y[300:] += 3
    x, y = x.astype(dtype), y.astype(dtype)
    parts = []
    for rows in (slice(0, 300), slice(300, 900)):
        parts.append(Sums(12, 5))
        parts[-1].add(x[rows], y[rows])
    before = parts[0].upper.copy()
    merged = parts[0].merge(parts[1]).moments()
    np.testing.assert_array_equal(parts[0].upper, before)  # both stay as they were
    wide = np.c_[x, y].astype(np.float64)
    whole = np.cov(wide, rowvar=False, bias=True)
    assert merged.count == 900
    np.testing.assert_allclose(merged.x_mean, wide.mean(0)[:12], rtol=1e-12)
    np.testing.assert_allclose(merged.C, whole[:12, :12], atol=1e-5 * np.abs(whole).max())
    np.testing.assert_allclose(merged.B, whole[12:, :12], atol=1e-5 * np.abs(whole).max())
    np.testing.assert_allclose(merged.g, np.diag(whole)[12:], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_a_tree_keeps_the_order_and_is_as_deep_as_it_has_to_be(count: int) -> None:
    def merge(a: tuple[str, int], b: tuple[str, int]) -> tuple[str, int]:
        return a[0] + b[0], max(a[1], b[1]) + 1

    letters, depth = tree(((chr(97 + i), 0) for i in range(count)), merge)
    assert letters == "abcdefghijklm"[:count]
    assert depth == (count - 1).bit_length()


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_shards_come_to_the_moments_of_the_whole(shards: int) -> None:
    images = pictures(80)
    graph, sites = subject()
    feeds = open_feeds(images, graph.inputs())
    data = batched(graph, feeds, None, 0, PLENTY, shards)
    whole = ShardedCalibration.of_shards(graph, sites, data, PLENTY, (), 1, 1)
    for found, wanted in zip(walked(calibrated(images, shards)), walked(whole), strict=True):
        assert found.count == wanted.count
        for name in ("diagonal", "B", "g"):  # without the prior: of some that fit as well rounding chooses one
            expected = getattr(wanted.alone, name)
            np.testing.assert_allclose(getattr(found.alone, name), expected, atol=F32 * np.abs(expected).max())
        beside = ~np.eye(len(wanted.C), dtype=bool)
        np.testing.assert_allclose(found.C[beside], wanted.C[beside], atol=F32 * np.abs(wanted.C).max())


def test_one_shard_is_the_whole_to_the_last_bit() -> None:
    images = pictures(70)
    graph, sites = subject()
    whole = Calibration.of(graph, sites, open_feeds(images, graph.inputs()), 1, 0, PLENTY)
    assert_same_bytes(walked(calibrated(images, 1)), walked(whole))


def test_how_many_are_at_work_does_not_matter() -> None:
    one = walked(calibrated(pictures(90), 5, jobs=1))
    assert_same_bytes(walked(calibrated(pictures(90), 5, jobs=3)), one)


def test_shards_are_whole_batches_and_hold_out_the_last_images_only() -> None:
    calibration = calibrated(pictures(83), 4)
    batch = calibration.data.batch
    assert calibration.shards[0].start == 0
    assert sum(shard.data.images for shard in calibration.shards) == calibration.data.images
    assert all(shard.data.images % batch == 0 for shard in calibration.shards)
    for name, sample in calibration.chosen.items():
        fitted = [shard.held_row(name) == shard.data.images * sample.each for shard in calibration.shards]
        assert fitted == [True, True, True, False]


@pytest.mark.parametrize("memory", [PLENTY, 60_000, 0])
def test_answers_of_a_kernel_are_those_of_the_whole(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One patch of several is answered: which ones must not depend on where shards begin."""
    monkeypatch.setattr("ndpass.calibration.gather.MOST_ANSWERS", 20_000)
    images = pictures(90)
    graph, sites = subject()
    site = sites[1]
    sharded = calibrated(images, 5, jobs=2, memory=memory)
    whole = Calibration(sharded.data, memory, sharded.chosen, sharded.responses)
    answers = [one.walk(graph).rows(site, site.conv.matrix, None) for one in (sharded, whole)]
    (found, wanted), (expected, responses) = answers
    assert len(found) == len(wanted) < sharded.chosen[site.name].rows
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(wanted, responses)


def test_a_batch_that_the_model_fixes_limits_the_shards() -> None:
    graph = Graph(
        network("(float[20,3,8,8] x) => (float[20,4,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", w=normal(4, 3, 3, 3))
    )
    sites = [site for site in graph.sites() if isinstance(site, Site)]
    data = batched(graph, open_feeds(pictures(70), graph.inputs()), None, 0, PLENTY, 8)
    assert ShardedCalibration.of_shards(graph, sites, data, PLENTY, (), 8, 1).cuts == 3
