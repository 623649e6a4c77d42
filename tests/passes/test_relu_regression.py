"""cd:solver=relu: the alternation against brute force and naive regression, and what becomes of it in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command
from models import changed_options, network, normal, run_options
from numpy.typing import NDArray

from ndpass.calibration.collect import Data, Frontier, samples
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.gather import answers
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import patches, spread
from ndpass.calibration.walk import wanted_rows
from ndpass.conv import Conv
from ndpass.errors import UsageError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import ChannelDecomposition, parse, relu_regression
from ndpass.passes.base import block_error
from ndpass.passes.relu_regression import Affine, alternate, auxiliary, damage, fit
from ndpass.planning.candidate import Budget
from ndpass.report import Layer, Report
from ndpass.run import digits, pipeline
from ndpass.run.options import Options

F = NDArray[np.floating[Any]]
OUTPUT = Path("out.onnx")


def linear_of(u: F, y: F, rank: int) -> tuple[F, Affine]:
    """H (n_o, n_o) and the linear solution of this rank."""
    H = np.cov(u.astype(float), rowvar=False, bias=True)
    left = np.linalg.eigh(H)[1][:, ::-1][:, :rank]
    return H, Affine(left, left.T, y.mean(0, dtype=float) - left @ (left.T @ u.mean(0, dtype=float)))


def noisy(count: int = 1500, n_o: int = 10, seed: int = 0) -> tuple[F, F]:
    """Answers and responses (S, n_o) that lie around zero, as those of a trained layer do."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((count, n_o)) @ rng.standard_normal((n_o, n_o)) - 1
    return u.astype(np.float32), (u + 0.1 * rng.standard_normal(u.shape)).astype(np.float32)


def hidden() -> tuple[F, F]:
    """Two channels that a ReLU lets through, and six of more variance that are never above zero."""
    u = np.random.default_rng(3).standard_normal((2000, 8))
    u[:, 2:] = 3 * u[:, 2:] - 20
    return u.astype(np.float32), u.astype(np.float32)


@pytest.mark.parametrize("strength", [0.01, 0.1, 1.0, 7.0])
def test_auxiliary_is_the_least_of_a_grid(strength: float) -> None:
    rng = np.random.default_rng(0)
    y, r = 2 * rng.standard_normal(300), np.maximum(2 * rng.standard_normal(300), 0)
    grid = np.linspace(-9, 9, 20_001)

    def objective(z: F) -> Any:
        return (r - np.maximum(z, 0)) ** 2 + strength * (z - y) ** 2

    best = np.min([objective(np.full(300, z)) for z in grid], axis=0)
    found = objective(auxiliary(r, y, strength))
    assert (found <= best + 1e-12).all()
    np.testing.assert_allclose(found, best, atol=1e-4)


def test_the_rank_step_is_reduced_rank_regression_on_rows_and_pseudo_rows() -> None:
    """With S rows of z and S·ρ pseudo-rows that answer themselves: least squares, then the first principal axes."""
    u, y = noisy()
    rho, rank, n_o = 0.3, 4, u.shape[1]
    H, start = linear_of(u, y, rank)
    z = auxiliary(np.maximum(y, 0), start(u), 0.01).astype(float)
    noise = relu_regression.NOISE * np.trace(H) / n_o
    pseudo = np.linalg.cholesky(rho * len(u) * (H + noise * np.eye(n_o))).T
    x, t = np.r_[u - u.mean(0), pseudo], np.r_[z - z.mean(0), pseudo]
    solution = np.linalg.lstsq(x, t, rcond=None)[0].T
    axes = np.linalg.svd(x @ solution.T, full_matrices=False)[2][:rank]
    z_mean, B = relu_regression._cross(u, y, u.mean(0, dtype=float), start, 0.01)
    left, right = relu_regression._reduced(B + pseudo.T @ pseudo / len(u), np.linalg.cholesky(x.T @ x / len(u)), rank)
    np.testing.assert_allclose(z_mean, z.mean(0), atol=1e-5)
    np.testing.assert_allclose(left @ right, axes.T @ axes @ solution, atol=1e-4)


def test_each_turn_lowers_what_is_minimised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relu_regression, "STAGES", ((0.1, 1),) * 12)
    u, y = noisy()
    H, start = linear_of(u, y, 3)
    prior = H + relu_regression.NOISE * np.trace(H) / len(H) * np.eye(len(H))

    def objective(found: Affine) -> float:
        to, r = found(u).astype(float), np.maximum(y, 0)
        z = auxiliary(r, to, 0.1)
        pull = found.left @ found.right - np.eye(len(H))
        fitted = np.sum((r - np.maximum(z, 0)) ** 2 + 0.1 * (z - to) ** 2)
        return float(fitted + 0.1 * 0.03 * len(u) * np.trace(pull @ prior @ pull.T))

    values = [objective(f) for f in (start, *alternate(u, y, H, start, 0.03))]
    assert (np.diff(values) <= 1e-5 * values[0]).all()
    assert values[-1] < values[0]


