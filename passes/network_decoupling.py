"""nd: network decoupling (Guo et al. 2018, arXiv 1808.05517).

A k×k convolution W (n_o, n_i, K) is a sum of T depthwise separable ones. The sum is exact for T = min(n, K).

    pw-dw (eq. 4)   every output o has the matrix W_o (n_i, K) = Σ_t p_t d_tᵀ: pointwise row p, then depthwise kernel d
    dw-pw           every input i has the matrix W_{:,i} (n_o, K) = Σ_t p_t d_tᵀ: depthwise kernel d, then column p

The best factors of rank T in the norm of the weights are the first T singular pairs. They come from the eigenvectors
V (K, K) of the Gram matrix WᵀW in float64, with p = W V: at full rank V is orthogonal, so the sum is exact. A long
kernel with fewer rows than taps gets a V with one column for each row (`ndpass.passes.eigen`).

BSConv-U (Haase & Amthor 2020) is pw-dw with T = 1; DAC (Li et al. 2018) is dw-pw. `decoupling_fit` fits the factors
to data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ndpass.calibration.moments import WIDE, Moments
from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.passes.base import Decomposition, Setting, refuse_common
from ndpass.passes.cost import cheapest_first
from ndpass.passes.decoupling_fit import Factors, fit, fit_error
from ndpass.passes.eigen import right_directions, squared_singular_values
from ndpass.passes.uncompilable import never_compiles

FORMS = ("pw-dw", "dw-pw")
WIDE_RANKS = (1, 2, 3, 4, 6)  # the T that are tried in wide layers, where each fit is slow
EVERY = 16  # up to here every T is tried; of kernels of more elements as many besides, in a geometric row


class NetworkDecoupling(Decomposition):
    """A sum of T depthwise separable convolutions; `rank` is T, `form` says which half of each comes first."""

    name = "nd"
    summary = "network decoupling: k×k becomes a sum of T pointwise + depthwise pairs"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"rank": ("full",), "form": FORMS}
    formula = (
        "W = sum over t = 1..T of pointwise(p_t) * depthwise(d_t)\n"
        "MACs left of k×k: about T (1/k² + 1/n_i) for pw-dw, T (1/k² + 1/n_o) for dw-pw"
    )
    when = (
        "Wide 3×3 layers on small maps, in f32. In bf16 and int8 depthwise layers cost more than their "
        "MACs say, so let --max-drop or --speedup choose. It goes behind cd."
    )
    cost = (
        "A joint fit of both factors for each T and form, the slowest of the four passes; in wide layers "
        "only a few T are tried."
    )
    reference = "Guo et al. 2018, Network Decoupling, arXiv 1808.05517; DAC, arXiv 1812.08374; BSConv, arXiv 2003.13549"

    def refuse(self, conv: Conv) -> str | None:
        """Matrix products, 1×1 kernels and grouped convolutions, and what OpenVINO could not load (`uncompilable`)."""
        if not conv.kernel:
            return "matrix product: no kernel to decouple"
        if conv.kernel_size == 1:
            return "kernel of one element: nothing to decouple"
        if conv.n_i == conv.n_o == 1:
            return "one channel: already depthwise"
        return refuse_common(conv) or self._uncompilable(conv)

    def _uncompilable(self, conv: Conv) -> str | None:
        """Why no form can be loaded by OpenVINO, or None where one can."""
        if self.forms(conv):
            return None
        channels = " or ".join(str(depthwise_channels(conv, form)) for form in self._wanted_forms())
        return (
            f"OpenVINO does not finish compiling a depthwise convolution of {channels} channels that is "
            f"{conv.kernel[-1]} wide, in bf16"
        )

    def _wanted_forms(self) -> Sequence[str]:
        return [str(self.pinned["form"])] if "form" in self.pinned else FORMS

    def forms(self, conv: Conv) -> list[str]:
        """The forms asked for whose depthwise half OpenVINO compiles."""
        return [f for f in self._wanted_forms() if not never_compiles(conv, depthwise_channels(conv, f))]

    def settings(self, conv: Conv) -> list[Setting]:
        forms = self.forms(conv)
        found: list[Setting] = [{"rank": t, "form": f} for f in forms for t in self._few_ranks(full_rank(conv, f))]
        return cheapest_first(self, conv, found, "form")

    def _few_ranks(self, full: int) -> list[int]:
        """A kernel of 512 elements, as audio networks have them, has 512 ranks, each of which takes a fit."""
        every = self.ranks(full)
        if len(every) <= EVERY:
            return every
        return [*every[:EVERY], *dict.fromkeys(np.geomspace(EVERY + 1, full, EVERY).round().astype(int).tolist())]

    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        form = str(setting["form"])
        rank = min(int(setting["rank"]), full_rank(conv, form))
        if moments is None or rank >= full_rank(conv, form):
            target = conv.weight if moments is None else moments.best.reshape(conv.weight.shape)
            point, depth = factors(target, rank, form)
        else:
            point, depth = _fitted(conv, moments, rank, form)
        block = assemble(conv, point, depth, form)
        return block if moments is None else block.with_bias(moments.bias(block.dense().matrix))

    def sketch(self, conv: Conv, setting: Setting, moments: Moments) -> Block:
        """As `rewrite`, after one sweep of the fit."""
        rank, form = int(setting["rank"]), str(setting["form"])
        if rank >= full_rank(conv, form):
            return self.rewrite(conv, setting, moments)
        return assemble(conv, *fit(conv.weight, moments, rank, form, sweeps=1), form)

    def _quick_error(self, conv: Conv, setting: Setting, moments: Moments) -> float | None:
        rank, form = int(setting["rank"]), str(setting["form"])
        wide = len(moments.C) >= WIDE and "rank" not in self.pinned
        if wide and ((form == "pw-dw" and "form" not in self.pinned) or rank not in WIDE_RANKS):
            return None
        if rank >= full_rank(conv, form):
            return moments.unexplained
        return fit_error(conv.weight, moments, rank, form)

    def inner(self, conv: Conv) -> list[Setting]:
        """T from 1 to 3, for behind another pass more seldom saves MACs; in wide layers dw-pw only, as in `errors`."""
        wide = conv.n_i * conv.kernel_size >= WIDE and not {"rank", "form"} & self.pinned.keys()
        few = [s for s in self.settings(conv) if "rank" in self.pinned or int(s["rank"]) <= 3]
        return [s for s in few if not wide or s["form"] == "dw-pw"]

    def outline(self, conv: Conv, setting: Setting) -> Block:
        rank, form = min(int(setting["rank"]), full_rank(conv, str(setting["form"]))), str(setting["form"])
        channels = depthwise_channels(conv, form)
        point = np.broadcast_to(np.float32(0), (rank, conv.n_o, conv.n_i))
        return assemble(conv, point, np.broadcast_to(np.float32(0), (rank, channels, conv.kernel_size)), form)

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> Sequence[float | None]:
        """Without moments 1 − energy kept, exact. With moments the error after one sweep, an upper bound.

        In wide layers pw-dw and all T but WIDE_RANKS are None, not tried. In three layers of a VGG16 (128, 256 and 512
        wide) pw-dw had 1.4 to 3.6 times the error of dw-pw at the same T, and took up to three times as long to fit.
        """
        if moments is not None:
            return [self._quick_error(conv, s, moments) for s in settings]
        kept = {form: energy(conv.weight, form) for form in {str(s["form"]) for s in settings}}
        return [max(0.0, 1.0 - at[min(int(s["rank"]), len(at)) - 1]) for s in settings for at in [kept[str(s["form"])]]]


def _fitted(conv: Conv, moments: Moments, rank: int, form: str) -> Factors:
    """Fitted factors whose loss is no more than that of the factors of the weights alone.

    Where the first fit loses more, it is repeated with the factors of the weights as its start: in a stem of three
    channels the descent may end in a poorer minimum than the one near the weights.
    """
    found, plain = fit(conv.weight, moments, rank, form), factors(conv.weight, rank, form)
    if moments.loss(kernel_of(*found, form)) <= moments.loss(kernel_of(*plain, form)):
        return found
    return fit(conv.weight, moments, rank, form, start=plain)


def kernel_of(point: Array, depth: Array, form: str) -> Array:
    """The kernel (n_o, n_i, K) that the branches add up to; point and depth as `factors` gives them."""
    kernel: Array = np.einsum("toi,tok->oik" if form == "pw-dw" else "toi,tik->oik", point, depth, optimize=True)
    return kernel


def full_rank(conv: Conv, form: str) -> int:
    """The T at which the sum is exact: min(n_i, K) for pw-dw, min(n_o, K) for dw-pw."""
    return min(conv.n_i if form == "pw-dw" else conv.n_o, conv.kernel_size)


def depthwise_channels(conv: Conv, form: str) -> int:
    """Of each depthwise half: n_o behind the pointwise one, n_i before it."""
    return conv.n_o if form == "pw-dw" else conv.n_i


def matrices(weight: Array, form: str) -> Array:
    """W (n_o, n_i, *kernel) as one matrix a depthwise channel: (n_o, n_i, K) for pw-dw, (n_i, n_o, K) for dw-pw."""
    flat: Array = weight.reshape(*weight.shape[:2], -1).astype(np.float64)
    return flat if form == "pw-dw" else flat.transpose(1, 0, 2)


def factors(weight: Array, rank: int, form: str) -> tuple[Array, Array]:
    """Pointwise parts (T, n_o, n_i) and depthwise parts (T, c, K), c = n_o for pw-dw and n_i for dw-pw."""
    stack = matrices(weight, form)
    depth = right_directions(stack)[1][:, :, :rank]
    point = (stack @ depth).transpose(2, 0, 1)
    return point if form == "pw-dw" else point.transpose(0, 2, 1), depth.transpose(2, 0, 1)


def energy(weight: Array, form: str) -> Array:
    """Share of ‖W‖² that rank 1, 2, …, K keep (Guo et al. 2018, Figure 3): (K,); ones if the weights are all zero."""
    values = squared_singular_values(matrices(weight, form)).sum(axis=0)
    total = values.sum()
    kept: Array = np.cumsum(values) / total if total else np.ones_like(values)
    return kept


def blueprint_share(weight: Array) -> float:
    """Share of a filter that one blueprint explains, averaged over the filters that are not zero (BSConv, section 3).

    The n_i kernels of a filter are points in K dimensions. The blueprint is their first principal direction through
    the origin, for a blueprint has no offset. Its share of their squared norm is what pw-dw with T = 1 keeps.
    """
    values = squared_singular_values(matrices(weight, "pw-dw"))
    total = values.sum(axis=1)
    shares = values[:, 0][total > 0] / total[total > 0]
    return float(shares.mean()) if shares.size else 1.0


def assemble(conv: Conv, point: Array, depth: Array, form: str) -> Sum:
    """The sum of T chains. Strides, pads and dilations go to the depthwise half, the bias to the last leaf, once."""
    axes = len(conv.kernel)
    branches: list[Block] = []
    for p, d in zip(point, depth, strict=True):
        pw = Conv(p.reshape(conv.n_o, conv.n_i, *(1,) * axes))
        dw = Conv(d.reshape(-1, 1, *conv.kernel), None, conv.strides, conv.pads, conv.dilations, group=len(d))
        branches.append(Chain(pw, dw) if form == "pw-dw" else Chain(dw, pw))
    return Sum(*branches).with_bias(conv.bias)
