"""A transposed convolution as the convolution of its phases.

With stride s an output pixel sy + φ, φ from 0 to s − 1, is a sum over input pixels y + δ near y, along each axis

    out[o, sy + φ] = Σ_i Σ_t x[i, y + δ] w[i, o, t]    with sδ = φ + pad − t for the taps t for which δ is whole

so the s² phases of all outputs are the outputs of one convolution of stride 1, whose kernel reaches from the least δ to
the largest; a phase that has no tap for some δ has a zero there. DepthToSpace puts the phases in their places. Passes
see that convolution, and what they make of it stands before a DepthToSpace. What is left alone stays as it was.

The pads at the end say how many places y there are: as many as the input has, or `more` than that, which may be less
than none. The convolution is padded at its end so that it gives as many. Outputs that are no multiple of the stride
have no such convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ndpass.conv import Array, Conv


@dataclass(frozen=True)
class Transposed:
    """Two axes of one stride, outputs `stride` times as large as the input and `more`.

    shape: of the weight, (n_i, n_o, kh, kw); pads: at the begin of each axis; more: places of each axis beyond those of
    the input.
    """

    shape: tuple[int, ...]
    stride: int
    pads: tuple[int, ...]
    more: tuple[int, ...] = (0, 0)

    @property
    def phases(self) -> int:
        return self.stride**2

    @property
    def _reach(self) -> list[tuple[int, int]]:
        """The least and the largest δ along each axis."""
        s = self.stride
        return [(-((k - 1 - pad) // s), (s - 1 + pad) // s) for k, pad in zip(self.shape[2:], self.pads, strict=True)]

    @property
    def ends(self) -> tuple[int, ...]:
        """The pads at the end of each axis of the convolution of the phases."""
        return tuple(last + more for (_, last), more in zip(self._reach, self.more, strict=True))

    def outline(self, bias: bool) -> Conv:
        """The convolution of the phases, of zeros that take no memory."""
        n_i, n_o = self.shape[:2]
        kernel = [last - first + 1 for first, last in self._reach]
        weight = np.broadcast_to(np.float32(0), (n_o * self.phases, n_i, *kernel))
        pads = (*(-first for first, _ in self._reach), *self.ends)
        return Conv(weight, np.zeros(n_o * self.phases, np.float32) if bias else None, pads=pads)

    def kernel(self, weight: Array) -> Array:
        """Weights (n_i, n_o, kh, kw) as those of the phases (s² n_o, n_i, *kernel), a phase after the other."""
        n_i, n_o = self.shape[:2]
        found = np.zeros((self.stride, self.stride, n_o, n_i, *self.outline(False).kernel), weight.dtype)
        for (i, row, up), (j, column, left) in ((a, b) for a in self._taps(0) for b in self._taps(1)):
            found[row, column, :, :, up, left] = weight[:, :, i, j].T
        return found.reshape(n_o * self.phases, n_i, *found.shape[4:])

    def weight(self, kernel: Array) -> Array:
        """What `kernel` made such weights of: (n_i, n_o, kh, kw)."""
        n_i, n_o = self.shape[:2]
        phases = kernel.reshape(self.stride, self.stride, n_o, n_i, *kernel.shape[2:])
        found = np.zeros(self.shape, kernel.dtype)
        for (i, row, up), (j, column, left) in ((a, b) for a in self._taps(0) for b in self._taps(1)):
            found[:, :, i, j] = phases[row, column, :, :, up, left].T
        return found

    def bias(self, bias: Array) -> Array:
        """(n_o,) as (s² n_o,)."""
        return np.tile(bias, self.phases)

    def _taps(self, axis: int) -> Iterator[tuple[int, int, int]]:
        """Each tap, the phase that it is of, and its place in the kernel of the phases."""
        for tap in range(self.shape[2 + axis]):
            phase = (tap - self.pads[axis]) % self.stride
            yield tap, phase, (phase + self.pads[axis] - tap) // self.stride - self._reach[axis][0]

    def parted(self, y: Array) -> Array:
        """Outputs (images, n_o, s·h, s·w) as phases (images, s² n_o, h, w): what DepthToSpace puts together."""
        s, (images, n_o, height, width) = self.stride, y.shape
        split = y.reshape(images, n_o, height // s, s, width // s, s).transpose(0, 3, 5, 1, 2, 4)
        phases: Array = split.reshape(images, n_o * self.phases, height // s, width // s)
        return phases

    def rows(self, responses: Array) -> Array:
        """Responses of all phases (S, s² n_o) as those of pixels (s² S, n_o)."""
        return responses.reshape(-1, self.shape[1])

    def macs(self, in_hw: tuple[int, ...]) -> int:
        """Of the transposed convolution itself."""
        return int(np.prod(in_hw, dtype=np.int64)) * int(np.prod(self.shape, dtype=np.int64))


def read(node: gs.Node) -> Transposed | str:
    """What a ConvTranspose with constant weights is, or why no pass rewrites it."""
    shape, attrs = tuple(node.inputs[1].shape), node.attrs
    axes = len(shape) - 2
    strides, dilations = list(attrs.get("strides", [1] * axes)), list(attrs.get("dilations", [1] * axes))
    pads, more = list(attrs.get("pads", [0] * 2 * axes)), list(attrs.get("output_padding", [0] * axes))
    if attrs.get("group", 1) > 1:
        return f"transposed convolution (group={attrs['group']})"
    if axes != 2 or len(set(strides)) > 1 or max(dilations) > 1:
        return "transposed convolution: passes rewrite those of two axes, of one stride, without dilation"
    if attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attrs:
        return "transposed convolution whose pads are not given"
    if min(pads) < 0 or any(pads[a] >= shape[2 + a] for a in range(2)):
        return "transposed convolution with negative pads or pads as wide as its kernel"
    beyond = [shape[2 + a] - strides[a] - pads[a] - pads[a + 2] + more[a] for a in range(2)]
    if any(size % strides[0] for size in beyond):
        return "transposed convolution whose output is no multiple of its stride"
    found = Transposed(shape, strides[0], (pads[0], pads[1]), (beyond[0] // strides[0], beyond[1] // strides[0]))
    return found if min(found.ends) >= 0 else "transposed convolution that cuts off more than its kernel reaches"
