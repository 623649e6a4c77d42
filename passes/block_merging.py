"""bm: block merging. A residual branch, conv–ReLU–conv, becomes one convolution of the block's input, or its mean.

So does a plain chain without a shortcut, s = 0, but for its mean: y is then what its last layer gave.

A residual network is many small changes of one stream, and each block's change is nearly linear in what it reads. With
few unlabelled images dropping whole blocks beats pruning filters at the same latency (Wang & Wu 2022, PRACTISE, arXiv
2202.07861). Here its branch f(x), all layers of it, becomes one convolution W by least squares,

    min_W,b E‖y − s − W x̂ − b‖²  +  λ‖W − W̃‖²

    y (n_o,)   what the original network has behind the sum of branch and shortcut
    s (n_o,)   the shortcut in the network as rewritten so far
    x̂ (n_i·K,) the patch of the branch's input there, k×k of the branch's receptive field, K = k²
    W̃          the branch with its non-linear layers as linear ones that let half through, cut to k×k

so that a merged block also makes up for what those before it have done to the stream. Strides and pads are the
branch's, k has the parity of its receptive field, and λ is chosen by held-out images. With kernel=none there is no W:
the branch is dropped but for its mean b = E[y − s], which takes no MACs. Each block of a ResNet-20 for CIFAR-10 alone,
fitted to 3,000 images, points of top-1 lost:

    block                1×1    3×3    5×5
    1                    1.36   0.28   0.06
    2                    2.44   0.86   0.54
    3                    17     5.3    3.7
    4 (stride 2)         20     3.9    2.2
    5                    2.8    0.96   0.90
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Conv
from ndpass.passes.base import Setting
from ndpass.passes.merging import Merging

MOST_UNKNOWNS = 8_192  # elements of a patch; the moments of more would take over half a gigabyte
NONE = "none"  # the kernel of a branch that becomes its mean
ROUNDING = 1e-10  # variance of a response that is constant but for rounding in float32, relative to its mean's square


class BlockMerging(Merging):
    """The branch of a residual block becomes one k×k convolution, or its mean; so does a plain chain of two layers."""

    name = "bm"
    summary = "block merging: the branch of a residual block, or a chain of two layers, becomes one convolution"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"kernel": ("full", NONE)}
    formula = (
        "min over W (n_o x n_i·k·k) of E|y - s - W x|²: y behind the original's sum, s the shortcut as it is now\n"
        "MACs left, of two 3x3 layers of one width: 1/2 with k = 3, 1/18 with k = 1; none with kernel=none, where the\n"
        "mean of y - s is all that is left"
    )
    when = (
        "Residual networks of plain blocks (two 3x3 convolutions), where each layer is small: a merged block has one "
        "layer instead of two or three, a dropped one none. Merged bottlenecks gain little, for the one convolution is "
        "as wide as the stream. Plain chains of small layers, as in the heads of detectors. Passes behind bm, as in "
        "bm,sd, rewrite the convolution that it leaves."
    )
    cost = "One least-squares fit of n_i·k·k unknowns for each block and k: 2 s for 64 channels and k = 5."
    in_auto: ClassVar[bool] = True
    reference = "after Wang & Wu 2022, Practical Network Acceleration with Tiny Sets, arXiv 2202.07861"

    @property
    def needs_data(self) -> bool:
        """How much of the branch its non-linear layers let through, only data tell."""
        return True

    def refuse(self, conv: Conv) -> str | None:
        if not kernels(conv, MOST_UNKNOWNS):
            return f"even its smallest kernel would have more than {MOST_UNKNOWNS} unknowns for each output"
        return None

    def settings(self, conv: Conv, unknowns: int | None = None) -> list[Setting]:
        most = MOST_UNKNOWNS if unknowns is None else min(unknowns, MOST_UNKNOWNS)
        possible, pinned = kernels(conv, most), self.pinned.get("kernel")
        if pinned is None:
            return [{"kernel": NONE}, *({"kernel": k} for k in possible)]
        if pinned == NONE:
            return [{"kernel": NONE}]
        least = possible[:1]
        possible = [k for k in possible if pinned == "full" or k <= int(pinned)][-1:] or least
        return [{"kernel": k} for k in possible]

    def outline(self, conv: Conv, setting: Setting) -> Conv:
        smaller = cropped(conv, _size(setting))
        return smaller.with_bias(np.zeros(conv.n_o)) if smaller.is_constant else smaller

    def field(self, conv: Conv, settings: Sequence[Setting]) -> Conv:
        return cropped(conv, max(map(_size, settings)) or kernels(conv, MOST_UNKNOWNS)[0])

    def rewrite(self, conv: Conv, setting: Setting, moments: Moments) -> Conv:
        if setting["kernel"] == NONE:
            return self.outline(conv, setting).with_bias(moments.y_mean)
        smaller, own = self.outline(conv, setting), self.part(conv, setting, moments)
        kernel = own.best
        return replace(smaller, weight=kernel.reshape(smaller.weight.shape), bias=own.bias(kernel))

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments) -> Sequence[float]:
        return [self._error(conv, setting, moments) for setting in settings]

    def _error(self, conv: Conv, setting: Setting, moments: Moments) -> float:
        """Of its mean alone: all of the response's variance, unless there is none."""
        if setting["kernel"] == NONE:
            return float(moments.variance > ROUNDING * float(moments.y_mean @ moments.y_mean))
        own = self.part(conv, setting, moments)
        return own.unexplained

    def part(self, conv: Conv, setting: Setting, moments: Moments) -> Moments:
        """Of the part of the patch that the smaller kernel reads."""
        smaller = self.outline(conv, setting)
        if smaller.kernel == conv.kernel:
            return moments
        return moments.keep(columns(conv, smaller.kernel), smaller.matrix.astype(np.float64))


