"""Budgets of MACs that shapes forbid are refused before anything is fitted, and no others."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import small_network
from models import deep, plain, residual, run_options

from ndpass.calibration.feeds import open_feeds
from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.planning.plan import Planner
from ndpass.planning.reachable import check_reachable
from ndpass.run import pipeline, rewrite

SPECS = ("nd", "cd", "sd", "cp", "cd,nd", "cp,cd", "cp,cd,sd,nd", "nd:form=dw-pw,sd")
MODELS = {"small": small_network, "residual": residual, "plain": plain, "deep": deep}


def least(said: pytest.ExceptionInfo[BudgetError]) -> float:
    found = re.search(r"the least is ([\d.]+) ", str(said.value))
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_said_beforehand_is_what_planning_finds(name: str, spec: str) -> None:
    graph, passes = Graph(MODELS[name]()), parse(spec)
    rules = [site for site in graph.sites() if isinstance(site, Site)]
    planner = Planner(graph, passes, None)
    with pytest.raises(BudgetError) as planned:
        planner.plan(rules, Budget("macs", 1e-6), lambda *_: None)
    with pytest.raises(BudgetError) as said:
        check_reachable(graph, rules, passes, Budget("macs", 1e-6), {})
    assert least(said) <= least(planned) + 1e-9
    assert least(said) > 0.6 * least(planned)
    check_reachable(graph, rules, passes, Budget("macs", least(planned)), {})
    planner.plan(rules, Budget("macs", least(planned)), lambda *_: None)


@pytest.mark.usefixtures("folder")
def test_it_is_told_before_the_data_are_run(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrated(*_: object) -> None:
        raise AssertionError("nothing is to be fitted")

    monkeypatch.setattr(rewrite, "calibrated", calibrated)
    data = np.random.default_rng(0).random((24, 3, 8, 8), dtype=np.float32)
    options = run_options(parse("nd"), Budget("macs", 0.01), calibration=partial(open_feeds, data))
    with pytest.raises(BudgetError, match=r"--macs 0.01 cannot be reached: with these passes the least is"):
        pipeline.run(net, Path("out.onnx"), options)


def test_pinned_settings_and_other_budgets_are_not_asked() -> None:
    graph = Graph(onnx.shape_inference.infer_shapes(small_network()))
    sites = [site for site in graph.sites() if isinstance(site, Site)]
    check_reachable(graph, sites, parse("nd:rank=1"), Budget("macs", 1e-6), {})
    check_reachable(graph, sites, parse("nd"), Budget("energy", 0.5), {})
