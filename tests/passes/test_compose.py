"""Passes one after the other inside a layer: exact at full rank, inner moments against the real inputs, refit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from models import EXACT, feed_of, network, one_conv, relative, rewritten, run_ort, run_ov, sites_of
from naive import im2col
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Chain, Conv, Sum
from ndpass.passes import Decomposition, parse
from ndpass.passes.base import block_error
from ndpass.passes.compose import Settings, compose, first_leaf_moments, leaf_moments, outline, refit, refusal

F = NDArray[np.floating[Any]]

COMPOSITIONS = ("cd,nd", "sd,nd", "cd,sd", "nd,cd", "cd,sd,nd", "sd,cd")
FULL = 10**6  # beyond every full rank
F32 = 1e-5  # of the largest entry: moments are sums of products in float32
EXTRA: dict[str, dict[str, str]] = {"nd": {"form": "dw-pw"}, "sd": {"order": "vh"}, "cd": {}}

MODELS = {
    "2d": one_conv((6, 5, 3, 3), (9, 8), "pads=[1,1,1,1]", batch=2),
    "2d-no-bias": one_conv((6, 5, 3, 3), (9, 8), "pads=[1,1,1,1]", bias=False, batch=2),
    "2d-stride-pads-dilation": one_conv((6, 5, 3, 2), (9, 8), "strides=[2,1], pads=[2,0,1,3], dilations=[1,2]"),
    "3d": one_conv((5, 4, 3, 2, 3), (5, 6, 5), "pads=[1,0,1,1,1,0], strides=[1,2,1]"),
}

composed = pytest.mark.parametrize("spec", COMPOSITIONS)
geometries = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def rules(spec: str) -> list[Decomposition]:
    return [p for p in parse(spec) if isinstance(p, Decomposition)]


def settings(spec: str, rank: int, **extra: str) -> Settings:
    """The same rank for every pass; `form` and `order` where they are not the usual ones."""
    usual = {name: {**EXTRA[name], **{k: v for k, v in extra.items() if k in EXTRA[name]}} for name in spec.split(",")}
    return {name: {"rank": rank, **options} for name, options in usual.items()}


def conv_of(model: onnx.ModelProto) -> Conv:
    (site,) = sites_of(model)
    return site.conv


def field(count: int, channels: int, hw: tuple[int, ...], seed: int = 0) -> F:
    """Images (count, channels, *hw) whose neighbours and channels depend on each other, the same everywhere."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, channels, *(n + 2 for n in hw)))
    for axis in range(2, x.ndim):
        x = sum(np.take(x, np.arange(hw[axis - 2]) + step, axis) for step in range(3))
    mix = np.eye(channels) + 0.5 * np.random.default_rng(channels).standard_normal((channels, channels))
    return np.einsum("ij,nj...->ni...", mix, x).astype(np.float32)


def samples(conv: Conv, seed: int = 0, hw: int = 7, count: int = 60) -> tuple[F, F]:
    """Patches (S, n) and responses (S, n_o) of the original, which had seen the input before it drifted."""
    x = field(count, conv.n_i, (hw,) * len(conv.kernel), seed)
    drift = 0.3 * np.random.default_rng([seed, 1]).standard_normal(x.shape).astype(np.float32)
    bias = 0 if conv.bias is None else conv.bias
    clean, seen = (im2col(conv, a).reshape(-1, conv.n_i * conv.kernel_size) for a in (x, x + drift))
    return seen, clean @ conv.matrix.T + bias


def prior(conv: Conv, x: F, y: F) -> Moments:
    return Moments.of(x, y).shrunk(conv.matrix, 1e-4)


def applied(conv: Conv, x: F) -> F:
    """What one convolution with group 1 makes of x (images, n_i, *hw), by the loop over taps."""
    y = im2col(conv, x) @ conv.matrix.T.astype(np.float64)
    return y.transpose(0, 2, 1).reshape(len(x), conv.n_o, *conv.out_hw(tuple(x.shape[2:])))


# ------------------------------------------------------------------------------------------------- without data


@composed
@geometries
@pytest.mark.parametrize("extra", [{}, {"form": "pw-dw", "order": "hv"}], ids=["dw-pw,vh", "pw-dw,hv"])
def test_full_ranks_compute_what_the_original_does(spec: str, model: onnx.ModelProto, extra: dict[str, str]) -> None:
    block = compose(rules(spec), conv_of(model), settings(spec, FULL, **extra))
    result, done = rewritten(model, lambda _: block)
    assert done == 1
    feed = feed_of(model)
    expected = run_ort(model, feed)
    assert relative(expected, run_ort(result, feed)) < EXACT
    assert relative(expected, run_ov(result, feed)) < EXACT


