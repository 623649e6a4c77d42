"""nd against the paper's own loops, against planted ranks, and at every edge of what it accepts."""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import EXACT
from numpy.typing import NDArray

from ndpass.conv import Conv
from ndpass.errors import UsageError
from ndpass.passes import NetworkDecoupling, parse
from ndpass.passes.base import relative_error, setting_text
from ndpass.passes.cost import macs_per_position
from ndpass.passes.network_decoupling import EVERY, FORMS, assemble, blueprint_share, energy, factors, full_rank

F64: TypeAlias = NDArray[np.floating[Any]]
ROUNDING = 1e-12  # squared relative error that float64 leaves where the sum is exact

shapes = st.sampled_from(
    [(4, 3, 3), (5, 4, 3, 3), (3, 5, 2, 3), (1, 4, 3, 3), (4, 1, 3, 3), (12, 11, 3, 3), (3, 2, 2, 2, 2)]
)


def random_weight(shape: tuple[int, ...], seed: int = 0) -> F64:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def paper(weight: F64, rank: int, form: str) -> F64:
    """The kernel that remains, one SVD for each output (pw-dw, equation 4) or each input (dw-pw)."""
    flat = weight.reshape(*weight.shape[:2], -1)
    kept = np.zeros_like(flat)
    for c in range(weight.shape[0 if form == "pw-dw" else 1]):
        at = (c, slice(None)) if form == "pw-dw" else (slice(None), c)
        u, s, vt = np.linalg.svd(flat[at], full_matrices=False)
        for t in range(rank):
            kept[at] += s[t] * np.outer(u[:, t], vt[t])
    return kept.reshape(weight.shape)


def planted(rank: int, form: str, axes: int = 2) -> Conv:
    """A convolution that is a sum of `rank` pairs and of no fewer."""
    rng = np.random.default_rng([rank, axes])
    n_o, n_i, kernel = 6, 5, (3,) * axes
    conv = Conv(np.zeros((n_o, n_i, *kernel)))
    point = rng.standard_normal((rank, n_o, n_i))
    depth = rng.standard_normal((rank, n_o if form == "pw-dw" else n_i, 3**axes))
    return assemble(conv, point, depth, form).dense()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [1, 2])
def test_a_planted_rank_is_found_again(rank: int, form: str, axes: int) -> None:
    conv = planted(rank, form, axes)
    errors = NetworkDecoupling(form=form).errors(conv, [{"rank": t, "form": form} for t in range(1, rank + 2)])
    assert errors[rank - 1] < ROUNDING
    assert errors[rank] < ROUNDING
    assert all(e > 1e-3 for e in errors[: rank - 1])
    block = NetworkDecoupling().rewrite(conv, {"rank": rank, "form": form})
    assert relative_error(conv.weight, block.dense().weight) < ROUNDING


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(FORMS), st.integers(0, 99), st.data())
def test_kernel_is_that_of_the_paper(shape: tuple[int, ...], form: str, seed: int, data: st.DataObject) -> None:
    weight = random_weight(shape, seed)
    rank = data.draw(st.integers(1, full_rank(Conv(weight), form)))
    got = NetworkDecoupling().rewrite(Conv(weight), {"rank": rank, "form": form}).dense().weight
    np.testing.assert_allclose(got, paper(weight, rank, form), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(FORMS), st.integers(0, 99))
def test_energy_rises_to_one_and_is_what_rewriting_keeps(shape: tuple[int, ...], form: str, seed: int) -> None:
    conv = Conv(random_weight(shape, seed))
    kept = energy(conv.weight, form)
    assert kept.shape == (conv.kernel_size,)
    assert (np.diff(kept) >= 0).all()
    assert kept[full_rank(conv, form) - 1] == pytest.approx(1, abs=ROUNDING)
    for t in range(1, full_rank(conv, form) + 1):
        block = NetworkDecoupling().rewrite(conv, {"rank": t, "form": form})
        assert kept[t - 1] == pytest.approx(1 - relative_error(conv.weight, block.dense().weight), abs=1e-10)


def test_weights_of_zeros_are_kept_whole() -> None:
    conv = Conv(np.zeros((3, 4, 3, 3), np.float32))
    rule = NetworkDecoupling()
    assert energy(conv.weight, "pw-dw").tolist() == [1.0] * 9
    assert rule.errors(conv, rule.settings(conv)) == [0.0] * len(rule.settings(conv))
    assert not rule.rewrite(conv, {"rank": 1, "form": "dw-pw"}).dense().weight.any()


