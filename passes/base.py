"""How to write a pass.

A pass is one class in one file. It subclasses `Decomposition`, names itself, and answers three questions about a
convolution, as pure functions on arrays; it never sees a graph:

    refuse(conv)                     why this convolution is not for the pass, or None
    settings(conv)                   every setting (rank, form), cheapest first, full rank included
    rewrite(conv, setting, moments)  the block for a setting; without moments it is fitted to the weights alone

`moments` are those of the convolution's own input patches and of the responses that it should give (see
`ndpass.calibration.moments`), the prior already in them; with them the block is fitted in their metric, never worse
than data-free there, and the bias is refitted. Two more methods are there for speed: `errors` predicts the relative
error of each setting (the default rewrites with each and compares; a pass that can read all ranks off one spectrum
overrides it), `outline` gives the shapes of a block without its weights. A pass that can fit for the error behind a
ReLU implements `ndpass.passes.relu_fit.ReluFit` too.

A pass with `by_group = True` takes grouped convolutions too and treats each group as a convolution of its own, with
`moments.parts` as its moments (`ndpass.passes.groups`).

Options are named in the class and stand in `__init__`: those given pin the settings. A package of your own offers its
pass in the entry-point group "ndpass.passes" under the pass's name; then `ndpass passes` lists it, and `--passes NAME`
and `--passes auto` use it. `ndpass.testing.check_pass(MyPass)` says whether it keeps what a pass promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Conv
from ndpass.passes.groups import kernel_of, mixes
from ndpass.passes.options import checked, setting_text, takes_number

Setting: TypeAlias = Mapping[str, int | str]  # option -> value

__all__ = [
    "Decomposition",
    "Pass",
    "Setting",
    "block_error",
    "refuse_common",
    "relative_error",
    "setting_text",
]


class Pass(ABC):
    """What the frame asks of every pass, whatever it rewrites.

    name: as `--passes` has it; summary: a line for `ndpass passes`; options: what can be set, each with its words (see
    `ndpass.passes.options`); pinned: the options that were given, by name. formula, when, cost, reference: what
    `ndpass passes NAME` says besides, in plain text; left out where they are empty.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, tuple[str, ...]]]
    formula: ClassVar[str] = ""
    when: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    reference: ClassVar[str] = ""

    in_auto: ClassVar[bool] = True  # whether `--passes auto` uses it
    may_follow: ClassVar[bool] = True  # whether it may rewrite what a pass before it has left of a layer

    def __init__(self, **pinned: Any) -> None:
        """Raises UsageError for an option that there is not, or a value that it does not take."""
        self.pinned = {key: checked(self.name, self.options, key, value) for key, value in pinned.items()}

    @property
    def pinned_fully(self) -> bool:
        """Whether nothing is left to choose but words: every option that takes a number is given.

        Where no option takes a number, every option is given.
        """
        numbers = [key for key, words in self.options.items() if takes_number(words)]
        return all(key in self.pinned for key in numbers or self.options)

    @property
    def pinned_to_full(self) -> bool:
        """Whether full rank is asked for by name, whatever it costs."""
        return "full" in self.pinned.values()

    @property
    def needs_data(self) -> bool:
        """Whether the pass can do nothing without calibration data."""
        return False

    @abstractmethod
    def refuse(self, conv: Conv) -> str | None:
        """Why the pass leaves this convolution alone; None where it can act. Looks at geometry only."""

    @abstractmethod
    def settings(self, conv: Conv) -> list[Setting]:
        """Every setting within the pinned ones, cheapest first. Looks at geometry only."""


class Decomposition(Pass):
    """A convolution becomes a block of cheaper ones."""

    # Whether, fitted to moments, all that follows the block's first convolution has orthonormal columns, so that an
    # error of the first one's response is the same error of the layer's.
    isometric: ClassVar[bool] = False

    # Whether it rewrites a grouped convolution group by group (`ndpass.passes.groups`), fitted to the moments of each.
    by_group: ClassVar[bool] = False

    # Whether `errors` takes as long for one setting as for all of the same words.
    errors_at_once: ClassVar[bool] = False

    @abstractmethod
    def settings(self, conv: Conv) -> list[Setting]:
        """Every setting within the pinned ones, cheapest first; a rank beyond full rank becomes full rank.

        Cheapest is counted by `cost.macs_per_position`, over all forms. Looks at geometry only.
        """

    def ranks(self, full: int) -> list[int]:
        """Every rank from 1 to `full`, or the one that the option `rank` pins."""
        pinned = self.pinned.get("rank")
        if pinned is None:
            return list(range(1, full + 1))
        return [full if pinned == "full" else min(int(pinned), full)]

    def words_first(self, setting: Setting) -> list[int]:
        """The position of each word of a setting among the words of its option: a key that sorts first words first."""
        return [words.index(str(setting[key])) for key, words in self.options.items() if setting.get(key) in words]

    def inner(self, conv: Conv) -> list[Setting]:
        """The few settings that are tried where this pass follows another inside a layer, cheapest first."""
        settings = self.settings(conv)
        return [settings[round(i * (len(settings) - 1) / 4)] for i in range(4)] if len(settings) > 4 else settings

    @abstractmethod
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        """The block that stands for `conv`, its bias on the last leaf. Factors are float64.

        A rank beyond full rank counts as full rank: inside a composition one setting meets leaves of several sizes.
        """

    def sketch(self, conv: Conv, setting: Setting, moments: Moments) -> Block:
        """As `rewrite`, in fewer steps where that is slow; used to estimate the error of a composition."""
        return self.rewrite(conv, setting, moments)

    def outline(self, conv: Conv, setting: Setting) -> Block:
        """The geometry of the rewritten block, for counting; its weights mean nothing. Override it where it is slow."""
        return self.rewrite(conv, setting)

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> Sequence[float | None]:
        """Relative squared error of each setting: of the weights, or with moments of the response.

        None for a setting that is not worth a try; it is left out. With moments an upper bound will do. A rank beyond
        full rank counts as full rank, as in `rewrite`.
        """
        return [block_error(conv, self.rewrite(conv, s, moments), moments) for s in settings]


def block_error(conv: Conv, block: Block, moments: Moments | None = None) -> float:
    """Error of `block` in the place of `conv`: ‖W − Ŵ‖² / ‖W‖², or with moments that of the response."""
    if mixes(block, conv.group):  # what it reads of other groups, moments do not know
        return relative_error(conv.dense().weight, block.dense().weight)
    kernel = kernel_of(block, conv.group)
    return relative_error(conv.weight, kernel) if moments is None else moments.error(kernel)


def relative_error(weight: Array, other: Array) -> float:
    """‖W − Ŵ‖² / ‖W‖², in float64; arrays of one shape."""
    wide = weight.astype(np.float64)
    total = float(np.sum(wide * wide))
    return float(np.sum((wide - other) ** 2)) / total if total else 0.0


def refuse_common(conv: Conv) -> str | None:
    """What a decomposition of dense convolutions cannot rewrite."""
    if conv.group > 1:
        kind = "depthwise" if conv.weight.shape[1] == 1 else "grouped"
        return f"{kind} convolution (group={conv.group})"
    return None
