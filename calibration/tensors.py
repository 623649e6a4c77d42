"""Arrays of any origin to arrays that the model's input takes, or an error with both shapes and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.errors import InputError
from ndpass.graph.input_spec import InputSpec


def require(preprocess: Preprocess | None, what: str, spec: InputSpec) -> Preprocess:
    """The preprocessing, or InputError: how a model takes pixels cannot be guessed."""
    if preprocess is not None:
        return preprocess
    law = f"{what} hold pixels, and how the model takes pixels has to be said"
    remedy = f"add --preprocess, presets are {', '.join(PRESETS)}"
    if spec.dtype.kind in "iu" and len(spec.sample) == 3:  # it does all else itself
        last = spec.sample[-1] in (1, 3)
        axes, colours = (spec.sample[:2], spec.sample[2]) if last else (spec.sample[1:], spec.sample[0])
        size = (axes[0], axes[1]) if axes[0] and axes[1] else None
        remedy = _typed(Preprocess(size, color="grey" if colours == 1 else "rgb", layout="nhwc" if last else "nchw"))
    raise InputError(f"{law}; no preprocessing given; {remedy}")


def as_array(value: Any, place: str) -> NDArray[Any]:
    """Whatever NumPy takes for an array of numbers; InputError otherwise."""
    law = "data are arrays of numbers or {input name: array}"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as e:
        raise InputError(f"{place}: {law}; got {type(value).__name__} ({e}); give the images alone") from e
    if array.dtype.kind not in "fiub":
        raise InputError(f"{place}: {law}; got {type(value).__name__} of {array.dtype}; give the images alone")
    return array


def check_alone(value: Any, place: str) -> None:
    """Raise InputError for several arrays that are one element, as a picture and its target: no samples of a batch."""
    if not isinstance(value, tuple | list) or len(value) < 2:
        return
    if any(not isinstance(item, tuple | list) and np.ndim(item) for item in value):
        law = "data are arrays of numbers or {input name: array}"
        raise InputError(f"{place}: {law}; got a {type(value).__name__} of {len(value)}; give the images alone")


def with_channels(array: NDArray[Any], preprocess: Preprocess | None) -> NDArray[Any]:
    """Grey images (N, H, W), stacked in one array, get their channel axis; all else is left as it is.

    uint8 of the shape of one colour picture, (H, W, 3) or (3, H, W), is that picture.
    """
    if preprocess is None or array.ndim != 3:
        return array
    if array.dtype != np.uint8:
        return np.expand_dims(array, 1 if preprocess.layout == "nchw" else 3) if preprocess.channels == 1 else array
    is_picture = array.shape[-1] in (1, 3) or (array.shape[0] == 3 == preprocess.channels)
    return array[None] if is_picture else array[..., None]


def pixel_rows(array: NDArray[np.uint8], channels: int, place: str) -> NDArray[np.uint8]:
    """(H, W), (H, W, 1|3), (3, H, W) or a stack of these, (N, ...), to (N, H, W, 1|3); InputError for other shapes.

    channels: that the model takes. (3, H, W) may be one picture or three grey ones, so it is a picture where the model
    takes three, and refused where it takes one.
    """
    images = _channels_last(array, channels, place)
    if images.ndim not in (3, 4) or images.shape[-1] not in (1, 3):
        law = "uint8 pixels are (H, W), (H, W, 1|3), (3, H, W), or (N, ...) of these"
        raise InputError(f"{place}: {law}; got {array.shape}; bring them into this form, channels last")
    return images if images.ndim == 4 else images[None]


def _channels_last(array: NDArray[np.uint8], channels: int, place: str) -> NDArray[np.uint8]:
    """Pixels that have their channels in another place, or none, as `pixel_rows` takes them."""
    if array.ndim > 2 and array.shape[-1] in (1, 3):
        return array
    first = array.shape[-3] if array.ndim > 2 else 0
    if array.ndim == 3 and first == 3 != channels:
        law = "uint8 pixels (3, H, W) are one picture in colour or three grey ones"
        raise InputError(f"{place}: {law}; got {array.shape}; give them as (H, W, 3) or as (3, H, W, 1)")
    if first == 3 or (array.ndim == 4 and first == 1):
        return np.moveaxis(array, -3, -1)
    return array if array.ndim == 4 else array[..., None]


def tensor_rows(array: NDArray[Any], spec: InputSpec, place: str) -> NDArray[Any]:
    """An array of the input's shape, with or without the batch axis, to (N, ...)."""
    rank = len(spec.sample) + 1
    if array.ndim not in (rank, rank - 1):
        raise InputError(f"{place}: {spec}; got {array.shape}; give that, with or without the batch axis")
    return array if array.ndim == rank else array[None]


def for_each(rows: NDArray[Any], spec: InputSpec, count: int) -> NDArray[Any]:
    """One array (1, ...) of an input whose axis 0 counts no samples, for `count` samples, to (count, ...).

    They lie along the axis that is open or of length one, as the batch of a state (layers, batch, width) is; an array
    of one sample's shape is that of each. Others are left as they are.
    """
    if spec.batched or len(rows) == count or len(rows) != 1:
        return rows
    own = rows.shape[1:]
    for axis, size in enumerate(spec.sample):
        if size in (None, 1) and own[axis] == count:
            return np.expand_dims(np.moveaxis(rows[0], axis, 0), axis + 1)
    return np.broadcast_to(rows, (count, *own)) if spec.fits(rows.shape) else rows


