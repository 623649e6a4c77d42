"""How to write a pass.

A pass is one class in one file. It subclasses `Decomposition`, names itself, and answers three questions about a
convolution, as pure functions on arrays; it never sees a graph:

    refuse(conv)                     why this convolution is not for the pass, or None
    settings(conv)                   what can be dialled (rank, form), every value, full rank included
    rewrite(conv, setting, moments)  the block for a setting; without moments it is fitted to the weights alone

`moments` are those of the convolution's own input patches and of the responses that it should give (see
`ndpass.calibration.moments`), the prior already in them; with them the block is fitted in their metric, never worse
than data-free there, and the bias is refitted. `errors` predicts the relative error of each setting; the default
rewrites with each and compares, a pass that can read all ranks off one spectrum overrides it. Options stand in
`__init__`: those given pin the settings. A package of your own offers it in the entry-point group "ndpass.passes"
under its name, and `--passes` and `ndpass passes` know it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Conv
from ndpass.errors import UsageError

Setting: TypeAlias = Mapping[str, int | str]


class Decomposition(ABC):
    """A convolution becomes a block of cheaper ones."""

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, tuple[str, ...]]]  # option -> its words; an empty tuple means a whole number

    def __init__(self, **pinned: int | str) -> None:
        self.pinned = {key: self._option(key, value) for key, value in pinned.items()}

    def _option(self, key: str, value: int | str) -> int | str:
        """The option's value, checked. Raises UsageError naming what is allowed."""
        if key not in self.options:
            raise UsageError(f"pass '{self.name}' has no setting '{key}': it has {', '.join(self.options)}")
        words = self.options[key]
        if value in words:
            return value
        if words and "full" not in words:
            raise UsageError(f"{self.name}:{key}={value}: give {_allowed(words)}")
        if isinstance(value, str) and not value.isdecimal():
            raise UsageError(f"{self.name}:{key}={value}: give {_allowed(words)}")
        if int(value) < 1:
            raise UsageError(f"{self.name}:{key}={value}: a rank is at least 1")
        return int(value)

    @abstractmethod
    def refuse(self, conv: Conv) -> str | None:
        """Why the pass leaves this convolution alone; None where it can act. Looks at geometry only."""

    @abstractmethod
    def settings(self, conv: Conv) -> list[Setting]:
        """Every setting within the pinned ones, cheapest first; a rank beyond full rank becomes full rank."""

    def inner(self, conv: Conv) -> list[Setting]:
        """The few settings that are tried where this pass follows another inside a layer, cheapest first."""
        settings = self.settings(conv)
        return [settings[round(i * (len(settings) - 1) / 4)] for i in range(4)] if len(settings) > 4 else settings

    @abstractmethod
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        """The block that stands for `conv`, its bias on the last leaf. Factors are float64."""

    def sketch(self, conv: Conv, setting: Setting, moments: Moments) -> Block:
        """As `rewrite` with fewer steps, where that is slow: to estimate the error of a composition."""
        return self.rewrite(conv, setting, moments)

    def for_relu(self, setting: Setting) -> bool:
        """Whether `refit_for_relu` is wanted where a ReLU follows; setting: of a layer, or the pinned ones."""
        del setting
        return False

    def refit_for_relu(
        self, conv: Conv, setting: Setting, moments: Moments, answers: Array, responses: Array
    ) -> tuple[Block, float]:
        """The block for the least error after the ReLU, and the share of that error which it saves on held-out rows.

        answers, responses: (S, n_o), what `moments.best` makes of single patches, without bias, and what is wanted.
        """
        raise NotImplementedError(f"pass '{self.name}' has no fit of its own for a ReLU")

    def outline(self, conv: Conv, setting: Setting) -> Block:
        """The geometry of the rewritten block, for counting; its weights mean nothing. Override it where it is slow."""
        return self.rewrite(conv, setting)

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> list[float]:
        """Relative squared error of each setting: of the weights, or with moments of the response."""
        return [block_error(conv, self.rewrite(conv, s, moments), moments) for s in settings]


def block_error(conv: Conv, block: Block, moments: Moments | None = None) -> float:
    """Error of `block` in the place of `conv`: ‖W − Ŵ‖² / ‖W‖², or with moments that of the response."""
    kernel = block.dense().weight
    return relative_error(conv.dense().weight, kernel) if moments is None else moments.error(kernel)


def relative_error(weight: Array, other: Array) -> float:
    """‖W − Ŵ‖² / ‖W‖², in float64; arrays of one shape."""
    wide = weight.astype(np.float64)
    total = float(np.sum(wide * wide))
    return float(np.sum((wide - other) ** 2)) / total if total else 0.0


def _allowed(words: Sequence[str]) -> str:
    if not words:
        return "a whole number"
    return " or ".join(words) if "full" not in words else "a whole number or full"


def refuse_common(conv: Conv) -> str | None:
    """What no decomposition can rewrite."""
    if conv.group > 1:
        kind = "depthwise" if conv.depthwise else "grouped"
        return f"{kind} convolution (group={conv.group})"
    return None


def setting_text(setting: Mapping[str, Any]) -> str:
    """A setting as the command line takes it: rank=2:form=dw-pw."""
    return ":".join(f"{key}={value}" for key, value in setting.items())
