"""cp: channel pruning (He et al. 2017, arXiv 1707.06168), the one pass that couples layers.

A layer keeps c' of its n_i input channels and is fitted again to the response of the original. The layers that made
the other channels drop them, so the choice holds for a whole group of layers (`ndpass.graph.channel_groups`). So there
is no `rewrite`: `select` says which channels stay, `refit` fits one layer to them. Criteria:

    lasso    the paper's eq. 1 and 2: min_β E‖y − Σ_i β_i W_i x̂_i‖² + λ‖β‖₁, in Gram form
             Q_ij = tr(W_i C_ij W_jᵀ), q_i = tr(B_i W_iᵀ): LARS, at the first point with c' channels
    greedy   drop the channel whose loss costs least after a refit, until c' are left (`channel_elimination`)
    l2       the largest ‖W_i‖² (Li et al. 2016, arXiv 1608.08710); with moments the largest Q_ii

Measured on a VGG16 for CIFAR-10, relative error after the refit (12,000 positions, held-out ones rank alike):

    channels kept             l2     lasso   greedy
    conv2_2   64 of 128   0.0363   0.0342   0.0292
    conv3_2   64 of 256   0.1337   0.1224   0.1050
    conv4_2  128 of 512   0.0283   0.0258   0.0167
    conv5_2   64 of 512   0.0039   0.0037   0.0013

so greedy is the default. One path gives all numbers of channels at once; in a layer with n = 2304 it takes 3 s on two
cores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import scipy

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Conv
from ndpass.errors import UsageError
from ndpass.passes.base import Setting, refuse_common
from ndpass.passes.channel_elimination import RIDGE, Path, eliminate
from ndpass.passes.cost import channel_step
from ndpass.passes.pruning import Filled, Indices, Pruning, Reader, unfilled

CRITERIA = ("greedy", "lasso", "l2")
ROWS_AT_ONCE = 32  # channels of Q computed together, to bound the memory to 2·ROWS_AT_ONCE·K·n numbers


class ChannelPruning(Pruning):
    """The input channels that matter least are dropped, from this layer and from those that made them."""

    name = "cp"
    summary = "channel pruning: the input channels that matter least go, here and where they are made"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"channels": (), "criterion": CRITERIA}
    formula = (
        "min over c' of n_i channels and over W' of E|y - W' x|²: the layers before drop the other channels\n"
        "MACs left: about c'/n_i, and as much in the layers that made the channels"
    )
    when = (
        "Plain chains, as VGG, where layers in front get cheaper too; the result stays dense, so every "
        "runtime gains. Layers that read the same map, or add to it, are pruned together."
    )
    cost = "One elimination for all numbers of channels: 3 s for n = 2304 on two cores."
    reference = "He et al. 2017, Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168"

    def __init__(self, **pinned: Any) -> None:
        super().__init__(**pinned)
        self.criterion = str(self.pinned.get("criterion", CRITERIA[0]))

    @property
    def needs_data(self) -> bool:
        """Whether the criterion looks at responses: all do but l2."""
        return self.criterion != "l2"

    def refuse(self, conv: Conv) -> str | None:
        """Grouped convolutions and single inputs are refused; what the graph rules out, `channel_groups` says."""
        if conv.group == 1 and conv.n_i == 1:
            return "one input channel: nothing to prune"
        return refuse_common(conv)

    def settings(self, conv: Conv, size: int | None = None) -> list[Setting]:
        full = size or conv.n_i
        pinned = self.pinned.get("channels")
        counts = kept_counts(full) if pinned is None else [c for c in [int(pinned)] if c < full]
        return [{"channels": c, "criterion": self.criterion} for c in counts]

    def kept(self, setting: Setting) -> int:
        return int(setting["channels"])

    def errors(
        self, readers: Sequence[Reader], settings: Sequence[Setting], filled: Filled = unfilled
    ) -> Sequence[Sequence[float]]:
        """All from one greedy path, whatever the criterion; without moments those of the weights by l2."""
        return errors_by_size(readers, [self.kept(s) for s in settings], filled)[1]

    def select(self, readers: Sequence[Reader], setting: Setting) -> Indices:
        return select_joint(readers, int(setting["channels"]), str(setting["criterion"]))

    def refit(self, conv: Conv, inputs: Indices, moments: Moments | None = None) -> Conv:
        pruned = replace(conv, weight=conv.weight[:, inputs])
        if moments is None:
            return pruned
        kernel = refit(moments, inputs, conv.kernel_size)
        bias = moments.y_mean - kernel @ moments.x_mean[_columns(inputs, conv.kernel_size)]
        return replace(pruned, weight=kernel.reshape(pruned.weight.shape), bias=bias)


def kept_counts(full: int) -> list[int]:
    """The numbers of channels worth a try below `full`, fewest first (`channel_step`)."""
    step = channel_step(full)
    return list(range(step, full, step))


def select(weight: Array, moments: Moments | None, keep: int, criterion: str = CRITERIA[0]) -> Indices:
    """The `keep` input channels of W (n_o, n_i, *kernel) that stay, ascending."""
    return select_joint([Reader(weight, moments)], keep, criterion)


def select_joint(readers: Sequence[Reader], keep: int, criterion: str = CRITERIA[0]) -> Indices:
    """The `keep` channels that stay for all readers together, ascending; errors count relative to a reader's energy.

    Raises UsageError where the criterion needs moments and a reader has none.
    """
    size = _size(readers)
    if criterion == "greedy":
        return path(readers, keep).kept(keep)
    if criterion == "l2":
        return np.sort(np.argsort(-importance(readers), kind="stable")[:keep])
    Q, q = np.zeros((size, size)), np.zeros(size)
    for reader in readers:
        moments = _need(reader)
        own_Q, own_q = gram(reader, moments, size)
        Q += own_Q / (moments.energy or 1.0)
        q += own_q / (moments.energy or 1.0)
    return lasso(Q, q, keep)


def path(readers: Sequence[Reader], least: int = 1) -> Path:
    """Greedy elimination down to `least` channels, with the error of each reader at every number of channels."""
    return eliminate([(_need(reader), reader.columns) for reader in readers], _size(readers), least)


def errors_by_size(
    readers: Sequence[Reader], sizes: Sequence[int], filled: Filled = unfilled
) -> tuple[list[Indices], list[list[float]]]:
    """For each number of channels those that stay; and for each reader the relative errors after its refit.

    All from one greedy path. Without moments the channels are chosen by l2, and the error is that of the weights.
    filled: as of `Pruning.errors`.
    """
    if any(reader.moments is None for reader in readers):
        kept = [filled(select_joint(readers, s, "l2")) for s in sizes]
        return kept, [_lost_weights(reader, kept) for reader in readers]
    found = path(readers)
    kept = [filled(found.kept(s)) for s in sizes]
    inflated = [_need(reader).is_inflated for reader in readers]  # there the path has no digits of the data
    errors = [
        [
            _error_on(reader, stay) if len(stay) != size or inflated[number] else float(found.errors[number, size - 1])
            for size, stay in zip(sizes, kept, strict=True)
        ]
        for number, reader in enumerate(readers)
    ]
    return kept, errors


def _lost_weights(reader: Reader, kept: Sequence[Indices]) -> list[float]:
    """The share of its weights that a reader loses with each choice of channels."""
    norms = importance([reader])
    return [max(0.0, float(1 - norms[k[k < len(norms)]].sum() / (norms.sum() or 1.0))) for k in kept]


def _error_on(reader: Reader, stay: Indices) -> float:
    """The relative error of a reader that is refitted to the channels that stay."""
    inputs = np.flatnonzero((reader.blocks < 0) | np.isin(reader.blocks, stay))
    return error(_need(reader), inputs, math.prod(reader.weight.shape[2:]))


def refit(moments: Moments, inputs: Indices, K: int) -> Array:
    """The best kernel (n_o, len(inputs)·K) on these inputs: B_S C_SS⁻¹."""
    at = _columns(inputs, K)
    C = moments.C[np.ix_(at, at)]
    C.flat[:: len(C) + 1] += RIDGE * (np.trace(C) / len(C) or 1.0)
    kernel: Array = scipy.linalg.solve(C, moments.B[:, at].T, assume_a="pos", overwrite_a=True, check_finite=False).T
    return kernel


def error(moments: Moments, inputs: Indices, K: int) -> float:
    """Relative error after the refit, whose loss is 1 − tr(B_S C_SS⁻¹ B_Sᵀ) / Σg; 0 if the responses are constant."""
    if moments.is_constant:
        return 0.0
    at, kernel = _columns(inputs, K), refit(moments, inputs, K)
    loss = 1 - float(np.einsum("on,on->", kernel, moments.B[:, at])) / moments.energy
    return moments.keep(at, None if moments.anchor is None else moments.anchor[:, at]).error_from(loss, kernel)


def importance(readers: Sequence[Reader]) -> Array:
    """Importance (size,) of each channel: its share in ‖W‖², or with moments Q_ii over the energy; the readers' sum."""
    total = np.zeros(_size(readers))
    for reader in readers:
        own = _shares(reader)
        np.add.at(total, reader.blocks[reader.blocks >= 0], own[reader.blocks >= 0])
    return total


