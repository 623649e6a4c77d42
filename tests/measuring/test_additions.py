"""What networks add to the pictures that they are given, and how much of it other models lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import network, normal
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.measuring.additions import Additions, additions_of, enlarging
from ndpass.measuring.evaluate import evaluate
from ndpass.measuring.metrics import Seen, default_metric
from ndpass.measuring.output_errors import flat, worst
from ndpass.measuring.runtime import OnnxRuntime

Values = NDArray[np.float32]
DETAIL = 0.05  # times the spread of the pictures


def pictures(*shape: int, seed: int = 0) -> Values:
    """(N, C, H, W) of the spectrum of photographs, of variance one."""
    rng = np.random.default_rng([seed, *shape])
    spectrum = np.fft.rfft2(rng.standard_normal(shape))
    frequency = np.hypot(np.fft.fftfreq(shape[2])[:, None], np.fft.rfftfreq(shape[3])[None])
    found = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / shape[2]) ** 1.5, s=shape[2:])
    return np.asarray(found / found.std(), np.float32)


def noise(*shape: int) -> Values:
    return np.random.default_rng([1, *shape]).standard_normal(shape).astype(np.float32)


def enlarged(x: Values, scale: int) -> Values:
    rows, columns = (enlarging(side, scale * side, scale) for side in x.shape[2:])
    return np.einsum("Hh,nchw,Ww->ncHW", rows, x, columns).astype(np.float32)


def added(x: Values, y: Values, batch: int = 100) -> dict[str, float]:
    found = Additions()
    for start in range(0, len(x), batch):
        found.add({"x": x[start : start + batch]}, {"y": y[start : start + batch]})
    return found.squares()


def naive_cubic(row: NDArray[Any], place: float) -> float:
    """Keys 1981, equation 15, at a place between pixels, whose neighbours at the edge are the edge."""
    total = 0.0
    for i in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
        s = abs(place - i)
        weight = 1.5 * s**3 - 2.5 * s**2 + 1 if s <= 1 else -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
        total += row[min(max(i, 0), len(row) - 1)] * weight
    return total


@pytest.mark.parametrize(
    ("given", "wanted", "scale"), [(7, 14, 2.0), (7, 21, 3.0), (6, 6, 1.0), (9, 12, 2.0), (8, 5, 1)]
)
def test_enlarging_is_cubic_convolution(given: int, wanted: int, scale: float) -> None:
    row = np.random.default_rng(0).random(given)
    margin = (scale * given - wanted) / 2
    expected = [naive_cubic(row, (i + margin + 0.5) / scale - 0.5) for i in range(wanted)]
    np.testing.assert_allclose(enlarging(given, wanted, scale) @ row, expected, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("margin", [0, 3])
def test_what_is_added_is_what_the_input_does_not_explain(scale: int, batch: int, margin: int) -> None:
    """Colours mixed and shifted, as by preprocessing, are no addition; nor is a margin that convolutions take off."""
    x = pictures(8, 3, 24, 32)
    mix = np.array([[0.2, 0.1, 3.0], [0.1, 2.0, 0.0], [1.0, 0.0, 0.1]], np.float32)
    plain = np.einsum("dc,nchw->ndhw", mix, enlarged(x, scale)) + 7
    detail = DETAIL * noise(*plain.shape)
    inside = (..., slice(margin, plain.shape[2] - margin), slice(margin, plain.shape[3] - margin))
    found = added(x, (plain + detail)[inside], batch)
    assert found["y"] == pytest.approx(float(np.square(detail[inside]).sum()), rel=0.01)


def test_the_layout_does_not_matter_and_one_brightness_is_enough() -> None:
    x = pictures(4, 3, 24, 32)
    y = enlarged(x, 2).mean(axis=1, keepdims=True)
    y = y + DETAIL * noise(*y.shape)
    expected = pytest.approx(added(x, y), rel=1e-9)
    assert added(np.moveaxis(x, 1, 3), y) == expected
    assert added(np.moveaxis(x, 1, 3), np.moveaxis(y, 1, 3)) == expected


def test_signals_and_volumes_are_pictures_too() -> None:
    x = pictures(4, 1, 16, 256)
    for shape in ((4, 1, 4096), (4, 1, 16, 16, 16)):
        signal = x.reshape(shape)
        detail = DETAIL * noise(*shape)
        assert added(signal, signal + detail)["y"] == pytest.approx(float(np.square(detail).sum()), rel=0.01)


@pytest.mark.parametrize(
    "y",
    [
        noise(4, 3, 24, 24),  # of nothing in the input
        noise(4, 10),
        noise(4, 8, 24, 24),
        np.zeros((4, 3, 24, 24), np.float32),
        (pictures(4, 3, 24, 24) > 0).astype(np.float32),  # a mask
        np.abs(pictures(4, 3, 24, 24)),
        pictures(4, 3, 24, 24),  # the input itself: nothing is added
        np.ones((4, 3, 24, 24), np.int64),
        np.zeros((4, 3, 1, 1), np.float32),
    ],
)
def test_what_is_no_picture_of_the_input_has_no_addition(y: Values) -> None:
    assert added(pictures(4, 3, 24, 24), y) == {}


def test_a_number_without_axes_is_no_picture() -> None:
    assert additions_of([{"x": pictures(1, 3, 24, 24)}], [{"y": np.array(1.0, np.float32)}]) == {}


def test_pictures_of_many_sizes_tell_nothing() -> None:
    x = [pictures(1, 3, side, side) for side in (24, 32)]
    feeds, outputs = [{"x": one} for one in x], [{"y": one + DETAIL * noise(*one.shape)} for one in x]
    assert additions_of(feeds, outputs) == {}
    assert additions_of(feeds[:1], outputs[:1]).keys() == {"y"}


def test_feeds_are_read_no_further_than_they_tell() -> None:
    x = pictures(3, 3, 24, 24)
    read = []

    def feeds() -> Any:
        for one in x:
            read.append(one)
            yield {"x": one[None]}

    assert additions_of(feeds(), [{"y": noise(1, 5)} for _ in x]) == {}
    assert len(read) == 1


def upscaler(loss: float) -> OnnxRuntime:
    """Twice as large, with details that a convolution makes, of which a share is lost."""
    text = """(float[N,3,24,24] x) => (float[N,3,48,48] y) {
        up = Resize<mode = "cubic", cubic_coeff_a = -0.5>(x, , s)  c = Conv<pads = [1,1,1,1]>(x, W)
        d = DepthToSpace<blocksize = 2>(c)  e = Mul(d, k)  y = Add(up, e)
    }"""
    scales, kernel = np.array([1, 1, 2, 2], np.float32), normal(12, 3, 3, 3)
    kernel -= kernel.mean(axis=(2, 3), keepdims=True)  # it sees edges, no surfaces
    share = np.array(0.2 * (1 - loss), np.float32)
    return OnnxRuntime(network(text, s=scales, W=kernel, k=share).SerializeToString())


def test_an_error_of_an_upscaler_is_of_what_it_adds() -> None:
    """Half of the details are lost: a small part of the picture, and a quarter of what there is to lose."""
    original, other = upscaler(0), upscaler(0.5)
    feeds = open_feeds(pictures(12, 3, 24, 24), original.inputs)
    found = evaluate(original, other, feeds, 5).agreement
    errors = flat(found.outputs)
    assert list(errors) == ["y", "y beyond the input"]
    assert errors["y"] < 0.01
    assert errors["y beyond the input"] == pytest.approx(0.25, rel=0.1)
    assert worst(found.outputs) == ("y beyond the input", errors["y beyond the input"])
    assert found.outputs["y"].parts == [errors["y beyond the input"]]


def test_metrics_of_an_upscaler_know_what_plain_interpolation_is_worth() -> None:
    original = upscaler(0)
    feeds = open_feeds(pictures(12, 3, 24, 24), original.inputs)
    outputs = [original(feed) for feed in feeds.batches(5)]
    metric = default_metric(Seen.of(outputs, feeds, 5))
    assert metric.name == "psnr"
    assert metric.plain is not None
    assert f"plain interpolation of the input has {metric.plain:.1f}" in metric.reason
    nothing = upscaler(1.0)
    gathering = metric.begin()
    for feed, given in zip(feeds.batches(5), outputs, strict=True):
        gathering.add(given, nothing(feed))
    values = gathering.values()
    assert values is not None
    assert values[1].value == pytest.approx(metric.plain, abs=0.5)
