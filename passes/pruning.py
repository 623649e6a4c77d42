"""What the frame asks of a pass that takes input channels from a layer, and so from the layers that made them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Conv
from ndpass.passes.base import Pass, Setting

Indices: TypeAlias = NDArray[np.int64]


Filled: TypeAlias = Callable[[Indices], Indices]


def unfilled(channels: Indices) -> Indices:
    """No channel more than was chosen."""
    return channels


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads the channels.

    weight: (n_o, n_i, *kernel); channels (n_i,): the channel that each of its inputs is, -1 for none that is asked
    about; left out, each is its own.
    """

    weight: Array
    moments: Moments | None = None
    channels: Indices | None = None

    @property
    def blocks(self) -> Indices:
        """The channel (n_i,) of each input."""
        return np.arange(self.weight.shape[1]) if self.channels is None else self.channels

    @property
    def columns(self) -> Indices:
        """The channel (n,) of each column of the weight as a matrix."""
        return np.repeat(self.blocks, self.weight[0, 0].size)


class Pruning(Pass):
    """The choice holds for a whole group of layers, so there is no `rewrite`: the frame slices, the pass selects.

    It acts before all decompositions of a layer.
    """

    may_follow: ClassVar[bool] = False

    @abstractmethod
    def settings(self, conv: Conv, size: int | None = None) -> list[Setting]:
        """Every number of channels that may be kept, fewest first, never all of them; a pinned one if it is fewer.

        size: how many channels there are to choose among, where they are not the layer's inputs one by one.
        """

    @abstractmethod
    def kept(self, setting: Setting) -> int:
        """How many channels a setting keeps."""

    @abstractmethod
    def errors(
        self, readers: Sequence[Reader], settings: Sequence[Setting], filled: Filled = unfilled
    ) -> Sequence[Sequence[float]]:
        """Relative squared error of each setting, for each of the layers that read the channels, after its refit.

        filled: the channels that stay where those given are chosen: a branch of a Concat keeps at least one.
        """

    @abstractmethod
    def select(self, readers: Sequence[Reader], setting: Setting) -> Indices:
        """The channels that stay, ascending. Raises UsageError where data are needed and there are none."""

    @abstractmethod
    def refit(self, conv: Conv, inputs: Indices, moments: Moments | None = None) -> Conv:
        """`conv` reading only `inputs` (ascending); with its moments, of all inputs, fitted to the response."""
