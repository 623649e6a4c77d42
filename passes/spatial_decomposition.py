"""sd: spatial decomposition (Jaderberg et al. 2014, arXiv 1405.3866, scheme 2).

Every patch index is (i, a, j): input channel, tap along the axes of the first convolution, tap along those of the
second. With m = n_i·k_a rows and n_o·k_j columns the kernel is a matrix, and rank d splits it,

    W[o, i, a, j] ≈ Σ_r S[o, r, j] T[r, i, a]    T (d, m) acts first, then S (n_o, d, k_j)

vh: the first axis of extent above 1 acts first (k×1, then 1×k); hv: the other axes do. Without data the best T and S
are a truncated SVD. With moments C, B (`ndpass.calibration.moments`) the steps are:

1. C is taken for C_a ⊗ C_j, C_a the mean over j of its blocks, C_j = tr(C_a⁻¹ C_jj')/m; with C_a = LLᵀ and C_j = RRᵀ
   the best-fit kernel W* = BC⁻¹ is split by the SVD of Lᵀ W* R, and T = Uᵀ L⁻¹.
2. S is the exact least squares for the features z = (T ⊗ I) x̂ (d·k_j). The features of rank d are the first of those of
   any higher rank, so one Cholesky factor Cz = ΛΛᵀ tells what every rank explains: rows of Λ⁻¹Bzᵀ, squared and summed.
3. T is refitted given S by conjugate gradients, then S again. Measured on VGG16 this takes 3 to 25 % off the error,
   most at low ranks; `errors` stops after step 2 and is an upper bound by that much.

A grouped convolution is rewritten group by group, to two grouped ones.

Where the data-free factors err less in this metric, they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Block, Chain, Conv
from ndpass.passes.base import Decomposition, Setting, block_error
from ndpass.passes.channel_decomposition import factors, ranks, spectrum
from ndpass.passes.cost import cheapest_first
from ndpass.passes.eigen import right_directions
from ndpass.passes.groups import apart, beside, energies, one_of, refuse_groups, repeated, together

ORDERS = ("vh", "hv")
SWEEPS = 2  # of step 3; measured: a third takes off half a per cent
CG_STEPS = 6
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
            fitted = assemble(conv, *_Fit(conv, moments, order).fit(rank), order)
            best = min(fitted, plain, key=lambda block: block_error(conv, block, moments))
        return best.with_bias(moments.bias(best.dense().matrix))

    def sketch(self, conv: Conv, setting: Setting, moments: Moments) -> Block:
        """As `rewrite`, by steps 1 and 2 alone; of dense convolutions."""
        order, rank = str(setting["order"]), int(setting["rank"])
        if rank >= full_rank(conv, order):
            return self.rewrite(conv, setting, moments)
        T, S = _Fit(conv, moments, order, moments.kind).fit(rank, sweeps=0)
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
        """All ranks of an order at once; exact without moments and at full rank, else the upper bound of step 2."""
        if conv.group > 1:
            every = [self.errors(one, settings, own) for one, own in apart(conv, moments)]
            return together(every, energies(conv, moments))
        curve = {}
        for order in {str(s["order"]) for s in settings}:
            wanted = [int(s["rank"]) for s in settings if s["order"] == order]
            curve[order] = _weight_curve(conv, order) if moments is None else _curve(conv, moments, order, wanted)
        return [float(at[min(int(s["rank"]), len(at)) - 1]) for s in settings for at in [curve[str(s["order"])]]]


def _geometric(count: int) -> NDArray[np.intp]:
    """At most INNER positions among `count`, in a geometric row, the first and the last among them."""
    return np.unique(np.geomspace(1, count, INNER).round().astype(int) - 1)


def full_rank(conv: Conv, order: str) -> int:
    """The rank d at which the product is exact: min(m, n_o·k_j)."""
    n_o, m, k_j = cut(conv.weight, order).shape
    return int(min(m, n_o * k_j))


def split_axis(kernel: tuple[int, ...]) -> int:
    """The axis that is split from the others: the first of extent above 1."""
    return next(a for a, k in enumerate(kernel) if k > 1)


def cut(weight: Array, order: str) -> Array:
    """(n_o, n_i, *kernel) as (n_o, m, k_j), m = n_i·k_a; the axes before `split_axis` have extent 1."""
    n_o, n_i, *kernel = weight.shape
    k = kernel[split_axis(tuple(kernel))]
    parted = weight.reshape(n_o, n_i, k, -1)
    rows: Array = parted if order == "vh" else parted.transpose(0, 1, 3, 2)  # (n_o, n_i, k_a, k_j)
    return rows.reshape(n_o, n_i * rows.shape[2], rows.shape[3])


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


def _curve(conv: Conv, moments: Moments, order: str, wanted: Sequence[int]) -> Array:
    """Relative error of the response at rank 1, 2, … full after step 2; 0 at ranks above all that are wanted.

    All ranks come from one decomposition. Wide layers are handled in float32, which moves the errors by about 1e-5 of
    the response; where that makes Cz indefinite, in float64.
    """
    full = full_rank(conv, order)
    curve: Array = np.zeros(full)
    curve[-1] = moments.error(moments.best)
    below = max((d for d in wanted if d < full), default=0)
    if below and moments.energy > 0:
        try:
            explained = _explained(conv, moments, order, below, moments.kind)
        except np.linalg.LinAlgError:
            explained = _explained(conv, moments, order, below, np.float64)
        curve[:below] = (1 - explained / moments.energy).clip(0)
    return curve


def _explained(conv: Conv, moments: Moments, order: str, rank: int, kind: type[np.floating[Any]]) -> Array:
    """What the features of rank 1, 2, …, `rank` explain of the responses' variance, (rank,)."""
    fit = _Fit(conv, moments, order, kind)
    T = fit.nested(rank)
    Cz, Bz = fit.features(T)
    factor = scipy.linalg.cholesky(Cz, lower=True, check_finite=False)
    rows = scipy.linalg.solve_triangular(factor, Bz.T, lower=True, check_finite=False)  # (rank·k_j, n_o)
    explained: Array = np.einsum("qo,qo->q", rows, rows, dtype=np.float64).reshape(rank, -1).sum(axis=1).cumsum()
    return explained


