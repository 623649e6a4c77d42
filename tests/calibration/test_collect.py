"""References and moments against those of activations that onnxruntime gives, however little memory there is."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal, residual, run_ort
from naive import im2col
from numpy.typing import NDArray

from ndpass.calibration.checks import check_enough
from ndpass.calibration.collect import Data, Frontier, references, samples
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.gather import HELD_OUT, collect, collect_ahead
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample, spread
from ndpass.calibration.priors import METRIC, SHRINKAGES
from ndpass.calibration.reference import Calibration
from ndpass.conv import Conv
from ndpass.errors import InputError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import NetworkDecoupling

F = NDArray[np.floating[Any]]

IMAGES, BATCH = 40, 8
PLENTY = 1 << 30
F32 = 1e-5  # of the largest entry: two runtimes and float32 products between the two ways
TAPS = {"a": "image", "b": "r", "c": "t", "scores": "f"}  # site -> its input


def pictures(count: int = IMAGES, channels: int = 3) -> F:
    return np.random.default_rng(7).standard_normal((count, channels, 8, 8)).astype(np.float32)


def feeds_for(graph: Graph, images: F) -> Feeds:
    return open_feeds(images, graph.inputs())


def sites_in(graph: Graph) -> list[Site]:
    return [s for s in graph.sites() if isinstance(s, Site)]


def activations(model: onnx.ModelProto, names: Sequence[str], images: F) -> dict[str, F]:
    """What onnxruntime computes for these tensors: each is made an output of the model."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    for name in names:
        if name not in {o.name for o in tapped.graph.output}:
            tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    found = run_ort(tapped, {"image": images})
    return dict(zip((o.name for o in tapped.graph.output), found, strict=True))


def rows_of(conv: Conv, x: F) -> F:
    """All patches (images, places, n)."""
    return im2col(conv, x) if conv.kernel else x.reshape(len(x), -1, conv.n_i)


def responses_of(conv: Conv, y: F) -> F:
    """All responses (images, places, n_o)."""
    return y.reshape(*y.shape[:2], -1).transpose(0, 2, 1) if conv.kernel else y.reshape(len(y), -1, conv.n_o)


def taken(all_rows: F, positions: NDArray[np.intp]) -> F:
    return np.concatenate([all_rows[i, positions[i]] for i in range(len(positions))]).astype(np.float64)


def naive(x: F, y: F) -> tuple[F, F, F]:
    x, y = x - x.mean(0), y - y.mean(0)
    return x.T @ x / len(x), y.T @ x / len(x), (y * y).mean(0)


def with_prior(conv: Conv, x: F, y: F, strength: float) -> tuple[F, F, F]:
    C, B, g = naive(x, y)
    W, n = conv.matrix.astype(float), x.shape[1]
    noise = strength * np.trace(C) / n
    return C + noise * np.eye(n), B + noise * W, g + noise * (W * W).sum(1)


def fitted_to(conv: Conv, x: F, y: F, strength: float) -> tuple[F, F, F]:
    """What fits see: with a strong prior the answers of what that finds, and a weak one."""
    off = y - x @ conv.matrix.astype(float).T
    if strength <= METRIC or off.var(0).sum() <= 1e-6 * y.var(0).sum():
        return with_prior(conv, x, y, strength)
    strong, B, _ = with_prior(conv, x, y, strength)
    W = B @ np.linalg.inv(strong)
    C, _, g = with_prior(replace(conv, weight=W.reshape(conv.weight.shape)), x, x @ W.T, METRIC)
    off = y - x @ W.T
    return C, W @ C, g + off.var(0)


def best_strength(conv: Conv, x: F, y: F, held: int) -> float:
    """The strength of the prior that errs least on the last `held` rows, fitted to the others."""

    def damage(strength: float) -> float:
        fit, rest = slice(None, len(x) - held), slice(len(x) - held, None)
        C, B, _ = with_prior(conv, x[fit], y[fit], strength)
        M = B @ np.linalg.inv(C)
        bias = y[fit].mean(0) - M @ x[fit].mean(0)
        return float(((y[rest] - x[rest] @ M.T - bias) ** 2).sum())

    return min(SHRINKAGES, key=damage)


def assert_moments(got: Moments, expected: tuple[F, F, F], rtol: float = F32) -> None:
    for value, reference in zip((got.C, got.B, got.g), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=rtol * np.abs(reference).max())


