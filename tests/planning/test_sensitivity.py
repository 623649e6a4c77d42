"""Slopes: closed forms of linear models, planted differences, every kind of layer, and a probe that leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import network, normal
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.files.onnx_file import load
from ndpass.graph.graph import Graph, Site
from ndpass.graph.openvino.graph import OvGraph
from ndpass.measuring.evaluate import Agreement
from ndpass.measuring.output_errors import OutputError
from ndpass.measuring.runtime import OpenVINO
from ndpass.planning.candidate import Candidate
from ndpass.planning.probe_runs import divergence, probed, switch
from ndpass.planning.probes import Spectrum, random_directions, weakest_directions
from ndpass.planning.sensitivity import LEAST, MOST, Effect, effects, probing_data, probing_floor, slopes, weighed
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run import digits

F = NDArray[np.floating[Any]]
IMAGES = 40
F32 = 2e-3  # relative, of a figure that is the square of a small difference of numbers in f32

ERROR = 0.1


@pytest.fixture(autouse=True)
def one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single error is injected, so that what it does can be worked out."""
    monkeypatch.setattr("ndpass.planning.sensitivity.ERRORS", (ERROR,))


def pictures(count: int = IMAGES, channels: int = 3, seed: int = 7) -> F:
    return np.random.default_rng(seed).standard_normal((count, channels, 8, 8)).astype(np.float32)


def calibrated(model: onnx.ModelProto, data: Any = None, **kinds: Any) -> tuple[Graph, list[Site], Calibration]:
    graph = Graph(model)
    sites = [found for found in graph.sites() if isinstance(found, Site)]
    feeds = open_feeds(pictures() if data is None else data, graph.inputs(), **kinds)
    return graph, sites, Calibration.of(graph, sites, feeds, 1, 0, 1 << 30)


def found_in(model: onnx.ModelProto, data: Any = None) -> dict[str, Effect]:
    graph, sites, calibration = calibrated(model, data)
    return effects(calibration, graph, sites)[0]


def slopes_of(model: onnx.ModelProto, data: Any = None) -> dict[str, float]:
    graph, sites, calibration = calibrated(model, data)
    return slopes(calibration, graph, sites).plain


# ---------------------------------------------------------------------------------------------------------- probes


def test_probe_takes_out_the_weakest_directions() -> None:
    turn = np.linalg.qr(normal(4, 4, dtype=np.float64))[0]
    y = normal(2_000, 4, dtype=np.float64) * [10, 5, 1, 0.1] @ turn.T + 3
    made = weakest_directions(Spectrum.of(y), 0.005)
    centred = y - y.mean(0)
    lost = centred @ made.projection
    assert np.linalg.matrix_rank(made.projection) == 2
    assert made.error == pytest.approx(np.square(lost).sum() / np.square(centred).sum())
    assert made.error >= 0.005
    np.testing.assert_allclose(made.projection @ turn[:, :2], 0, atol=0.1)
    np.testing.assert_allclose(made.projection, made.projection @ made.projection, atol=1e-12)


def test_probe_of_a_constant_response_has_no_error() -> None:
    assert weakest_directions(Spectrum.of(np.full((50, 3), 7.3, np.float32)), ERROR).error == 0


def test_probe_of_one_channel_takes_it_out_whole() -> None:
    made = weakest_directions(Spectrum.of(normal(50, 1)), ERROR)
    np.testing.assert_allclose(made.projection, [[1]])
    assert made.error == pytest.approx(1)


def test_random_directions_take_of_strong_directions_as_of_weak_ones() -> None:
    """On average over the draws of what is random, here over permuted channels."""
    scales = np.linspace(1, 20, 40)
    shares, errors = [], []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40)
        y = normal(4_000, 40, dtype=np.float64) * scales[order]
        made = random_directions(Spectrum.of(y), 0.2)
        lost = (y - y.mean(0)) @ made.projection.T
        assert np.linalg.matrix_rank(made.projection) == 8
        np.testing.assert_allclose(made.projection, made.projection @ made.projection, atol=1e-8)
        assert made.error == pytest.approx(np.square(lost).sum() / np.square(y - y.mean(0)).sum())
        share = np.square(lost).mean(0) / y.var(0)
        shares.append([share[order < 20].mean(), share[order >= 20].mean()])
        errors.append(made.error)
    weak, strong = np.mean(shares, 0)
    assert strong == pytest.approx(0.2, abs=0.05)
    assert weak == pytest.approx(0.2, abs=0.15)
    assert np.mean(errors) == pytest.approx(0.2, abs=0.05)


