"""Grouped convolutions: what a pass makes of each group by itself, side by side, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import EXACT, feed_of, network, normal, relative, rewritten, run_ort, run_ov
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Chain, Conv
from ndpass.graph.openvino.graph import OvGraph
from ndpass.graph.sites import Site
from ndpass.measuring.openvino_core import shared_core
from ndpass.passes import Decomposition, NetworkDecoupling, parse
from ndpass.passes.base import Setting, block_error, relative_error
from ndpass.passes.channel_decomposition import ChannelDecomposition
from ndpass.passes.compose import compose, outline
from ndpass.passes.groups import apart, beside, kernel_of, mixes, one_of, repeated, times
from ndpass.passes.spatial_decomposition import SpatialDecomposition

F = NDArray[Any]
ROUNDING = 1e-12  # squared relative error that float64 leaves where a product is exact
GROUPS = 3

by_group = pytest.mark.parametrize("kind", [ChannelDecomposition, SpatialDecomposition], ids=lambda kind: kind.name)


def grouped(*shape: int, groups: int = GROUPS, **geometry: Any) -> Conv:
    """Groups whose weights differ in scale, so that their errors count differently."""
    weight = np.random.default_rng(shape).standard_normal(shape)
    weight *= np.repeat(np.arange(1.0, groups + 1), shape[0] // groups).reshape(-1, *(1,) * (len(shape) - 1))
    return Conv(weight, np.arange(float(shape[0])), group=groups, **geometry)


def moments_of(conv: Conv, drift: float = 0.3) -> Moments:
    """Moments of each group: patches that drifted from those that the responses were computed for."""
    rng, parts = np.random.default_rng(1), []
    for one, _ in apart(conv):
        n = one.unknowns
        x = rng.standard_normal((40 * n, n)) @ (np.eye(n) + 0.3 * rng.standard_normal((n, n))) + 1
        seen = x + drift * rng.standard_normal(x.shape)
        parts.append(Moments.of(seen, x @ one.matrix.T + one.bias).shrunk(one.matrix, 1e-6))
    return Moments.beside(parts)


# -------------------------------------------------------------------------------------------------------- algebra


def test_what_was_cut_apart_stands_side_by_side_again() -> None:
    conv = grouped(12, 4, 3, 2, strides=(2, 1), pads=(1, 0, 0, 1), dilations=(1, 2))
    parts = [one for one, _ in apart(conv)]
    assert [(part.n_i, part.n_o, part.group) for part in parts] == [(4, 4, 1)] * GROUPS
    again = beside(parts)
    assert isinstance(again, Conv)
    np.testing.assert_array_equal(again.weight, conv.weight)
    np.testing.assert_array_equal(again.bias, conv.bias)
    assert (again.group, again.strides, again.pads, again.dilations) == (3, conv.strides, conv.pads, conv.dilations)
    assert one_of(parts[0]) is parts[0]


def test_a_chain_side_by_side_is_equal_to_the_kernels_of_its_groups() -> None:
    rng = np.random.default_rng(0)
    chains = [Chain(Conv(rng.standard_normal((2, 4, 3, 3))), Conv(rng.standard_normal((5, 2, 1, 1)))) for _ in range(3)]
    block = beside(chains)
    assert [leaf.group for leaf in block.leaves()] == [3, 3]
    kernels = np.concatenate([chain.dense().weight for chain in chains])
    np.testing.assert_allclose(kernel_of(block, 3), kernels)
    np.testing.assert_allclose(Conv(kernels, group=3).dense().weight, block.dense().weight)
    shapes = [(leaf.weight.shape, leaf.group) for leaf in block.leaves()]
    assert shapes == [(leaf.weight.shape, leaf.group) for leaf in repeated(chains[0], 3).leaves()]
    assert times(chains[0].leaves()[0], 1) is chains[0].leaves()[0]


def test_a_block_that_mixes_groups_has_no_kernel_of_its_groups() -> None:
    dense = Conv(normal(6, 4, 1, 1))
    assert mixes(dense, 2)
    with pytest.raises(ValueError, match="cannot be split"):
        kernel_of(dense, 2)
    conv = Conv(normal(6, 2, 1, 1), group=2)
    assert block_error(conv, dense) == relative_error(conv.dense().weight, dense.weight)


# ---------------------------------------------------------------------------------------------------------- errors


@by_group
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_error_of_the_whole_is_that_of_the_responses(kind: type[Decomposition], calibrated: bool) -> None:
    """Against the dense kernel of everything, with the moments of all inputs that do not depend on those of others."""
    conv, rule = grouped(12, 4, 3, 3), kind()
    moments = moments_of(conv) if calibrated else None
    settings = rule.settings(conv)
    for setting, predicted in zip(settings, rule.errors(conv, settings, moments), strict=True):
        block = rule.rewrite(conv, setting, moments)
        assert predicted is not None
        measured = error_of_everything(conv, block.dense().weight, moments)
        assert block_error(conv, block, moments) == pytest.approx(measured, abs=1e-9)
        assert measured <= predicted + 1e-9
        if moments is None or kind is ChannelDecomposition:
            assert predicted == pytest.approx(measured, abs=1e-9)


def error_of_everything(conv: Conv, kernel: F, moments: Moments | None) -> float:
    if moments is None:
        return relative_error(conv.dense().weight, kernel)
    n = conv.unknowns
    C, B = np.zeros((GROUPS * n, GROUPS * n)), np.zeros((conv.n_o, GROUPS * n))
    outs = conv.n_o // GROUPS
    for g in range(GROUPS):
        own, rows = slice(g * n, (g + 1) * n), slice(g * outs, (g + 1) * outs)
        C[own, own], B[rows, own] = moments.C[g], moments.alone.B[rows]
    np.fill_diagonal(C, moments.alone.diagonal)
    M = kernel.reshape(conv.n_o, -1)
    lost = moments.variance - 2 * np.sum(M * B) + np.sum((M @ C) * M)
    return float(lost / moments.variance)


@by_group
@pytest.mark.parametrize("calibrated", [False, True])
def test_planted_ranks_are_found_in_every_group(kind: type[Decomposition], calibrated: bool) -> None:
    """The rank of the whole is the largest of the groups'."""
    rule, plain = kind(), grouped(15, 4, 3, 3)
    words: dict[str, int | str] = {} if kind is ChannelDecomposition else {"order": "vh"}
    planted = [
        rule.rewrite(one, {"rank": rank, **words}).dense()
        for rank, (one, _) in zip((1, 3, 2), apart(plain), strict=True)
    ]
    conv = beside(planted)
    assert isinstance(conv, Conv)
    moments = moments_of(conv, drift=0) if calibrated else None
    settings: list[Setting] = [{"rank": rank, **words} for rank in (1, 2, 3)]
    first, second, third = (float(e or 0) for e in rule.errors(conv, settings, moments))
    assert first > second > 1e-2
    exact = 1e-4 if calibrated else ROUNDING  # moments are sums in float32: on one CPU they leave 2e-5, on others less
    assert third < exact
    assert block_error(conv, rule.rewrite(conv, settings[2], moments), moments) < exact


