"""A wrong preprocessing is found out before anything is rewritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.errors import UsageError
from ndpass.measuring.runtime import OpenVINO
from ndpass.run import digits
from ndpass.run.preprocessing import Better, better_preprocessing, refuse_worse

COUNT = 250


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labelled digits as pixels, 0 to 16."""
    images, labels = digits.images()[1]
    path = tmp_path / "digits.npz"
    np.savez(path, images=np.round(16 * images[:COUNT, 0]).astype(np.uint8), labels=labels[:COUNT])
    return path


def opened(data: Path, spec: str, labels: bool = True) -> tuple[Preprocess, Feeds]:
    preprocess = Preprocess.parse(spec)
    if labels:
        return preprocess, open_feeds(data, OpenVINO(digits.model_path()).inputs, preprocess)
    images = np.load(data)["images"]
    return preprocess, open_feeds(images, OpenVINO(digits.model_path()).inputs, preprocess)


def test_the_right_preprocessing_is_left_alone(data: Path) -> None:
    assert better_preprocessing(digits.model_path(), data, *opened(data, "digits"), 1) is None


def test_another_preprocessing_that_is_right_far_more_often_is_named(data: Path) -> None:
    better = better_preprocessing(digits.model_path(), data, *opened(data, "digits,mean=3,std=0.01"), 1)
    assert better is not None
    assert better.accuracy > 90 > 50 > better.given
    assert better.samples == 200
    found = opened(data, better.text)
    assert better_preprocessing(digits.model_path(), data, *found, 1) is None
    with pytest.raises(UsageError, match=rf"give --preprocess {better.text}, or --anyway"):
        refuse_worse(better)


def test_without_labels_nothing_is_tried(data: Path) -> None:
    images = np.load(data)["images"]
    found = opened(data, "digits,mean=3,std=0.01", labels=False)
    assert better_preprocessing(digits.model_path(), images, *found, 1) is None


def test_nothing_better_is_no_reason_to_stop() -> None:
    refuse_worse(None)
    with pytest.raises(UsageError, match=r"right on 12\.0 % of 200 labelled samples .* and on 88\.0 %"):
        refuse_worse(Better("imagenet,size=32x32", 88.0, 12.0, 200))
