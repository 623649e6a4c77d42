"""What the planner chooses from: budgets, candidates and choices."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from ndpass.conv import Block
from ndpass.passes import Setting

T = TypeVar("T")

Loss = Literal["max_drop", "max_error"]  # kinds of budget that are measured on the outputs of what was fitted
LOSSES: tuple[Loss, Loss] = ("max_drop", "max_error")
BudgetKind = Literal["pinned", "energy", "macs", "speedup", "max_drop", "max_error"]


@dataclass(frozen=True)
class Budget:
    """What a plan has to meet. The meaning of `value` depends on `kind`:

    pinned: None, settings are taken as given; energy: share of its response that every layer keeps; macs: share of the
    model's MACs that is left; speedup: how many times as fast, measured; max_drop: points that the metric may fall.
    max_error: largest relative error of any output. speedup: beside max_drop or max_error, how many times as fast at
    least. faster: whether a layer that is no faster on this machine stays as it is, although the budget says nothing of
    time. by_default: whether nobody asked for it.
    """

    kind: BudgetKind
    value: float | None = None
    speedup: float | None = None
    faster: bool = False
    by_default: bool = False

    @property
    def in_milliseconds(self) -> bool:
        """Whether candidates have to be timed."""
        return self.kind in ("speedup", *LOSSES)

    @property
    def loss_limit(self) -> float | None:
        """Points that may be lost: of the metric, or per cent of an output's variance; None for other budgets."""
        if self.value is None or self.kind not in LOSSES:
            return None
        return self.value if self.kind == "max_drop" else 100 * self.value

    @property
    def is_shared(self) -> bool:
        """Whether layers share it, so that candidates of all have to be known before one is chosen."""
        return self.in_milliseconds or self.kind == "macs"

    def allows(self, error: float) -> bool:
        """Whether one layer may have this relative error; a budget that layers share allows any."""
        return self.kind != "energy" or self.value is None or 1 - error >= self.value

    def to_json(self) -> dict[str, Any]:
        """As reports and plan files show it: {kind: value}, and the speedup if there is one beside it."""
        both = {} if self.speedup is None else {"speedup": self.speedup}
        return {self.kind: "as given" if self.value is None else self.value, **both}


@dataclass(frozen=True)
class Candidate:
    """One way to write a layer.

    macs: multiply-accumulates of the layer; error: relative error of its response; setting: pass name -> setting, empty
    for the layer as it is; seconds: latency, once it is timed; weighed: predicted divergence of the outputs, once that
    is known (`ndpass.planning.sensitivity`); bound: whether the error is known to be no less, and no more is known
    (`ndpass.planning.compositions`); block: the fitted block, where it had to be fitted to know its error.
    """

    macs: int
    error: float = 0.0
    setting: Mapping[str, Setting] = field(default_factory=dict)
    seconds: float | None = None
    weighed: float | None = None
    bound: bool = False
    block: Block | None = field(default=None, compare=False, repr=False)

    @property
    def is_gone(self) -> bool:
        """Whether the layer is no more: it has been merged into another."""
        return self.macs == 0 and not self.setting

    def is_like(self, other: Candidate) -> bool:
        """Whether both make the same of the layer."""
        return self.setting == other.setting and self.is_gone == other.is_gone

    @property
    def damage(self) -> float:
        """What plans keep small, summed over the layers: `weighed`, or the error where that is not known."""
        return self.error if self.weighed is None else self.weighed


class CandidateStore(Protocol):
    """Keeps what is planned layer by layer, so that planning that was cut off goes on with the next layer."""

    def save_layer(self, layer: str, content: Mapping[str, Any]) -> None:
        """Keep what JSON can hold of a layer, whole or not at all; called from several threads."""

    def load_layer(self, layer: str, unpack: Callable[[Any], T]) -> T | None:
        """What `unpack` makes of what was kept of the layer, or None."""

    def save_candidates(self, layer: str, candidates: Sequence[Candidate]) -> None:
        """Keep all candidates of a layer, whole or not at all; called from several threads."""

    def load_candidates(self, layer: str) -> list[Candidate] | None:
        """What was kept of the layer, equal in every bit, or None."""


Cost = Callable[[Candidate], float]


def macs_of(candidate: Candidate) -> float:
    return candidate.macs


def seconds_of(candidate: Candidate) -> float:
    """Latency of a candidate that has been timed."""
    assert candidate.seconds is not None
    return candidate.seconds


def damage(plan: Mapping[str, Choice]) -> float:
    """Damage of all layers together: the predicted divergence of the outputs."""
    return sum(choice.candidate.damage for choice in plan.values())


@dataclass(frozen=True)
class Choice:
    """What a site becomes, and why where it stays as it is.

    status, of one that stays: kept, or reverted where something that was predicted to be faster was timed and was not.
    """

    candidate: Candidate
    reason: str = ""
    status: Literal["kept", "reverted"] = "kept"


def possible(ways: Sequence[Candidate], cost: Cost = macs_of) -> list[Candidate]:
    """The candidates that may be on the front of `pareto` once all is known, cheapest first: bounds that no other
    candidate beats, and the front of those that are no bounds."""
    front = pareto([c for c in ways if not c.bound], cost)
    costs = [cost(c) for c in front]

    def beaten(c: Candidate) -> bool:
        at = bisect.bisect_right(costs, cost(c))
        return at > 0 and front[at - 1].damage <= c.damage

    return sorted([*front, *(c for c in ways if c.bound and not beaten(c))], key=lambda c: (cost(c), c.damage))


def pareto(ways: Sequence[Candidate], cost: Cost = macs_of) -> list[Candidate]:
    """The candidates that no other beats in both cost and damage, cheapest first; of equal ones the first."""
    front: list[Candidate] = []
    for c in sorted(ways, key=lambda c: (cost(c), c.damage)):
        if not front or c.damage < front[-1].damage:
            front.append(c)
    return front
