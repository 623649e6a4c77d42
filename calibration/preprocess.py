"""From pixels to what a model takes: resize, centre crop, channel order, mean and deviation.

    y[c] = (scale · x[c] − mean[c]) / std[c],    x in 0..255, c in the order that the model takes (`color`)

The specification as text is a preset, or key=value pairs, or a preset and pairs that replace parts of it:

    imagenet        imagenet,size=320        size=224x320,scale=1/255,mean=0.5:0.4:0.3,std=0.2,color=bgr

Sizes are `224` or `224x320` (height x width) or `none`. Lists are separated by `:`, so that a number may be a fraction
such as `1/255`. What is not named is not done: without a preset the scale is 1, the mean 0, the deviation 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.images import luma, resample
from ndpass.calibration.settings import Size, check_choice, read_settings, size_text, wrong
from ndpass.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Preprocess:
    """How pixels become the input of a model.

    size: (h, w) to resize to. With a crop the aspect ratio is kept and the image just covers (h, w): the shorter side
        of torchvision's Resize. Without a crop the image becomes exactly (h, w). None: no resizing.
    crop: (h, w) of the centre that is kept after resizing. None: everything.
    mean, std: one value, or one for each channel in the order of `color`; in units after `scale`.
    scale: factor for the pixels of an array.
    color: 'rgb', 'bgr' or 'grey'. Grey images are repeated into three channels; colours are mixed as in ITU-R BT.601.
    layout: 'nchw' or 'nhwc', of the result.
    white: the value of white in an array of pixels. An image file has white at 255 and is brought to this range.

    Raises UsageError when the settings contradict one another.
    """

    size: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    color: str = "rgb"
    layout: str = "nchw"
    white: float = 255.0

    def __post_init__(self) -> None:
        check_choice("color", self.color, ("rgb", "bgr", "grey"))
        check_choice("layout", self.layout, ("nchw", "nhwc"))
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise wrong(
                    f"{key} has one value or one for each channel",
                    f"{len(values)} values, color={self.color}",
                    f"give {key} {self.channels} value(s), separated by ':'",
                )
        if not all(number > 0 for number in (*self.std, self.scale, self.white)):
            raise wrong("std, scale and white are positive", f"{self.std}, {self.scale}, {self.white}", "leave it out")
        if self.size and self.crop and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise wrong("crop fits into size", f"crop={self.crop}, size={self.size}", f"size={size_text(self.crop)}")

    @property
    def changes_range(self) -> bool:
        """Whether the values of an input are others than those of the pixels."""
        return self.scale != 1 or any(mean != 0 for mean in self.mean) or any(std != 1 for std in self.std)

    @classmethod
    def parse(cls, spec: str) -> Preprocess:
        """Read a specification as the module describes it; UsageError names what is wrong with it."""
        first, *rest = parts = [part.strip() for part in spec.split(",")]
        if "=" in first:
            return cls(**read_settings(parts))
        if first not in PRESETS:
            raise wrong(
                "a preset or key=value comes first",
                f"{first!r}",
                f"presets are {', '.join(PRESETS)}{did_you_mean(first, PRESETS)}",
            )
        preset, settings = PRESETS[first], read_settings(rest)
        # `imagenet,size=320` is for a model that takes 320x320, so a size alone moves the preset's crop as well.
        if preset.crop and "size" in settings:
            settings.setdefault("crop", settings["size"])
        return dataclasses.replace(preset, **settings)

    @property
    def channels(self) -> int:
        return 1 if self.color == "grey" else 3

    def apply(self, image: NDArray[np.uint8], white: float | None = None) -> NDArray[np.float32]:
        """Pixels (H, W, 3|1) to float32 (C, H', W') or (H', W', C); see `resize` and `normalise` for what is raised."""
        return self.normalise(self.resize(image), white)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize (bilinear with antialiasing, as in Pillow) and crop (H, W, C) to (H', W', C).

        Raises InputError when the crop is larger than the image.
        """
        size = self._resized(*image.shape[:2])
        return self._cropped(image if size == image.shape[:2] else resample(image, size))

    def resizes(self, height: int, width: int) -> bool:
        """Whether `resize` would change images of this size."""
        return self._resized(height, width) != (height, width) or self.crop not in (None, (height, width))

    def normalise(self, pixels: NDArray[np.uint8], white: float | None = None) -> NDArray[np.float32]:
        """Pixels (..., H, W, 3|1) to float32 (..., C, H, W) or (..., H, W, C).

        white: the value of white in `pixels`, by default that of an array. Raises InputError when a pixel is above it.
        """
        white = self.white if white is None else white
        if white < 255 and pixels.size and pixels.max() > white:
            law = f"pixels are 0..{white:g} (white={white:g})"
            raise InputError(f"{law}: found {pixels.max()}; add white=255,scale=1/255 to --preprocess")
        return self._affine(self._colored(pixels), self.scale * self.white / white, "nhwc")

    def standardise(self, tensors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Float arrays (N, C, H, W) or (N, H, W, C), as `layout` says, through scale, mean and std only."""
        return self._affine(tensors, self.scale, self.layout)

    def _resized(self, height: int, width: int) -> Size:
        if self.size is None:
            return height, width
        h, w = self.size
        if self.crop is None:
            return h, w
        # Cover (h, w): the tighter side decides, the other one is cut off downwards as torchvision does.
        return (h, width * h // height) if h * width >= w * height else (height * w // width, w)

    def _cropped(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        h, w = self.crop or (height, width)
        if h > height or w > width:
            law = f"a crop fits into the image: crop={size_text((h, w))}, image {size_text((height, width))}"
            raise InputError(f"{law}; add size={size_text((h, w))} to --preprocess")
        top, left = round((height - h) / 2), round((width - w) / 2)
        return image[top : top + h, left : left + w]

    def _colored(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(..., H, W, 3|1) in RGB to (..., H, W, channels) in the order of `color`."""
        if pixels.shape[-1] == 1:
            return np.broadcast_to(pixels, (*pixels.shape[:-1], self.channels))
        return luma(pixels) if self.color == "grey" else pixels[..., ::-1] if self.color == "bgr" else pixels

    def _affine(self, x: NDArray[Any], scale: float, layout: str) -> NDArray[np.float32]:
        """x·a + b with a = scale/std and b = −mean/std, written in one go into an array of the wanted layout."""
        std = np.asarray(self.std)
        a, b = (np.float32(v) for v in (scale / std, -np.asarray(self.mean) / std))
        if self.layout == "nchw":
            x = np.moveaxis(x, -1, -3) if layout == "nhwc" else x  # (..., H, W, C) to (..., C, H, W)
            a, b = a[:, None, None], b[:, None, None]
        out = np.empty(x.shape, np.float32)
        np.multiply(x, a, out=out, casting="same_kind")
        out += b
        return out


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS = {
    "imagenet": Preprocess((256, 256), (224, 224), _IMAGENET_MEAN, _IMAGENET_STD, scale=1 / 255),
    "caffe": Preprocess((256, 256), (224, 224), (103.939, 116.779, 123.68), color="bgr"),
    "cifar10": Preprocess((32, 32), None, _IMAGENET_MEAN, _IMAGENET_STD, scale=1 / 255),
    # scikit-learn's digits hold 0..16; white in a file, 255, is their 16.
    "digits": Preprocess((8, 8), scale=1 / 16, color="grey", white=16.0),
}
