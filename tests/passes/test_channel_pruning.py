"""cp: planted channels are found, the refit is least squares on the samples, every criterion against its formula."""

from __future__ import annotations

from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from models import network, normal, rewritten, run_ort
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.conv import Conv
from ndpass.errors import UsageError
from ndpass.graph.channel_groups import Group, input_group, keep
from ndpass.graph.normalise import import_graph, normalise
from ndpass.graph.shapes import infer
from ndpass.passes.channel_elimination import eliminate
from ndpass.passes.channel_pruning import (
    CRITERIA,
    ChannelPruning,
    Reader,
    error,
    errors_by_size,
    gram,
    importance,
    kept_counts,
    lasso,
    path,
    refit,
    select,
    select_joint,
)

F64: TypeAlias = NDArray[np.floating[Any]]
K = 3
DATA = [c for c in CRITERIA if c != "l2"]


def samples(n_i: int, count: int = 2000, seed: int = 0) -> F64:
    """Patches (count, n_i·K) of channels that are correlated and of different size."""
    rng = np.random.default_rng([n_i, seed])
    mixing = rng.standard_normal((n_i * K, n_i * K)) * np.linspace(0.2, 1, n_i * K)
    return rng.standard_normal((count, n_i * K)) @ mixing + 0.5


def layer(n_o: int = 5, n_i: int = 8, seed: int = 0) -> tuple[F64, Moments]:
    weight = np.random.default_rng([seed, n_o, n_i]).standard_normal((n_o, n_i, K))
    x = samples(n_i, seed=seed)
    return weight, exact(x, x @ weight.reshape(n_o, -1).T)