@pytest.mark.parametrize("form", FORMS)
def test_tiny_and_huge_weights_lose_nothing(form: str) -> None:
    """Squares of 1e-30 and 1e18 leave float32; the Gram matrix is in float64."""
    for scale in (1e-30, 1e18):
        conv = Conv((random_weight((4, 5, 3, 3)) * scale).astype(np.float32))
        rank = full_rank(conv, form)
        block = NetworkDecoupling().rewrite(conv, {"rank": rank, "form": form})
        assert relative_error(conv.weight, block.dense().weight) < ROUNDING


@pytest.mark.parametrize(
    ("shape", "pw_dw", "dw_pw"), [((8, 4, 3, 3), 4, 8), ((4, 64, 3, 3), 9, 4), ((20, 20, 3), 3, 3), ((1, 7, 5), 5, 1)]
)
def test_full_rank_is_the_smaller_side_of_each_matrix(shape: tuple[int, ...], pw_dw: int, dw_pw: int) -> None:
    conv = Conv(random_weight(shape))
    assert (full_rank(conv, "pw-dw"), full_rank(conv, "dw-pw")) == (pw_dw, dw_pw)
    for form, rank in zip(FORMS, (pw_dw, dw_pw), strict=True):
        assert NetworkDecoupling(form=form).settings(conv)[-1] == {"rank": rank, "form": form}
        assert NetworkDecoupling(form=form, rank="full").settings(conv) == [{"rank": rank, "form": form}]
        assert NetworkDecoupling(form=form, rank=1000).settings(conv) == [{"rank": rank, "form": form}]


def test_settings_without_options_are_all_ranks_of_both_forms_cheapest_first() -> None:
    """A pair costs 3·2 + 3·9 = 33 MACs at each position as pw-dw, 2·9 + 3·2 = 24 as dw-pw."""
    conv = Conv(random_weight((3, 2, 3, 3)))
    assert NetworkDecoupling().settings(conv) == [
        {"rank": 1, "form": "dw-pw"},
        {"rank": 1, "form": "pw-dw"},
        {"rank": 2, "form": "dw-pw"},
        {"rank": 2, "form": "pw-dw"},
        {"rank": 3, "form": "dw-pw"},
    ]
    assert NetworkDecoupling(rank="2").settings(conv) == [{"rank": 2, "form": f} for f in ("dw-pw", "pw-dw")]


def test_of_kernels_with_hundreds_of_elements_few_ranks_are_tried() -> None:
    """As of audio networks: 1024x1x512x1 has 512 ranks, and each takes a fit."""
    conv = Conv(np.zeros((1024, 64, 512, 1), np.float32))
    for form in FORMS:
        ranks = sorted(int(s["rank"]) for s in NetworkDecoupling().settings(conv) if s["form"] == form)
        full = full_rank(conv, form)
        assert ranks[:EVERY] == list(range(1, EVERY + 1))
        assert len(ranks) == 2 * EVERY
        assert ranks[-1] == full
        assert all(b / a <= 1.4 for a, b in itertools.pairwise(ranks[EVERY - 1 :]))
    small = Conv(np.zeros((8, 8, 3, 3), np.float32))
    assert {int(s["rank"]) for s in NetworkDecoupling().settings(small)} == set(range(1, 9))


def test_of_settings_that_cost_the_same_the_first_form_is_first() -> None:
    conv = Conv(random_weight((4, 4, 3, 3)))
    assert NetworkDecoupling(rank=2).settings(conv) == [{"rank": 2, "form": f} for f in FORMS]


def test_a_stride_makes_the_form_dearer_that_is_pointwise_before_it() -> None:
    """The pointwise half of pw-dw acts at two positions for each that the depthwise half keeps."""
    plain, strided = (Conv(random_weight((4, 8, 3)), None, (s,), (1, 1)) for s in (1, 2))
    rule = NetworkDecoupling(rank=1)
    assert [s["form"] for s in rule.settings(plain)] == ["pw-dw", "dw-pw"]
    assert [s["form"] for s in rule.settings(strided)] == ["dw-pw", "pw-dw"]
    costs = [macs_per_position(rule.outline(strided, {"rank": 1, "form": form}), strided) for form in FORMS]
    assert costs == [2 * 4 * 8 + 4 * 3, 8 * 3 + 4 * 8]