@composed
@geometries
@pytest.mark.parametrize("rank", [1, 2])
def test_outline_counts_what_compose_builds(spec: str, model: onnx.ModelProto, rank: int) -> None:
    (site,) = sites_of(model)
    chosen = settings(spec, rank)
    block, shape = compose(rules(spec), site.conv, chosen), outline(rules(spec), site.outline, chosen)
    assert site.in_hw is not None
    assert shape.macs(site.in_hw) == block.macs(site.in_hw)
    assert shape.params() == block.params()
    geometry = [(leaf.weight.shape, leaf.strides, leaf.pads, leaf.dilations, leaf.group) for leaf in (*shape.leaves(),)]
    assert geometry == [(b.weight.shape, b.strides, b.pads, b.dilations, b.group) for b in block.leaves()]


@composed
@geometries
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_bias_stands_once_at_the_end(spec: str, model: onnx.ModelProto, calibrated: bool) -> None:
    conv = conv_of(model)
    moments = prior(conv, *samples(conv)) if calibrated else None
    block = compose(rules(spec), conv, settings(spec, 2), moments)
    biases = [leaf.bias for leaf in block.leaves() if leaf.bias is not None]
    if moments is None and conv.bias is None:
        assert not biases
        return
    (bias,) = biases
    assert bias is ends(block)[0].bias
    expected = conv.bias if moments is None else moments.bias(block.dense().matrix)
    np.testing.assert_allclose(bias, expected, rtol=1e-12)


def ends(block: Block) -> list[Conv]:
    """The leaves whose output is a term of the block's, the first branch first."""
    if isinstance(block, Conv):
        return [block]
    if isinstance(block, Chain):
        return ends(block.blocks[-1])
    return [leaf for branch in block.blocks for leaf in ends(branch)]


def test_a_pass_without_a_setting_does_nothing() -> None:
    conv = conv_of(MODELS["2d"])
    moments = prior(conv, *samples(conv))
    for data in (None, moments):
        both = compose(rules("cd,nd,sd"), conv, {"nd": {"rank": 2, "form": "dw-pw"}}, data)
        alone = compose(rules("nd"), conv, {"nd": {"rank": 2, "form": "dw-pw"}}, data)
        for a, b in zip(both.leaves(), alone.leaves(), strict=True):
            np.testing.assert_array_equal(a.weight, b.weight)
    kept = compose(rules("cd,nd"), conv, {})
    assert isinstance(kept, Conv)
    np.testing.assert_array_equal(kept.weight, conv.weight)
    np.testing.assert_array_equal(kept.bias, conv.bias)


def test_a_pass_acts_on_the_leaves_that_it_accepts() -> None:
    block = compose(rules("cd,nd"), conv_of(MODELS["2d"]), settings("cd,nd", 2))
    assert isinstance(block, Chain)
    assert isinstance(block.blocks[0], Sum)  # the k×k convolution is decoupled,
    assert isinstance(block.blocks[1], Conv)  # the 1×1 stays as it is
    block = compose(rules("nd,cd"), conv_of(MODELS["2d"]), settings("nd,cd", 2))
    assert isinstance(block, Sum)
    for branch in block.blocks:
        assert isinstance(branch, Chain)
        assert isinstance(branch.blocks[0], Conv)  # depthwise
        assert isinstance(branch.blocks[1], Chain)  # BSConv-S: the pointwise part in two


def test_refusal_names_what_stands_in_the_way_of_each_pass() -> None:
    matrix, depthwise, row = Conv(np.ones((4, 6))), Conv(np.ones((4, 1, 3, 3)), group=4), Conv(np.ones((4, 6, 1, 3)))
    assert refusal(rules("nd,cd"), matrix) is None
    assert refusal(rules("nd,sd"), row) is None
    assert refusal(rules("nd,cd"), depthwise) == "depthwise convolution (group=4)"
    text = refusal(rules("nd,sd"), matrix)
    assert text == "nd: matrix product: no kernel to decouple; sd: matrix product: no kernel to split"


# ---------------------------------------------------------------------------------------------------- with data


