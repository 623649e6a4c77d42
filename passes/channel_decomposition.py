"""cd: channel decomposition (Zhang et al. 2015, arXiv 1505.06798, sections 3.1 and 3.2).

The responses of a layer lie near a subspace of d dimensions, so the weight W̃ (n_o, n) is close to a product of rank d,

    W̃ ≈ L R    R (d, n) is the k×k convolution to d channels, L (n_o, d) the 1×1 convolution to n_o.

Without data L R is the truncated SVD. With moments C, B (`ndpass.calibration.moments`) it is reduced-rank regression:
the error of any kernel M is that of W* = BC⁻¹ plus tr((M − W*) C (M − W*)ᵀ). The best M of rank d is UUᵀW*, where U
(n_o, d) are the first eigenvectors of H = W*CW*ᵀ = W*Bᵀ. So R = UᵀW* and L = U are optimal, one U serves all ranks, and

    loss(d) = (Σg − Σ_{i≤d} λ_i(H)) / Σg

The error on the data alone, without the prior that is in these, follows for all ranks from diag(U'W*CW*'U) and
diag(U'W*B'U), with C and B of the data.

On a matrix product or a 1×1 convolution this is the classic low-rank layer.

A grouped convolution is rewritten group by group: k×k to d channels in each group, then a grouped 1×1.

With `solver=relu` a layer whose output goes straight into a ReLU is fitted for the error behind the ReLU
(`relu_regression`): the kernel is LRW*, the bias is the fit's. Ranks are chosen as without it, and all other layers are
fitted as without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Chain, Conv
from ndpass.passes import relu_regression
from ndpass.passes.base import Decomposition, Setting
from ndpass.passes.cost import channel_step
from ndpass.passes.eigen import eigen, eigenvalues
from ndpass.passes.groups import apart, beside, energies, one_of, refuse_groups, repeated, together

WIDE = 1024  # outputs from which on few directions are found alone, not all at once
FEW = 16  # few: at most one in so many


class ChannelDecomposition(Decomposition):
    """A convolution to `rank` channels, then a pointwise one."""

    name = "cd"
    summary = "channel decomposition: k×k becomes k×k to fewer channels, then 1×1"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"rank": ("full",), "solver": ("linear", "relu")}
    isometric = True  # L has orthonormal columns
    errors_at_once = True
    by_group = True
    formula = (
        "W (n_o, n) = L (n_o, d) R (d, n): k×k to d channels, then 1×1 to n_o\n"
        "MACs left of k×k: about d/n_o + d/(k² n_i)"
    )
    when = (
        "Layers with many output channels, Gemm and 1×1 too; fast in every precision. cd,nd decouples the "
        "k×k that is left. Of a grouped layer the rank is that of each group."
    )
    cost = "One solve of size n and one eigendecomposition of size n_o, for all ranks together."
    reference = "Zhang et al. 2015, Accelerating Very Deep Convolutional Networks, arXiv 1505.06798"

    def refuse(self, conv: Conv) -> str | None:
        """Weights that have rank 1 already are refused, and depthwise convolutions."""
        if conv.group > 1:
            return refuse_groups(conv, self.refuse)
        return "weight of one row or column: nothing to split" if full_rank(conv) == 1 else None

    def settings(self, conv: Conv) -> list[Setting]:
        solver: Setting = {"solver": "relu"} if self.for_relu(self.pinned) else {}
        one = one_of(conv)
        return [{"rank": d, **solver} for d in ranks(one.matrix.shape, one.n_o, self.pinned.get("rank"))]

    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        if conv.group > 1:
            return beside([self.rewrite(one, setting, own) for one, own in apart(conv, moments)])
        rank = int(setting["rank"])
        if moments is None:
            return assemble(conv, *factors(conv.matrix, rank))
        if rank >= full_rank(conv):
            left, right = factors(moments.best, rank)
        else:
            left = _directions(moments, rank)
            right = left.T @ moments.best
        block = assemble(conv, left, right)
        return block.with_bias(moments.bias(left @ right))

    def for_relu(self, setting: Setting) -> bool:
        """Where the solver is relu (`ndpass.passes.relu_fit`)."""
        return setting.get("solver") == "relu"

    def linear_setting(self, setting: Setting) -> Setting:
        return {**setting, "solver": "linear"}

    def refit_for_relu(
        self, conv: Conv, setting: Setting, moments: Moments, answers: Array, responses: Array
    ) -> tuple[Block, float]:
        """The linear block and a share of 0 where no better one is found."""
        left = moments.answered[1][:, : min(int(setting["rank"]), full_rank(conv))]
        linear = relu_regression.Affine(left, left.T, moments.bias(left @ (left.T @ moments.best)))
        found, gain = relu_regression.fit(answers, responses, moments.best @ moments.B.T, linear)
        if gain <= 0:
            return self.rewrite(conv, setting, moments), 0.0
        return assemble(conv, found.left, found.right @ moments.best).with_bias(found.bias), gain

    def outline(self, conv: Conv, setting: Setting) -> Block:
        """From the shapes alone: the factors would take an eigendecomposition."""
        if conv.group > 1:
            return repeated(self.outline(one_of(conv), setting), conv.group)
        rank, zero = min(int(setting["rank"]), full_rank(conv)), np.float32(0)
        n_o, n = conv.matrix.shape
        return assemble(conv, np.broadcast_to(zero, (n_o, rank)), np.broadcast_to(zero, (rank, n)))

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> Sequence[float | None]:
        """All ranks from one spectrum; exact, with data and without."""
        if conv.group > 1:
            every = [self.errors(one, settings, own) for one, own in apart(conv, moments)]
            return together(every, energies(conv, moments))
        if moments is not None and moments.is_constant:
            return [0.0] * len(settings)
        values = spectrum(conv.matrix) if moments is None else _explained(moments)
        total = float(values.sum()) if moments is None else moments.variance
        unexplained = 0.0 if moments is None else moments.unexplained
        # The tail is summed, not the head: what is lost may be 1e-12 of what is kept.
        return [max(0.0, unexplained + float(values[int(s["rank"]) :].sum()) / (total or 1.0)) for s in settings]


def _explained(moments: Moments) -> Array:
    """What each direction explains of the responses of the data (n_o,): 2 uᵀBr − rᵀCr for its row r = uᵀW*."""
    left = moments.answered[1]
    right = left.T @ moments.best
    crossed = np.einsum("on,on->o", left.T @ moments.alone.B, right)
    explained: Array = 2 * crossed - np.einsum("on,on->o", moments.on_data(right, moments.kind), right)
    return explained


def full_rank(conv: Conv) -> int:
    """The d at which the product is exact: min(n_o, n)."""
    n_o, n = conv.matrix.shape
    return min(int(n_o), int(n))


def ranks(shape: tuple[int, int], width: int, pinned: int | str | None = None) -> list[int]:
    """Ranks worth a try for a matrix (a, b), cheapest first, full rank last; a pinned one as it is, up to full rank.

    Factors of rank d have d(a + b) weights, so ranks with no fewer than a·b are left out. width: of the layer, which
    the step between ranks depends on (`channel_step`).
    """
    a, b = shape
    full = min(a, b)
    if pinned is not None:
        return [full if pinned == "full" else min(int(pinned), full)]
    step = channel_step(min(width, full))
    return [*range(step, -(-a * b // (a + b)), step), full]


def factors(matrix: Array, rank: int) -> tuple[Array, Array]:
    """L (a, d) and R (d, b), the best product of rank d for a matrix (a, b), in float64; exact at d = min(a, b).

    One factor is Q, the eigenvectors of the smaller Gram matrix, the other is the matrix times Q: nothing is divided by
    a singular value.
    """
    wide = matrix.astype(np.float64)
    if wide.shape[0] <= wide.shape[1]:
        left = eigen(wide @ wide.T)[1][:, :rank]
        return left, left.T @ wide
    right = eigen(wide.T @ wide)[1][:, :rank]
    return wide @ right, right.T


def spectrum(matrix: Array) -> Array:
    """Squared singular values (min(a, b),) of a matrix (a, b), largest first."""
    wide = matrix.astype(np.float64)
    return eigenvalues(wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide)


def _directions(moments: Moments, rank: int) -> Array:
    """The first d eigenvectors (n_o, d) of H = W*Bᵀ.

    A few of many are found by the Lanczos method: all 4,096 of a linear layer take 13 s.
    """
    n_o = len(moments.B)
    if n_o < WIDE or FEW * rank > n_o:
        return moments.answered[1][:, :rank]
    import scipy.sparse.linalg  # a quarter of a second, for wide layers alone

    H = moments.best @ moments.B.T
    start = np.random.default_rng(0).standard_normal(n_o)
    vectors: Array = scipy.sparse.linalg.eigsh((H + H.T) / 2, k=rank, v0=start)[1][:, ::-1]
    return vectors


def assemble(conv: Conv, left: Array, right: Array) -> Chain:
    """R (d, n) as a convolution with the geometry of `conv`, then L (n_o, d) pointwise, with the bias."""
    axes = len(conv.kernel)
    first = Conv(right.reshape(-1, conv.n_i, *conv.kernel), None, conv.strides, conv.pads, conv.dilations)
    return Chain(first, Conv(left.reshape(*left.shape, *(1,) * axes), conv.bias))