def test_what_the_relu_hides_is_left_to_it() -> None:
    u, y = hidden()
    H, linear = linear_of(u, y, 2)
    found, gain = fit(u, y, H, linear)
    assert gain > 0.95
    assert damage(found, u, y) < 0.05 * damage(linear, u, y)
    assert found.left.shape == (8, 2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rank", [1, 4, 10])
def test_never_worse_on_the_rows_held_out(seed: int, rank: int) -> None:
    u, y = noisy(count=[30, 130, 900][seed % 3], seed=seed)
    H, linear = linear_of(u, y, rank)
    found, gain = fit(u, y, H, linear)
    held = slice(len(u) - round(relu_regression.HELD_OUT * len(u)), None)
    before, after = damage(linear, u[held], y[held]), damage(found, u[held], y[held])
    assert after <= before
    assert gain == pytest.approx(1 - after / before)
    assert gain >= 0
    if len(u) < relu_regression.FEWEST:
        assert found is linear


@pytest.mark.parametrize("y", [0.0, -3.0])
def test_what_never_varies_stays_finite(y: float) -> None:
    u = np.ones((400, 5), np.float32)
    H, linear = np.zeros((5, 5)), Affine(np.eye(5)[:, :2], np.eye(5)[:2], np.zeros(5))
    found, gain = fit(u, y * u, H, linear)
    assert np.isfinite(found(u)).all()
    assert 0 <= gain <= 1


def test_the_block_is_the_fit_of_its_rank() -> None:
    """Its responses are those of the map, its kernel has the rank, and the linear error is no less than the best."""
    rng = np.random.default_rng(1)
    conv = Conv(rng.standard_normal((8, 4, 3, 3)))
    x = rng.standard_normal((1200, 36)).astype(np.float32)
    y = (x @ conv.matrix.T - 4).astype(np.float32)
    moments, rule, setting = Moments.of(x, y).shrunk(conv.matrix, 1e-3), ChannelDecomposition(), {"rank": 3}
    u = (x @ moments.best.T).astype(np.float32)
    block, gain = rule.refit_for_relu(conv, setting, moments, u, y)
    linear = rule.rewrite(conv, setting, moments)
    assert gain > 0
    assert [leaf.weight.shape for leaf in block.leaves()] == [leaf.weight.shape for leaf in linear.leaves()]
    assert block_error(conv, block, moments) >= block_error(conv, linear, moments)

    def behind(b: Any) -> float:
        dense = b.dense()
        return float(np.sum((np.maximum(y, 0) - np.maximum(x @ dense.matrix.T + dense.bias, 0))[960:] ** 2))

    assert 1 - behind(block) / behind(linear) == pytest.approx(gain, abs=1e-4)


# ------------------------------------------------------------------------------------------------- options and runs


def test_the_option() -> None:
    conv = Conv(np.zeros((64, 64, 3, 3)))
    plain, linear, relu = (parse(f"cd{s}")[0].settings(conv) for s in ("", ":solver=linear", ":solver=relu"))
    assert plain == linear == [{"rank": d} for d in (16, 32, 48, 64)]
    assert relu == [{**setting, "solver": "relu"} for setting in plain]
    assert parse("cd:rank=5:solver=relu")[0].settings(conv) == [{"rank": 5, "solver": "relu"}]


@pytest.mark.parametrize("spec", ["cd:solver=tanh", "cd:solver=1", "nd:solver=relu"])
def test_another_solver_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="solver"):
        parse(spec)


def test_the_command_line_lists_and_refuses_it(net: Path, ndpass: Command) -> None:
    assert "solver=linear|relu" in ndpass("passes").out
    done = ndpass("run", net, "--passes", "cd:solver=relu", "-o", OUTPUT)
    assert done.code == 2
    assert "give --calibration" in done.err
    assert not OUTPUT.exists()


def options(spec: str, budget: Budget) -> Options:
    images = digits.images()[0][0]
    return run_options(
        parse(spec),
        budget,
        calibration=lambda inputs: open_feeds(images[:60], inputs),
        validation=lambda inputs: open_feeds(images[-16:], inputs),
        threads=1,
    )


def of_net(spec: str, **changed: Any) -> Options:
    """For `net`: fitted to noise."""
    images = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
    own = {"calibration": lambda inputs: open_feeds(images, inputs), "validation": None}
    return changed_options(options(spec, Budget("pinned")), **own, **changed)


def run(spec: str, budget: Budget) -> Report:
    return pipeline.run(digits.model_path(), OUTPUT, options(spec, budget))


def rows(report: Report) -> dict[str, Layer]:
    return {layer.name: layer for layer in report.layers}