@pytest.mark.parametrize("memory", [1, PLENTY])
def test_references_are_the_responses_at_the_sampled_positions(memory: int) -> None:
    """In whole batches and, where memory is short, image by image."""
    model = residual()
    graph = Graph(model)
    data = Data(feeds_for(graph, pictures()), BATCH)
    chosen = samples(graph, sites_in(graph), data)
    found = references(graph, sites_in(graph), chosen, data, memory)
    values = activations(model, list(TAPS), pictures())
    for site in sites_in(graph):
        expected = taken(responses_of(site.outline, values[site.name]), chosen[site.name].positions)
        np.testing.assert_allclose(found[site.name], expected, rtol=0, atol=F32 * np.abs(expected).max())


def test_moments_are_those_of_the_activations() -> None:
    model = residual()
    graph = Graph(model)
    data = Data(feeds_for(graph, pictures()), BATCH)
    chosen = samples(graph, sites_in(graph), data)
    found = references(graph, sites_in(graph), chosen, data)
    values = activations(model, [*TAPS, *TAPS.values()], pictures()) | {"image": pictures()}
    frontier = Frontier(graph, data, PLENTY)
    for site in sites_in(graph):
        positions = chosen[site.name].positions
        x = taken(rows_of(site.outline, values[TAPS[site.name]]), positions)
        y = taken(responses_of(site.outline, values[site.name]), positions)
        got = collect(site, frontier, chosen[site.name], found[site.name])()
        assert got.count == positions.size
        np.testing.assert_allclose(got.x_mean, x.mean(0), atol=F32)
        np.testing.assert_allclose(got.y_mean, y.mean(0), atol=F32)
        assert_moments(got, fitted_to(site.conv, x, y, SHRINKAGES[-1]))  # the original weights answer without error


@pytest.mark.parametrize("every", [2, 3, 1000])
def test_moments_of_one_of_several_positions_of_each_image(every: int) -> None:
    """As of a sample that has these positions alone, whoever asks: `sums`, or `ahead` of another site."""
    graph = Graph(residual())
    data = Data(feeds_for(graph, pictures()), BATCH)
    chosen = samples(graph, sites_in(graph), data)
    found = references(graph, sites_in(graph), chosen, data)
    few = {name: Sample(sample.positions[:, spread(sample.each, every)]) for name, sample in chosen.items()}
    theirs = references(graph, sites_in(graph), few, data)
    frontier, other = Frontier(graph, data, PLENTY), Frontier(graph, data, PLENTY)
    for site in sites_in(graph):
        got = collect(site, frontier, chosen[site.name], found[site.name], every)()
        wanted = collect(site, other, few[site.name], theirs[site.name])()
        assert got.count == few[site.name].rows <= chosen[site.name].rows
        assert_moments(got, (wanted.C, wanted.B, wanted.g))
    first, second = sites_in(graph)[:2]
    ahead, alone = Frontier(graph, data, PLENTY), Frontier(graph, data, PLENTY)
    collect(first, ahead, chosen[first.name], found[first.name])()
    got = collect_ahead(second, first, ahead, chosen[second.name], found[second.name], every)()
    collect(first, alone, few[first.name], theirs[first.name])()
    wanted = collect(second, alone, few[second.name], theirs[second.name])()
    assert_moments(got, (wanted.C, wanted.B, wanted.g))


def test_each_group_has_moments_of_its_own_inputs_and_responses() -> None:
    """Its prior is as strong as the held-out rows of the group itself ask for."""
    model = network(
        """(float[N,6,8,8] image) => (float[N,9,4,8] y) {
            y = Conv<group=3, strides=[2,1], pads=[1,1,1,1]>(image, W, B) }""",
        W=normal(9, 2, 3, 3),
        B=normal(9),
    )
    graph = Graph(model)
    data = Data(feeds_for(graph, pictures(channels=6)), BATCH)
    (site,) = sites_in(graph)
    chosen = samples(graph, [site], data)
    found = references(graph, [site], chosen, data)
    positions, noisy = chosen[site.name].positions, found[site.name].astype(np.float64)
    noisy[:, 3:6] *= -1  # another kernel than the layer's, where the others have noise
    noisy += np.random.default_rng(1).standard_normal(noisy.shape) * np.repeat([1.0, 0.0, 20.0], 3)
    got = collect(site, Frontier(graph, data, PLENTY), chosen[site.name], noisy)()
    rows = taken(rows_of(site.outline, pictures(channels=6)), positions)
    held = round(HELD_OUT * IMAGES) * positions.shape[1]
    strengths = set()
    for g, part in enumerate(got.parts):
        one = Conv(site.conv.weight[3 * g : 3 * g + 3])
        x, y = rows[:, 18 * g : 18 * g + 18], noisy[:, 3 * g : 3 * g + 3]
        strength = best_strength(one, x, y, held)
        strengths.add(strength)
        assert_moments(part, fitted_to(one, x, y, strength))
    assert len(strengths) > 1
    assert got.energy == pytest.approx(sum(part.energy for part in got.parts))