class _Cut:
    """C with its indices cut, (m, k_j, k_j, m) as [a, j, j', a'], and what step 1 makes of it alone.

    place (m, k_j): the position in the patch; L: C_a = LLᵀ; across: R, C_j = RRᵀ.
    """

    def __init__(self, conv: Conv, moments: Moments, order: str, kind: type[np.floating[Any]]) -> None:
        shape = (conv.n_i, *conv.kernel)
        self.place = cut(np.arange(math.prod(shape), dtype=np.float64).reshape(1, *shape), order)[0].astype(np.intp)
        m, k_j = self.place.shape
        k = conv.kernel[split_axis(conv.kernel)]
        split_C = moments.C.reshape(conv.n_i, k, -1, conv.n_i, k, self.place.size // (conv.n_i * k))
        turned = split_C.transpose(*((0, 1, 2, 5, 3, 4) if order == "vh" else (0, 2, 1, 4, 3, 5)))
        self.C = np.ascontiguousarray(turned, kind).reshape(m, k_j, k_j, m)
        self.C_a = np.einsum("ajjb->ab", self.C) / k_j
        self.L = scipy.linalg.cholesky(self.C_a, lower=True, check_finite=False)

    @cached_property
    def across(self) -> Array:
        inverse = scipy.linalg.cho_solve((self.L, True), np.eye(len(self.L), dtype=self.L.dtype), check_finite=False)
        across: Array = np.linalg.cholesky(np.einsum("ajkb,ab->jk", self.C, inverse))
        return across


class _Fit:
    """The moments with indices cut: C (m, k_j, k_j, m) as [a, j, j', a'], B and W* (n_o, m, k_j).

    kind: float32 for estimates in wide layers.
    """

    def __init__(self, conv: Conv, moments: Moments, order: str, kind: type[np.floating[Any]] = np.float64) -> None:
        def make() -> _Cut:
            return _Cut(conv, moments, order, kind)

        own = moments.derive(("sd", order), make) if kind is moments.kind else make()
        self.m, self.k_j = own.place.shape
        self.cut, self.C, self.L = own, own.C, own.L
        self.B = moments.B[:, own.place].astype(kind, copy=False)
        self.best = moments.best[:, own.place].astype(kind, copy=False)

    def fit(self, rank: int, sweeps: int = SWEEPS) -> tuple[Array, Array]:
        """T (d, m), S (n_o, d, k_j) by steps 1 to 3, the third `sweeps` times."""
        T = self.start(rank)
        S = self.second(T)
        for _ in range(sweeps):
            T = self.first(T, S)
            S = self.second(T)
        return T, S

    def start(self, rank: int) -> Array:
        """T (d, m) of step 1; the rows of a lower rank are the first of a higher one."""
        white, subset = self._white(), (self.m - rank, self.m - 1)
        return self._back(scipy.linalg.eigh(white @ white.T, subset_by_index=subset, check_finite=False)[1][:, ::-1])

    def nested(self, rank: int) -> Array:
        """As `start`, for many ranks: from all directions, of the smaller side where that is the outputs'."""
        return self._back(right_directions(self._white().T[None])[1][0, :, :rank])

    def _white(self) -> Array:
        """Lᵀ W* R (m, n_o·k_j)."""
        white: Array = self.L.T @ (self.best @ self.cut.across).transpose(1, 0, 2).reshape(self.m, -1)
        return white

    def _back(self, U: Array) -> Array:
        """T = Uᵀ L⁻¹ (d, m)."""
        T: Array = scipy.linalg.solve_triangular(self.L, U, trans="T", lower=True, check_finite=False).T
        return T

    def _seen(self, T: Array) -> Array:
        """(T ⊗ I) C as (d, k_j, k_j, m)."""
        seen: Array = T @ self.C.reshape(self.m, -1)
        return seen.reshape(-1, self.k_j, self.k_j, self.m)

    def features(self, T: Array) -> tuple[Array, Array]:
        """E[zzᵀ] (d·k_j, d·k_j) and E[yzᵀ] (n_o, d·k_j) of z = (T ⊗ I) x̂."""
        d, q = len(T), len(T) * self.k_j
        Cz = (self._seen(T).reshape(-1, self.m) @ T.T).reshape(d, self.k_j, self.k_j, d).transpose(0, 1, 3, 2)
        return Cz.reshape(q, q), (T @ self.B).reshape(-1, q)

    def second(self, T: Array) -> Array:
        """The best S (n_o, d, k_j) for T."""
        Cz, Bz = self.features(T)
        solved: Array = scipy.linalg.solve(Cz, Bz.T, assume_a="pos", check_finite=False).T
        return solved.reshape(len(Bz), len(T), self.k_j)

    def first(self, T: Array, S: Array) -> Array:
        """T (d, m) after CG_STEPS of conjugate gradients for E‖y − (S)(T ⊗ I)x̂‖², preconditioned with C_a."""
        Q = np.tensordot(S, S, (0, 0)).transpose(1, 0, 2, 3).reshape(self.k_j, len(T), -1)  # (k_j, d, d·k_j)

        def normal(T: Array) -> Array:
            seen = self._seen(T)
            bent: Array = np.sum([Q[j] @ seen[:, :, j].reshape(-1, self.m) for j in range(self.k_j)], axis=0)
            return bent

        left = np.tensordot(S, self.B, ((0, 2), (0, 2))) - normal(T)
        step, size = np.zeros_like(T), 1.0
        for _ in range(CG_STEPS):
            eased = scipy.linalg.cho_solve((self.L, True), left.T, check_finite=False).T
            before, size = size, float(np.vdot(left, eased))
            if size <= 0:
                break  # nothing left to gain
            step = eased + size / before * step
            bent = normal(step)
            length = size / float(np.vdot(step, bent))
            T, left = T + length * step, left - length * bent
        return T
