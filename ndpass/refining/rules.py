"""How torch computes what ONNX's operators do: all in one table; here are shapes, reductions and what moves values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from torch.nn import functional

from ndpass.refining import elementwise, openvino_rules, recurrent, resize
from ndpass.refining.layers import LAYERS, UnsupportedError

Tensor: TypeAlias = torch.Tensor
Attributes: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = "Callable[[Sequence[Any], Attributes], Any]"
CAST = {np.dtype(bool): torch.bool, np.dtype(np.float64): torch.float32}


def numbers(x: Tensor) -> list[Any]:
    """The values of a small tensor."""
    return list(x.reshape(-1).tolist())


def given(xs: Sequence[Any], attributes: Attributes, index: int, name: str) -> list[Any] | None:
    """What is an attribute in older opsets and an input in newer ones; None where it is left out."""
    if name in attributes:
        return list(attributes[name])
    return numbers(xs[index]) if len(xs) > index and xs[index] is not None else None


def _softmax(function: Callable[..., Tensor]) -> Rule:
    def rule(xs: Sequence[Any], attributes: Attributes) -> Tensor:
        x = xs[0]
        if attributes.get("opset", 13) >= 13:
            return function(x, dim=attributes.get("axis", -1))
        axis = attributes.get("axis", 1) % max(x.dim(), 1)
        return function(x.reshape(*x.shape[:axis], -1), dim=-1).reshape(x.shape)

    return rule


def _reduction(function: Callable[..., Tensor]) -> Rule:
    def rule(xs: Sequence[Any], attributes: Attributes) -> Tensor:
        axes = given(xs, attributes, 1, "axes")
        if not axes and attributes.get("noop_with_empty_axes"):
            return xs[0]
        dims = [a % xs[0].dim() for a in axes or range(xs[0].dim())]
        return function(xs[0], dim=dims, keepdim=bool(attributes.get("keepdims", 1)))

    return rule


def _product(x: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted(dim, reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _pad(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x = xs[0]
    pads = given(xs, attributes, 1, "pads") or []
    axes = numbers(xs[3]) if len(xs) > 3 and xs[3] is not None else range(len(pads) // 2)
    value = float(xs[2]) if len(xs) > 2 and xs[2] is not None else attributes.get("value", 0.0)
    mode = attributes.get("mode", "constant")
    both = {a % x.dim(): (pads[i], pads[i + len(pads) // 2]) for i, a in enumerate(axes)}
    if mode == "constant":
        flat = [n for axis in reversed(range(x.dim())) for n in both.get(axis, (0, 0))]
        return functional.pad(x, flat, value=value)
    for axis, (before, after) in both.items():
        x = _mirrored(x, axis, before, after, mode)
    return x


def _mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Padded along an axis by what is there."""
    size = x.shape[axis]
    index = np.arange(-before, size + after)
    if mode == "edge":
        index = index.clip(0, size - 1)
    elif mode == "reflect":
        index = np.abs(index) if size > 1 else np.zeros_like(index)
        index = np.where(index >= size, 2 * (size - 1) - index, index)
    else:
        raise UnsupportedError(f"padding of mode {mode}")
    return x.index_select(axis, torch.as_tensor(index, device=x.device))


def _split(xs: Sequence[Any], attributes: Attributes) -> list[Tensor]:
    axis, x = attributes.get("axis", 0), xs[0]
    sizes = given(xs, attributes, 1, "split")
    if sizes is None:
        parts = int(attributes["num_outputs"] if "num_outputs" in attributes else attributes["outputs"])
        each = -(-x.shape[axis] // parts)
        sizes = [min(each, x.shape[axis] - i * each) for i in range(parts)]
    return list(torch.split(x, sizes, dim=axis))


def _slice(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x = xs[0]
    starts, ends = given(xs, attributes, 1, "starts") or [], given(xs, attributes, 2, "ends") or []
    axes = given(xs, attributes, 3, "axes") or list(range(len(starts)))
    steps = given(xs, {}, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index = range(x.shape[axis])[slice(start, _end(end, step), step)]
        if step == 1:
            x = x.narrow(axis, index.start, len(index))
        else:
            x = x.index_select(axis, torch.tensor(list(index), dtype=torch.int64, device=x.device))
    return x


def _end(end: int, step: int) -> int | None:
    """The largest and the smallest numbers stand for the end of the axis."""
    return None if (step < 0 and end <= -(2**31) + 1) else end


def _reshape(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, sizes = xs[0], given(xs, attributes, 1, "shape") or []
    kept = not attributes.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and kept else int(n) for i, n in enumerate(sizes)])


def _flatten(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, axis = xs[0], attributes.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    axes = given(xs, attributes, 1, "axes")
    return xs[0].squeeze() if axes is None else xs[0].squeeze(tuple(axes))


def _unsqueeze(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, axes = xs[0], given(xs, attributes, 1, "axes") or []
    for axis in sorted(a % (x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _gather(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, index = xs[0], xs[1].long()
    axis = attributes.get("axis", 0) % x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index).to(x.device)
    found = x.index_select(axis, index.reshape(-1))
    return found.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _cast(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    return xs[0].to(torch.float32 if kind.kind not in "iub" else torch.bool if kind.kind == "b" else torch.int64)


def _constant(_: Sequence[Any], attributes: Attributes) -> Tensor:
    for name, value in attributes.items():
        if name.startswith("value"):
            return tensor_of(np.asarray(value))
    raise UnsupportedError("a Constant without a dense value")


def _constant_of_shape(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    value = attributes.get("value", np.zeros(1, np.float32))
    return tensor_of(np.full([int(n) for n in numbers(xs[0])], value.reshape(-1)[0], value.dtype))


def tensor_of(value: np.ndarray[Any, Any]) -> Tensor:
    """Floats of any width as float32, whole numbers as int64."""
    kind = value.dtype.kind
    dtype: Any = np.float32 if kind == "f" or value.dtype.name == "bfloat16" else bool if kind == "b" else np.int64
    return torch.from_numpy(np.array(value, dtype))  # a copy: constants may be read-only


def _depth_to_space(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, b = xs[0], attributes["blocksize"]
    n, c, h, w = x.shape
    if attributes.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, b)
    parts = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, b = xs[0], attributes["blocksize"]
    if attributes.get("mode", "DCR") != "DCR":
        raise UnsupportedError("SpaceToDepth of mode CRD")
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _tile(xs: Sequence[Any], _: Attributes) -> Tensor:
    return xs[0].repeat(*numbers(xs[1]))


def _expand(xs: Sequence[Any], _: Attributes) -> Tensor:
    return xs[0].expand(torch.broadcast_shapes(xs[0].shape, torch.Size(numbers(xs[1]))))


def _shape(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.tensor(list(xs[0].shape)[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)


def _concat(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.cat([x for x in xs if x.numel() or x.dim() > 1] or list(xs), dim=attributes.get("axis", 1))


def _permuted(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return xs[0].permute(attributes.get("perm") or list(reversed(range(xs[0].dim()))))


RULES: dict[str, Rule] = {
    **LAYERS,
    **openvino_rules.RULES,
    **resize.RULES,
    **elementwise.RULES,
    **recurrent.RULES,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceL2": _reduction(torch.linalg.vector_norm),
    "Pad": _pad,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _permuted,
    "Gather": _gather,
    "Shape": _shape,
    "Cast": _cast,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Tile": _tile,
    "Expand": _expand,
}
