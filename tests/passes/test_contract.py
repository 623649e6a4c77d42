"""What every pass promises, whatever it does: the public suite, and on more geometries and whole networks.

A new pass joins by standing in DECOMPOSITIONS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from models import EXACT, feed_of, interface, network, normal, one_conv, relative, rewritten, run_ort, run_ov, sites_of

from ndpass.conv import Block
from ndpass.graph.graph import Graph, Site
from ndpass.passes import DECOMPOSITIONS, Decomposition
from ndpass.passes.base import relative_error
from ndpass.planning.candidate import Budget, Candidate
from ndpass.planning.choose import choose
from ndpass.testing import CHECKS, Check, Layer, check_pass, check_refusal_of, exact_settings

every_pass = pytest.mark.parametrize("kind", DECOMPOSITIONS, ids=lambda p: p.name)


GEOMETRY = {
    "3x3": one_conv((6, 5, 3, 3), (9, 8), "pads=[1,1,1,1]"),
    "no-bias": one_conv((4, 6, 3, 3), (9, 8), "pads=[1,1,1,1], strides=[2,2]", bias=False),
    "batch-3": one_conv((4, 6, 3, 3), (5, 5), "group=1", batch=3),
    "dilated": one_conv((6, 5, 3, 3), (9, 8), "dilations=[2,3]"),
    "uneven-pads": one_conv((6, 5, 3, 3), (9, 8), "pads=[2,0,1,3], strides=[3,1], dilations=[1,2]"),
    "same-upper": one_conv((4, 3, 3, 3), (8, 7), 'auto_pad="SAME_UPPER", strides=[2,2]'),
    "same-lower": one_conv((4, 3, 4, 3), (8, 7), 'auto_pad="SAME_LOWER", strides=[2,3]'),
    "valid": one_conv((4, 3, 2, 2), (8, 7), 'auto_pad="VALID"'),
    "row": one_conv((5, 6, 1, 3), (4, 9), "pads=[0,1,0,1]"),
    "column": one_conv((5, 6, 5, 1), (9, 4), "dilations=[2,2]"),
    "large-kernel": one_conv((3, 12, 7, 7), (7, 7), "pads=[3,3,3,3]"),
    "stride-over-kernel": one_conv((4, 5, 2, 2), (9, 9), "strides=[3,4]"),
    "one-output": one_conv((1, 5, 3, 3), (6, 6), "group=1"),
    "one-input": one_conv((5, 1, 3, 3), (6, 6), "group=1"),
    "1d": one_conv((4, 6, 5), (17,), "pads=[2,1], strides=[2]"),
    "3d": one_conv((4, 3, 3, 2, 3), (5, 6, 5), "pads=[1,0,1,1,1,0], strides=[1,2,1]"),
    "pointwise": one_conv((8, 6, 1, 1), (5, 5), "strides=[2,1]"),
    "gemm": network("(float[3,8] x) => (float[3,6] y) { y = Gemm<transB=1>(x, W, B) }", W=normal(6, 8), B=normal(6)),
    "gemm-scaled": network(
        "(float[3,8] x) => (float[3,6] y) { y = Gemm<alpha=0.5, beta=2.0>(x, W, B) }", W=normal(8, 6), B=normal(1, 6)
    ),
    "matmul": network("(float[2,3,8] x) => (float[2,3,6] y) { y = MatMul(x, W) }", W=normal(8, 6)),
    "grouped": network("(float[1,4,5,5] x) => (float[1,6,3,3] y) { y = Conv<group=2>(x, W) }", W=normal(6, 2, 3, 3)),
    "grouped-1d": network(
        "(float[2,12,9] x) => (float[2,9,5] y) { y = Conv<group=3, strides=[2], pads=[1,1]>(x, W, B) }",
        W=normal(9, 4, 3),
        B=normal(9),
    ),
    "grouped-pointwise": network(
        "(float[1,12,4,4] x) => (float[1,8,4,4] y) { y = Conv<group=2>(x, W) }", W=normal(8, 6, 1, 1)
    ),
    "depthwise": network("(float[1,4,5,5] x) => (float[1,4,3,3] y) { y = Conv<group=4>(x, W) }", W=normal(4, 1, 3, 3)),
}


def drawn(seed: int) -> onnx.ModelProto:
    """A convolution of random geometry, in 1 to 3 dimensions, that fits its input."""
    rng = np.random.default_rng(seed)
    axes = 1 + seed % 3

    def each(low: int, high: int, n: int = axes) -> list[int]:
        return rng.integers(low, high + 1, n).tolist()

    kernel, dilations = each(1, 4), each(1, 3)
    kernel[0] = max(kernel[0], 2)
    in_hw = [d * (k - 1) + extra for d, k, extra in zip(dilations, kernel, each(1, 4), strict=True)]
    attrs = f"strides={each(1, 3)}, dilations={dilations}, pads={each(0, 3, 2 * axes)}"
    return one_conv((*each(2, 8, 2), *kernel), tuple(in_hw), attrs, bias=bool(rng.integers(2)), batch=2)


MODELS = {**GEOMETRY, **{f"drawn-{seed}": drawn(seed) for seed in range(9)}}


def accepted() -> Iterator[Any]:
    """Every pass with every model above that it accepts."""
    for kind in DECOMPOSITIONS:
        for name, model in MODELS.items():
            (site,) = sites_of(model)
            if kind().refuse(site.outline) is None:
                yield pytest.param(kind, model, id=f"{kind.name}-{name}")


acting = pytest.mark.parametrize(("kind", "model"), list(accepted()))

RESNET = network(
    """(float[N,3,16,16] image) => (float[N,5] scores, float[N,8,8,8] features) {
        a = Conv<pads=[1,1,1,1]>(image, W1, B1)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, W2)
        n = BatchNormalization(b, scale, shift, mean, var)
        s = Add(n, r)
        t = Relu(s)
        features = Conv<strides=[2,2], pads=[1,1,1,1]>(t, W3, B3)
        p = GlobalAveragePool(features)
        f = Flatten(p)
        scores = Gemm<transB=1>(f, W4, B4)
    }""",
    W1=normal(8, 3, 3, 3),
    B1=normal(8),
    W2=normal(8, 8, 3, 3),
    W3=normal(8, 8, 3, 3),
    B3=normal(8),
    W4=normal(5, 8),
    B4=normal(5),
    scale=normal(8, seed=2),
    shift=normal(8, seed=3),
    mean=normal(8, seed=4),
    var=normal(8, seed=5) ** 2 + 1,
)


def exactly(rule: Decomposition, which: int = -1) -> Any:
    """A rewrite for `rewritten`: full rank where the pass accepts."""

    def rewrite(site: Site) -> Block | None:
        conv = site.conv
        return None if rule.refuse(conv) else rule.rewrite(conv, exact_settings(rule, conv)[which])

    return rewrite


def cheapest(rule: Decomposition) -> Any:
    def rewrite(site: Site) -> Block | None:
        return None if rule.refuse(site.outline) else rule.rewrite(site.conv, rule.settings(site.outline)[0])

    return rewrite


@every_pass
def test_the_public_suite_holds(kind: type[Decomposition]) -> None:
    check_pass(kind)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@acting
def test_each_promise_is_kept_in_every_geometry(
    kind: type[Decomposition], model: onnx.ModelProto, check: Check
) -> None:
    check(kind, Layer("layer", model))


@acting
def test_full_rank_computes_in_openvino_what_the_original_does(
    kind: type[Decomposition], model: onnx.ModelProto
) -> None:
    feed = feed_of(model)
    expected = run_ort(model, feed)
    (site,) = sites_of(model)
    for which in range(len(exact_settings(kind(), site.conv))):
        result, done = rewritten(model, exactly(kind(), which))
        assert done == 1
        assert relative(expected, run_ov(result, feed)) < EXACT


@every_pass
def test_full_rank_of_a_whole_network_computes_what_it_did(kind: type[Decomposition]) -> None:
    result, done = rewritten(RESNET, exactly(kind()))
    assert done >= 1
    feed = feed_of(RESNET, N=3)
    expected = run_ort(RESNET, feed)
    assert relative(expected, run_ort(result, feed)) < EXACT
    assert relative(expected, run_ov(result, feed)) < EXACT


@every_pass
def test_runtimes_agree_where_the_rewrite_is_not_exact(kind: type[Decomposition]) -> None:
    result, _ = rewritten(RESNET, cheapest(kind()))
    feed = feed_of(RESNET, N=2)
    assert relative(run_ort(result, feed), run_ov(result, feed)) < EXACT


@every_pass
def test_inputs_and_outputs_never_change(kind: type[Decomposition]) -> None:
    for model in (RESNET, *GEOMETRY.values()):
        assert interface(rewritten(model, cheapest(kind()))[0]) == interface(model)


@every_pass
def test_predicted_error_is_that_of_the_written_graph(kind: type[Decomposition]) -> None:
    """Unit inputs of exactly the kernel's size read the kernel back from what onnxruntime computes."""
    model = network("(float[N,5,3,3] x) => (float[N,6,1,1] y) { y = Conv(x, W, B) }", W=normal(6, 5, 3, 3), B=normal(6))
    (site,) = sites_of(model)
    conv, rule = site.conv, kind()
    units = {"x": np.eye(45, dtype=np.float32).reshape(45, 5, 3, 3)}
    settings = rule.settings(conv)
    for setting, predicted in zip(settings, rule.errors(conv, settings), strict=True):
        result, _ = rewritten(model, lambda _, setting=setting: rule.rewrite(conv, setting))
        kernel = (run_ort(result, units)[0].reshape(45, 6) - conv.bias).T.reshape(conv.weight.shape)
        assert relative_error(conv.weight, kernel) == pytest.approx(predicted, abs=EXACT)


