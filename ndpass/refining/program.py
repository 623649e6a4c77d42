"""A network as a list of steps in ONNX's operators, whatever it was read from: what torch runs.

Names tell the same tensor of the original and of the rewritten network, so that their responses can be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

WEIGHTED = ("Conv", "ConvTranspose", "GroupConv", "GroupConvTranspose", "Gemm", "MatMul")
NORMS = ("BatchNormalization",)
PLUS = ("Add", "Sum")
PASSING = ("Identity", "Dropout")  # hand on what they get


@dataclass(frozen=True)
class Step:
    """One operator. inputs, outputs: names of tensors, empty for those left out; attributes: as ONNX has them."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Steps in an order in which they can be run.

    constants: name -> values; inputs, outputs: names of tensors; aliases: other names that tensors go by.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, NDArray[Any]]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def giving(self, names: Sequence[str]) -> Program:
        """The part of it that computes these tensors, as its outputs."""
        names = [self.aliases.get(name, name) for name in names]
        needed, kept = set(names), []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                kept.append(step)
                needed |= {name for name in step.inputs if name}
        constants = {name: value for name, value in self.constants.items() if name in needed}
        return replace(self, outputs=tuple(names), steps=tuple(reversed(kept)), constants=constants)

    def weights(self) -> list[str]:
        """Constants that are trained: weights and biases of layers, also a bias that is added behind the layer.

        Scale and shift of a BatchNormalization are trained, its statistics are not.
        """
        makers = {name: step for step in self.steps for name in step.outputs}
        found: dict[str, None] = {}
        for step in self.steps:
            own = step.inputs[1:3] if step.op in (*WEIGHTED, *NORMS) else step.inputs if step.op in PLUS else ()
            if step.op == "MatMul":
                own = step.inputs
            if step.op in PLUS and not any(self._is_layer(makers.get(name), makers) for name in step.inputs):
                continue
            found |= {name: None for name in own if name in self.constants and self.constants[name].dtype.kind == "f"}
        return list(found)

    def _is_layer(self, step: Step | None, makers: Mapping[str, Step]) -> bool:
        """Whether it is a layer, or scales what a layer gives by constants."""
        if step is None or step.op in WEIGHTED:
            return step is not None
        computed = [name for name in step.inputs if name not in self.constants]
        return step.op == "Mul" and len(computed) == 1 and self._is_layer(makers.get(computed[0]), makers)

    def responses(self) -> list[str]:
        """What layers answer: with the bias, the normalisation or the branch that is added directly behind them."""
        readers: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in step.inputs:
                readers.setdefault(name, []).append(step)
        return [
            step.outputs[0]
            for step in self.steps
            if step.op in (*WEIGHTED, *NORMS, *PLUS) and not self._is_completed(step.outputs[0], readers)
        ]

    def _is_completed(self, name: str, readers: Mapping[str, Sequence[Step]]) -> bool:
        """Whether its only reader adds a constant to it or normalises it, maybe behind a scale."""
        behind = readers.get(name, [])
        if len(behind) != 1 or name in self.outputs:
            return False
        constant = all(other in self.constants for other in behind[0].inputs if other != name)
        if behind[0].op == "Mul" and constant:
            return self._is_completed(behind[0].outputs[0], readers)
        return behind[0].op in NORMS or (behind[0].op in PLUS and constant)

    def missing(self, known: Collection[str]) -> list[tuple[str, str]]:
        """(operator, name) of steps whose operator is not known, the first of each operator."""
        found: dict[str, str] = {}
        for step in self.steps:
            if step.op not in known:
                found.setdefault(step.op, step.name)
        return list(found.items())