def walk(memory: int, threads: int, batch: int = BATCH, folder: Path | None = None) -> Mapping[str, Moments]:
    """The moments of every site in turn, of a network that is not changed on the way."""
    graph = Graph(residual())
    sites = sites_in(graph)
    data = Data(feeds_for(graph, pictures()), batch, threads)
    chosen = samples(graph, sites, data)
    found = references(graph, sites, chosen, data)
    frontier = Frontier(graph, data, memory, folder=folder)
    return {s.name: collect(s, frontier, chosen[s.name], found[s.name])() for s in sites}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("memory", [0, 40_000, 200_000, PLENTY])
def test_moments_are_the_same_whatever_the_memory_and_the_threads(memory: int, threads: int) -> None:
    """Between nothing kept and everything; 40 kB hold the input of some layers and not of others."""
    got = walk(memory, threads)
    for name, expected in walk(PLENTY, 1).items():
        assert_moments(got[name], (expected.C, expected.B, expected.g), 1e-6)


@pytest.mark.parametrize("memory", [0, 40_000])
def test_what_has_no_room_in_memory_goes_to_disk_and_gives_the_same_bits(memory: int, tmp_path: Path) -> None:
    kept, spooled = walk(PLENTY, 1), walk(memory, 1, folder=tmp_path)
    for name, expected in kept.items():
        np.testing.assert_array_equal(spooled[name].C, expected.C)
        np.testing.assert_array_equal(spooled[name].B, expected.B)
    assert list(tmp_path.iterdir()) == []


class Watched(Graph):
    """Notes the nodes and the inputs of each segment that is asked for."""

    def segment(self, outputs: Sequence[str], cut: Sequence[str] | None, batch: int) -> Any:
        part = super().segment(outputs, cut, batch)
        graph = onnx.load_model_from_string(part).graph
        self.ran = [*getattr(self, "ran", []), ([n.output[0] for n in graph.node], [i.name for i in graph.input])]
        return part


def segments(memory: int, folder: Path | None = None) -> list[tuple[list[str], list[str]]]:
    """(nodes, inputs) of what runs for the sites' inputs, in order."""
    graph = Watched(residual())
    frontier = Frontier(graph, Data(feeds_for(graph, pictures()), BATCH), memory, folder=folder)
    for site in sites_in(graph):
        for _ in frontier.advance(site):
            pass
    return graph.ran


def test_a_segment_is_what_runs() -> None:
    """With room every node runs once at most; without, each site runs all that lies before it and nothing behind."""
    kept = segments(PLENTY)
    assert kept == [(["a", "r"], ["image"]), (["b", "s", "t"], ["r"]), (["c", "u", "p", "f"], ["t"])]
    again = segments(0)
    assert [inputs for _, inputs in again] == [["image"]] * 3
    assert [nodes[-1] for nodes, _ in again] == ["r", "t", "f"]
    assert [len(nodes) for nodes, _ in again] == [2, 5, 9]


def test_on_disk_every_node_runs_once_too(tmp_path: Path) -> None:
    assert segments(0, tmp_path) == segments(PLENTY)


def test_without_room_on_disk_the_network_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert segments(0, tmp_path) == segments(0)


@pytest.mark.parametrize("memory", [0, 40_000, 100_000, PLENTY])
def test_what_is_kept_fits_the_memory(memory: int) -> None:
    graph = Graph(residual())
    frontier = Frontier(graph, Data(feeds_for(graph, pictures()), BATCH), memory)
    for site in sites_in(graph):
        for _ in frontier.advance(site):
            pass
        assert sum(array.nbytes for feed in frontier._stored for array in feed.values()) <= memory


def test_later_moments_are_of_drifted_inputs_and_original_responses() -> None:
    model = residual()
    graph = Graph(model)
    data = Data(feeds_for(graph, pictures()), BATCH)
    sites = sites_in(graph)
    chosen = samples(graph, sites, data)
    found = references(graph, sites, chosen, data)
    original = activations(model, list(TAPS), pictures())
    frontier = Frontier(graph, data, PLENTY)
    for _ in frontier.advance(sites[0]):
        pass
    graph.splice(sites[0], NetworkDecoupling().rewrite(sites[0].conv, {"rank": 1, "form": "dw-pw"}))
    drifted = activations(graph.to_model(), list(TAPS.values()), pictures())
    for site in sites[1:]:
        positions = chosen[site.name].positions
        x = taken(rows_of(site.outline, drifted[TAPS[site.name]]), positions)
        y = taken(responses_of(site.outline, original[site.name]), positions)
        held = round(HELD_OUT * IMAGES) * positions.shape[1]
        got = collect(site, frontier, chosen[site.name], found[site.name])()
        assert_moments(got, fitted_to(site.conv, x, y, best_strength(site.conv, x, y, held)))