@every_pass
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_refusal_has_a_reason_and_looks_at_geometry_alone(kind: type[Decomposition], name: str) -> None:
    check_refusal_of(kind, Layer(name, GEOMETRY[name]))


@every_pass
def test_the_same_input_gives_the_same_bytes(kind: type[Decomposition]) -> None:
    first, second = (rewritten(RESNET, cheapest(kind()))[0].SerializeToString() for _ in range(2))
    assert first == second


@every_pass
def test_the_model_given_is_not_written_to(kind: type[Decomposition]) -> None:
    before = RESNET.SerializeToString()
    rewritten(RESNET, cheapest(kind()))
    assert RESNET.SerializeToString() == before


def planned(model: onnx.ModelProto, rule: Decomposition, energy: float) -> tuple[onnx.ModelProto, int]:
    """The model with the cheapest setting that keeps this energy at each site where one is cheaper."""
    graph = Graph(model)
    sites = [s for s in graph.sites() if isinstance(s, Site) and rule.refuse(s.outline) is None]
    ways = {}
    for site in sites:
        settings = rule.settings(site.outline)
        blocks = [rule.rewrite(site.conv, s) for s in settings]
        errors = rule.errors(site.conv, settings)
        offers = [
            Candidate(site.macs(b) or 0, e, {rule.name: s}) for b, e, s in zip(blocks, errors, settings, strict=True)
        ]
        ways[site.name] = [Candidate(site.macs(site.outline) or 0), *offers]
    choices = choose(ways, Budget("energy", energy), graph.macs())
    picked = {name: dict(c.candidate.setting) for name, c in choices.items() if c.candidate.setting}
    return rewritten(model, lambda s: rule.rewrite(s.conv, picked[s.name][rule.name]) if s.name in picked else None)