def test_error_of_random_directions_is_the_share_of_the_variance_that_it_takes() -> None:
    """tr PGPᵀ / tr G, written out."""
    y = normal(500, 30, dtype=np.float64) * np.linspace(0, 3, 30) + 1
    made, G = random_directions(Spectrum.of(y), 0.2), np.cov(y, rowvar=False, bias=True)
    lost = sum(float(row @ G @ row) for row in made.projection)
    assert made.error == pytest.approx(lost / np.trace(G), rel=1e-12)


def test_random_directions_leave_what_never_varies() -> None:
    assert random_directions(Spectrum.of(np.full((50, 3), 7.3, np.float32)), ERROR).error == 0
    y = normal(500, 3) * np.float32([1, 0, 2])
    assert np.isfinite(random_directions(Spectrum.of(y), ERROR).projection).all()
    assert random_directions(Spectrum.of(y), ERROR).projection[1].tolist() == pytest.approx([0, 0, 0], abs=1e-9)


def test_pruning_is_felt_where_the_weakest_directions_are_not() -> None:
    """Of a, the layer behind reads but the strongest channel: its slope comes from random directions."""
    weight = np.zeros((5, 6, 1, 1), np.float32)
    weight[:, 0] = 1
    W1 = normal(6, 3, 3, 3) * np.float32([2, 1, 1, 1, 1, 1])[:, None, None, None]
    model = network(LINEAR, W1=W1, B1=normal(6), W2=weight, B2=normal(5))
    graph, sites, calibration = calibrated(model, pictures(8))
    found = slopes(calibration, graph, sites, pruning=["cp"])
    assert found.pruned["a"] > 2 * found.plain["a"]
    assert found.plain == slopes(calibration, graph, sites).plain
    ways = [Candidate(1, 0.1, {"cp": {"channels": 3}}), Candidate(1, 0.1, {"cd": {"rank": 3}})]
    damages = [c.damage for c in weighed({"a": ways}, found)["a"]]
    assert damages == [(0.1 * found.pruned["a"]) ** 2, (0.1 * found.plain["a"]) ** 2]


# ---------------------------------------------------------------------------------------------------- closed forms

LINEAR = """(float[N,3,8,8] x) => (float[N,5,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, W1, B1)
    y = Conv(a, W2, B2)
}"""


def linear() -> onnx.ModelProto:
    """Two layers; what comes out is no class scores."""
    return network(LINEAR, W1=normal(6, 3, 3, 3), B1=normal(6), W2=normal(5, 6, 1, 1), B2=normal(5))


def test_effect_on_a_linear_model_is_known() -> None:
    """Of the last layer the error itself, of the one before what its weakest directions U become, ‖W2 U …‖² / Var y."""
    graph, _, calibration = calibrated(linear(), np.repeat(pictures(4), 10, 0))  # the few that are run: the same four
    found = found_in(linear(), np.repeat(pictures(4), 10, 0))
    (out,) = OpenVINO(graph.to_model().SerializeToString())({"x": pictures(4)}).values()
    variance = float(out.astype(np.float64).var((0, 2, 3)).sum())
    y = calibration.responses["y"].astype(np.float64)
    assert found["y"].error == ERROR
    assert found["y"].divergence == pytest.approx(ERROR * y.var(0).sum() / variance, rel=F32)
    a = calibration.responses["a"].astype(np.float64)
    assert a.shape == (IMAGES * 64, 6)  # all positions, so that what is expected is exact
    made = weakest_directions(Spectrum.of(a), ERROR)
    W2 = normal(5, 6, 1, 1).reshape(5, 6).astype(np.float64)
    moved = (a - made.mean) @ made.projection @ W2.T * np.sqrt(ERROR / made.error)
    assert found["a"].divergence == pytest.approx(np.square(moved).sum(1).mean() / variance, rel=F32)


