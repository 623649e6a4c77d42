"""Layer after layer through the pipeline: budgets, compensation, pruning, and a row for every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal, plain, relative, residual, run_options, run_ort, run_ov
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import UsageError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.planning.candidates import is_pinned
from ndpass.report import Report
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run import digits, pipeline

F = NDArray[np.floating[Any]]
AGREE = 1e-5  # relative, of two runtimes in f32

pytestmark = pytest.mark.usefixtures("folder")


def images(count: int, seed: int = 0) -> F:
    """Images whose neighbouring pixels and channels depend on each other."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 10, 10))
    x = x[:, :, 1:-1] + x[:, :, 2:] + x[:, :, :-2]
    x = x[..., 1:-1] + x[..., 2:] + x[..., :-2]
    return np.einsum("ij,njhw->nihw", [[1, 0, 0], [0.8, 0.4, 0], [0.5, 0.3, 0.2]], x).astype(np.float32) / 3


def run(
    model: onnx.ModelProto | Path,
    spec: str,
    budget: Budget | None = None,
    data: F | None = None,
    output: str = "out.onnx",
    **options: Any,
) -> Report:
    """Rewrite on calibration data; without a budget the settings are pinned."""
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, "in.onnx")
        model = Path("in.onnx")
    passes = parse(spec)
    assert budget is not None or is_pinned(passes)
    fit = images(64) if data is None else data
    chosen = run_options(
        passes,
        budget or Budget("pinned"),
        calibration=lambda inputs: open_feeds(fit, inputs),
        validation=lambda inputs: open_feeds(fit[:16], inputs),
        threads=1,
        **options,
    )
    return pipeline.run(model, Path(output), chosen)


def run_digits(spec: str, budget: Budget, **options: Any) -> Report:
    return run(digits.model_path(), spec, budget, digits.images()[0][0][:80], **options)


def by_name(report: Report) -> dict[str, Any]:
    return {layer.name: layer for layer in report.layers}


# --------------------------------------------------------------------------------------------------- compensation


def rewritten(model: onnx.ModelProto, spec: str, compensate: bool) -> onnx.ModelProto:
    """All layers with pinned settings, fitted to the network as rewritten so far, or to the original's activations."""
    graph = Graph(model)
    found = graph.sites()
    sites = [s for s in found if isinstance(s, Site) and s.outline.kernel]
    calibration = Calibration.of(graph, sites, open_feeds(images(150), graph.inputs()), 1, 0, 1 << 30)
    rewriter = Rewriter(graph, parse(spec), calibration)
    rewriter.rewrite(found, sites, Budget("pinned"), lambda *_: None, None if compensate else Graph(model))
    graph.tidy()
    return graph.to_model()


@pytest.mark.parametrize("make", [plain, residual])
@pytest.mark.parametrize("spec", ["nd:rank=1:form=dw-pw", "cd:rank=4", "sd:rank=4:order=vh"])
def test_compensation_helps(make: Any, spec: str) -> None:
    """The same settings, on images that neither fit has seen: less is lost where later layers see the drift."""
    model = make()
    feed = {"image": images(100, seed=5)}
    expected = run_ort(model, feed)
    drifted, blind = (relative(expected, run_ort(rewritten(model, spec, c), feed)) for c in (True, False))
    assert drifted < blind


def test_compensation_undoes_a_planted_drift() -> None:
    """A first layer that loses a third of the scale of its channels: the next layer can make up for all of it."""
    model = plain()
    graph = Graph(model)
    sites = [s for s in graph.sites() if isinstance(s, Site)][:2]
    calibration = Calibration.of(graph, sites, open_feeds(images(150), graph.inputs()), 1, 0, 1 << 30)
    scale = np.where(np.arange(12) % 2, 1, 0.6).astype(np.float32)
    first = sites[0].conv
    assert first.bias is not None
    damaged = type(first)(first.weight * scale[:, None, None, None], first.bias * scale, first.strides, first.pads)
    graph.splice(sites[0], damaged)
    rewriter = Rewriter(graph, parse("nd:rank=full:form=dw-pw"), calibration)
    assert rewriter.calibration is not None
    moments = calibration.walk(graph).moments(sites[1])
    before = moments.error(sites[1].conv.matrix)
    assert before > 0.01
    assert moments.error(moments.best) < 0.01 * before


# -------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(("spec", "share"), [("nd", 0.8), ("cd,nd", 0.5), ("cp,cd,nd", 0.4), ("cd,sd,nd", 0.5)])
def test_a_budget_of_macs_is_met_by_the_written_graph(spec: str, share: float) -> None:
    report = run(plain(), spec, Budget("macs", share))
    before, after = (Graph(onnx.load(p)).macs() for p in ("in.onnx", "out.onnx"))
    assert report.model.macs == (before, after)
    assert after <= share * before
    assert after > 0.5 * share * before  # nor far more than was asked for


