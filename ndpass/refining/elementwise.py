"""Operators that exporters write around layers: of single elements, of lists of numbers, and further reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # alpha and gamma, as ONNX has them

Rule = Callable[[Sequence[Any], Mapping[str, Any]], Any]


def _of_one(function: Callable[[torch.Tensor], torch.Tensor]) -> Rule:
    return lambda xs, _: function(xs[0])


def _of_two(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Rule:
    return lambda xs, _: function(xs[0], xs[1])


def _range(xs: Sequence[Any], _: Mapping[str, Any]) -> torch.Tensor:
    start, limit, step = (x.item() for x in xs)
    return torch.arange(start, limit, step, dtype=xs[0].dtype, device=xs[0].device)


def _selu(xs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    alpha, gamma = (
        attributes.get("alpha", 1.67326319217681884765625),
        attributes.get("gamma", 1.05070102214813232421875),
    )
    return gamma * functional.elu(xs[0], alpha)


def _celu(xs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    return functional.celu(xs[0], attributes.get("alpha", 1.0))


def _thresholded(xs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    return torch.where(xs[0] > attributes.get("alpha", 1.0), xs[0], 0.0)


def _modulo(xs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    return torch.fmod(*xs) if attributes.get("fmod", 0) else torch.remainder(*xs)


def _einsum(xs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    return torch.einsum(attributes["equation"], *xs)


def _largest(function: Callable[..., torch.Tensor]) -> Rule:
    """Its position along an axis, the first of equals."""

    def rule(xs: Sequence[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
        x, axis = xs[0], attributes.get("axis", 0)
        if attributes.get("select_last_index", 0):
            raise ValueError("the last of equals")
        return function(x, dim=axis, keepdim=bool(attributes.get("keepdims", 1)))

    return rule


RULES: dict[str, Rule] = {
    "And": _of_two(torch.logical_and),
    "ArgMax": _largest(torch.argmax),
    "ArgMin": _largest(torch.argmin),
    "Celu": _celu,
    "Cos": _of_one(torch.cos),
    "Einsum": _einsum,
    "GreaterOrEqual": _of_two(torch.ge),
    "LessOrEqual": _of_two(torch.le),
    "Mod": _modulo,
    "Or": _of_two(torch.logical_or),
    "Range": _range,
    "Round": _of_one(torch.round),
    "Selu": _selu,
    "Sign": _of_one(torch.sign),
    "Sin": _of_one(torch.sin),
    "Size": _of_one(lambda x: torch.tensor(x.numel())),
    "Softsign": _of_one(functional.softsign),
    "ThresholdedRelu": _thresholded,
    "Xor": _of_two(torch.logical_xor),
}