def test_slopes_are_in_the_order_of_the_divergences() -> None:
    """The error being the same in every layer."""
    model = load(digits.model_path())
    data = digits.images()[0][0][:100]
    found, steepness = found_in(model, data), slopes_of(model, data)
    assert {effect.error for effect in found.values()} == {ERROR}
    most = max(steepness.values())
    for name, slope in steepness.items():
        lower = [n for n in found if found[n].divergence <= found[name].divergence]
        assert all(steepness[n] <= slope for n in lower)
        assert slope >= LEAST * most > 0


# ---------------------------------------------------------------------------------------------- planted differences

TWO_ARMS = """(float[N,3,8,8] x) => (float[N,4] scores) {
    a = Conv<pads=[1,1,1,1]>(x, W1)  b = Conv<pads=[1,1,1,1]>(x, W2)
    weak = Mul(b, small)  c = Add(a, weak)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)  scores = Gemm(f, W3)
}"""


@pytest.mark.parametrize("small", [0.1, 0.001])
def test_layer_that_the_outputs_hardly_depend_on_has_the_smaller_slope(small: float) -> None:
    model = network(
        TWO_ARMS, W1=normal(8, 3, 3, 3), W2=normal(8, 3, 3, 3, seed=1), W3=10 * normal(8, 4), small=np.float32(small)
    )
    found, steepness = found_in(model), slopes_of(model)
    assert found["b"].divergence < 0.1 * found["a"].divergence
    assert steepness["b"] < steepness["a"]
    assert steepness["b"] >= LEAST * max(steepness.values()) * (1 - 1e-9)  # however little: no layer is free


def test_layer_whose_response_never_varies_gets_the_least_slope() -> None:
    """What rounding does to it is no effect."""
    model = network(
        TWO_ARMS, W1=normal(8, 3, 3, 3), W2=np.zeros((8, 3, 3, 3), np.float32), W3=normal(8, 4), small=np.float32(1)
    )
    assert found_in(model)["b"] == Effect(0.0, 0.0)
    steepness = slopes_of(model)
    assert steepness["b"] == min(steepness.values()) == pytest.approx(LEAST * max(steepness.values()))


TWO_OUTPUTS = """(float[N,3,8,8] x) => (float[N,4] scores, float[N,8,8,8] map) {
    map = Conv<pads=[1,1,1,1]>(x, W1)
    b = Conv<pads=[1,1,1,1]>(x, W2)  r = Relu(b)  p = GlobalAveragePool(r)  f = Flatten(p)  scores = Gemm(f, W3)
}"""


def test_every_output_counts() -> None:
    """One layer makes the second output alone, which is no class scores; it is probed behind an output of the model."""
    found = found_in(network(TWO_OUTPUTS, W1=normal(8, 3, 3, 3), W2=normal(8, 3, 3, 3), W3=normal(8, 4)))
    assert found["map"].divergence == pytest.approx(ERROR, rel=0.1)  # zero mean: its relative error is what went in
    assert found["b"].divergence > 0
    assert found["scores"].divergence > 0


def test_divergence_is_kl_of_class_scores_and_else_of_all_outputs() -> None:
    one = Agreement(8, 90.0, 0.5, "y", kl=0.25, outputs={"y": OutputError(0.3, {})})
    assert divergence(one) == 0.25
    assert divergence(replace(one, kl=None)) == 0.3
    several = {"y": OutputError(0.3, {}), "z": OutputError(0.1, {"z[0:4]": 0.01, "z[4:84]": 0.5})}
    assert divergence(replace(one, kl=0.2, outputs=several)) == pytest.approx(0.2 + 0.3 + 0.01 + 0.5)


BOXES_AND_SCORES = """(float[N,3,8,8] x) => (float[N,6,64] y) {
    box = Conv(x, W1)
    thousand = Constant<value_float = 1000.0>()
    large = Mul(box, thousand)
    score = Conv(x, W2)
    small = Sigmoid(score)
    map = Concat<axis = 1>(large, small)
    shape = Constant<value_ints = [0, 6, 64]>()
    y = Reshape(map, shape)
}"""


def test_scores_count_beside_boxes_in_one_output() -> None:
    found = found_in(network(BOXES_AND_SCORES, W1=normal(4, 3, 1, 1), W2=normal(2, 3, 1, 1)))
    assert found["box"].divergence == pytest.approx(ERROR, rel=0.1)
    assert found["score"].divergence > 0.3 * ERROR


# -------------------------------------------------------------------------------------------------- kinds of layers

