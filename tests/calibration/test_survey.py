"""All data are looked at before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.calibration.preprocess_text import preprocess_text
from ndpass.calibration.survey import Survey, survey, warnings_of
from ndpass.errors import InputError
from ndpass.graph.input_spec import InputSpec

SPEC = (InputSpec("image", (None, 3, 4, 4), np.dtype(np.float32)),)


def feeds(rows: np.ndarray, **options: object) -> Feeds:
    return open_feeds(rows.astype(np.float32), SPEC, **options)  # type: ignore[arg-type]


def planted() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (40, 3, 4, 4))


def test_the_range_is_that_of_all_samples() -> None:
    rows = planted()
    rows[39, 0, 0, 0], rows[0, 2, 3, 3] = -2.0, 3.0
    assert survey(feeds(rows)) == {"image": Survey(-2.0, 3.0, 0, 40)}
    assert warnings_of(feeds(rows), "calibration data") == []


def test_constant_samples_are_counted() -> None:
    rows = planted()
    rows[[3, 35]] = 0.5
    assert warnings_of(feeds(rows), "calibration data") == [
        "2 of 40 samples of the calibration data are one constant (input 'image')"
    ]


def test_pixels_that_nobody_scaled_are_said() -> None:
    assert warnings_of(feeds(255 * np.abs(planted())), "validation data", remedy=None) == []
    (text,) = warnings_of(feeds(255 * np.abs(planted())), "validation data")
    assert "range from" in text
    assert "--preprocess" in text


def test_labels_of_one_class_are_said() -> None:
    (text,) = warnings_of(feeds(planted(), labels=np.full(40, 7)), "validation data")
    assert text.startswith("all labels of the validation data are 7")


def test_the_last_sample_is_read_too() -> None:
    rows = planted()
    rows[39, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="39"):
        survey(feeds(rows))


def test_one_hot_labels_are_told_how_to_become_indices() -> None:
    with pytest.raises(InputError, match=r"labels are one-hot, \(40, 5\): give class indices, labels.argmax\(1\)"):
        feeds(planted(), labels=np.eye(5)[np.arange(40) % 5])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_written_by_its_name(name: str) -> None:
    assert preprocess_text(PRESETS[name]) == name


def test_what_differs_from_a_preset_is_written_behind_it() -> None:
    assert preprocess_text(Preprocess.parse("imagenet,size=32x32")) == "imagenet,size=32x32"
    assert preprocess_text(Preprocess.parse("cifar10,color=bgr")) == "cifar10,color=bgr"
    assert preprocess_text(Preprocess()) == "scale=1"


settings = st.fixed_dictionaries(
    {},
    optional={
        "size": st.sampled_from(["32", "48x64", "none"]),
        "mean": st.sampled_from(["0.5", "0.1:0.2:0.3", "103.939:116.779:123.68"]),
        "std": st.sampled_from(["1", "0.2", "0.1:0.2:0.3"]),
        "scale": st.sampled_from(["1/255", "1/16", "0.3", "2"]),
        "color": st.sampled_from(["rgb", "bgr"]),
        "layout": st.sampled_from(["nchw", "nhwc"]),
        "white": st.sampled_from(["255", "16"]),
    },
)


@given(preset=st.sampled_from(["", "imagenet", "caffe", "cifar10"]), changed=settings)
def test_the_text_is_read_as_what_it_stands_for(preset: str, changed: dict[str, str]) -> None:
    if changed.get("size") == "none" and preset:
        del changed["size"]  # a preset's crop needs a size
    parts = [*([preset] if preset else []), *(f"{key}={value}" for key, value in changed.items())]
    if not parts:
        return
    meant = Preprocess.parse(",".join(parts))
    assert Preprocess.parse(preprocess_text(meant)) == meant