BRANCHES = network(
    """(float[N,3,8,8] image) => (float[N,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(image, Wa)  ra = Relu(a)
        b = Conv<pads=[1,1,1,1]>(image, Wb)  b1 = Relu(b)  b2 = Tanh(b1)  b3 = Relu(b2)
        c = Conv<pads=[1,1,1,1]>(ra, Wc)  rc = Relu(c)
        d = Conv<pads=[1,1,1,1]>(b3, Wd)  rd = Relu(d)
        e = Concat<axis=1>(rc, rd)
        y = Conv<pads=[1,1,1,1]>(e, Wy)
    }""",
    Wa=normal(4, 3, 3, 3),
    Wb=normal(4, 3, 3, 3, seed=1),
    Wc=normal(4, 4, 3, 3),
    Wd=normal(4, 4, 3, 3, seed=1),
    Wy=normal(4, 8, 3, 3),
)


@pytest.mark.parametrize(
    ("memory", "left_alone"),
    [(0, ""), (0, "a"), (0, "b"), (PLENTY, ""), (PLENTY, "a"), (PLENTY, "b")],
)
def test_branches_of_different_depth_are_followed(memory: int, left_alone: str) -> None:
    """A rewritten layer is deeper than it was: its branch must not fall behind one that is visited later."""
    graph = Graph(BRANCHES)
    inputs = {"a": "image", "b": "image", "c": "ra", "d": "b3", "y": "e"}
    data = Data(feeds_for(graph, pictures()), BATCH)
    frontier = Frontier(graph, data, memory)
    for site in sites_in(graph):
        if site.name == left_alone:
            continue
        expected = activations(graph.to_model(), list(inputs.values())[2:], pictures()) | {"image": pictures()}
        got = np.concatenate(list(frontier.advance(site)))
        np.testing.assert_allclose(got, expected[inputs[site.name]], atol=F32)
        graph.splice(site, NetworkDecoupling().rewrite(site.conv, {"rank": 3, "form": "dw-pw"}))


# ----------------------------------------------------------------------------------------------------- bad input


def collected(model: onnx.ModelProto, images: F, name: str) -> Moments:
    """The moments of one site of a network that is not changed."""
    graph = Graph(model)
    (site,) = (s for s in sites_in(graph) if s.name == name)
    data = Data.of(feeds_for(graph, images), None, 1, 0)
    chosen = samples(graph, [site], data)
    found = references(graph, [site], chosen, data)
    return collect(site, Frontier(graph, data, PLENTY), chosen[name], found[name])()


def test_activations_that_are_not_finite_name_the_layer() -> None:
    spoilt = normal(8, 8, 3, 3)
    spoilt[0] = np.nan
    graph = Graph(residual(W2=spoilt))
    data = Data(feeds_for(graph, pictures()), BATCH)
    chosen = samples(graph, sites_in(graph), data)
    with pytest.raises(InputError, match="layer 'b' gives NaN"):
        references(graph, sites_in(graph), chosen, data)


def test_data_that_are_not_finite_are_named() -> None:
    images = pictures()
    images[3] = np.inf
    with pytest.raises(InputError, match="sample 3"):
        collected(residual(), images, "a")


def test_inputs_that_are_no_longer_finite_name_the_layer() -> None:
    graph = Graph(residual())
    sites = sites_in(graph)
    data = Data(feeds_for(graph, pictures()), BATCH)
    chosen = samples(graph, sites, data)
    found = references(graph, sites, chosen, data)
    first = sites[0].conv
    graph.splice(sites[0], first.with_bias(np.full(first.n_o, np.inf, np.float32)))  # OpenVINO's Relu makes 0 of NaN
    with pytest.raises(InputError, match="layer 'b' gives NaN"):
        collect(sites[1], Frontier(graph, data, PLENTY), chosen["b"], found["b"])()


def test_fewer_images_than_the_model_takes_at_once() -> None:
    graph = Graph(residual())
    with pytest.raises(InputError, match="takes 4 samples at once, 3 samples from an array are fewer: give more"):
        Data.of(feeds_for(graph, pictures(3)), 4, None, 0)


