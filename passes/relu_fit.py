"""The fit for the error behind a ReLU: what a pass implements on top of `Decomposition` to offer one.

The frame asks for it where a layer's output goes straight into a ReLU, after the linear fit, and notes in the report
which of the two fits the layer has.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Conv
from ndpass.passes.base import Setting


@runtime_checkable
class ReluFit(Protocol):
    """A pass with a fit of its own for layers that a ReLU follows."""

    name: str

    def for_relu(self, setting: Setting) -> bool:
        """Whether the fit is wanted; setting: of a layer, or the pinned options."""
        ...

    def linear_setting(self, setting: Setting) -> Setting:
        """The setting of a layer that keeps its linear fit, as the report has it."""
        ...

    def refit_for_relu(
        self, conv: Conv, setting: Setting, moments: Moments, answers: Array, responses: Array
    ) -> tuple[Block, float]:
        """The block for the least error after the ReLU, and the share of that error which it saves on held-out rows.

        answers, responses: (S, n_o), what `moments.best` makes of single patches, without bias, and what is wanted.
        A share of 0 says that the linear fit was no worse.
        """
        ...
