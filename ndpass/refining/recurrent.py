"""LSTM and GRU as ONNX has them, step by step, so that gradients go through to the layers before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]  # what a step reads, the states before -> the states after, h first


def _lstm(xs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """X (steps, batch, n), W (directions, 4h, n), R (directions, 4h, h), B (directions, 8h); gates i, o, f, c."""
    _refuse(attributes, ("Sigmoid", "Tanh", "Tanh"), ("input_forget",), [*xs[4:5], *xs[7:8]])

    def cell_of(number: int) -> Cell:
        w, r, wb, rb = _weights(xs, number)
        b = wb + rb

        def cell(x: Tensor, state: State) -> State:
            h, c = state
            i, o, f, g = (x @ w.T + h @ r.T + b).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c

        return cell

    return _run(xs, attributes, cell_of, (5, 6))


def _gru(xs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """W (directions, 3h, n), R (directions, 3h, h), B (directions, 6h); gates z, r, h."""
    _refuse(attributes, ("Sigmoid", "Tanh"), (), xs[4:5])
    reset_behind = bool(attributes.get("linear_before_reset", 0))

    def cell_of(number: int) -> Cell:
        w, r, wb, rb = _weights(xs, number)
        size = r.shape[1]

        def cell(x: Tensor, state: State) -> State:
            (h,) = state
            of_x = (x @ w.T + wb).chunk(3, dim=1)
            of_h = (h @ r.T + rb).chunk(3, dim=1)
            z, reset = torch.sigmoid(of_x[0] + of_h[0]), torch.sigmoid(of_x[1] + of_h[1])
            inner = reset * of_h[2] if reset_behind else (reset * h) @ r[2 * size :].T + rb[2 * size :]
            return ((1 - z) * torch.tanh(of_x[2] + inner) + z * h,)

        return cell

    return _run(xs, attributes, cell_of, (5,))


def _refuse(attributes: Mapping[str, Any], usual: Sequence[str], never: Sequence[str], inputs: Sequence[Any]) -> None:
    """Raise ValueError for what is seldom written and not computed here."""
    names = attributes.get("activations", ())
    if any(name.lower() != usual[i % len(usual)].lower() for i, name in enumerate(names)):
        raise ValueError(f"activations {', '.join(names)}")
    if found := next((name for name in (*never, "layout", "clip") if attributes.get(name)), None):
        raise ValueError(found)
    if any(x is not None for x in inputs):
        raise ValueError("lengths of sequences, or peepholes")


def _weights(xs: Sequence[Any], number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W, R and their biases (gates · h,) of a direction."""
    w, r = xs[1][number], xs[2][number]
    biases = xs[3][number] if len(xs) > 3 and xs[3] is not None else w.new_zeros(2 * len(w))
    return w, r, biases[: len(w)], biases[len(w) :]


def _run(
    xs: Sequence[Any], attributes: Mapping[str, Any], cell_of: Callable[[int], Cell], initial: Sequence[int]
) -> tuple[Tensor, ...]:
    """Y (steps, directions, batch, h), then the last states (directions, batch, h). initial: inputs, by number, that
    are the states before the first step."""
    x, count, size = xs[0], len(xs[1]), xs[2].shape[2]
    backwards = attributes.get("direction", "forward") == "reverse"
    sides: list[tuple[Tensor, State]] = []
    for number in range(count):
        cell, order = cell_of(number), range(len(x))
        if backwards or number:
            order = range(len(x) - 1, -1, -1)
        given = (xs[i] if len(xs) > i else None for i in initial)
        state: State = tuple(x.new_zeros(x.shape[1], size) if s is None else s[number] for s in given)
        found: dict[int, Tensor] = {}
        for step in order:
            state = cell(x[step], state)
            found[step] = state[0]
        sides.append((torch.stack([found[step] for step in range(len(x))]), state))
    last = (torch.stack(states) for states in zip(*(state for _, state in sides), strict=True))
    return torch.stack([y for y, _ in sides], dim=1), *last


RULES = {"LSTM": _lstm, "GRU": _gru}
