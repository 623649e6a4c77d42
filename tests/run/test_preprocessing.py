"""A wrong preprocessing is found out before anything is rewritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Command, assert_refused

from ndpass.calibration.preprocess import Preprocess
from ndpass.errors import UsageError
from ndpass.measuring.runtime import OpenVINO
from ndpass.run import digits
from ndpass.run.arguments import Opener
from ndpass.run.preprocessing import Better, better_preprocessing, refuse_worse, remedy_for

COUNT = 250


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labelled digits as pixels, 0 to 16."""
    images, labels = digits.images()[1]
    path = tmp_path / "digits.npz"
    np.savez(path, images=np.round(16 * images[:COUNT, 0]).astype(np.uint8), labels=labels[:COUNT])
    return path


def better(data: Path | np.ndarray, spec: str) -> Better | None:
    """What is found for data that are opened with this preprocessing."""
    opener = Opener(data, Preprocess.parse(spec))
    found = opener(OpenVINO(digits.model_path()).inputs)
    return better_preprocessing(digits.model_path(), opener, found.split(0.9, 0)[1], 1)


def test_the_right_preprocessing_is_left_alone(data: Path) -> None:
    assert better(data, "digits") is None


def test_another_preprocessing_that_is_right_far_more_often_is_named(data: Path) -> None:
    found = better(data, "digits,mean=3,std=0.01")
    assert found is not None
    assert found.accuracy > 90 > 50 > found.given
    assert found.samples == 200
    assert better(data, found.text) is None
    with pytest.raises(UsageError, match=rf"give --preprocess {found.text}, or --anyway"):
        refuse_worse(found)


def test_without_labels_nothing_is_tried(data: Path) -> None:
    assert better(np.load(data)["images"], "digits,mean=3,std=0.01") is None


def test_a_run_stops_before_it_rewrites_a_model_that_sees_noise(data: Path, ndpass: Command) -> None:
    args = ["run", digits.model_path(), "-q", "--no-latency", "--passes", "nd:rank=2", "--calibration", data]
    args += ["-o", "out.onnx", "--preprocess", "digits,mean=3,std=0.01"]
    assert_refused(ndpass(*args), 2, "give --preprocess", "--anyway")
    assert ndpass(*args, "--anyway").code == 0


def test_nothing_better_is_no_reason_to_stop() -> None:
    refuse_worse(None)
    with pytest.raises(UsageError, match=r"right on 12\.0 % of 200 labelled samples .* and on 88\.0 %"):
        refuse_worse(Better("imagenet,size=32x32", 88.0, 12.0, 200))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (None, "give the --preprocess that the model was trained with"),
        ("size=32x32,crop=24x24", "add scale=1/255 to --preprocess"),
        ("size=32x32,scale=1/255", None),
        ("size=32x32,mean=127.5,std=127.5", None),
        ("imagenet", None),
    ],
)
def test_pixels_as_they_are_stored_are_said_unless_a_range_was_asked_for(spec: str | None, said: str | None) -> None:
    """A size alone leaves them from 0 to 255, for which few networks are made."""
    remedy = remedy_for(None if spec is None else Preprocess.parse(spec))
    assert remedy == said or (said and remedy and said in remedy)