def test_a_static_batch_is_kept() -> None:
    data = Data.of(feeds_for(Graph(residual()), pictures(11)), 4, None, 0)
    assert (data.batch, data.images) == (4, 8)


def test_no_more_images_are_run_at_once_than_there_is_memory_for() -> None:
    graph = Graph(residual())
    each = 8 * 4 * graph.widest()  # bytes for a sample
    feeds = feeds_for(graph, pictures(100))
    sizes = {memory: Calibration.of(graph, [], feeds, 1, 0, memory).data.batch for memory in (1, 6 * each, 40 * each)}
    assert sizes == {1: 1, 6 * each: 5, 40 * each: 25}  # of what divides 100


@pytest.mark.parametrize("count", [1, 2, 7, 33, 34, 97, 100, 200])
def test_batches_are_equal_and_leave_little_out(count: int) -> None:
    """No more images are left out than the smallest batch could hold, and none where few are given."""
    data = Data.of(feeds_for(Graph(residual()), pictures(count)), None, None, 0)
    assert [len(feed["image"]) for feed in data.batches()] == [data.batch] * (data.images // data.batch)
    assert count - 8 < data.images <= count
    assert count > 33 or data.images == count


def test_one_image_is_enough_for_a_finite_answer() -> None:
    """64 positions for 72 unknowns, none held out: the prior makes it solvable."""
    moments = collected(residual(), pictures(1), "b")
    assert moments.count == 64
    assert np.isfinite(moments.best).all()
    assert moments.error(moments.best) <= moments.error(normal(8, 8, 3, 3))


def test_fewer_samples_than_unknowns_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A row an image in the head: 12 unknowns, so 8 images are too few and 12 are enough to begin with."""
    assert np.isfinite(collected(residual(), pictures(8), "scores").best).all()
    head = next(site for site in sites_in(Graph(residual())) if site.name == "scores")
    with caplog.at_level(logging.WARNING):
        check_enough([head], 8, lambda _: 8)
    (record,) = caplog.records
    assert "scores" in record.getMessage()
    assert "8 patches for 12 unknowns" in record.getMessage()
    assert "48 images" in record.getMessage()  # four times as many as unknowns, as samples are drawn
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_enough([head], 12, lambda _: 12)
    assert not caplog.records


def test_several_layers_with_few_samples_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph(residual())
    found, sites = {"a": 20, "b": 40, "scores": 8}, sites_in(graph)
    with caplog.at_level(logging.WARNING):
        check_enough([site for site in sites if site.name in found], 8, lambda site: found[site.name])
    (record,) = caplog.records
    needed = max(-(-4 * site.outline.unknowns * 8 // found[site.name]) for site in sites if site.name in found)
    assert f"as do 2 others: give {needed} images or more" in record.getMessage()


def test_dead_and_constant_channels() -> None:
    """Channels of r that are always zero, or always one: C has rows of zeros before the prior."""
    W1, B1 = normal(8, 3, 3, 3), normal(8)
    W1[:3], B1[:3] = 0, (-1, 1, 1)
    model = residual(W1=W1, B1=B1)
    moments = collected(model, pictures(), "b")
    weight = normal(8, 8, 3, 3).reshape(8, 72)
    assert np.isfinite(moments.best).all()
    assert moments.error(moments.best) < 1e-6  # nothing drifted: the original weight is the answer
    np.testing.assert_allclose(moments.best[:, :9], weight[:, :9], atol=1e-4)  # which nothing speaks against


def test_a_singular_moment_matrix() -> None:
    """The same image in all three channels: C has a third of its rank."""
    same = np.repeat(pictures(channels=1), 3, axis=1)
    moments = collected(residual(), same, "a")
    assert np.isfinite(moments.best).all()
    assert np.linalg.matrix_rank(moments.C - np.eye(27) * np.linalg.eigvalsh(moments.C)[0], tol=1e-4) == 9
    assert moments.error(moments.best) < 1e-6


def test_images_that_differ_in_size_are_named() -> None:
    graph = Graph(network("(float[N,3,h,w] x) => (float[N,4,p,q] y) { y = Conv(x, W) }", W=normal(4, 3, 3, 3)))
    images = [np.zeros((3, 8, 8), np.float32)] * 3 + [np.zeros((3, 8, 9), np.float32)]
    feeds = open_feeds(images, graph.inputs())
    with pytest.raises(InputError, match=r"size|shape"):
        list(Data.of(feeds, None, None, 0).batches())
