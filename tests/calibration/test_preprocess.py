"""Preprocessing against the formula and against Pillow, and each way to write a specification wrongly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.errors import InputError, UsageError


def picture(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("spec", ["cifar10", "cifar10,layout=nhwc", "cifar10,color=bgr", "cifar10,scale=2,mean=0.1"])
def test_values_follow_the_formula(spec: str) -> None:
    p, image = Preprocess.parse(spec), picture(32, 32, 3)
    mean, std = np.broadcast_to(p.mean, 3), np.broadcast_to(p.std, 3)
    channels = image[..., ::-1] if p.color == "bgr" else image
    expected = np.stack([(p.scale * channels[..., c].astype(float) - mean[c]) / std[c] for c in range(3)])
    got = p.apply(image)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, expected if p.layout == "nchw" else expected.transpose(1, 2, 0), rtol=1e-5, atol=1e-5
    )


def test_presets_are_what_their_models_were_trained_with() -> None:
    white = np.full((300, 400, 3), 255, np.uint8)
    imagenet = Preprocess.parse("imagenet").apply(white)
    assert imagenet.shape == (3, 224, 224)
    np.testing.assert_allclose(imagenet[:, 0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], 1e-5)
    red = white * np.array([1, 0, 0], np.uint8)
    caffe = Preprocess.parse("caffe").apply(red)
    np.testing.assert_allclose(caffe[:, 0, 0], [-103.939, -116.779, 255 - 123.68], 1e-5)  # blue, green, red
    assert Preprocess.parse("cifar10").apply(white).shape == (3, 32, 32)


def test_digits_hold_16_in_arrays_and_255_in_files() -> None:
    p = Preprocess.parse("digits")
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) % 17
    np.testing.assert_allclose(p.apply(ramp)[0], ramp[..., 0] / 16, rtol=1e-6)
    files = np.full((8, 8, 1), 255, np.uint8)
    np.testing.assert_allclose(p.apply(files, white=255), np.ones((1, 8, 8)), rtol=1e-6)
    with pytest.raises(InputError, match=r"pixels are 0\.\.16 .* found 255; add white=255,scale=1/255"):
        p.apply(files)
    np.testing.assert_allclose(Preprocess.parse("digits,white=255,scale=1/255").apply(files), 1, rtol=1e-6)


def test_a_size_after_a_cropping_preset_is_the_size_that_comes_out() -> None:
    assert Preprocess.parse("imagenet,size=320").apply(picture(400, 700, 3)).shape == (3, 320, 320)
    assert Preprocess.parse("imagenet,size=100x320").apply(picture(400, 700, 3)).shape == (3, 100, 320)
    assert Preprocess.parse("imagenet,size=256,crop=240").apply(picture(400, 700, 3)).shape == (3, 240, 240)
    assert Preprocess.parse("imagenet,size=none").apply(picture(40, 70, 3)).shape == (3, 40, 70)
    assert Preprocess.parse("imagenet, crop=none").apply(picture(40, 70, 3)).shape == (3, 256, 256)


def test_the_text_form_says_what_the_fields_say() -> None:
    text = "size=224x320,crop=200x300,mean=0.5:1/4:0.3,std=2,scale=1/255,color=bgr,layout=nhwc,white=31"
    expected = Preprocess((224, 320), (200, 300), (0.5, 0.25, 0.3), (2.0,), 1 / 255, "bgr", "nhwc", 31.0)
    assert Preprocess.parse(text) == expected
    assert Preprocess.parse("imagenet") == PRESETS["imagenet"]
    assert Preprocess.parse("scale=1") == Preprocess()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "presets are imagenet, caffe, cifar10, digits"),
        ("imagnet", "'imagnet'.*presets are imagenet.*; did you mean 'imagenet'"),
        ("siz=24x24", "'siz=24x24'; keys are size.*; did you mean 'size'"),
        ("imagenet,224", "settings are key=value.*'224'.*keys are size"),
        ("imagenet,sise=224", "'sise=224'.*keys are size"),
        ("size=224,imagenet", "'imagenet'"),
        ("size=0", "size=0"),
        ("size=224*224", "224 or 224x320"),
        ("crop=-3", "crop=-3"),
        ("size=3,size=4", "size twice"),
        ("mean=a", "mean=a"),
        ("mean=0.5:", "got mean=;"),
        ("mean=0.5/0.4/0.3", "between colons.*write mean=0.5:0.4:0.3"),
        ("scale=1/0", "scale=1/0"),
        ("scale=nan", "scale=nan"),
        ("mean=1:2", "one value or one for each channel.*2 values"),
        ("imagenet,color=grey", "3 values, color=grey"),
        ("std=0", "positive"),
        ("scale=-1", "positive"),
        ("white=0", "positive"),
        ("color=cmyk", "rgb, bgr, grey"),
        ("layout=chw", "nchw, nhwc"),
        ("size=100,crop=120", "crop fits into size"),
    ],
)
def test_a_wrong_specification_is_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        Preprocess.parse(spec)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("--preprocess: ")


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"crop=50x60, image 50x59; add size=50x60"):
        Preprocess(crop=(50, 60)).apply(picture(50, 59, 3))


sides = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from([1, 3]))
def test_resizing_is_that_of_pillow(height: int, width: int, h: int, w: int, channels: int) -> None:
    image = picture(height, width, channels)
    got = Preprocess(size=(h, w)).resize(image)
    expected = Image.fromarray(image[..., 0] if channels == 1 else image).resize((w, h), Image.Resampling.BILINEAR)
    assert got.shape == (h, w, channels)
    np.testing.assert_array_equal(got.reshape(h, w, -1), np.asarray(expected).reshape(h, w, -1))


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.data())
def test_with_a_crop_the_image_covers_the_size(height: int, width: int, h: int, w: int, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    p = Preprocess(size=(h, w), crop=crop)
    covered = p._resized(height, width)
    ratio = max(Fraction(h, height), Fraction(w, width))
    assert covered == (int(height * ratio), int(width * ratio))  # torchvision's Resize for the shorter side
    assert h in covered or w in covered
    assert p.apply(picture(height, width, 3)).shape == (3, *crop)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_crop_is_the_centre(height: int, width: int, data: st.DataObject) -> None:
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    image = np.zeros((height, width, 1), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    image[..., 0] = rows
    top = int(Preprocess(crop=(h, w)).resize(image)[0, 0, 0])
    image[..., 0] = columns
    left = int(Preprocess(crop=(h, w)).resize(image)[0, 0, 0])
    assert abs(2 * top + h - height) <= 1
    assert abs(2 * left + w - width) <= 1


def test_grey_and_colour_convert_as_in_pillow() -> None:
    image = picture(50, 60, 3)
    grey = Preprocess(color="grey").apply(image)
    np.testing.assert_array_equal(grey[0], np.asarray(Image.fromarray(image).convert("L")))
    one = picture(5, 6, 1)
    np.testing.assert_array_equal(Preprocess(color="bgr").apply(one), np.repeat(one.transpose(2, 0, 1), 3, axis=0))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_batch_is_its_images_and_floats_are_not_reordered(layout: str) -> None:
    p = Preprocess.parse(f"imagenet,size=none,color=bgr,layout={layout}")
    images = picture(4, 7, 9, 3)
    batch = p.normalise(images)
    np.testing.assert_array_equal(batch, np.stack([p.apply(image) for image in images]))
    ready = images[..., ::-1] if layout == "nhwc" else images[..., ::-1].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(p.standardise(ready.astype(np.float64)), batch)