def _shares(reader: Reader) -> Array:
    """The share of each input (n_i,)."""
    W = _cut(reader.weight)  # (n_o, n_i, K)
    n_i, K = W.shape[1:]
    if reader.moments is None:
        norms: Array = np.einsum("oik,oik->i", W, W) / (float(np.sum(W * W)) or 1.0)
        return norms
    own = reader.moments.C.reshape(n_i, K, n_i, K)[np.arange(n_i), :, np.arange(n_i)]  # (n_i, K, K)
    responses: Array = np.einsum("oia,iab,oib->i", W, own, W, optimize=True) / (reader.moments.energy or 1.0)
    return responses


def gram(reader: Reader, moments: Moments, size: int) -> tuple[Array, Array]:
    """Q (size, size) and q (size,) of the paper's problem; q lacks what inputs that are no channel explain."""
    W = _cut(reader.weight)
    n_i, K = W.shape[1:]
    flat = W.reshape(len(W), -1)  # (n_o, n)
    Q = np.empty((n_i, n_i))
    for start in range(0, n_i, ROWS_AT_ONCE):
        rows = slice(start * K, (start + ROWS_AT_ONCE) * K)
        product = flat[:, rows].T @ flat
        product *= moments.C[rows]
        Q[start : start + ROWS_AT_ONCE] = product.reshape(-1, K, n_i, K).sum((1, 3))
    q = np.einsum("on,on->n", flat, moments.B).reshape(n_i, K).sum(1)
    q = q - Q[:, reader.blocks < 0].sum(1)
    fold = (reader.blocks == np.arange(size)[:, None]).astype(float)  # (size, n_i)
    return fold @ Q @ fold.T, fold @ q


