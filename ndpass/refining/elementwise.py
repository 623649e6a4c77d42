"""What torch computes of ONNX's operators on single elements, one or several tensors wide, and lists of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Attributes: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = "Callable[[Sequence[Any], Attributes], Any]"
SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # alpha and gamma, as ONNX has them


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda xs, _: function(xs[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda xs, _: function(xs[0], xs[1])


def _clip(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    low, high = (xs[i] if len(xs) > i else attributes.get(name) for i, name in ((1, "min"), (2, "max")))
    bounds = [None if b is None else float(b) for b in (low, high)]
    return xs[0] if bounds == [None, None] else torch.clamp(xs[0], *bounds)


def _prelu(xs: Sequence[Any], _: Attributes) -> Tensor:
    x, slope = xs
    if slope.dim() == 1 and slope.numel() > 1 and x.dim() > 2 and slope.shape[0] == x.shape[1] != x.shape[-1]:
        slope = slope.reshape(-1, *(1,) * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


def _elu(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return functional.elu(xs[0], attributes.get("alpha", 1.0))


def _gelu(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return functional.gelu(xs[0], approximate=attributes.get("approximate", "none"))


def _hard_sigmoid(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * xs[0] + attributes.get("beta", 0.5), 0, 1)


def _divide(xs: Sequence[Any], _: Attributes) -> Tensor:
    a, b = xs
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _sum(xs: Sequence[Any], _: Attributes) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def rule(xs: Sequence[Any], _: Attributes) -> Tensor:
        found = xs[0]
        for x in xs[1:]:
            found = function(found, x)
        return found

    return rule


def _range(xs: Sequence[Any], _: Attributes) -> Tensor:
    start, limit, step = (x.item() for x in xs)
    return torch.arange(start, limit, step, dtype=xs[0].dtype, device=xs[0].device)


def _selu(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    alpha, gamma = attributes.get("alpha", SELU[0]), attributes.get("gamma", SELU[1])
    return gamma * functional.elu(xs[0], alpha)


def _celu(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return functional.celu(xs[0], attributes.get("alpha", 1.0))


def _thresholded(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.where(xs[0] > attributes.get("alpha", 1.0), xs[0], 0.0)


def _modulo(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.fmod(*xs) if attributes.get("fmod", 0) else torch.remainder(*xs)


def _einsum(xs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.einsum(attributes["equation"], *xs)


def _place(function: Callable[..., Tensor]) -> Rule:
    """Where the largest or the smallest element stands along an axis, the first of equals."""

    def rule(xs: Sequence[Any], attributes: Attributes) -> Tensor:
        x, axis = xs[0], attributes.get("axis", 0)
        if attributes.get("select_last_index", 0):
            raise ValueError("the last of equals")
        return function(x, dim=axis, keepdim=bool(attributes.get("keepdims", 1)))

    return rule


RULES: dict[str, Rule] = {
    **{
        name: _unary(function)
        for name, function in {
            "Relu": torch.relu,
            "Sigmoid": torch.sigmoid,
            "Tanh": torch.tanh,
            "HardSwish": functional.hardswish,
            "Mish": functional.mish,
            "Softplus": functional.softplus,
            "Softsign": functional.softsign,
            "Sqrt": torch.sqrt,
            "Exp": torch.exp,
            "Log": torch.log,
            "Neg": torch.neg,
            "Abs": torch.abs,
            "Erf": torch.erf,
            "Floor": torch.floor,
            "Ceil": torch.ceil,
            "Round": torch.round,
            "Sign": torch.sign,
            "Sin": torch.sin,
            "Cos": torch.cos,
            "Reciprocal": torch.reciprocal,
            "Not": torch.logical_not,
            "Identity": lambda x: x,
            "Dropout": lambda x: x,
            "Size": lambda x: torch.tensor(x.numel()),
        }.items()
    },
    **{
        name: _binary(function)
        for name, function in {
            "Add": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Pow": torch.pow,
            "Equal": torch.eq,
            "Greater": torch.gt,
            "GreaterOrEqual": torch.ge,
            "Less": torch.lt,
            "LessOrEqual": torch.le,
            "And": torch.logical_and,
            "Or": torch.logical_or,
            "Xor": torch.logical_xor,
        }.items()
    },
    "ArgMax": _place(torch.argmax),
    "ArgMin": _place(torch.argmin),
    "Celu": _celu,
    "Clip": _clip,
    "Div": _divide,
    "Einsum": _einsum,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": lambda xs, a: functional.leaky_relu(xs[0], a.get("alpha", 0.01)),
    "Max": _extreme(torch.maximum),
    "Min": _extreme(torch.minimum),
    "Mod": _modulo,
    "PRelu": _prelu,
    "Range": _range,
    "Selu": _selu,
    "Sum": _sum,
    "ThresholdedRelu": _thresholded,
    "Where": lambda xs, _: torch.where(xs[0].bool(), xs[1], xs[2]),
}