@by_group
def test_each_group_is_fitted_to_its_own_data(kind: type[Decomposition]) -> None:
    conv, rule = grouped(12, 4, 3, 3), kind()
    moments, setting = moments_of(conv), kind().settings(grouped(12, 4, 3, 3))[1]
    block = rule.rewrite(conv, setting, moments)
    for (one, own), leaf in zip(apart(conv, moments), apart(block.leaves()[0]), strict=True):
        alone = rule.rewrite(one, setting, own)
        np.testing.assert_array_equal(alone.leaves()[0].weight, leaf[0].weight)
    bias = block.dense().bias
    assert bias is not None
    np.testing.assert_allclose(bias, moments.bias(kernel_of(block, GROUPS)))


# ---------------------------------------------------------------------------------------------------- compositions


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("spec", ["cd,sd", "sd,cd"])
def test_compositions_have_the_shapes_of_their_outlines(spec: str, calibrated: bool) -> None:
    passes, conv = parse(spec), grouped(18, 4, 3, 3, pads=(1, 1, 1, 1))
    moments = moments_of(conv) if calibrated else None
    for cd in range(1, 7):
        for sd in (1, 2, 5, 12):
            settings: dict[str, Setting] = {"cd": {"rank": cd}, "sd": {"rank": sd, "order": "hv"}}
            block = compose(passes, conv, settings, moments)
            shapes = [(leaf.weight.shape, leaf.group) for leaf in block.leaves()]
            assert shapes == [(leaf.weight.shape, leaf.group) for leaf in outline(passes, conv, settings).leaves()]
            assert not mixes(block, GROUPS)