def lasso(Q: Array, q: Array, keep: int) -> Indices:
    """The support of β at the first point of the path with `keep` channels, ascending.

    Where too many enter at once, or the path ends with too few, |β_i|·Q_ii decides, then Q_ii.
    """
    from sklearn.exceptions import ConvergenceWarning  # half a second, for this criterion alone
    from sklearn.linear_model import lars_path_gram

    live = np.flatnonzero(np.diag(Q) > np.finfo(float).eps * np.trace(Q))
    coefs = np.zeros((len(Q), 1))
    if len(live):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # equal channels end the path early: filled up below
            found = lars_path_gram(q[live], Q[np.ix_(live, live)], n_samples=1, method="lasso", max_iter=8 * len(live))
        coefs = np.zeros((len(Q), found[2].shape[1]))
        coefs[live] = np.abs(found[2])
    enough = np.flatnonzero(np.count_nonzero(coefs, axis=0) >= keep)
    point = coefs[:, enough[0] if len(enough) else -1]
    return np.sort(np.lexsort((-np.diag(Q), -point * np.diag(Q)))[:keep])


def _cut(weight: Array) -> Array:
    """W (n_o, n_i, *kernel) as (n_o, n_i, K), float64."""
    return weight.reshape(*weight.shape[:2], -1).astype(np.float64)


def _columns(inputs: Indices, K: int) -> Indices:
    """The columns of these inputs: (len(inputs)·K,)."""
    return (inputs[:, None] * K + np.arange(K)).reshape(-1)


def _size(readers: Sequence[Reader]) -> int:
    return 1 + max(int(reader.blocks.max()) for reader in readers)


def _need(reader: Reader) -> Moments:
    if reader.moments is None:
        raise UsageError("cp needs calibration data, or cp:criterion=l2")
    return reader.moments
