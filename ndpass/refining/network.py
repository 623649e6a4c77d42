"""A program as a torch module: its weights are parameters, its other constants are kept beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndpass.refining.layers import UnsupportedError
from ndpass.refining.program import Program, Step
from ndpass.refining.rules import RULES, tensor_of

Tensors = dict[str, torch.Tensor]
IMAGE_AXES = 4  # (n, channels, height, width)


class Network:
    """Runs a program: {input: (n, ...)} -> {output: tensor}. Floats are float32, whole numbers int64.

    trained: whether gradients reach its weights. device: where floats live; lengths and indices stay on the CPU.
    """

    def __init__(self, program: Program, *, trained: bool, device: str = "cpu") -> None:
        self.program, self.device = program, torch.device(device)
        names = program.weights() if trained else []
        self._fixed = {
            name: self._placed(tensor_of(value)) for name, value in program.constants.items() if name not in set(names)
        }
        self.weights: Tensors = {
            name: self._placed(tensor_of(program.constants[name])).requires_grad_() for name in names
        }
        self._last = _last_uses(program)
        self.bytes_made = 0  # of all tensors that the last run has computed

    def _placed(self, x: torch.Tensor) -> torch.Tensor:
        """Images with their channels innermost, which is how torch's convolutions are fastest."""
        if not x.is_floating_point():
            return x
        x = x.to(self.device)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == IMAGE_AXES else x

    def __call__(self, feed: Mapping[str, NDArray[Any] | torch.Tensor]) -> Tensors:
        """Raises UnsupportedError naming a step that torch cannot run, torch.OutOfMemoryError of a device."""
        values: Tensors = {**self._fixed, **self.weights}
        for name in self.program.inputs:
            if name in feed:
                x = feed[name]
                values[name] = self._placed(x if isinstance(x, torch.Tensor) else tensor_of(np.asarray(x)))
        self.bytes_made = 0
        for number, step in enumerate(self.program.steps):
            if lost := [name for name in step.inputs if name and name not in values]:
                raise UnsupportedError(f"'{lost[0]}', which torch does not give, but {step.op} of '{step.name}' reads")
            found = self._run(step, [values[name] if name else None for name in step.inputs])
            self.bytes_made += sum(x.nbytes for x in found)
            values.update((name, x) for name, x in zip(step.outputs, found, strict=False) if name)
            for name in self._last[number]:
                values.pop(name, None)  # what an operator can give but torch does not
        if lost := [name for name in self.program.outputs if name not in values]:
            raise UnsupportedError(f"output '{lost[0]}', which torch does not give")
        return {name: values[name] for name in self.program.outputs}

    def _run(self, step: Step, xs: Sequence[torch.Tensor | None]) -> Sequence[torch.Tensor]:
        attributes = {**step.attributes, "outputs": len(step.outputs)} if step.op == "Split" else step.attributes
        try:
            found = RULES[step.op](xs, attributes)
        except KeyError as e:
            raise UnsupportedError(f"operator {step.op} of '{step.name}'") from e
        except torch.OutOfMemoryError:
            raise  # a RuntimeError, too, but none of the operator
        except (RuntimeError, IndexError, TypeError, ValueError) as e:
            reason = " ".join(str(e).split())[:200]
            raise UnsupportedError(f"operator {step.op} of '{step.name}': {reason}") from e
        return [found] if isinstance(found, torch.Tensor) else list(found)


def _last_uses(program: Program) -> list[list[str]]:
    """For each step, the tensors that nothing behind it reads; constants and what is asked for stay."""
    kept, seen = {*program.outputs, *program.constants, *program.inputs}, set[str]()
    freed: list[list[str]] = []
    for step in reversed(program.steps):
        names = {name for name in (*step.inputs, *step.outputs) if name} - kept - seen
        freed.append(sorted(names))
        seen |= names
    return freed[::-1]
