"""Grouped layers from the graph to the report: candidates, moments, budgets, reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import EXACT, feed_of, network, normal, relative, run_options, run_ort, run_ov, sites_of

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.passes.base import block_error
from ndpass.passes.compose import compose, outline
from ndpass.planning.candidate import Budget
from ndpass.planning.candidates import candidates_for, is_fitted, split
from ndpass.planning.shelf import Shelf
from ndpass.report import Layer
from ndpass.run import pipeline
from ndpass.run.inspection import inspect

TEXT = """(float[N,8,10,10] x) => (float[N,24,10,10] y) {
    a = Conv<pads=[1,1,1,1]>(x, W1, B1)
    r = Relu(a)
    b = Conv<group=4, pads=[1,1,1,1]>(r, W2, B2)
    s = Relu(b)
    d = Conv<group=24, pads=[1,1,1,1]>(s, W3)
    y = Conv(d, W4)
}"""


def model() -> onnx.ModelProto:
    weights = {"W1": normal(24, 8, 3, 3), "B1": normal(24), "W2": normal(24, 6, 3, 3), "B2": normal(24)}
    return network(TEXT, **weights, W3=normal(24, 1, 3, 3), W4=normal(24, 24, 1, 1))


def images(count: int = 40) -> np.ndarray:
    """Smooth along rows."""
    x = np.random.default_rng(0).standard_normal((count, 8, 10, 12))
    return (x[..., 2:] + x[..., 1:-1] + x[..., :-2]).astype(np.float32)


def layer() -> Site:
    return next(site for site in sites_of(model()) if site.name == "b")


def moments() -> Moments:
    graph = Graph(model())
    site = next(found for found in graph.sites() if isinstance(found, Site) and found.outline.group == 4)
    calibration = Calibration.of(graph, [site], open_feeds(images(), graph.inputs()), 1, 0, 1 << 30)
    return calibration.walk(graph).moments(site)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("spec", ["cd", "sd", "cd,sd", "sd,cd", "cd,nd,sd"])
def test_candidates_cost_and_err_as_what_is_built(spec: str, calibrated: bool) -> None:
    site, known = layer(), moments() if calibrated else None
    rules = split(parse(spec))[0]
    found = candidates_for(site, rules, known)
    names = {tuple(c.setting) for c in found}
    wanted = [rule.name for rule in rules if rule.by_group]
    assert names == {(), *((name,) for name in wanted), *([tuple(wanted)] if len(wanted) > 1 else [])}
    for c in found:
        assert c.macs == site.macs(outline(rules, site.outline, c.setting))
        block = compose(rules, site.conv, c.setting, known)
        assert site.macs(block) == c.macs
        error = block_error(site.conv, block, known)
        if len(c.setting) < 2:
            assert error <= c.error + 1e-6
        else:  # an estimate between a few fits
            assert error == pytest.approx(c.error, rel=0.35, abs=0.02)


def test_moments_of_a_grouped_layer_come_back_from_the_shelf(tmp_path: Path) -> None:
    known, shelf = moments(), Shelf(tmp_path, 1 << 20)
    assert shelf.has_room(layer())
    assert shelf.put("b", known)
    again = shelf.get("b")
    assert again is not None
    for name in ("x_mean", "y_mean", "C", "B", "g", "anchor", "best"):
        np.testing.assert_array_equal(getattr(again, name), getattr(known, name))
    assert again.count == known.count


def test_data_are_taken_of_grouped_layers_for_passes_that_go_by_group() -> None:
    plain, grouped, depthwise, _ = sites_of(model())
    for spec, expected in (("nd", False), ("nd,cd", True), ("sd", True), ("cp", False)):
        assert is_fitted(grouped, parse(spec)) is expected
        assert is_fitted(plain, parse(spec))
        assert not is_fitted(depthwise, parse(spec))


def rows_of(spec: str, budget: Budget, data: bool) -> dict[str, Layer]:
    onnx.save(model(), "in.onnx")
    fit = (lambda inputs: open_feeds(images(), inputs)) if data else None
    options = run_options(parse(spec), budget, calibration=fit, threads=1)
    return {row.name: row for row in pipeline.run(Path("in.onnx"), Path("out.onnx"), options).layers}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("budget", [Budget("macs", 0.7), Budget("energy", 0.5)])
def test_budgets_rewrite_grouped_layers_and_report_them(budget: Budget, data: bool) -> None:
    rows = rows_of("cd,sd", budget, data)
    grouped, depthwise = rows["b"], rows["d"]
    assert grouped.status == "done"
    assert grouped.shape == "24x6x3x3"
    assert grouped.macs is not None
    assert grouped.macs[0] == 24 * 54 * 100
    assert grouped.macs[1] < grouped.macs[0]
    assert (depthwise.status, depthwise.reason) == ("skipped", "depthwise convolution (group=24)")
    written = [node for node in onnx.load("out.onnx").graph.node if node.name.startswith("b/")]
    assert len(written) > 1
    for node in written:
        assert next(a.i for a in node.attribute if a.name == "group") == 4


@pytest.mark.usefixtures("folder")
def test_all_passes_together_rewrite_a_network_with_grouped_layers() -> None:
    """Pruning, merging and decoupling act around them."""
    rows = rows_of("bm,cp,cd,sd,nd", Budget("macs", 0.4), True)
    assert set(rows["b"].setting) <= {"bm", "cd", "sd"}
    assert rows["b"].status == "done"
    feed, written = feed_of(model(), N=2), onnx.load("out.onnx")
    assert relative(run_ort(written, feed), run_ov(written, feed)) < 1e-4


@pytest.mark.usefixtures("folder")
def test_a_pinned_rank_is_that_of_each_group() -> None:
    rows = rows_of("cd:rank=2", Budget("pinned"), False)
    assert rows["b"].macs == (24 * 54 * 100, (8 * 54 + 24 * 2) * 100)
    assert rows["a"].macs == (24 * 72 * 100, 2 * (72 + 24) * 100)
    assert rows_of("cd:rank=5", Budget("pinned"), False)["b"].status == "done"
    kept = rows_of("cd:rank=6", Budget("pinned"), False)["b"]
    assert (kept.status, kept.setting) == ("kept", {})


@pytest.mark.usefixtures("folder")
def test_full_rank_changes_nothing() -> None:
    rows_of("sd:rank=full,cd:rank=full", Budget("pinned"), False)
    feed = feed_of(model(), N=2)
    written = onnx.load("out.onnx")
    assert len(written.graph.node) > len(model().graph.node)
    assert relative(run_ort(model(), feed), run_ort(written, feed)) < EXACT


@pytest.mark.usefixtures("folder")
def test_a_fit_for_the_relu_is_not_tried_in_groups() -> None:
    row = rows_of("cd:rank=2:solver=relu", Budget("pinned"), True)["b"]
    assert row.setting == {"cd": {"rank": 2, "solver": "linear"}}
    assert row.reason == "linear fit: it is a grouped convolution"


@pytest.mark.usefixtures("folder")
def test_other_passes_say_why_they_leave_it() -> None:
    rows = rows_of("nd:rank=2", Budget("pinned"), False)
    assert rows["b"].reason == "grouped convolution (group=4)"
    with pytest.raises(BudgetError):
        rows_of("cd", Budget("energy", 0.9999999), False)


def test_inspect_says_what_each_pass_can_do() -> None:
    offers = {row.name: row.passes for row in inspect(Graph(model()))}
    assert offers["b"]["nd"].refused == "grouped convolution (group=4)"
    assert offers["b"]["cp"].refused == "cp: grouped convolution (group=4)"
    assert not offers["b"]["cd"].refused
    assert not offers["b"]["sd"].refused
    assert offers["d"]["cd"].refused == offers["d"]["sd"].refused == "depthwise convolution (group=24)"