@pytest.mark.parametrize("form", FORMS)
def test_every_branch_is_a_pair_and_geometry_goes_to_the_depthwise_half(form: str) -> None:
    bias = np.arange(6.0)
    conv = Conv(random_weight((6, 4, 3, 2)), bias, (2, 1), (1, 0, 2, 1), (1, 2))
    block = NetworkDecoupling().rewrite(conv, {"rank": 2, "form": form})
    channels = 6 if form == "pw-dw" else 4
    leaves = block.leaves()
    assert len(leaves) == 4
    for pw, dw in (leaves[i : i + 2] if form == "pw-dw" else leaves[i : i + 2][::-1] for i in (0, 2)):
        assert (pw.weight.shape, pw.strides, pw.pads, pw.group) == ((6, 4, 1, 1), (1, 1), (0, 0, 0, 0), 1)
        assert (dw.weight.shape, dw.group) == ((channels, 1, 3, 2), channels)
        assert (dw.strides, dw.pads, dw.dilations) == (conv.strides, conv.pads, conv.dilations)
    dense = block.dense()
    assert (dense.strides, dense.pads, dense.dilations) == (conv.strides, conv.pads, conv.dilations)


@pytest.mark.parametrize("form", FORMS)
def test_bias_is_added_once_and_none_is_invented(form: str) -> None:
    bias = np.arange(1.0, 7.0)
    weight = random_weight((6, 4, 3, 3))
    for given_bias, times in ((bias, 1), (None, 0)):
        block = NetworkDecoupling().rewrite(Conv(weight, given_bias), {"rank": 3, "form": form})
        assert sum(leaf.bias is not None for leaf in block.leaves()) == times
        dense = block.dense()
        assert (dense.bias is None) if given_bias is None else np.array_equal(dense.bias, bias)


@pytest.mark.parametrize("form", FORMS)
def test_cost_is_that_of_the_method(form: str) -> None:
    """Per output position T (n_i n_o s² + n_o K) for pw-dw, T (n_i K + n_i n_o) for dw-pw."""
    n_o, n_i, T = 6, 4, 2
    conv = Conv(random_weight((n_o, n_i, 3, 3)), strides=(2, 2), pads=(1, 1, 1, 1))
    block = NetworkDecoupling().rewrite(conv, {"rank": T, "form": form})
    each = n_i * n_o * 4 + n_o * 9 if form == "pw-dw" else n_i * 9 + n_i * n_o
    assert block.macs((8, 8)) == T * each * 4 * 4


def test_factors_are_those_of_the_paper_in_shape_and_norm() -> None:
    point, depth = factors(random_weight((6, 4, 3, 3)), 2, "pw-dw")
    assert (point.shape, depth.shape) == ((2, 6, 4), (2, 6, 9))
    np.testing.assert_allclose(np.linalg.norm(depth, axis=2), 1, rtol=EXACT)
    point, depth = factors(random_weight((6, 4, 3, 3)), 2, "dw-pw")
    assert (point.shape, depth.shape) == ((2, 6, 4), (2, 4, 9))


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Conv(random_weight((4, 5))), "matrix product: no kernel to decouple"),
        (Conv(random_weight((4, 5, 1, 1))), "kernel of one element: nothing to decouple"),
        (Conv(random_weight((4, 1, 3, 3)), group=4), "depthwise convolution (group=4)"),
        (Conv(random_weight((4, 2, 3, 3)), group=2), "grouped convolution (group=2)"),
    ],
)
def test_what_cannot_be_decoupled_is_refused(conv: Conv, reason: str) -> None:
    assert NetworkDecoupling().refuse(conv) == reason


def wide(n_i: int, n_o: int, width: int = 15, **geometry: Any) -> Conv:
    return Conv(np.zeros((n_o, n_i, 3, width), np.float32), **geometry)


