"""Sampled patches against a loop over the taps of the kernel, and which positions are sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import normal, one_conv, run_ort
from naive import im2col
from numpy.typing import NDArray

from ndpass.calibration.collect import Data, samples
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.patches import FEWEST, MOST, ROWS_PER_UNKNOWN, Sample, patches, responses, spread
from ndpass.conv import Conv
from ndpass.graph.graph import Graph, Site

F = NDArray[np.floating[Any]]


GEOMETRY = {
    "1d": ((4, 3, 3), (9,), "group=1"),
    "1d-stride-pads-dilation": ((4, 3, 5), (17,), "strides=[2], pads=[3,1], dilations=[2]"),
    "2d": ((4, 3, 3, 3), (7, 6), "pads=[1,1,1,1]"),
    "2d-stride": ((4, 3, 3, 3), (9, 8), "strides=[2,3]"),
    "2d-uneven": ((4, 3, 3, 2), (9, 8), "pads=[2,0,1,3], strides=[3,1], dilations=[1,2]"),
    "1x1": ((4, 3, 1, 1), (5, 5), "strides=[2,1]"),
    "3d": ((4, 3, 2, 3, 2), (5, 6, 5), "pads=[1,0,1,1,1,0], strides=[1,2,1], dilations=[1,1,2]"),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_patches_are_what_the_convolution_sees(name: str) -> None:
    """Equal to the loop, bit for bit, and times the weights they are onnxruntime's response there."""
    shape, in_hw, attrs = GEOMETRY[name]
    model = one_conv(shape, in_hw, attrs, batch=4)
    (site,) = (s for s in Graph(model).sites() if isinstance(s, Site))
    conv = site.conv
    x = np.random.default_rng(0).standard_normal((4, shape[1], *in_hw)).astype(np.float32)
    expected = im2col(conv, x)
    positions = np.random.default_rng(1).integers(0, expected.shape[1], (4, 11))
    got = patches(site.outline, x, positions)
    np.testing.assert_array_equal(got, np.concatenate([expected[i, positions[i]] for i in range(4)]))
    assert conv.bias is not None
    (y,) = run_ort(model, {"x": x})
    there = responses(y, positions, channels_last=False)
    np.testing.assert_allclose(got @ conv.matrix.T + conv.bias, there, rtol=0, atol=1e-5)  # sums of up to 40 in f32


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)], ids=str)
def test_patches_of_a_matrix_product_are_its_rows(leading: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((4, *leading, 6)).astype(np.float32)
    rows = x.reshape(4, -1, 6)
    positions = np.random.default_rng(1).integers(0, rows.shape[1], (4, 7))
    expected = np.concatenate([rows[i, positions[i]] for i in range(4)])
    np.testing.assert_array_equal(patches(Conv(normal(3, 6)), x, positions), expected)
    np.testing.assert_array_equal(responses(x, positions, channels_last=True), expected)


def test_responses_are_those_of_the_positions_image_by_image() -> None:
    y = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    positions = np.array([[0, 7, 7], [19, 1, 4]])
    expected = [y[i, :, p // 5, p % 5] for i in range(2) for p in positions[i]]
    np.testing.assert_array_equal(responses(y, positions, channels_last=False), expected)


def test_all_positions_are_taken_where_they_are_few() -> None:
    sample = Sample.draw(Conv(normal(4, 3, 3, 3)), places=49, images=10, seed=0, layer=0)
    np.testing.assert_array_equal(sample.positions, np.tile(np.arange(49), (10, 1)))
    assert sample.rows == 490


@pytest.mark.parametrize("n_i", [3, 256, 2048])
@pytest.mark.parametrize("images", [20, 333])
def test_as_many_positions_as_the_layer_needs(n_i: int, images: int) -> None:
    conv = Conv(np.broadcast_to(np.float32(0), (4, n_i, 3, 3)))
    wanted = min(max(ROWS_PER_UNKNOWN * 9 * n_i, FEWEST), MOST)
    sample = Sample.draw(conv, places=224 * 224, images=images, seed=0, layer=0)
    assert wanted <= sample.rows < wanted + images
    assert sample.positions.shape[0] == images
    assert sample.positions.min() >= 0
    assert sample.positions.max() < 224 * 224


def test_positions_come_from_the_seed_and_the_layer_alone() -> None:
    conv = Conv(normal(4, 3, 3, 3))

    def draw(seed: int, layer: int) -> NDArray[np.intp]:
        return Sample.draw(conv, 10_000, 50, seed, layer).positions

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    assert (draw(1, 2) != draw(2, 2)).mean() > 0.9
    assert (draw(1, 2) != draw(1, 3)).mean() > 0.9


def test_positions_do_not_depend_on_the_batch_size() -> None:
    graph = Graph(one_conv((4, 3, 3, 3), (40, 40), "group=1"))
    sites = [s for s in graph.sites() if isinstance(s, Site)]
    feeds = open_feeds(np.zeros((24, 3, 40, 40), np.float32), graph.inputs())
    drawn = [samples(graph, sites, Data(feeds, batch, seed=3))["y"] for batch in (4, 8, 24)]
    assert drawn[0].positions.shape == (24, -(-FEWEST // 24))
    for other in drawn[1:]:
        np.testing.assert_array_equal(other.positions, drawn[0].positions)
    np.testing.assert_array_equal(np.concatenate([drawn[0].of(i, 8) for i in (0, 8, 16)]), drawn[0].positions)


@pytest.mark.parametrize("every", [2, 4, 7, 8, 14])
@pytest.mark.parametrize("width", [8, 14, 28, 56])
def test_all_columns_and_rows_are_seen_where_few_positions_are_looked_at(width: int, every: int) -> None:
    """Every `every`-th of all positions of a map lies in a few columns, if `every` divides the width."""
    sample = Sample.draw(Conv(normal(512, 512, 3, 3)), width * width, 2, seed=0, layer=0)
    assert sample.each == width * width, "all are taken"
    rows = np.tile(np.arange(width * width), 2)[:, None] * np.ones(3)
    few = sample.thinned(every)
    np.testing.assert_array_equal(sample.thin(rows, every)[:, 0], few.positions.reshape(-1))
    assert abs(few.each - width * width / every) <= 1
    seen = np.bincount(few.positions[0] % width, minlength=width)
    assert np.count_nonzero(seen) > 0.5 * min(width, few.each)
    if few.each >= 4 * width:
        assert seen.max() <= 3 * seen.mean(), "no column is preferred"
    assert len(np.unique(few.positions[0] // width)) >= min(width, few.each) // 2


@pytest.mark.parametrize("step", [1, 3, 8])
def test_positions_in_parts_are_those_of_the_whole(step: int) -> None:
    """As machines that share the images see them."""
    whole = spread(100, step)
    assert len(whole) == pytest.approx(100 / step, abs=1)
    parts = [spread(size, step, start) + start for start, size in ((0, 7), (7, 50), (57, 2), (59, 41))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    if step == 1:
        np.testing.assert_array_equal(whole, np.arange(100))
    np.testing.assert_array_equal(np.diff(whole // step), 1)