def cd_of(layer: Layer) -> dict[str, Any]:
    return layer.setting["cd"]


@pytest.mark.usefixtures("folder")
def test_layers_before_a_relu_are_refitted_and_the_others_say_why_not() -> None:
    found = rows(run("cd:rank=4:solver=relu", Budget("pinned")))
    for name in ("stem", "block1.conv1", "down"):
        assert cd_of(found[name]) == {"rank": 4, "solver": "relu"}
        assert "less error behind the Relu" in found[name].reason
    for name, word in (("block1.conv2", "goes into Add"), ("head", "output of the model")):
        assert cd_of(found[name]) == {"rank": 4, "solver": "linear"}
        assert word in found[name].reason
    linear = rows(run("cd:rank=4", Budget("pinned")))
    assert all(layer.macs == found[name].macs and not layer.reason for name, layer in linear.items())
    measured = found["stem"].error_measured, linear["stem"].error_measured
    assert None not in measured
    assert measured[0] != measured[1]


@pytest.mark.usefixtures("folder")
def test_ranks_are_chosen_as_for_the_linear_fit() -> None:
    relu, linear = (rows(run(f"cd:solver={s}", Budget("macs", 0.6))) for s in ("relu", "linear"))
    first = next(n for n, layer in linear.items() if layer.status == "done")  # later ones see other inputs
    assert cd_of(relu[first])["rank"] == cd_of(linear[first])["rank"]
    assert relu[first].error_predicted == linear[first].error_predicted


@pytest.mark.usefixtures("folder")
def test_compositions_keep_the_linear_fit() -> None:
    composed = rows(run("cd:rank=8:solver=relu,nd:rank=2:form=dw-pw", Budget("pinned")))
    assert composed["down"].setting["nd"]
    assert "nd acts inside it too" in composed["down"].reason


def test_a_pruned_layer_is_refitted_on_the_channels_that_stay(net: Path) -> None:
    found = rows(pipeline.run(net, OUTPUT, of_net("cp:channels=8,cd:rank=4:solver=relu")))["b"]
    assert set(found.setting) == {"cp", "cd"}
    assert cd_of(found) == {"rank": 4, "solver": "relu"}


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_a_run_is_reproducible_and_goes_on_to_the_same_bytes(memory: int, net: Path) -> None:
    def again(spec: str, stop: int | None = None, **changed: Any) -> bytes:
        def listen(stage: str, done: int, _total: int) -> None:
            if (stage, done) == ("rewriting", stop):
                raise KeyboardInterrupt

        chosen = of_net(spec, memory=memory, **changed)
        pipeline.run(net, OUTPUT, chosen, listen)
        return OUTPUT.read_bytes()

    spec = "cd:rank=4:solver=relu"
    expected = again(spec)
    OUTPUT.unlink()
    for step in range(1, 3):
        with pytest.raises(KeyboardInterrupt):
            again(spec, stop=step, resume=step > 1)
    assert again(spec, resume=True) == expected
    assert again("cd:rank=4") != expected


def test_what_an_output_goes_into() -> None:
    graph = Graph(
        network(
            """(float[N,3,8,8] x) => (float[N,4,8,8] c, float[N,4,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, Wa)  r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, Wb)  s = Relu(b)  t = Tanh(b)  u = Add(s, t)
            c = Conv<pads=[1,1,1,1]>(u, Wb)  z = Relu(c)
        }""",
            Wa=normal(4, 3, 3, 3),
            Wb=normal(4, 4, 3, 3),
        )
    )
    found = [graph.behind(site) for site in graph.sites() if isinstance(site, Site)]
    assert [sorted(f) for f in found] == [["Relu"], ["Relu", "Tanh"], ["Relu", "an output of the model"]]


@pytest.mark.parametrize("most", [10**9, 4 * 6 * 100])
def test_answers_are_those_of_the_sampled_patches(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndpass.calibration.gather.MOST_ANSWERS", most)
    text = "(float[N,3,8,8] x) => (float[N,6,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
    model: onnx.ModelProto = network(text, W=normal(6, 3, 3, 3))
    graph = Graph(model)
    (site,) = [s for s in graph.sites() if isinstance(s, Site)]
    images = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
    data = Data(open_feeds(images, graph.inputs()), 4)
    sample = samples(graph, [site], data)[site.name]
    columns = np.arange(9, 27)
    kernel = np.random.default_rng(1).standard_normal((6, 18))
    got, step = answers(site, Frontier(graph, data, 1 << 30), sample, kernel, columns)
    taken = spread(sample.rows, step)
    expected = patches(site.outline, images, sample.positions)[taken][:, columns] @ kernel.T
    rows = np.arange(sample.rows, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(wanted_rows(rows, step)[:, 0], taken)
    assert (step > 1) == (most < 10**9)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)
