"""A network as a list of steps in ONNX's operators, whatever it was read from: what torch runs.

Names tell the same tensor of the original and of the rewritten network, so that their responses can be compared.
"""

from __future__ import annotations

from collections import Counter
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

        Scale and shift of a BatchNormalization are trained, its statistics are not. A constant that anything reads as
        something else, too, is left alone: it has a meaning of its own, as the 3 of a hard-swish has.
        """
        makers = {name: step for step in self.steps for name in step.outputs}
        uses = Counter(name for step in self.steps for name in step.inputs) + Counter(self.outputs)
        trained: Counter[str] = Counter()
        for step in self.steps:
            trained.update(self._biases(step, makers, uses) if step.op in PLUS else self._parameters(step))
        return [n for n, count in trained.items() if count == uses[n] and self.constants[n].dtype.kind == "f"]

    def _parameters(self, step: Step) -> list[str]:
        """Constants that a layer or a normalisation reads as its weight and its bias, or as its scale and shift."""
        if step.op not in (*WEIGHTED, *NORMS):
            return []
        first, *own = [name if name in self.constants else "" for name in step.inputs[:3]]
        if step.op == "MatMul" and (first or self._answer(step) is None):
            return []
        if step.op == "Gemm" and len(own) > 1 and not self._fits(own[1], step):
            own = own[:1]
        return [name for name in own if name]

    def _biases(self, step: Step, makers: Mapping[str, Step], uses: Mapping[str, int]) -> list[str]:
        """Constants with a value for each channel that are added to what a layer answers, and to nothing else."""
        layers = [self._layer(makers.get(name), makers, uses) for name in step.inputs if uses[name] == 1]
        own = [name for name in step.inputs if name in self.constants and uses[name] == 1]
        return [n for n in own if self.constants[n].size > 1 and any(self._fits(n, s) for s in layers if s is not None)]

    def _layer(self, step: Step | None, makers: Mapping[str, Step], uses: Mapping[str, int]) -> Step | None:
        """The layer that it is, or whose answer alone it scales by constants."""
        if step is None or step.op in WEIGHTED:
            return step
        computed = [name for name in step.inputs if name not in self.constants]
        if step.op != "Mul" or len(computed) != 1 or uses[computed[0]] != 1:
            return None
        return self._layer(makers.get(computed[0]), makers, uses)

    def _fits(self, name: str, layer: Step) -> bool:
        """Whether the constant has one value for each channel of the layer's answer, along that axis."""
        value, answer = self.constants[name], self._answer(layer)
        if answer is None or value.size != answer[0]:
            return False
        return value.size == 1 or (value.ndim > answer[1] and value.shape[-1 - answer[1]] == value.size)

    def _answer(self, layer: Step) -> tuple[int, int] | None:
        """(channels of what a layer answers, axes behind them), None where its weight is computed or is no matrix."""
        weight, turned = self.constants.get(layer.inputs[1]), layer.attributes
        if weight is None or weight.ndim < 2:
            return None
        shape = weight.shape
        if layer.op in ("Gemm", "MatMul"):
            return shape[-2 if turned.get("transB") or turned.get("transpose_b") else -1], 0
        if layer.op.startswith("Group"):
            return shape[0] * shape[2 if layer.op == "GroupConvTranspose" else 1], len(shape) - 3
        return shape[1] * turned.get("group", 1) if layer.op == "ConvTranspose" else shape[0], len(shape) - 2

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
