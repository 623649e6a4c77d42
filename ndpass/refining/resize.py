"""How torch resizes as OpenVINO does: what it reads for each element of the output, in its arithmetic.

Runtimes compute coordinates in 32 bits, and which element is nearest hangs by the last of them. onnxruntime differs in
a few places: what is a half but for rounding is one there, and it multiplies first where corners are aligned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ndpass.refining.layers import UnsupportedError

Tensor: TypeAlias = torch.Tensor
Attributes: TypeAlias = Mapping[str, Any]
Places: TypeAlias = NDArray[Any]  # float32
HALF = np.float32(0.5)


def resize(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    """ONNX's Resize and Upsample of every opset. Raises UnsupportedError for what runtimes do in ways of their own."""
    x = xs[0]
    scales, sizes = _asked(xs, attributes)
    axes = list(attributes.get("axes") or range(x.dim()))
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get("antialias"):
        raise UnsupportedError(f"a resize of mode {mode}{' with antialias' if attributes.get('antialias') else ''}")
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("a resize that keeps the ratio of sides")
    for i, axis in enumerate(axes):
        n = x.shape[axis]
        out = int(sizes[i]) if sizes else int(np.float32(n) * np.float32(scales[i]))
        scale = scales[i] if scales else out / n
        if out != n:
            x = resampled(x, axis, out, scale, attributes)
    return x


def _asked(xs: Sequence[Any], attributes: Attributes) -> tuple[list[float], list[int]]:
    """(scales, sizes), one of them empty."""
    if "scales" in attributes:
        return list(attributes["scales"]), []
    first = 1 if attributes.get("opset", 13) < 11 else 2  # the older ones have no region of interest
    values = [x.reshape(-1).tolist() if x is not None else [] for x in xs[first : first + 2]]
    scales, sizes = [*values, [], []][:2]
    return ([], sizes) if sizes else (scales, [])


def resampled(x: Tensor, axis: int, out: int, scale: float, attributes: Attributes) -> Tensor:
    """x with `out` elements along an axis. scale: by which it grows, as the model says it."""
    n = x.shape[axis]
    old = attributes.get("opset", 13) < 11  # of the operator, which had no modes of coordinates then
    mode = "asymmetric" if old else attributes.get("coordinate_transformation_mode", "half_pixel")
    if (rule := COORDINATES.get(mode)) is None:
        raise UnsupportedError(f"a resize with coordinates {mode}")
    at = rule(np.arange(out, dtype=np.float32), np.float32(scale), n)
    if attributes.get("mode", "nearest") == "nearest":
        rounding = NEAREST["simple" if old else attributes.get("nearest_mode", "round_prefer_floor")]
        return _taken(x, axis, rounding(at.astype(np.float64), scale).clip(0, n - 1))
    at = at.clip(0, n - 1)
    low = np.floor(at).astype(np.int64)
    share = torch.as_tensor((at - low).astype(np.float32), device=x.device)
    share = share.reshape(-1, *(1,) * (x.dim() - axis - 1))
    below, above = _taken(x, axis, low), _taken(x, axis, np.minimum(low + 1, n - 1))
    return below + (above - below) * share


def _taken(x: Tensor, axis: int, index: NDArray[Any]) -> Tensor:
    return x.index_select(axis, torch.as_tensor(index.astype(np.int64), device=x.device))


def _half_pixel(places: Places, scale: np.float32, _: int) -> Places:
    at: Places = (places + HALF) / scale - HALF
    return at


def _torch_half_pixel(places: Places, scale: np.float32, n: int) -> Places:
    return np.zeros(1, np.float32) if len(places) == 1 else _half_pixel(places, scale, n)


def _aligned(places: Places, _: np.float32, n: int) -> Places:
    at: Places = places * (np.float32(n - 1) / np.float32(max(len(places) - 1, 1)))
    return at


COORDINATES: dict[str, Callable[[Places, np.float32, int], Places]] = {  # (places, scale, length of what is resized)
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _torch_half_pixel,
    "align_corners": _aligned,
    "asymmetric": lambda places, scale, _: places / scale,
    "tf_half_pixel_for_nn": lambda places, scale, _: (places + HALF) / scale,
}
NEAREST: dict[str, Callable[[NDArray[np.float64], float], NDArray[np.float64]]] = {  # (coordinates, scale)
    "round_prefer_floor": lambda at, _: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at, _: np.floor(at + 0.5),
    "floor": lambda at, _: np.floor(at),
    "ceil": lambda at, _: np.ceil(at),
    "simple": lambda at, scale: np.ceil(at) if scale < 1 else np.floor(at),
}
RULES: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {"Resize": resize, "Upsample": resize}