@composed
@geometries
def test_full_ranks_fit_as_well_as_any_kernel_can(spec: str, model: onnx.ModelProto) -> None:
    conv = conv_of(model)
    moments = prior(conv, *samples(conv))
    block = compose(rules(spec), conv, settings(spec, FULL), moments)
    assert block_error(conv, block, moments) == pytest.approx(moments.error(moments.best), rel=1e-3, abs=1e-7)
    assert block_error(conv, block, moments) < block_error(conv, conv, moments)


@composed
@geometries
@pytest.mark.parametrize("rank", [1, 3])
def test_fitted_compositions_err_less_than_those_of_the_weights(spec: str, model: onnx.ModelProto, rank: int) -> None:
    """In the layer's own moments and on samples that the fit has not seen."""
    conv = conv_of(model)
    moments = prior(conv, *samples(conv))
    fitted = compose(rules(spec), conv, settings(spec, rank), moments)
    free = compose(rules(spec), conv, settings(spec, rank))
    assert block_error(conv, fitted, moments) < block_error(conv, free, moments)
    x, y = samples(conv, seed=9)
    left = [float(((y - x @ b.dense().matrix.T - b.dense().bias) ** 2).sum()) for b in with_biases(fitted, free)]
    assert left[0] < left[1]


def with_biases(*blocks: Block) -> list[Block]:
    """Blocks of which those without a bias have one of zeros."""
    n_o = blocks[0].dense().n_o
    return [b if b.dense().bias is not None else b.with_bias(np.zeros(n_o)) for b in blocks]


def inner_leaves(spec: str) -> list[Any]:
    """A pass that splits, and which of the leaves it leaves to ask about."""
    return [
        pytest.param(spec, order, i, id=f"{spec}-{order}-{i}") for order, i in itertools.product(("vh", "hv"), (0, 1))
    ]


@pytest.mark.parametrize(("spec", "order", "which"), [*inner_leaves("sd"), ("cd", "vh", 0), ("cd", "vh", 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 3), (2, 3, 2)], ids=str)
def test_inner_moments_are_those_of_the_leafs_own_inputs(
    spec: str, order: str, which: int, kernel: tuple[int, ...]
) -> None:
    """Through the real activations, leaf after leaf.

    The layer's patches weigh every place of its kernel alike, the leaf's own patches every place of its input; on 300
    images of 14 (or 9) pixels, the same everywhere, the two differ by the seams: 3 % of the largest entry.
    """
    axes = len(kernel)
    n_i, hw = 4, (14,) * 2 if axes == 2 else (9,) * 3
    conv = Conv(np.random.default_rng(1).standard_normal((6, n_i, *kernel)))
    x = field(300, n_i, hw)
    rows = im2col(conv, x).reshape(-1, n_i * conv.kernel_size)
    moments = Moments.of(rows, rows @ conv.matrix.T)
    block = compose(rules(spec), conv, settings(spec, 3, order=order))
    assert isinstance(block, Chain)
    leaf = block.blocks[which].dense()
    before = block.blocks[0].dense() if which else None
    own_input = x if before is None else applied(before, x)
    own = im2col(leaf, own_input).reshape(-1, leaf.n_i * leaf.kernel_size)
    expected = Moments.of(own, own @ leaf.matrix.T)
    got = leaf_moments(leaf, before, conv, moments)
    for name in ("C", "B", "g"):
        a, b = getattr(got, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=0.03 * np.abs(b).max())
    np.testing.assert_allclose(got.x_mean, expected.x_mean, rtol=0, atol=0.03 * np.sqrt(np.diag(expected.C).max()))


@pytest.mark.parametrize("spec", ["cd", "sd"])
def test_moments_of_the_last_leaf_are_exact(spec: str) -> None:
    """It stands at one place only; with pads too, where the seams are zeros for both."""
    conv = Conv(np.random.default_rng(1).standard_normal((6, 4, 3, 3)), pads=(1, 1, 1, 1), strides=(2, 1))
    x = field(50, 4, (8, 8))
    rows = im2col(conv, x).reshape(-1, 36)
    block = compose(rules(spec), conv, settings(spec, 3))
    assert isinstance(block, Chain)
    before, leaf = (b.dense() for b in block.blocks)
    own = im2col(leaf, applied(before, x)).reshape(-1, leaf.n_i * leaf.kernel_size)
    expected = Moments.of(own, own @ leaf.matrix.T)
    got = leaf_moments(leaf, before, conv, Moments.of(rows, rows @ conv.matrix.T))
    for name in ("C", "B", "g"):
        a, b = getattr(got, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=F32 * np.abs(b).max())