@pytest.mark.parametrize(("spec", "energy"), [("nd", 0.9), ("cd", 0.97), ("sd", 0.9)])
def test_a_budget_of_energy_is_kept_in_every_layer(spec: str, energy: float) -> None:
    report = run_digits(spec, Budget("energy", energy))
    done = [layer for layer in report.layers if layer.status == "done"]
    assert done
    assert all(layer.error_measured <= 1 - energy for layer in done)
    assert all(layer.reason for layer in report.layers if layer.status != "done")


@pytest.mark.parametrize("spec", ["cd,sd", "cp,cd,nd"])
def test_a_budget_of_energy_is_kept_by_compositions(spec: str) -> None:
    """Their errors are estimates until they are built."""
    done = [layer for layer in run_digits(spec, Budget("energy", 0.9)).layers if layer.status == "done"]
    assert done
    assert all(layer.error_measured <= 0.1 for layer in done)


def test_the_layers_macs_add_up_to_the_models() -> None:
    for spec, budget in (("cp,nd", Budget("macs", 0.5)), ("cd,sd", Budget("energy", 0.9))):
        report = run(plain(), spec, budget)
        for side in (0, 1):
            assert sum(layer.macs[side] for layer in report.layers if layer.macs) == report.model.macs[side]


# -------------------------------------------------------------------------------------------------------- pruning


def agrees(report: Report, feed: dict[str, F]) -> float:
    """Checks the written file by ONNX and in both runtimes; how far it is from in.onnx."""
    onnx.checker.check_model("out.onnx", full_check=True)
    written = onnx.load("out.onnx")
    out = run_ort(written, feed)
    assert relative(out, run_ov(written, feed)) < AGREE
    assert report.model.macs[1] == Graph(written).macs()
    return relative(run_ort(onnx.load("in.onnx"), feed), out)


def test_pruning_of_a_plain_network() -> None:
    report = run(plain(), "cp:channels=8")
    assert agrees(report, {"image": images(10, seed=3)}) < 0.5  # half of the channels are gone, but not of the scores
    rows = by_name(report)
    shapes = {t.name: tuple(t.dims) for t in onnx.load("out.onnx").graph.initializer}
    assert sorted(s for s in shapes.values() if len(s) == 4) == [(8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3)]
    assert rows["a"].status == "skipped"
    assert "image" in rows["a"].reason
    # (n_o, n_i) halves on both sides but at the ends; a producer that was left alone has fewer MACs all the same
    assert rows["a"].macs == (64 * 12 * 27, 64 * 8 * 27)
    assert rows["b"].macs == (64 * 16 * 12 * 9, 64 * 8 * 8 * 9)
    assert rows["c"].macs == (16 * 16 * 16 * 9, 16 * 8 * 8 * 9)
    assert rows["scores"].macs == (5 * 16, 5 * 8)


def test_pruning_of_a_residual_network() -> None:
    """b reads channels that its own are added to, and c reads the sum: all three lose the same ones."""
    report = run(residual(), "cp:channels=6")
    rows = by_name(report)
    assert agrees(report, {"image": images(10, seed=3)}) < 0.5
    assert rows["a"].status == "skipped"
    assert rows["a"].macs == (64 * 8 * 27, 64 * 6 * 27)
    assert rows["b"].macs == (64 * 8 * 72, 64 * 6 * 54)
    assert rows["c"].macs == (16 * 12 * 72, 16 * 6 * 54)  # its outputs are the inputs of the head
    assert all(rows[name].setting["cp"] == {"channels": 6, "criterion": "greedy"} for name in ("b", "c", "scores"))


def test_pruning_where_branches_meet() -> None:
    """A branch that would be left without any channel keeps one."""
    model = network(
        """(float[N,3,8,8] image) => (float[N,4,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(image, W1)  b = Conv<pads=[1,1,1,1]>(image, W2)
            c = Concat<axis=1>(a, b)  r = Relu(c)  y = Conv<pads=[1,1,1,1]>(r, W3)
        }""",
        W1=normal(6, 3, 3, 3),
        W2=0.01 * normal(6, 3, 3, 3, seed=1),
        W3=normal(4, 12, 3, 3),
    )
    report = run(model, "cp:channels=3")
    agrees(report, {"image": images(10, seed=3)})
    rows = by_name(report)
    assert rows["y"].status == "done"
    assert rows["b"].macs == (64 * 6 * 27, 64 * 1 * 27)


@pytest.mark.parametrize("make", [plain, residual])
def test_pruning_and_decoupling_together(make: Any) -> None:
    report = run(make(), "cp,nd", Budget("macs", 0.6))
    agrees(report, {"image": images(10, seed=3)})
    assert report.model.macs[1] <= 0.6 * report.model.macs[0]


# ----------------------------------------------------------------------------------------------------------- rows


