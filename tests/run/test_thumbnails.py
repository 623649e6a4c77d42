"""The samples that a report names, and their pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.input_spec import InputSpec
from ndpass.measuring.evaluate import Agreement
from ndpass.run.thumbnails import furthest, picture


def feeds_of(*shape: int) -> Feeds:
    values = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    return open_feeds(values, [InputSpec("x", (None, *shape), np.dtype("f4"))])


def seen(address: str) -> Image.Image:
    head, _, text = address.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((3, 20, 30), (30, 20), "RGB"),
        ((20, 30, 3), (30, 20), "RGB"),
        ((1, 8, 8), (8, 8), "L"),
        ((8, 8, 1), (8, 8), "L"),
        ((3, 300, 150), (48, 96), "RGB"),
    ],
)
def test_pictures_of_either_layout_are_shown_small(shape: tuple[int, ...], size: tuple[int, int], mode: str) -> None:
    shown = seen(picture(feeds_of(*shape), 1))
    assert (shown.size, shown.mode) == (size, mode)


def test_a_picture_is_the_sample_stretched_to_the_full_range() -> None:
    feeds = feeds_of(3, 8, 8)
    value = feeds.source.read(np.array([2]))["x"][0].transpose(1, 2, 0).astype(float)
    wanted = np.rint(255 * (value - value.min()) / (value.max() - value.min()))
    assert np.array_equal(np.array(seen(picture(feeds, 2))), wanted)


@pytest.mark.parametrize("shape", [(5,), (4, 9, 9), (1, 400), (3, 3, 3)])
def test_what_is_no_picture_has_none(shape: tuple[int, ...]) -> None:
    assert picture(feeds_of(*shape), 0) == ""


def test_samples_are_named_by_their_files_also_in_a_part(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    feeds = open_feeds(tmp_path, [InputSpec("x", (None, 3, 8, 8), np.dtype("f4"))], Preprocess()).take([3, 1])
    agreement = Agreement(2, None, 0.5, "y", furthest=[(1, 0.25), (0, np.inf)])
    first, second = furthest(agreement, feeds)
    assert (first.sample, first.name, first.error) == (1, str(tmp_path / "1.png"), 0.25)
    assert (second.name, second.error) == (str(tmp_path / "3.png"), None)
    assert "picture" not in first.model_dump()
    assert furthest(agreement, feeds_of(5))[0].name == "sample 1"