@pytest.mark.parametrize("spec", ["cd", "sd", "cd,nd", "sd,nd", "cd,sd"])
@geometries
def test_refit_is_least_squares_on_the_samples(spec: str, model: onnx.ModelProto) -> None:
    """The features of the last convolution, taken from its real inputs, and NumPy's least squares."""
    conv = conv_of(model)
    x, y = samples(conv)
    moments = Moments.of(x, y)
    block = compose(rules(spec), conv, settings(spec, 2))
    assert isinstance(block, Chain)
    got = refit(block, conv, moments)
    assert isinstance(got, Chain)
    last = got.blocks[-1]
    assert moments.error(got.dense().weight) <= moments.error(block.dense().weight)
    if not isinstance(last, Conv):  # sd,nd: the last factor is a sum, and stays
        assert got is block
        return
    ahead = Chain(*block.blocks[:-1]).dense()
    features = np.stack(
        [x @ Chain(ahead, unit(last, i)).dense().matrix.reshape(-1) for i in range(last.weight[0].size)], axis=1
    )
    solution = np.linalg.lstsq(np.c_[features, np.ones(len(x))], y, rcond=None)[0][:-1].T
    residual = [y - features @ W.reshape(len(W), -1).T for W in (last.weight, solution)]
    found, least = (float(((r - r.mean(0)) ** 2).sum()) for r in residual)
    assert found == pytest.approx(least, rel=1e-4)


def unit(last: Conv, i: int) -> Conv:
    """The convolution with one output, whose weight is 1 at element i and 0 elsewhere."""
    weight = np.zeros(last.weight[0].size)
    weight[i] = 1
    return Conv(weight.reshape(1, *last.weight.shape[1:]), None, last.strides, last.pads, last.dilations)


@pytest.mark.parametrize("seed", range(6))
def test_refit_never_errs_more(seed: int) -> None:
    """Nor where the features are the same several times over, or all zero."""
    rng = np.random.default_rng(seed)
    conv = Conv(rng.standard_normal((5, 3, 3, 3)))
    moments = prior(conv, *samples(conv, seed))
    first = rng.standard_normal((4, 3, 3, 3))
    first[1], first[2] = first[0], 0
    block = Chain(Conv(first), Conv(rng.standard_normal((5, 4, 1, 1))))
    got = refit(block, conv, moments)
    assert np.isfinite(got.dense().weight).all()
    assert moments.error(got.dense().weight) <= moments.error(block.dense().weight)


@composed
def test_data_that_never_vary_leave_everything_finite(spec: str) -> None:
    conv = conv_of(MODELS["2d"])
    x = np.ones((300, 45), np.float32)
    moments = Moments.of(x, x @ conv.matrix.T).shrunk(conv.matrix, 1e-2)
    block = compose(rules(spec), conv, settings(spec, 2), moments)
    assert all(np.isfinite(leaf.weight).all() for leaf in block.leaves())


def test_a_matrix_product_is_split_by_those_that_can() -> None:
    model = network(
        "(float[3,8] x) => (float[3,6] y) { y = Gemm<transB=1>(x, W, B) }",
        W=np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32),
        B=np.ones(6, np.float32),
    )
    block = compose(rules("nd,cd"), conv_of(model), settings("nd,cd", FULL))
    result, _ = rewritten(model, lambda _: block)
    feed = feed_of(model)
    assert relative(run_ort(model, feed), run_ort(result, feed)) < EXACT


@pytest.mark.parametrize("spec", ["cd", "sd"])
def test_moments_for_estimates_are_those_of_the_first_leaf(spec: str) -> None:
    """A leaf of the whole patch has no ridge of its own; the layer's prior is a thousand times as strong."""
    conv = Conv(np.random.default_rng(1).standard_normal((6, 4, 3, 3)))
    rows = np.random.default_rng(2).standard_normal((400, 36))
    moments = Moments.of(rows, rows @ conv.matrix.T).shrunk(conv.matrix, 1e-4)
    leaf = compose(rules(spec), conv, settings(spec, 3), moments).leaves()[0]
    got, plain = first_leaf_moments(leaf, conv, moments), leaf_moments(leaf, None, conv, moments)
    for name in ("C", "B", "g", "anchor"):
        a, b = getattr(got, name), getattr(plain, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * np.abs(b).max())
    np.testing.assert_array_equal(got.best, leaf.matrix)
    assert (got.C is moments.C) == (spec == "cd")
    kernel = leaf.matrix + 0.1
    assert got.error(kernel) == pytest.approx(plain.error(kernel), rel=1e-6)