KINDS = {
    "Conv": "c = Conv<pads=[1,1,1,1]>(x, V)  p = GlobalAveragePool(c)  f = Flatten(p)",
    "Gemm": "p = GlobalAveragePool(x)  q = Flatten(p)  c = Gemm<transB=1, alpha=0.5>(q, U)  f = Relu(c)",
    "MatMul": "t = Transpose<perm=[0,2,3,1]>(x)  c = MatMul(t, M)  f = ReduceMean<axes=[1,2], keepdims=0>(c)",
    "grouped": "c = Conv<strides=[2,2], group=3>(x, G)  p = GlobalAveragePool(c)  f = Flatten(p)",
}
WEIGHTS = {"V": (6, 3, 3, 3), "U": (6, 3), "M": (3, 6), "G": (6, 1, 3, 3)}


def layers(kind: str, dtype: type[np.floating[Any]], batch: str = "N") -> onnx.ModelProto:
    text = KINDS[kind]
    name = {np.float32: "float", np.float16: "float16", np.float64: "double"}[dtype]
    weights = {key: normal(*shape, dtype=dtype) for key, shape in WEIGHTS.items() if f", {key})" in text}
    head = f"({name}[{batch},3,8,8] x) => ({name}[{batch},5] y) {{ {text}  y = Gemm<transB=1>(f, W, B) }}"
    return network(head, **weights, W=normal(5, 6, dtype=dtype), B=normal(5, dtype=dtype))