def exact(x: F64, y: F64) -> Moments:
    """Moments in float64 throughout."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    g = (yc * yc).mean(0)
    return Moments(len(x), x.mean(0), y.mean(0), xc.T @ xc / len(x), yc.T @ xc / len(x), g)


def columns(channels: Any) -> NDArray[np.int64]:
    return np.concatenate([np.arange(c * K, c * K + K) for c in channels])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_dead_channels_go_first(criterion: str) -> None:
    """Channels 1 and 6 are constant, channel 3 is not read at all."""
    weight, _ = layer()
    x = samples(8)
    x[:, columns([1, 6])] = 0.7
    weight[:, 3] = 0
    moments = exact(x, x @ weight.reshape(5, -1).T)
    assert select(weight, moments, 5, criterion).tolist() == [0, 2, 4, 5, 7]
    assert error(moments, np.array([0, 2, 4, 5, 7]), K) < 1e-7


@pytest.mark.parametrize("criterion", DATA)
def test_of_two_equal_channels_one_is_kept(criterion: str) -> None:
    weight, _ = layer(seed=1)
    x = samples(8)
    x[:, columns([5])] = x[:, columns([2])]
    moments = exact(x, x @ weight.reshape(5, -1).T)
    stay = select(weight, moments, 7, criterion)
    assert len({2, 5} & set(stay.tolist())) == 1 or criterion == "lasso"  # the paper's sees that they add up, no more
    assert len(stay) == 7
    assert error(moments, select(weight, moments, 7), K) < 1e-7


def test_refit_is_least_squares_on_the_samples() -> None:
    rng = np.random.default_rng(0)
    x, stay = samples(8, 400), np.array([0, 3, 4, 7])
    y = rng.standard_normal((400, 5)) + x[:, :5] + 2
    moments = exact(x, y)
    with_one = np.hstack([x[:, columns(stay)], np.ones((400, 1))])
    expected, residual, *_ = np.linalg.lstsq(with_one, y, rcond=None)
    np.testing.assert_allclose(refit(moments, stay, K), expected[:-1].T, atol=1e-6)
    assert error(moments, stay, K) == pytest.approx(residual.sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-7)
    conv = ChannelPruning().refit(Conv(normal(5, 8, K), None, (2,), (1, 1)), stay, moments)
    assert (conv.weight.shape, conv.strides, conv.pads) == ((5, 4, K), (2,), (1, 1))
    assert conv.bias is not None
    np.testing.assert_allclose(conv.bias, expected[-1], atol=1e-6)


def test_without_moments_the_weights_stay_as_they_are() -> None:
    conv = Conv(normal(5, 8, 3, 3), normal(5))
    pruned = ChannelPruning(criterion="l2").refit(conv, np.array([1, 5]))
    np.testing.assert_array_equal(pruned.weight, conv.weight[:, [1, 5]])
    assert pruned.bias is conv.bias


def test_gram_is_that_of_the_paper() -> None:
    """Q_ij = tr(W_i C_ij W_jᵀ), q_i = tr(B_i W_iᵀ), and both as moments of the contributions W_i x_i."""
    n_i = 70
    weight, moments = layer(4, n_i)
    Q, q = gram(Reader(weight), moments, n_i)
    for i, j in [(0, 0), (3, 69), (40, 33), (69, 69)]:
        C = moments.C[np.ix_(columns([i]), columns([j]))]
        assert Q[i, j] == pytest.approx(np.trace(weight[:, i] @ C @ weight[:, j].T))
        assert q[i] == pytest.approx(np.trace(moments.B[:, columns([i])] @ weight[:, i].T))
    assert Q.sum() == pytest.approx(moments.energy)  # all β = 1 give y


def test_gram_folds_inputs_of_one_channel_and_takes_off_those_of_none() -> None:
    weight, moments = layer(4, 6)
    Q, q = gram(Reader(weight), moments, 6)
    fold = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0]], float)
    folded, rest = gram(Reader(weight, moments, np.array([0, 0, -1, 1, 2, 1])), moments, 3)
    np.testing.assert_allclose(folded, fold @ Q @ fold.T)
    np.testing.assert_allclose(rest, fold @ (q - Q[:, 2]))


def test_lasso_keeps_what_the_path_has_and_fills_up_what_it_lacks() -> None:
    Q = np.diag([4.0, 3.0, 2.0, 0.0])
    q = np.array([4.0, 3.0, 2.0, 0.0])
    assert [lasso(Q, q, k).tolist() for k in (1, 2, 3, 4)] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert lasso(np.zeros((3, 3)), np.zeros(3), 2).tolist() == [0, 1]
    equal = np.ones((3, 3))  # any one of the three explains all: the path ends with one
    assert len(lasso(equal, np.ones(3), 2)) == 2


def test_each_step_of_the_elimination_is_the_cheapest_and_its_error_that_of_the_refit() -> None:
    """Against the naive loop: refit without each channel in turn; more channels than are dropped between updates."""
    weight, moments = layer(5, 40)
    found = path([Reader(weight, moments)])
    left = list(range(40))
    for step in range(39):
        errors = {c: error(moments, np.array([k for k in left if k != c]), K) for c in left}
        left.remove(min(errors, key=lambda c: errors[c]))
        assert found.kept(39 - step).tolist() == left
        assert found.errors[0, 38 - step] == pytest.approx(errors[int(found.dropped[step])], abs=1e-7)
    assert found.kept(40).tolist() == list(range(40))
    assert found.errors[0, 39] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("least", [1, 7, 23, 40])
def test_a_path_that_ends_early_is_the_begin_of_the_whole_one(least: int) -> None:
    readers = [Reader(*layer(5, 40))]
    whole, early = path(readers), path(readers, least)
    assert early.dropped.tolist() == whole.dropped[: 40 - least].tolist()
    assert np.array_equal(early.errors, whole.errors[:, least - 1 :])
    assert all(np.array_equal(early.kept(count), whole.kept(count)) for count in range(least, 41))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_close_to_the_best_choice_of_all(seed: int) -> None:
    weight, moments = layer(5, 8, seed)
    stay = {c: error(moments, select(weight, moments, 4, c), K) for c in CRITERIA}
    best = min(error(moments, np.array(s), K) for s in combinations(range(8), 4))
    assert best <= stay["greedy"] <= 1.3 * best
    assert stay["greedy"] <= min(stay.values()) * 1.01


def test_columns_of_one_channel_go_together_and_others_stay() -> None:
    """Sets of different width, one input that belongs to no channel, and a channel that the layer does not read."""
    weight, moments = layer(5, 7)
    channels = np.array([2, 0, 0, -1, 4, 1, 4])
    found = path([Reader(weight, moments, channels)])
    assert found.dropped[0] == 3
    for count in (1, 2, 3, 4):
        inputs = np.flatnonzero((channels < 0) | np.isin(channels, found.kept(count)))
        assert found.errors[0, count - 1] == pytest.approx(error(moments, inputs, K), abs=1e-7)


def test_layers_that_share_channels_are_weighed_by_their_own_energy() -> None:
    """The second layer answers a thousand times louder, and needs what the first does not."""
    first, second = layer(5, 8)[0], 1e3 * layer(4, 8, 1)[0]
    first[:, :4], second[:, 4:] = 0, 0
    first[:, 4:6] *= 1e-3
    second[:, 2:4] *= 1e-3
    x = samples(8)
    readers = [Reader(w, exact(x, x @ w.reshape(len(w), -1).T)) for w in (first, second)]
    for criterion in CRITERIA:
        assert select_joint(readers, 4, criterion).tolist() == [0, 1, 6, 7]
    assert path(readers).errors.shape == (2, 8)
    assert (path(readers).errors[:, 3] < 1e-4).all()


def test_errors_by_size_are_those_of_the_refit_and_fall() -> None:
    weight, moments = layer(6, 20)
    stay, (errors,) = errors_by_size([Reader(weight, moments)], range(1, 20))
    assert [len(s) for s in stay] == list(range(1, 20))
    assert errors == pytest.approx([error(moments, s, K) for s in stay], abs=1e-7)
    assert (np.diff(errors) <= 0).all()
    stay, (errors,) = errors_by_size([Reader(weight)], [5, 20])
    lost = np.delete(weight, stay[0], axis=1)
    assert errors == pytest.approx([np.sum(lost**2) / np.sum(weight**2), 0], abs=1e-12)


def test_l2_counts_weights_or_responses() -> None:
    weight, moments = layer(5, 8)
    norms = np.linalg.norm(weight.reshape(5, 8, K), axis=(0, 2)) ** 2
    np.testing.assert_allclose(importance([Reader(weight)]), norms / norms.sum())
    Q, _ = gram(Reader(weight), moments, 8)
    np.testing.assert_allclose(importance([Reader(weight, moments)]), np.diag(Q) / moments.energy)
    assert select(weight, None, 3, "l2").tolist() == sorted(np.argsort(-norms)[:3].tolist())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_constant_responses_and_singular_moments_are_survived(criterion: str) -> None:
    weight, moments = layer(5, 8)
    for other in (
        exact(np.ones((50, 24)), np.ones((50, 5))),  # nothing varies
        exact(samples(8, 10), np.ones((10, 5))),  # fewer samples than columns, constant response
        exact(samples(8, 10), samples(8, 10)[:, :5]),
    ):
        stay = select(weight, other, 3, criterion)
        assert len(np.unique(stay)) == 3
        assert np.isfinite(refit(other, stay, K)).all()
        assert 0 <= error(other, stay, K) < 1
    assert moments.count == 2000


def test_the_path_does_not_edit_the_moments() -> None:
    _, moments = layer()
    before = moments.C.copy()
    eliminate([(moments, np.repeat(np.arange(8), K))], 8)
    refit(moments, np.arange(8), K)
    np.testing.assert_array_equal(moments.C, before)


# the pass


def test_settings_are_multiples_of_16_where_the_layer_is_wide() -> None:
    assert kept_counts(1) == []
    assert kept_counts(5) == [1, 2, 3, 4]
    assert kept_counts(32) == [8, 16, 24]
    assert kept_counts(64) == [16, 32, 48]
    assert kept_counts(70) == [16, 32, 48, 64]
    conv = Conv(normal(4, 40, 3, 3))
    assert ChannelPruning().settings(conv) == [{"channels": c, "criterion": "greedy"} for c in (8, 16, 24, 32)]
    assert ChannelPruning().settings(conv, 3) == [{"channels": c, "criterion": "greedy"} for c in (1, 2)]
    pinned = ChannelPruning(channels="24", criterion="lasso")
    assert pinned.settings(conv) == [{"channels": 24, "criterion": "lasso"}]
    assert pinned.settings(Conv(normal(4, 24, 3, 3))) == []


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Conv(normal(4, 5, 3, 3)), None),
        (Conv(normal(4, 5)), None),
        (Conv(normal(4, 1, 3, 3)), "one input channel: nothing to prune"),
        (Conv(normal(4, 1, 3, 3), group=4), "depthwise convolution (group=4)"),
        (Conv(normal(4, 2, 3, 3), group=2), "grouped convolution (group=2)"),
    ],
)
def test_geometry_that_is_refused(conv: Conv, reason: str | None) -> None:
    assert ChannelPruning().refuse(conv) == reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2}, "pass 'cp' has no setting 'rank': it has channels, criterion"),
        ({"channels": 0}, "cp:channels=0: give a whole number, at least 1"),
        ({"channels": "full"}, "cp:channels=full: give a whole number, at least 1"),
        ({"channels": "-3"}, "cp:channels=-3: give a whole number, at least 1"),
        ({"criterion": "best"}, "cp:criterion=best: give greedy or lasso or l2"),
        ({"criterion": 2}, "cp:criterion=2: give greedy or lasso or l2"),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, int | str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ChannelPruning(**options)


@pytest.mark.parametrize("criterion", DATA)
def test_data_is_asked_for(criterion: str) -> None:
    rule = ChannelPruning(criterion=criterion)
    setting = {"channels": 2, "criterion": criterion}
    with pytest.raises(UsageError, match="cp needs calibration data, or cp:criterion=l2"):
        rule.select([Reader(normal(4, 5, 3, 3))], setting)
    assert len(ChannelPruning(criterion="l2").select([Reader(normal(4, 5, 3, 3))], setting | {"criterion": "l2"})) == 2


def test_predicted_error_is_that_of_the_pruned_network() -> None:
    """Select, slice, refit: the second layer of a small network, its error over the samples as the path foresaw."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((64, 3, 6, 6)).astype(np.float32)
    A, B = normal(8, 3, 3, 3), normal(5, 8, 1, 1)
    text = "(float[64,3,6,6] x) => (float[64,5,4,4] y) { a = Conv(x, A) r = Relu(a) y = Conv(r, B) }"
    model = network(text, A=A, B=B)
    hidden = network(text.replace("[64,5,4,4] y", "[64,8,4,4] r").replace("y = Conv(r, B)", ""), A=A)
    (x,), (y,) = run_ort(hidden, {"x": image}), run_ort(model, {"x": image})
    moments = exact(*(t.transpose(0, 2, 3, 1).reshape(-1, t.shape[1]).astype(np.float64) for t in (x, y)))
    found = path([Reader(B, moments)])
    stay = found.kept(4)
    graph = normalise(import_graph(model))
    group = input_group(graph, graph.nodes[-1], infer(graph, {}))
    assert isinstance(group, Group)
    keep(graph, group, stay)
    refitted = ChannelPruning().refit(Conv(B), stay, moments)
    result, _ = rewritten(gs.export_onnx(graph), lambda site: refitted if site.name == "y" else None)
    (got,) = run_ort(result, {"x": image})
    measured = np.sum((got - y) ** 2) / np.sum((y - y.mean((0, 2, 3), keepdims=True)) ** 2)
    assert measured == pytest.approx(found.errors[0, 3], rel=1e-3)
