"""The samples that the result differs most on from the original, as small pictures where they are pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.feeds import Feeds
from ndpass.measuring.evaluate import Agreement
from ndpass.report import Furthest

SIDE = 96  # pixels of the longer side of a picture
COLOURS = (1, 3)


def furthest(agreement: Agreement, feeds: Feeds) -> list[Furthest]:
    """What the report says of `agreement.furthest`; feeds: the samples that were measured."""
    return [
        Furthest(
            sample=i, name=feeds.name_of(i), error=error if np.isfinite(error) else None, picture=picture(feeds, i)
        )
        for i, error in agreement.furthest
    ]


def picture(feeds: Feeds, sample: int) -> str:
    """A sample as a data address of a PNG; empty where no input looks like one picture.

    Inputs are shown as the model gets them, stretched to the full range, because what was cut away or scaled wrongly
    explains many a difference.
    """
    feed = next(feeds.take([sample]).batches(1))
    pixels = next((p for value in feed.values() if (p := _pixels(value[0])) is not None), None)
    if pixels is None:
        return ""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _pixels(value: NDArray[np.generic]) -> NDArray[np.uint8] | None:
    """(H, W) or (H, W, 3) uint8 of an input (C, H, W) or (H, W, C) with one or three channels; None of any other."""
    if value.ndim != 3 or value.dtype.kind not in "fiu" or min(value.shape) < 1:
        return None
    if value.shape[0] in COLOURS and min(value.shape[1:]) > max(COLOURS):
        rows = value.transpose(1, 2, 0)
    elif value.shape[2] in COLOURS and min(value.shape[:2]) > max(COLOURS):
        rows = value
    else:
        return None
    levels = rows.astype(np.float64)
    low, high = levels.min(), levels.max()
    pixels: NDArray[np.uint8] = np.rint(255 * (levels - low) / ((high - low) or 1.0)).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
