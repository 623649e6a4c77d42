"""How torch computes what OpenVINO's operators do that ONNX does not have in this form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from ndpass.refining.layers import LAYERS, UnsupportedError
from ndpass.refining.resize import resampled

Tensor: TypeAlias = torch.Tensor
Attributes: TypeAlias = Mapping[str, Any]


def _grouped(op: str) -> Callable[[Sequence[Any], Attributes], Any]:
    """Weights have the group as an axis of their own, before ONNX's."""

    def rule(xs: Sequence[Any], attributes: Attributes) -> Any:
        return LAYERS[op]([xs[0], xs[1].flatten(0, 1)], attributes)

    return rule


def _convert(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    to = attributes["to"]
    whole = to.startswith(("i", "u"))
    return xs[0].to(torch.int64 if whole else torch.bool if to == "boolean" else torch.float32)


def _swish(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return xs[0] * torch.sigmoid(xs[0] * (xs[1] if len(xs) > 1 else attributes.get("alpha", 1.0)))


def _strided_slice(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, begins, ends = xs[0], xs[1].tolist(), xs[2].tolist()
    strides = xs[3].tolist() if len(xs) > 3 else [1] * len(begins)
    masks = {name: list(attributes.get(f"{name}_mask") or []) for name in ("begin", "end", "new_axis", "shrink_axis")}
    masks = {name: mask + [0] * (len(begins) - len(mask)) for name, mask in masks.items()}
    if any(attributes.get("ellipsis_mask") or []) or any(s < 0 for s in strides):
        raise UnsupportedError("StridedSlice with an ellipsis or backwards")
    cut: list[Any] = []
    for i, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        if masks["new_axis"][i]:
            cut.append(None)
        elif masks["shrink_axis"][i]:
            cut.append(begin)
        else:
            cut.append(slice(None if masks["begin"][i] else begin, None if masks["end"][i] else end, stride))
    return x[tuple(cut)]


def _interpolate(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, by_scales = xs[0], attributes["shape_calculation_mode"] == "scales"
    values = xs[2 if len(xs) == 4 and by_scales else 1].tolist()  # the older one has both sizes and scales
    axes = xs[-1].tolist() if len(xs) > 2 else list(range(x.dim()))
    mode = attributes["mode"].removesuffix("_onnx")
    pads = [*attributes.get("pads_begin", []), *attributes.get("pads_end", [])]
    if mode not in ("nearest", "linear") or attributes.get("antialias") or any(pads):
        raise UnsupportedError(f"Interpolate of mode {mode}, with pads or antialias")
    for axis, value in zip(axes, values, strict=True):
        n = x.shape[axis]
        out = math.floor(n * value + 1e-6) if by_scales else int(value)
        if out != n:
            x = resampled(x, axis, out, value if by_scales else out / n, {**attributes, "mode": mode})
    return x


def _broadcast(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    if str(attributes.get("mode", "numpy")).lower() == "explicit":
        raise UnsupportedError("Broadcast along explicit axes")
    return xs[0].expand(torch.broadcast_shapes(xs[0].shape, torch.Size(xs[1].tolist())))


def _mvn(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, axes, eps = xs[0], xs[1].tolist(), attributes["eps"]
    y = x - x.mean(axes, keepdim=True)
    if not attributes["normalize_variance"]:
        return y
    variance = (y * y).mean(axes, keepdim=True)
    inside = str(attributes["eps_mode"]).upper() == "INSIDE_SQRT"
    return y / (torch.sqrt(variance + eps) if inside else torch.sqrt(variance) + eps)


RULES: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "GroupConv": _grouped("Conv"),
    "GroupConvTranspose": _grouped("ConvTranspose"),
    "Convert": _convert,
    "Swish": _swish,
    "StridedSlice": _strided_slice,
    "Interpolate": _interpolate,
    "Broadcast": _broadcast,
    "MVN": _mvn,
}