def test_ignored_layers_stay_and_say_so() -> None:
    report = run(plain(), "nd:rank=2:form=dw-pw", ignore=["b", "re:score.*"])
    rows = by_name(report)
    assert [rows[n].status for n in ("a", "b", "c", "scores")] == ["done", "skipped", "done", "skipped"]
    assert rows["b"].reason == rows["scores"].reason == "ignored, as asked"
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load("out.onnx").graph.initializer}
    np.testing.assert_array_equal(written["W2"], normal(16, 12, 3, 3))
    with pytest.raises(UsageError, match="matches no layer"):
        run(plain(), "nd:rank=2", ignore=["nosuch"])


@pytest.mark.parametrize("spec", ["nd", "cp", "cd,sd"])
def test_every_layer_has_a_row_in_graph_order(spec: str) -> None:
    report = run(plain(), spec, Budget("energy", 0.8))
    assert [layer.name for layer in report.layers] == ["a", "b", "c", "scores"]
    for layer in report.layers:
        assert layer.macs is not None
        assert (layer.status == "done") == bool(layer.setting) == (layer.error_measured is not None)
        assert layer.reason or layer.status == "done"


def test_measured_errors_are_those_of_the_fit() -> None:
    """Layers fitted one after the other err as promised where the settings are pinned."""
    report = run(plain(), "cd:rank=5,nd:rank=2:form=dw-pw")
    done = [layer for layer in report.layers if layer.status == "done"]
    assert {"a", "b", "c"} <= {layer.name for layer in done}
    for layer in done:
        assert layer.error_measured == pytest.approx(layer.error_predicted, rel=1e-9)


def test_less_memory_gives_the_same_model() -> None:
    """To rounding: other segments are compiled, and OpenVINO fuses them in other ways. Batches are smaller, too, which
    must not change what is held out."""
    run(plain(), "nd:rank=2:form=dw-pw")
    feed = {"image": images(10, seed=3)}
    expected = run_ort(onnx.load("out.onnx"), feed)
    for memory in (0, 100_000):
        run(plain(), "nd:rank=2:form=dw-pw", memory=memory)
        assert relative(expected, run_ort(onnx.load("out.onnx"), feed)) < 1e-4


# ------------------------------------------------------------------------------------------------------ bad input


def test_data_that_never_vary_are_survived() -> None:
    """One image 64 times: every moment of the first layer is spread over its positions only."""
    report = run(plain(), "nd:rank=2:form=dw-pw", data=np.repeat(images(1), 64, axis=0))
    agrees(report, {"image": images(4, seed=3)})


def test_two_images_are_enough_to_run() -> None:
    report = run(plain(), "cd:rank=4", data=images(2))
    agrees(report, {"image": images(4, seed=3)})


POOLED = """(float[N,3,8,8] image) => (float[N,5] scores) {
    a = Conv<pads=[1,1,1,1]>(image, A)  r = Relu(a)  b = Conv<pads=[1,1,1,1]>(r, B)  s = Relu(b)
    m = GlobalAveragePool(s)  f = Flatten(m)  scores = Gemm<transB=1>(f, G) }"""


@pytest.mark.parametrize(("count", "told"), [(48, "its bias refitted"), (256, "refitted behind")])
def test_the_last_layer_that_stays_takes_back_what_layers_before_it_have_shifted(count: int, told: str) -> None:
    """A Relu of responses that vary less gives another mean, which a pool keeps though little else is left there."""
    data = images(count)
    model = network(POOLED, A=normal(16, 3, 3, 3), B=normal(16, 16, 3, 3), G=normal(5, 16))
    report = run(model, "sd:rank=3", data=data)
    (last,) = [row for row in report.layers if row.op == "Gemm"]
    assert last.status == "skipped"
    assert told in (last.reason or "")
    made = onnx.load("out.onnx")
    for runtime in (run_ort, run_ov):
        (before,), (after,) = (runtime(net, {"image": data}) for net in (model, made))
        np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-3 * float(before.std()))
        left = np.square(after - before).sum() / np.square(before - before.mean(axis=0)).sum()
        assert left < 1, "no worse than the mean alone"


@pytest.mark.parametrize(("spec", "warned"), [("cd:rank=3", True), ("sd:rank=3", False)])
def test_only_layers_that_a_pass_may_rewrite_ask_for_more_data(
    spec: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """sd leaves the last one, whose bias alone is fitted anew."""
    model = network(POOLED, A=normal(16, 3, 3, 3), B=normal(16, 16, 3, 3), G=normal(5, 16))
    run(model, spec, data=images(8))
    assert any("'scores' has 8 patches" in record.getMessage() for record in caplog.records) == warned


def test_a_last_layer_that_nothing_before_it_has_changed_stays() -> None:
    """It is on a branch of its own."""
    text = """(float[N,3,8,8] image) => (float[N,4,8,8] y, float[N,5,8,8] z) {
        y = Conv<pads=[1,1,1,1]>(image, A)  z = Conv(image, B) }"""
    weights = normal(5, 3, 1, 1)
    report = run(network(text, A=normal(4, 3, 3, 3), B=weights), "sd:rank=3")
    assert [row.status for row in report.layers] == ["done", "skipped"]
    (kept,) = [t for t in onnx.load("out.onnx").graph.initializer if t.name == "B"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), weights)