@cache
def in_float32(kind: str) -> dict[str, Effect]:
    return found_in(layers(kind, np.float32), pictures())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_in_every_precision(kind: str, dtype: type[np.floating[Any]]) -> None:
    data = pictures().astype(dtype)
    found = found_in(layers(kind, dtype), data)
    same = in_float32(kind)
    assert set(found) == {"c", "y"}
    for name, effect in found.items():
        assert effect.error == ERROR
        assert 0 < effect.divergence < 1
        assert effect.divergence == pytest.approx(same[name].divergence, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_static_batch(kind: str) -> None:
    fixed, free = (found_in(layers(kind, np.float32, batch)) for batch in ("8", "N"))
    for name, effect in fixed.items():
        assert effect.divergence == pytest.approx(free[name].divergence, rel=0.05)


def test_input_that_nothing_reads_is_left_out() -> None:
    model = network(
        "(float[N,3,8,8] x, float[N,2] unread) => (float[N,6,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, V) }",
        V=normal(6, 3, 3, 3),
    )
    data = [{"x": image, "unread": np.zeros(2, np.float32)} for image in pictures()]
    assert found_in(model, data)["y"].divergence > 0


def test_old_opset_without_broadcasting() -> None:
    model = network(
        "(float[N,3,8,8] x) => (float[N,6,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, V) }", opset=6, V=normal(6, 3, 3, 3)
    )
    assert found_in(model)["y"].divergence > 0


# ------------------------------------------------------------------------------------------------- the probed model


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_switches_off_it_is_the_original(kind: str) -> None:
    model = layers(kind, np.float32)
    graph, sites, calibration = calibrated(model)
    before = graph.to_model().SerializeToString()
    spectrum = Spectrum.of(calibration.responses[sites[0].name])
    probes = [weakest_directions(spectrum, error) for error in (ERROR, 2 * ERROR)]
    runner = OpenVINO(probed(graph, sites[0], probes, None, 8))
    off = {switch(i): np.zeros(1, np.float32) for i in range(len(probes))}
    x = pictures(8)
    (y,) = OpenVINO(model.SerializeToString())({"x": x}).values()
    np.testing.assert_allclose(runner({"x": x, **off})["y"], y, rtol=1e-5, atol=1e-6)
    for i in range(len(probes)):
        on = {**off, switch(i): np.ones(1, np.float32)}
        assert np.abs(runner({"x": x, **on})["y"] - y).max() > 1e-3
    assert graph.to_model().SerializeToString() == before  # it was a copy that was probed


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_from_where_the_network_is_run_makes_no_difference(memory: int) -> None:
    graph, sites, calibration = calibrated(layers("Conv", np.float32))
    found = effects(replace(calibration, memory=memory), graph, sites, pruning=True)
    one = weakest_directions(Spectrum.of(calibration.responses[sites[-1].name]), ERROR)
    runner = OpenVINO(probed(graph, sites[-1], [one], None, 8))
    assert [spec.name for spec in runner.inputs] == ["x", switch(0)]
    whole = effects(calibration, graph, sites, pruning=True)
    for one, other in zip(found, whole, strict=True):
        assert {name: e.divergence for name, e in one.items()} == pytest.approx(
            {name: e.divergence for name, e in other.items()}, rel=1e-3
        )


# --------------------------------------------------------------------------------------------------------- the data


def test_labels_are_not_looked_at() -> None:
    """Calibration data may have classes that the model does not know."""
    graph, sites, calibration = calibrated(layers("Conv", np.float32), labels=np.full(IMAGES, 99))
    assert set(slopes(calibration, graph, sites).plain) == {"c", "y"}


def test_few_images_are_spread_over_all() -> None:
    """A folder goes class by class: the first few images would be of one class."""
    _, _, calibration = calibrated(layers("Conv", np.float32), pictures(1_024))
    few = probing_data(calibration.data, 16)
    assert few.images == 128
    assert few.images % few.batch == 0
    assert few.feeds.indices[0] == 0
    assert few.feeds.indices[-1] == 1_023
    assert np.diff(few.feeds.indices).min() >= 7
    assert probing_data(calibration.data, 1).images == MOST


@pytest.mark.parametrize(
    ("batch", "size", "floor"),
    [("N", 100, (4, True)), ("N", 32, (8, True)), ("N", 8, (16, True)), ("4", 32, (8, False))],
)
def test_fewer_images_do_where_each_is_an_answer_at_many_places(batch: str, size: int, floor: tuple[int, bool]) -> None:
    text = f"(float[{batch}, 3, {size}, {size}] x) => (float[{batch}, 2, {size}, {size}] y) {{ y = Conv(x, w) }}"
    assert probing_floor(Graph(network(text, w=normal(2, 3, 1, 1)))) == floor
    _, _, calibration = calibrated(layers("Conv", np.float32), pictures(64))
    few = probing_data(calibration.data, 1_000, *floor)
    assert (few.images, few.batch) == (floor[0] if floor[1] else calibration.data.batch, few.images)


def test_progress_names_every_site() -> None:
    graph, sites, calibration = calibrated(layers("Conv", np.float32))
    steps: list[tuple[str, int, int]] = []
    slopes(calibration, graph, sites, lambda *step: steps.append(step))
    assert steps == [("probing", 0, 2), ("probing", 1, 2)]


def test_of_several_errors_the_steeper_slope_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for errors in ((0.05,), (0.2,), (0.05, 0.2)):
        monkeypatch.setattr("ndpass.planning.sensitivity.ERRORS", errors)
        found.append({name: effect.slope for name, effect in found_in(layers("Conv", np.float32)).items()})
    for name, slope in found[2].items():
        assert slope == pytest.approx(max(found[0][name], found[1][name]), rel=0.1)  # of other images


def test_an_output_that_is_made_before_a_layer_is_not_computed_behind_it() -> None:
    model = network(TWO_OUTPUTS, W1=normal(8, 3, 3, 3), W2=normal(8, 3, 3, 3), W3=normal(8, 4))
    for graph in (Graph(model), OvGraph(ov.Core().read_model(model.SerializeToString()))):
        sites = [s for s in graph.sites() if isinstance(s, Site)]
        names = graph.outputs()
        assert graph.not_before(sites[0], names) == names
        assert len(graph.not_before(sites[-1], names)) == 1


def test_layers_that_were_probed_are_not_probed_again(tmp_path: Path) -> None:
    graph, sites, calibration = calibrated(layers("Conv", np.float32))
    whole = slopes(calibration, graph, sites, pruning=["cp"])

    def cut_off(_: str, done: int, __: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slopes(calibration, graph, sites, cut_off, pruning=["cp"], store=Checkpoint(tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert slopes(calibration, graph, sites, pruning=["cp"], store=Checkpoint(tmp_path)) == whole
    (tmp_path / next(p.name for p in tmp_path.glob("*.json"))).write_text("{")
    assert slopes(calibration, graph, sites, pruning=["cp"], store=Checkpoint(tmp_path)) == whole
    quiet = Calibration(calibration.data, calibration.memory, calibration.chosen, {})  # would miss its responses
    assert slopes(quiet, graph, sites, pruning=["cp"], store=Checkpoint(tmp_path)) == whole