def _size(setting: Setting) -> int:
    return 0 if setting["kernel"] == NONE else int(setting["kernel"])


def kernels(conv: Conv, most: int) -> list[int]:
    """The sizes k of the parity of the field whose kernels have at most so many unknowns, smallest first."""
    field = max(conv.kernel, default=1)
    sizes = range(2 - field % 2, field + 1, 2)
    return [k for k in sizes if _fits(conv, k) and conv.n_i * math.prod(_kernel(conv, k)) <= most]


def cropped(conv: Conv, k: int) -> Conv:
    """The middle of the kernel, at most k along each axis; it reads what the whole one reads there, if anything."""
    kernel = _kernel(conv, k)
    begins, middle = _begins(conv, kernel), (slice(None), *_middle(conv, kernel))
    ends = [field - b - own for field, b, own in zip(conv.kernel, begins, kernel, strict=True)]
    pads = [p - cut for p, cut in zip(conv.pads, [*begins, *ends], strict=True)]
    return replace(conv, weight=conv.weight[middle], pads=tuple(pads))


def columns(conv: Conv, kernel: Sequence[int]) -> NDArray[np.intp]:
    """Which elements of the patch of `conv` (n_i·K) a kernel in its middle reads, ascending."""
    every = np.arange(conv.n_i * conv.kernel_size).reshape(conv.n_i, *conv.kernel)
    return every[_middle(conv, kernel)].reshape(-1)


def _kernel(conv: Conv, k: int) -> tuple[int, ...]:
    return tuple(min(k, field) for field in conv.kernel)


def _middle(conv: Conv, kernel: Sequence[int]) -> tuple[slice, ...]:
    """All channels, and the middle of the kernel along each axis."""
    begins = _begins(conv, kernel)
    return (slice(None), *(slice(b, b + own) for b, own in zip(begins, kernel, strict=True)))


def _begins(conv: Conv, kernel: Sequence[int]) -> list[int]:
    """How much of the kernel is cut off at the begin of each axis."""
    return [(field - own) // 2 for field, own in zip(conv.kernel, kernel, strict=True)]


def _fits(conv: Conv, k: int) -> bool:
    """Not so where less padding than is cut off would have to become a cut of the input."""
    return min(cropped(conv, k).pads, default=0) >= 0