@pytest.mark.parametrize(
    ("conv", "forms"),
    [
        (wide(8, 8), []),
        (wide(16, 2, 39), []),
        (wide(8, 17), ["pw-dw"]),
        (wide(32, 16), ["dw-pw"]),
        (wide(1, 8), ["dw-pw"]),
        (wide(8, 8, 14), ["pw-dw", "dw-pw"]),
        (wide(8, 8, strides=(1, 2)), ["pw-dw", "dw-pw"]),
        (wide(8, 8, strides=(2, 1)), []),
        (wide(8, 8, dilations=(2, 1)), ["pw-dw", "dw-pw"]),
        (Conv(np.zeros((8, 8, 39), np.float32)), ["pw-dw", "dw-pw"]),
        (Conv(np.zeros((8, 8, 2, 3, 15), np.float32)), []),
    ],
)
def test_no_model_is_made_that_openvino_never_finishes_compiling(conv: Conv, forms: list[str]) -> None:
    rule = NetworkDecoupling()
    assert sorted({str(s["form"]) for s in rule.settings(conv)}, reverse=True) == forms
    assert (rule.refuse(conv) is None) == bool(forms)
    for form in FORMS:
        reason = NetworkDecoupling(form=form).refuse(conv)
        assert (reason is None) == (form in forms)
        assert reason is None or "OpenVINO does not finish compiling" in reason


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 3, 1), (4, 5, 2, 2, 2), (4, 1, 3, 3), (1, 4, 3, 3)])
def test_any_kernel_of_more_than_one_element_is_accepted(shape: tuple[int, ...]) -> None:
    assert NetworkDecoupling().refuse(Conv(random_weight(shape))) is None


def test_one_channel_in_and_out_has_nothing_to_decouple() -> None:
    """It is the depthwise half of a pair itself: accepted, it would gain a pointwise convolution at every run."""
    assert NetworkDecoupling().refuse(Conv(random_weight((1, 1, 3, 3))))


def test_blueprint_share_is_one_for_a_planted_blueprint_and_the_paper_s_ratio_else() -> None:
    assert blueprint_share(planted(1, "pw-dw").weight) == pytest.approx(1, abs=1e-9)
    weight = random_weight((6, 5, 3, 3))
    shares = []
    for filt in weight.reshape(6, 5, 9):
        s = np.linalg.svd(filt, compute_uv=False)
        shares.append(s[0] ** 2 / (s**2).sum())
    assert blueprint_share(weight) == pytest.approx(np.mean(shares), rel=1e-9)
    weight[0] = 0  # a filter of zeros has no blueprint and is left out
    assert blueprint_share(weight) == pytest.approx(np.mean(shares[1:]), rel=1e-9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nx", "there is no pass 'nx': the passes are nd"),
        ("", "there is no pass ''"),
        ("nd,", "there is no pass ''"),
        ("nd:rank", "'nd:rank': a setting is written key=value, as in nd:rank=2"),
        ("nd:rank=", "'nd:rank=': a setting is written key=value"),
        ("nd:=2", "'nd:=2': a setting is written key=value"),
        ("nd:k=2", "pass 'nd' has no setting 'k': it has rank, form"),
        ("nd:rank=0", "nd:rank=0: a rank is at least 1"),
        ("nd:rank=-1", "nd:rank=-1: give a whole number or full"),
        ("nd:rank=1.5", "nd:rank=1.5: give a whole number or full"),
        ("nd:rank=half", "nd:rank=half: give a whole number or full"),
        ("nd:form=wide", "nd:form=wide: give pw-dw or dw-pw"),
        ("nd:form=full", "nd:form=full: give pw-dw or dw-pw"),
        ("nd:form=2", "nd:form=2: give pw-dw or dw-pw"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(spec)
    assert str(refusal.value).startswith(message)
    assert refusal.value.exit_code == 2


def test_a_number_is_no_form() -> None:
    with pytest.raises(UsageError, match="nd:form=2: give pw-dw or dw-pw"):
        NetworkDecoupling(form=2)


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="rank"):
        parse("nd:rank=2:rank=3")


def test_a_pass_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'nd' is given twice"):
        parse("nd:rank=2,cd,nd:rank=3")


def test_a_setting_is_read_as_it_is_written() -> None:
    (rule,) = parse("nd:rank=2:form=dw-pw")
    (setting,) = rule.settings(Conv(random_weight((5, 5, 3, 3))))
    assert setting_text(setting) == "rank=2:form=dw-pw"
    assert [p.name for p in parse(" nd , cd:rank=full")] == ["nd", "cd"]
