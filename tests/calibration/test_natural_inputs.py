"""Inputs for models without data: the statistics of natural pictures and sequences, in the range of each input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndpass.calibration.natural_inputs import natural_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.errors import InputError
from ndpass.graph.input_spec import InputSpec

SEED = 3


def made(
    shape: tuple[int, ...], dtype: str = "float32", preprocess: Preprocess | None = None, seed: int = SEED
) -> np.ndarray[Any, Any]:
    """(16, ...)"""
    specs = [InputSpec("x", (None, *shape), np.dtype(dtype))]
    feeds = natural_feeds(specs, {"x": (1, *shape)}, seed, preprocess)
    assert len(feeds) == 16
    return next(feeds.batches(16))["x"]


def slope(amplitudes: np.ndarray, frequencies: np.ndarray) -> float:
    """Of log amplitude against log frequency, from the third frequency to half of the highest."""
    used = (frequencies > frequencies[frequencies > 0].min() * 2.5) & (frequencies < 0.25)
    return float(np.polyfit(np.log(frequencies[used]), np.log(amplitudes[used]), 1)[0])


def picture_slope(pictures: np.ndarray) -> float:
    """Of the amplitude spectrum of (N, H, W); a window keeps the borders from adding edges."""
    side = pictures.shape[1]
    window = np.hanning(side)[:, None] * np.hanning(side)
    flat = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    amplitudes = np.sqrt(np.square(np.abs(np.fft.fft2(flat * window))).mean(axis=0))
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    return slope(amplitudes, frequencies)


def test_the_spectrum_of_pictures_falls_as_that_of_natural_ones() -> None:
    assert -1.7 < picture_slope(made((3, 96, 96)).mean(axis=1)) < -0.9
    assert abs(picture_slope(np.random.default_rng(0).standard_normal((16, 96, 96)))) < 0.1


def test_pictures_have_edges_and_channels_that_agree() -> None:
    x = made((3, 96, 96)).astype(np.float64)
    steps = np.diff(x.mean(axis=1), axis=2)
    assert np.mean(steps**4) / np.mean(steps**2) ** 2 > 6  # 3 for Gaussian noise of any spectrum
    correlation = np.corrcoef(np.moveaxis(x, 1, 0).reshape(3, -1))
    assert correlation.min() > 0.7


def test_the_seed_decides() -> None:
    assert np.array_equal(made((3, 16, 16)), made((3, 16, 16)))
    assert not np.array_equal(made((3, 16, 16)), made((3, 16, 16), seed=4))
    x = made((3, 16, 16))
    assert len(np.unique(x.reshape(16, -1)[:, 0])) == 16  # every sample is another


def test_two_inputs_differ() -> None:
    specs = [InputSpec(name, (None, 3, 8, 8), np.dtype("float32")) for name in "ab"]
    feed = next(natural_feeds(specs, {"a": (1, 3, 8, 8), "b": (1, 3, 8, 8)}, SEED).batches(2))
    assert not np.array_equal(feed["a"], feed["b"])


@pytest.mark.parametrize(
    "shape", [(3, 33, 47), (33, 47, 3), (1, 20, 20), (7, 12, 12), (2, 2, 2), (50,), (4, 30), (3, 5, 8, 8)]
)
def test_floats_have_mean_zero_and_deviation_one(shape: tuple[int, ...]) -> None:
    x = made(shape)
    assert x.shape == (16, *shape)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert (x.mean(), x.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))


def test_channels_may_come_last() -> None:
    x = made((40, 40, 3)).astype(np.float64)
    assert np.corrcoef(x.reshape(-1, 3).T).min() > 0.7
    assert picture_slope(x.mean(axis=3)) < -0.8


@pytest.mark.parametrize(
    ("dtype", "shape", "low", "high"),
    [
        ("uint8", (3, 24, 24), 0, 255),
        ("int8", (3, 24, 24), -128, 127),
        ("uint8", (100,), 0, 255),
        ("int16", (100,), -32768, 32767),
        ("int32", (24, 24, 3), 0, 255),
        ("int64", (20,), 0, 1),
        ("bool", (20,), 0, 1),
    ],
)
def test_integers_spread_over_their_range(dtype: str, shape: tuple[int, ...], low: int, high: int) -> None:
    x = made(shape, dtype).astype(np.int64)
    width = high - low
    assert low <= x.min() <= low + 0.05 * width
    assert high - 0.05 * width <= x.max() <= high
    assert abs(x.mean() - (low + high) / 2) < 0.15 * width
    assert x.std() > 0.15 * width


def test_pictures_go_through_the_preprocessing() -> None:
    x = made((3, 32, 32), preprocess=Preprocess.parse("imagenet,size=32"))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = 255 * (np.moveaxis(x, 1, -1) * std + mean)
    assert np.abs(pixels - pixels.round()).max() < 1e-3
    assert (pixels.min().round(), pixels.max().round()) == (0, 255)
    grey = made((10, 10, 1), preprocess=Preprocess.parse("color=grey,layout=nhwc,scale=1/255"))
    assert 0 <= grey.min() < grey.max() <= 1


def test_a_preprocessing_for_other_pictures_is_refused() -> None:
    with pytest.raises(InputError, match=r"--preprocess: input 'x' takes \(batch, 1, 8, 8\); got.*color=grey"):
        made((1, 8, 8), preprocess=Preprocess.parse("scale=1/255"))


def test_inputs_without_a_batch_axis() -> None:
    shapes = {"x": (3, 8, 8), "t": ()}
    specs = [InputSpec(name, shape, np.dtype("float32"), batched=False) for name, shape in shapes.items()]
    (feed,) = natural_feeds(specs, shapes, SEED, samples=1).batches(1)
    assert (feed["x"].shape[-3:], feed["t"].size) == ((3, 8, 8), 1)


def test_the_power_of_sequences_falls_as_one_over_f() -> None:
    x = made((2, 1024))
    amplitudes = np.sqrt(np.square(np.abs(np.fft.rfft(x))).mean(axis=(0, 1)))
    assert -0.7 < slope(amplitudes[1:], np.fft.rfftfreq(1024)[1:]) < -0.3


def test_films_drift() -> None:
    x = made((3, 6, 32, 32))
    still = np.corrcoef(x[:, :, 0].ravel(), x[:, :, 1].ravel())[0, 1]
    assert 0.3 < still < 0.999