@every_pass
@pytest.mark.parametrize("energy", [0.5, 0.9])
def test_a_run_on_its_own_output_ends_and_does_not_grow(kind: type[Decomposition], energy: float) -> None:
    model, done = planned(RESNET, kind(), energy)
    for _ in range(20):
        again, done = planned(model, kind(), energy)
        if not done:
            break
        assert Graph(again).macs() < Graph(model).macs()
        model = again
    assert done == 0
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in model.graph.node]
    assert Graph(again).macs() == Graph(model).macs()


@every_pass
def test_two_convolutions_may_share_a_weight(kind: type[Decomposition]) -> None:
    model = network(
        """(float[1,4,8,8] x) => (float[1,4,4,4] y) {
            a = Conv<pads=[1,1,1,1]>(x, W, B) b = Conv<strides=[2,2], pads=[1,1,1,1]>(a, W, B) y = Relu(b) }""",
        W=normal(4, 4, 3, 3),
        B=normal(4),
    )
    result, done = rewritten(model, exactly(kind()))
    assert done == 2
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT
    second = sites_of(model)[1]
    half, done = rewritten(model, lambda s: exactly(kind())(s) if s.name == second.name else None)
    assert done == 1
    assert relative(run_ort(model, feed_of(model)), run_ort(half, feed_of(model))) < EXACT
    assert "W" in {t.name for t in half.graph.initializer}


@every_pass
def test_a_weight_that_is_a_graph_output_survives(kind: type[Decomposition]) -> None:
    weight = normal(4, 4, 3, 3)
    model = network("(float[1,4,8,8] x) => (float[1,4,6,6] y, float[4,4,3,3] W) { y = Conv(x, W) }", W=weight)
    result, done = rewritten(model, exactly(kind()))
    assert done == 1
    assert interface(result) == interface(model)
    y, same = run_ort(result, feed_of(model))
    np.testing.assert_array_equal(same, weight)
    assert relative(run_ort(model, feed_of(model))[:1], [y]) < EXACT


@every_pass
def test_a_weight_that_another_node_reads_survives(kind: type[Decomposition]) -> None:
    text = "(float[1,4,3,3] x) => (float[1,4,1,1] y, float[4,4,3,3] z) { y = Conv(x, W) z = Mul(x, W) }"
    model = network(text, W=normal(4, 4, 3, 3))
    result, done = rewritten(model, exactly(kind()))
    assert done == 1
    assert relative(run_ort(model, feed_of(model)), run_ort(result, feed_of(model))) < EXACT
