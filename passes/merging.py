"""What the frame asks of a pass that rewrites blocks, not layers: a residual branch becomes one convolution.

`conv` stands for the branch everywhere: the convolution with its receptive field, strides and pads, and the weights
that the branch has where its non-linear layers are taken for linear ones. `moments` are of the patches that it reads
and of the responses that the branch should give: what the original has behind the sum, less the shortcut as it is now.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ndpass.calibration.moments import Moments
from ndpass.conv import Conv
from ndpass.passes.base import Pass, Setting


class Merging(Pass):
    """Layers go: where a branch is merged, nothing rewrites them before. What it becomes, passes behind may rewrite."""

    may_follow: ClassVar[bool] = False

    @abstractmethod
    def settings(self, conv: Conv, unknowns: int | None = None) -> list[Setting]:
        """Every setting within the pinned ones, cheapest first.

        unknowns: of each output, that there are data for. A pinned setting that has more becomes the largest that has
        not.
        """

    @abstractmethod
    def outline(self, conv: Conv, setting: Setting) -> Conv:
        """What the branch becomes, its weights those of `conv` in the same places; a constant if it reads nothing."""

    def field(self, conv: Conv, settings: Sequence[Setting]) -> Conv:
        """The part of `conv` whose moments tell all about these settings, cheapest first; it reads something."""
        return self.outline(conv, settings[-1])

    @abstractmethod
    def part(self, conv: Conv, setting: Setting, moments: Moments) -> Moments:
        """The moments of what the branch becomes: what a pass behind this one is fitted to."""

    @abstractmethod
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments) -> Conv:
        """What the branch becomes, fitted to the data, with its bias. Weights are float64."""

    @abstractmethod
    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments) -> Sequence[float]:
        """Relative squared error of the branch's response with each setting."""
