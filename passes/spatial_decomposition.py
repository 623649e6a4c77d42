"""sd: spatial decomposition (Jaderberg et al. 2014, arXiv 1405.3866, scheme 2).

Every patch index is (i, a, j): input channel, tap along the axes of the first convolution, tap along those of the
second. With m = n_i·k_a rows and n_o·k_j columns the kernel is a matrix, and rank d splits it,

    W[o, i, a, j] ≈ Σ_r S[o, r, j] T[r, i, a]    T (d, m) acts first, then S (n_o, d, k_j)

vh: the first axis of extent above 1 acts first (k×1, then 1×k); hv: the other axes do. Without data the best T and S
are a truncated SVD. With moments C, B (`ndpass.calibration.moments`) `spatial_fit` finds better ones.

A grouped convolution is rewritten group by group, to two grouped ones.

Where the data-free factors lose less in this metric, they are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Chain, Conv
from ndpass.passes.base import Decomposition, Setting
from ndpass.passes.channel_decomposition import factors, ranks, spectrum
from ndpass.passes.cost import cheapest_first
from ndpass.passes.groups import apart, beside, energies, one_of, refuse_groups, repeated, together
from ndpass.passes.spatial_fit import Fit, cut, error_curve, full_rank, split_axis

ORDERS = ("vh", "hv")
INNER = 6  # ranks of each order that are tried behind another pass


class SpatialDecomposition(Decomposition):
    """A convolution along one axis to `rank` channels, then one along the others; `order` says which is first."""

    name = "sd"
    summary = "spatial decomposition: k×k becomes k×1 to fewer channels, then 1×k"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"rank": ("full",), "order": ORDERS}
    errors_at_once = True
    by_group = True
    formula = (
        "W (n_i k, k n_o) = T (n_i k, d) S (d, k n_o): k×1 to d channels, then 1×k to n_o\n"
        "MACs left of k×k: about d (n_i + n_o) / (k n_i n_o)"
    )
    when = (
        "3×3 and larger kernels, on large maps, in bf16 and in int8: both halves are dense and run fast everywhere. Of "
        "a grouped layer the rank is that of each group."
    )
    cost = "One Cholesky factor for all ranks, and conjugate gradients for the one that is chosen."
    reference = (
        "Jaderberg et al. 2014, Speeding up Convolutional Neural Networks with Low Rank Expansions, arXiv 1405.3866"
    )

    def refuse(self, conv: Conv) -> str | None:
        """Kernels with fewer than two axes above 1 are refused, and depthwise convolutions."""
        if conv.group > 1:
            return refuse_groups(conv, self.refuse)
        if not conv.kernel:
            return "matrix product: no kernel to split"
        if sum(k > 1 for k in conv.kernel) < 2:
            what = "kernel acts on one axis" if conv.kernel_size > 1 else "kernel of one element"
            return f"{what}: nothing to split"
        return None

    def settings(self, conv: Conv) -> list[Setting]:
        orders = [str(self.pinned["order"])] if "order" in self.pinned else ORDERS
        found: list[Setting] = [{"rank": d, "order": order} for order in orders for d in self._ranks(conv, order)]
        return cheapest_first(self, conv, found, "order")

    def _ranks(self, conv: Conv, order: str) -> list[int]:
        one = one_of(conv)
        n_o, m, k_j = cut(one.weight, order).shape
        return ranks((m, n_o * k_j), one.n_o, self.pinned.get("rank"))

    def inner(self, conv: Conv) -> list[Setting]:
        """INNER ranks of each order, closer where they are small; one decomposition gives the errors of all."""
        found = self.settings(conv)
        orders = [[s for s in found if s["order"] == order] for order in ORDERS]
        few = [own[i] for own in orders if own for i in _geometric(len(own))]
        return cheapest_first(self, conv, few, "order")

    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        if conv.group > 1:
            return beside([self.rewrite(one, setting, own) for one, own in apart(conv, moments)])
        order, rank = str(setting["order"]), int(setting["rank"])
        plain = assemble(conv, *split(cut(conv.weight, order), rank), order)
        if moments is None:
            return plain
        if rank >= full_rank(conv, order):
            best = assemble(conv, *split(cut(moments.best.reshape(conv.weight.shape), order), rank), order)
        else:
            fitted = assemble(conv, *Fit(conv, moments, order).fit(rank), order)
            best = min(fitted, plain, key=lambda block: moments.loss(block.dense().weight))
        return best.with_bias(moments.bias(best.dense().matrix))

    def sketch(self, conv: Conv, setting: Setting, moments: Moments) -> Block:
        """As `rewrite`, without the last step of the fit; of dense convolutions."""
        order, rank = str(setting["order"]), int(setting["rank"])
        if rank >= full_rank(conv, order):
            return self.rewrite(conv, setting, moments)
        T, S = Fit(conv, moments, order, moments.kind).fit(rank, sweeps=0)
        return assemble(conv, T.astype(np.float64), S.astype(np.float64), order)

    def outline(self, conv: Conv, setting: Setting) -> Block:
        """From the shapes alone: the factors would take a singular value decomposition."""
        if conv.group > 1:
            return repeated(self.outline(one_of(conv), setting), conv.group)
        order = str(setting["order"])
        n_o, m, k_j = cut(conv.weight, order).shape
        rank = min(int(setting["rank"]), full_rank(conv, order))
        zero = np.float32(0)
        return assemble(conv, np.broadcast_to(zero, (rank, m)), np.broadcast_to(zero, (n_o, rank, k_j)), order)

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> Sequence[float | None]:
        """All ranks of an order at once; exact without moments and at full rank, else upper bounds."""
        if conv.group > 1:
            every = [self.errors(one, settings, own) for one, own in apart(conv, moments)]
            return together(every, energies(conv, moments))
        curve = {}
        for order in {str(s["order"]) for s in settings}:
            wanted = [int(s["rank"]) for s in settings if s["order"] == order]
            curve[order] = _weight_curve(conv, order) if moments is None else error_curve(conv, moments, order, wanted)
        return [float(at[min(int(s["rank"]), len(at)) - 1]) for s in settings for at in [curve[str(s["order"])]]]


def _geometric(count: int) -> NDArray[np.intp]:
    """At most INNER positions among `count`, in a geometric row, the first and the last among them."""
    return np.unique(np.geomspace(1, count, INNER).round().astype(int) - 1)


def split(kernel: Array, rank: int) -> tuple[Array, Array]:
    """T (d, m), S (n_o, d, k_j) of the truncated SVD of (n_o, m, k_j)."""
    n_o, m, k_j = kernel.shape
    left, right = factors(kernel.transpose(1, 0, 2).reshape(m, n_o * k_j), rank)
    return left.T, right.reshape(-1, n_o, k_j).transpose(1, 0, 2)


def assemble(conv: Conv, T: Array, S: Array, order: str) -> Chain:
    """Both convolutions; strides, pads and dilations go where the axis is, the bias to the second."""
    axis = {split_axis(conv.kernel)}
    others = set(range(len(conv.kernel))) - axis
    first, second = (axis, others) if order == "vh" else (others, axis)
    return Chain(_part(conv, T, first), _part(conv, S, second).with_bias(conv.bias))


def _part(conv: Conv, weight: Array, own: set[int]) -> Conv:
    """A convolution with the weight (outputs, ...) and the geometry of `conv` on its own axes, idle on the others."""
    axes = len(conv.kernel)

    def pick(values: Sequence[int], idle: int) -> tuple[int, ...]:
        return tuple(v if a % axes in own else idle for a, v in enumerate(values))

    kernel = pick(conv.kernel, 1)
    shaped = weight.reshape(len(weight), -1, *kernel)
    return Conv(shaped, None, pick(conv.strides, 1), pick(conv.pads, 0), pick(conv.dilations, 1))


def _weight_curve(conv: Conv, order: str) -> Array:
    """Relative error of the weights at rank 1, 2, … full."""
    kernel = cut(conv.weight, order)
    values = spectrum(kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1))
    lost = np.append(values[::-1].cumsum()[::-1][1:], 0.0)
    return lost / (float(values.sum()) or 1.0)
