"""A pass for ndpass in a package of its own. Copy this folder, rename what it names, and change the algebra.

id: input decomposition. A k×k convolution W (n_o, n_i, K) becomes a 1×1 convolution to `rank` channels and a k×k one,

    W[o, i, k] ≈ Σ_r S[o, r, k] T[r, i]    T (d, n_i) acts first, then S (n_o, d, K)

The best factors in the norm of the weights are a truncated SVD of W as a matrix (n_i, n_o·K). With data the kernel that
is best on them is split so too, and whichever of the two errs less on the data is taken.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ndpass.conv import Chain, Conv
from ndpass.passes import Decomposition
from ndpass.passes.base import block_error, refuse_common


class InputDecomposition(Decomposition):
    """A pointwise convolution to `rank` channels, then the k×k one."""

    name = "id"
    summary = "input decomposition: k×k becomes 1×1 to fewer channels, then k×k"
    options = {"rank": ("full",)}  # noqa: RUF012 - as in ndpass's own passes

    def refuse(self, conv):
        if conv.kernel_size == 1:
            return "kernel of one element: nothing to gain before it"
        if conv.n_i == 1:
            return "one input channel: nothing to split"
        return refuse_common(conv)

    def settings(self, conv):
        return [{"rank": d} for d in self.ranks(min(conv.n_i, conv.n_o * conv.kernel_size))]

    def rewrite(self, conv, setting, moments=None):
        plain = split(conv, conv.weight, setting["rank"])
        if moments is None:
            return plain
        fitted = split(conv, moments.best.reshape(conv.weight.shape), setting["rank"])
        best = min(fitted, plain, key=lambda block: block_error(conv, block, moments))
        return best.with_bias(moments.bias(best.dense().matrix))


def split(conv, kernel, rank):
    """The two convolutions of this rank for a kernel (n_o, n_i, *k); the geometry of `conv` goes to the second."""
    n_o, n_i, *k = kernel.shape
    matrix = kernel.astype(np.float64).swapaxes(0, 1).reshape(n_i, -1)  # (n_i, n_o·K)
    U = np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]  # (n_i, d)
    S = (U.T @ matrix).reshape(-1, n_o, *k).swapaxes(0, 1)  # (n_o, d, *k)
    return Chain(Conv(U.T.reshape(*U.T.shape, *(1,) * len(k))), replace(conv, weight=S))
