"""How torch computes ONNX's layers and pools: pads that differ on both sides, auto_pad.

Some attributes are none of ONNX's: what OpenVINO does otherwise, `from_openvino` says by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.nn import functional

Tensor: TypeAlias = torch.Tensor
Attributes: TypeAlias = Mapping[str, Any]
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class UnsupportedError(Exception):
    """An operator is known, but not with these attributes; the text says which."""


def _each(attributes: Attributes, name: str, axes: int) -> list[int]:
    """An attribute with a number for each axis, 1 where it is left out."""
    return list(attributes.get(name) or [1] * axes)


def _pads(x: Tensor, attributes: Attributes, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """(begins, ends) of the spatial axes."""
    axes, mode = len(kernel), attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = list(attributes.get("pads") or [0] * 2 * axes)
        return pads[:axes], pads[axes:]
    if mode == "VALID":
        return [0] * axes, [0] * axes
    strides, dilations = _each(attributes, "strides", axes), _each(attributes, "dilations", axes)
    totals = [
        max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def padded(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """Padded, or cut where a pad is negative, along the last axes."""
    if not any(begins) and not any(ends):
        return x
    pairs = reversed(list(zip(begins, ends, strict=True)))
    return functional.pad(x, [n for pair in pairs for n in pair], value=value)


def _conv(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = xs[0], xs[1], xs[2] if len(xs) > 2 else None
    axes = weight.dim() - 2
    begins, ends = _pads(x, attributes, weight.shape[2:])
    if begins != ends:
        x, begins = padded(x, begins, ends), [0] * axes
    strides, dilations = _each(attributes, "strides", axes), _each(attributes, "dilations", axes)
    return CONVOLVE[axes](x, weight, bias, strides, begins, dilations, attributes.get("group", 1))


def _transposed(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = xs[0], xs[1], xs[2] if len(xs) > 2 else None
    axes = weight.dim() - 2
    strides, dilations = _each(attributes, "strides", axes), _each(attributes, "dilations", axes)
    extra = list(attributes.get("output_padding") or [0] * axes)
    y = TRANSPOSED[axes](x, weight, None, strides, 0, 0, attributes.get("group", 1), dilations)
    full = [n + e for n, e in zip(y.shape[2:], extra, strict=True)]
    begins, ends = _cropped(x, attributes, strides, full)
    y = padded(y, [-b for b in begins], [e - end for e, end in zip(extra, ends, strict=True)])
    return y if bias is None else y + bias.reshape(-1, *(1,) * axes)


def _cropped(
    x: Tensor, attributes: Attributes, strides: Sequence[int], full: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What a transposed convolution cuts off at both ends. full: its size before that.

    The attribute begins has what is cut off in front whatever the output's shape.
    """
    axes, mode, shape = len(full), attributes.get("auto_pad", "NOTSET"), attributes.get("output_shape")
    if mode.startswith("SAME") and not shape:
        shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if not shape:
        pads = list(attributes.get("pads") or [0] * 2 * axes)
        return pads[:axes], pads[axes:]
    totals = [f - n for f, n in zip(full, list(shape)[-axes:], strict=True)]
    cut = [max(t, 0) for t in totals]  # what is asked for beyond that is added at the end
    begins = [t // 2 for t in cut] if mode == "SAME_UPPER" else [t - t // 2 for t in cut]
    begins = list(attributes.get("begins") or begins)
    return begins, [t - b for t, b in zip(totals, begins, strict=True)]


def _gemm(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    a, b = xs[0], xs[1]
    product = (a.T if attributes.get("transA") else a) @ (b.T if attributes.get("transB") else b)
    product = attributes.get("alpha", 1.0) * product
    return product if len(xs) < 3 or xs[2] is None else product + attributes.get("beta", 1.0) * xs[2]


def _matmul(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    a, b = xs[0], xs[1]
    return (a.mT if attributes.get("transpose_a") else a) @ (b.mT if attributes.get("transpose_b") else b)


def _norm(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    if attributes.get("training_mode"):
        raise UnsupportedError("BatchNormalization in training mode")
    x, scale, shift, mean, variance = xs[:5]
    return functional.batch_norm(x, mean, variance, scale, shift, False, 0.0, attributes.get("epsilon", 1e-5))


def _instance_norm(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return functional.instance_norm(xs[0], weight=xs[1], bias=xs[2], eps=attributes.get("epsilon", 1e-5))


def _layer_norm(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, axis = xs[0], attributes.get("axis", -1)
    shape = x.shape[axis:]
    bias = xs[2].expand(shape) if len(xs) > 2 and xs[2] is not None else None
    return functional.layer_norm(x, shape, xs[1].expand(shape), bias, attributes.get("epsilon", 1e-5))


def _lrn(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    """The attribute odd: whether an even size has as many channels behind as before, one in all less."""
    x, size = xs[0], attributes["size"]
    before = (size - 1) // 2
    behind = before if attributes.get("odd") else size - 1 - before
    squares = padded((x * x).movedim(1, -1), [before], [behind])
    sums = squares.unfold(-1, before + 1 + behind, 1).sum(-1).movedim(-1, 1)
    base = attributes.get("bias", 1.0) + attributes.get("alpha", 1e-4) / size * sums
    return x / base ** attributes.get("beta", 0.75)


def _ends_up(x: Tensor, attributes: Attributes, pads: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    """The pads with what ceil_mode adds behind, for a window that begins before the end of what is there.

    The attribute all_windows: whether one that begins in the pads behind counts, too.
    """
    begins, ends = pads
    if not attributes.get("ceil_mode"):
        return begins, ends
    kernel = list(attributes["kernel_shape"])
    strides, dilations = _each(attributes, "strides", len(kernel)), _each(attributes, "dilations", len(kernel))
    grown = []
    for n, k, s, d, b, e in zip(x.shape[2:], kernel, strides, dilations, begins, ends, strict=True):
        span = d * (k - 1) + 1
        count = math.ceil((n + b + e - span) / s) + 1
        if (count - 1) * s >= n + b and not attributes.get("all_windows"):
            count -= 1
        grown.append(max((count - 1) * s + span - n - b, e))
    return begins, grown


def _max_pool(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, kernel = xs[0], list(attributes["kernel_shape"])
    axes = len(kernel)
    begins, ends = _ends_up(x, attributes, _pads(x, attributes, kernel))
    strides, dilations = _each(attributes, "strides", axes), _each(attributes, "dilations", axes)
    return MAX[axes](padded(x, begins, ends, torch.finfo(x.dtype).min), kernel, strides, 0, dilations)


def _mean_pool(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    """The attribute whole_windows: whether with any pads what ceil_mode adds behind them counts like them."""
    x, kernel = xs[0], list(attributes["kernel_shape"])
    axes = len(kernel)
    if any(d != 1 for d in _each(attributes, "dilations", axes)):
        raise UnsupportedError("AveragePool with dilations")
    begins, ends = _pads(x, attributes, kernel)
    _, grown = _ends_up(x, attributes, (begins, ends))
    strides, pool = _each(attributes, "strides", axes), MEAN[axes]
    y = pool(padded(x, begins, grown), kernel, strides)
    if not any(begins) and not any(grown):
        return y
    if attributes.get("whole_windows") and any((*begins, *ends)):
        return y
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if attributes.get("count_include_pad"):
        ones = padded(ones, begins, ends, 1.0)
        begins, grown = [0] * axes, [g - e for g, e in zip(grown, ends, strict=True)]
    return y / pool(padded(ones, begins, grown), kernel, strides)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


LAYERS: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LRN": _lrn,
    "MaxPool": _max_pool,
    "AveragePool": _mean_pool,
    "GlobalAveragePool": lambda xs, _: xs[0].mean(_spatial(xs[0]), keepdim=True),
    "GlobalMaxPool": lambda xs, _: xs[0].amax(_spatial(xs[0]), keepdim=True),
}