def test_full_ranks_of_a_composition_are_exact() -> None:
    conv = grouped(12, 4, 3, 3)
    full: dict[str, Setting] = {"cd": {"rank": 4}, "sd": {"rank": 12, "order": "vh"}}
    block = compose(parse("cd,sd"), conv, full)
    assert relative_error(conv.weight, kernel_of(block, GROUPS)) < ROUNDING
    moments = moments_of(conv)
    fitted = compose(parse("cd,sd"), conv, full, moments)
    assert block_error(conv, fitted, moments) == pytest.approx(moments.error(moments.best), abs=1e-6)


def test_decoupling_leaves_a_grouped_layer_alone_behind_another_pass_too() -> None:
    conv = grouped(12, 4, 3, 3)
    assert NetworkDecoupling().refuse(conv) == "grouped convolution (group=3)"
    nd: dict[str, Setting] = {"cd": {"rank": 2}, "nd": {"rank": 1, "form": "pw-dw"}}
    assert len(outline(parse("cd,nd"), conv, nd).leaves()) == 2


# ---------------------------------------------------------------------------------------------------------- models


MODEL = network(
    """(float[N,6,9,8] x) => (float[N,4,5,8] y) {
        a = Conv<group=3, strides=[2,1], pads=[1,1,1,1]>(x, W1, B1)
        r = Relu(a)
        b = Conv<group=2, pads=[1,1,1,1]>(r, W2)
        s = Relu(b)
        y = Conv(s, W3) }""",
    W1=normal(12, 2, 3, 3),
    B1=normal(12),
    W2=normal(12, 6, 3, 3),
    W3=normal(4, 12, 1, 1),
)


@by_group
def test_full_rank_is_the_original_in_both_runtimes_by_both_roads(kind: type[Decomposition]) -> None:
    rule = kind(rank="full")
    feed = feed_of(MODEL, N=2)
    expected = run_ort(MODEL, feed)
    result, done = rewritten(
        MODEL, lambda site: rule.rewrite(site.conv, rule.settings(site.outline)[0]) if site.outline.group > 1 else None
    )
    assert done == 2
    layers = [node for node in result.graph.node if node.op_type == "Conv"]
    found = [next((a.i for a in node.attribute if a.name == "group"), 1) for node in layers]
    assert found == [3, 3, 2, 2, 1]
    assert relative(expected, run_ort(result, feed)) < EXACT
    assert relative(expected, run_ov(result, feed)) < EXACT

    graph = OvGraph(shared_core().read_model(MODEL.SerializeToString()))
    for site in [s for s in graph.sites() if isinstance(s, Site) and s.outline.group > 1]:
        graph.splice(site, rule.rewrite(site.conv, rule.settings(site.outline)[0]))
    graph.tidy()
    model = graph.to_model()
    assert sum(op.get_type_name() == "GroupConvolution" for op in model.get_ops()) == 4
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative(expected, [np.asarray(compiled(feed)[0])]) < EXACT
