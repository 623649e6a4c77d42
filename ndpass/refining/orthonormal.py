"""BSConv-S's regulariser: rows of the first of two pointwise factors are held orthonormal.

A 1×1 convolution of low rank is U V with V (m', m), m' < m. Haase & Amthor 2020 (arXiv 2003.13549, section 3.3) add
α ‖V Vᵀ − I‖²_F of every such V to the loss, so that no two channels between the factors say the same. V as ndpass fits
it is far from that, but U V = (U A S Aᵀ)(A Bᵀ) with V = A S Bᵀ: where U reads V's answer directly the factors are
replaced by these, which compute the same and begin with a penalty of 0. Where a depthwise convolution stands between
them it is the penalty alone that pulls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ndpass.refining.program import PLUS, Program, Step
from ndpass.report import Orthonormal

CONVOLUTIONS = ("Conv", "GroupConv")
JOINING = (*PLUS, "Concat")  # of branches
LEAST_SINGULAR = 1e-6  # of V over its largest, below which U cannot take over what V loses


@dataclass(frozen=True)
class Factor:
    """V's name, and that of U where U alone reads V's answer and there is no bias between; otherwise empty."""

    first: str
    second: str = ""


def low_rank(program: Program, original: Program) -> list[Factor]:
    """Pointwise convolutions to fewer channels that no nonlinearity parts from a convolution to more.

    Those that the original has itself are none: rewriting has not made them.
    """
    own = {name for step in original.steps for name in step.outputs}
    readers: dict[str, list[Step]] = {}
    for step in program.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    uses = {name: len(steps) for name, steps in readers.items()}
    found = []
    for step in program.steps:
        if step.outputs[0] in own or not _narrows(program, step) or uses[step.inputs[1]] > 1:
            continue
        if _is_widened(program, step.outputs[0], readers):
            behind = readers[step.outputs[0]]
            direct = (
                len(behind) == 1 and _is_full(behind[0]) and len(step.inputs) < 3 and uses[behind[0].inputs[1]] == 1
            )
            found.append(Factor(step.inputs[1], behind[0].inputs[1] if direct else ""))
    return found


def _shape(program: Program, step: Step) -> tuple[int, ...]:
    """Of the weights of a convolution; empty where they are computed."""
    return program.constants[step.inputs[1]].shape if step.inputs[1] in program.constants else ()


def _is_full(step: Step) -> bool:
    return step.op == "Conv" and step.attributes.get("group", 1) == 1


def _narrows(program: Program, step: Step) -> bool:
    """Whether it is 1×1 and gives fewer channels than it takes."""
    if not _is_full(step):
        return False
    shape = _shape(program, step)
    return len(shape) > 2 and set(shape[2:]) == {1} and shape[0] < shape[1]


def _is_widened(program: Program, name: str, readers: Mapping[str, Sequence[Step]]) -> bool:
    """Whether all that reads it leads linearly to convolutions of all channels that give more than they take."""
    behind = readers.get(name, [])
    return bool(behind) and name not in program.outputs and all(_leads(program, step, readers) for step in behind)


def _leads(program: Program, step: Step, readers: Mapping[str, Sequence[Step]]) -> bool:
    if _is_full(step):
        shape = _shape(program, step)
        return len(shape) > 2 and shape[0] > shape[1]
    return step.op in (*CONVOLUTIONS, *JOINING) and _is_widened(program, step.outputs[0], readers)


def orthonormalised(program: Program, factors: Sequence[Factor]) -> Program:
    """The same function, with orthonormal rows in every V whose U can take over the rest."""
    changed = dict(program.constants)
    for factor in factors:
        if not factor.second:
            continue
        first, second = changed[factor.first], changed[factor.second]
        v = first.reshape(len(first), -1).astype(np.float64)  # (m', m)
        a, s, bt = np.linalg.svd(v, full_matrices=False)  # (m', m'), (m',), (m', m)
        if s[-1] <= LEAST_SINGULAR * s[0]:
            continue
        taken = np.einsum("oi...,ij->oj...", second.astype(np.float64), (a * s) @ a.T)  # (n, m', ...)
        changed[factor.first] = (a @ bt).reshape(first.shape).astype(first.dtype)
        changed[factor.second] = taken.astype(second.dtype)
    return replace(program, constants=changed)


def penalty(weights: Mapping[str, torch.Tensor], names: Sequence[str]) -> torch.Tensor:
    """The sum of ‖V Vᵀ − I‖²_F over V (m', m, 1, ...) of these names."""
    rows = [weights[name].flatten(1) for name in names]
    return torch.stack([((v @ v.T - torch.eye(len(v), device=v.device)) ** 2).sum() for v in rows]).sum()


@dataclass(frozen=True)
class Regulariser:
    """Called with the weights of a network it gives weight · penalty, to be added to the loss.

    names: of the factors' weights; fitted: their penalty before anything was done to them.
    """

    weight: float
    names: Sequence[str]
    fitted: float

    def __call__(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor | float:
        return self.weight * penalty(weights, self.names) if self.names else 0.0

    @property
    def nothing(self) -> str:
        """What is to be said where there are no factors; empty where there are some."""
        return "" if self.names else "no pointwise factor of low rank, so --refine-orthonormal has nothing to hold"

    def report(self, weights: Mapping[str, torch.Tensor]) -> Orthonormal:
        """What it came to with these weights."""
        after = float(penalty(weights, self.names)) if self.names else 0.0
        return Orthonormal(weight=self.weight, factors=len(self.names), before=self.fitted, after=after)


def regularised(program: Program, original: Program, weight: float) -> tuple[Program, Regulariser | None]:
    """The program to be trained and what holds its factors orthonormal; as it is, and None, for no weight."""
    if not weight:
        return program, None
    trained = set(program.weights())
    factors = [factor for factor in low_rank(program, original) if factor.first in trained]
    names = [factor.first for factor in factors]
    fitted = {name: torch.from_numpy(program.constants[name].astype(np.float32)) for name in names}
    penalised = float(penalty(fitted, names)) if names else 0.0
    return orthonormalised(program, factors), Regulariser(weight, names, penalised)