def from_pixels(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """(n, H, W, 1|3) to (n, ...): resized one by one where that is needed, the rest for the whole batch at once."""
    if preprocess.resizes(pixels.shape[1], pixels.shape[2]):
        pixels = np.stack([preprocess.resize(image) for image in pixels])
    return preprocess.normalise(pixels)


def cast(rows: NDArray[Any], spec: InputSpec, preprocess: Preprocess | None = None) -> NDArray[Any]:
    """To the input's dtype; InputError when that loses more than precision, as from float to integer.

    preprocess: what made the rows, which are rounded for an integer input where it leaves pixels their range.
    """
    if preprocess is not None and spec.dtype.kind in "iu" and rows.dtype.kind == "f":
        return _whole(rows, spec, preprocess)
    if not np.can_cast(rows.dtype, spec.dtype, "same_kind"):
        raise InputError(f"input {spec.name!r} takes {spec.dtype}; got {rows.dtype}; convert the arrays")
    with np.errstate(over="ignore"):  # what overflows becomes Inf, which `first_not_finite` finds
        return rows.astype(spec.dtype, copy=False)


def _whole(rows: NDArray[Any], spec: InputSpec, preprocess: Preprocess) -> NDArray[Any]:
    """Preprocessed pixels, rounded to an integer type; InputError where it does not hold them."""
    plain = _typed(preprocess, scale=1.0, mean=(0.0,), std=(1.0,))
    if preprocess.scale != 1 or any(std != 1 for std in preprocess.std):
        raise InputError(f"input {spec.name!r} takes {spec.dtype}, which scale and std leave little of; {plain}")
    held, whole = np.iinfo(spec.dtype), np.rint(rows)
    low, high = float(whole.min(initial=0)), float(whole.max(initial=0))
    if low < held.min or high > held.max:
        law = f"input {spec.name!r} takes {spec.dtype}, which holds {held.min}..{held.max}"
        raise InputError(f"{law}; pixels become {low:g}..{high:g}; set mean in --preprocess, or {plain}")
    found: NDArray[Any] = whole.astype(spec.dtype)
    return found


def first_not_finite(rows: NDArray[Any]) -> int | None:
    """The first row of (n, ...) with NaN or Inf."""
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return None
    return int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))


def check_shape(shape: tuple[int, ...], spec: InputSpec, preprocess: Preprocess | None, place: str) -> None:
    """InputError unless (n, ...) fits the input; preprocess: what made the array from pixels, None if it was given."""
    if not spec.fits(shape):
        got = f"({', '.join(map(str, ('batch', *shape[1:])))})"
        raise InputError(f"{place}: {spec}; got {got}; {_remedy(shape, spec, preprocess)}")


def _remedy(shape: tuple[int, ...], spec: InputSpec, preprocess: Preprocess | None) -> str:
    if preprocess is None or len(spec.sample) != 3:
        return "give arrays of that shape, or uint8 pixels with --preprocess"
    n, first, middle, last = shape
    first_last = preprocess.layout == "nchw"
    moved, layout = ((n, middle, last, first), "nhwc") if first_last else ((n, last, first, middle), "nchw")
    if spec.fits(moved):
        return _typed(preprocess, layout=layout)
    channels, (h, w) = (spec.sample[0], spec.sample[1:]) if first_last else (spec.sample[2], spec.sample[:2])
    if channels not in (None, preprocess.channels):
        color = "grey" if channels == 1 else "rgb"
        spread = {key: value for key, value in (("mean", (0.0,)), ("std", (1.0,))) if len(getattr(preprocess, key)) > 1}
        return _typed(preprocess, color=color, **spread)
    if h is None or w is None:
        return "set size=HxW in --preprocess"
    return _typed(preprocess, size=(h, w), crop=(h, w) if preprocess.crop else None)


def _typed(preprocess: Preprocess, **changed: Any) -> str:
    """The option with which the data would fit, whole, to be pasted: a part alone would drop mean, std and scale."""
    from ndpass.calibration.preprocess_text import preprocess_text

    return f"give --preprocess {preprocess_text(replace(preprocess, **changed))}"


def check_labels(labels: Any, count: int, place: str) -> NDArray[np.int64]:
    """The class index of each sample, (count,); InputError when they are not that."""
    array = as_array(labels, f"{place}: labels")
    if array.ndim == 2 and array.shape[0] == count and _one_hot(array):
        raise InputError(f"{place}: labels are one-hot, {array.shape}: give class indices, labels.argmax(1)")
    if array.shape != (count,):
        raise InputError(f"{place}: {count} samples have labels ({count},); got {array.shape}; make them agree")
    if array.dtype.kind not in "iu" or (count and array.min() < 0):
        found = f"the smallest is {array.min()}" if array.dtype.kind == "i" else f"they are {array.dtype}"
        raise InputError(f"{place}: labels are class indices, integers from 0; {found}; convert them")
    return array.astype(np.int64)


def _one_hot(array: NDArray[Any]) -> bool:
    """Whether every row has one 1 and else zeros."""
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def join(parts: Sequence[NDArray[Any]], places: Sequence[str]) -> NDArray[Any]:
    """Parts (n_i, ...) to one batch (Σ n_i, ...); InputError when they differ in more than the number of samples."""
    for part, place in zip(parts, places, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            law = f"the samples of a batch have one shape; {places[0]} has {parts[0].shape[1:]}"
            raise InputError(f"{law}, {place} has {part.shape[1:]}; set size=224 or alike in --preprocess")
    return np.concatenate(parts) if len(parts) > 1 else parts[0]
