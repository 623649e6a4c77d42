"""Every model with a convolution among the ONNX package's own backend tests, at full rank, in both runtimes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from models import EXACT, bind, relative, rewritten, run_ort, run_ov
from onnx.backend.test.loader import load_model_tests

from ndpass.conv import Block, Conv
from ndpass.graph.graph import Site
from ndpass.passes import NetworkDecoupling

Case: TypeAlias = Any  # onnx.backend.test.case.test_case.TestCase, which has no types

CONVERTED = [c for c in load_model_tests(kind="pytorch-converted") if "Conv" in c.name]
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
LARGE = {"light_vgg19", "light_zfnet512"}


def full_rank(form: str) -> NetworkDecoupling:
    return NetworkDecoupling(rank="full", form=form)


def decouple(rule: NetworkDecoupling, site: Site) -> Block | None:
    if rule.refuse(site.outline):
        return None
    return rule.rewrite(site.conv, rule.settings(site.outline)[0])


@pytest.mark.parametrize("form", ["pw-dw", "dw-pw"])
@pytest.mark.parametrize("case", CONVERTED, ids=lambda c: c.name)
def test_converted_case_gives_its_own_expected_output(case: Case, form: str) -> None:
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    load = [onnx.numpy_helper.to_array(onnx.load_tensor(p)) for p in sorted(folder.glob("test_data_set_0/*.pb"))]
    x, expected = load
    rule = full_rank(form)
    result, done = rewritten(model, lambda site: decouple(rule, site))
    assert done == (0 if any(word in case.name for word in ("groups", "depthwise", "Transpose")) else 1)
    feed = {result.graph.input[0].name: x}
    for outputs in (run_ort(result, feed), run_ov(result, feed)):
        np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)


def node_cases() -> list[Case]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the package computes overflows on purpose for other operators
        from onnx.backend.test.case.node import collect_testcases

        return [c for c in collect_testcases("Conv") if c.name.startswith(("test_basic_conv", "test_conv_"))]


@pytest.mark.parametrize("form", ["pw-dw", "dw-pw"])
@pytest.mark.parametrize("case", node_cases(), ids=lambda c: c.name)
def test_node_case_with_its_weights_bound(case: Case, form: str) -> None:
    """They have one channel, so that nd refuses them; asked all the same, it must be right about pads and strides."""
    inputs, expected = case.data_sets[0]
    rule = full_rank(form)
    model = bind(case.model, list(inputs))
    result, done = rewritten(model, lambda site: rule.rewrite(site.conv, rule.settings(site.outline)[0]))
    assert done == 1
    feed = {result.graph.input[0].name: inputs[0]}
    for outputs in (run_ort(result, feed), run_ov(result, feed)):
        assert relative(list(expected), outputs) < EXACT


def he(rng: np.random.Generator, site: Site) -> Conv:
    """A convolution of the site's geometry with weights that keep the variance through a ReLU (He et al. 2015)."""
    shape = site.outline.weight.shape
    weight = rng.standard_normal(shape, dtype=np.float32)
    weight *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return replace(site.outline, weight=weight)


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_network_at_full_rank(path: Path, request: pytest.FixtureRequest) -> None:
    """The file's weights are all 0.02, which has rank 1: each convolution gets seeded weights first."""
    if path.stem in LARGE and not request.config.getoption("--long"):
        pytest.skip("a chain of layers as light_bvlc_alexnet is, ten seconds longer: pytest --long")
    rng = np.random.default_rng(0)
    model, sites = rewritten(onnx.load(path), lambda site: he(rng, site))
    assert sites > 0
    rule = full_rank("pw-dw")
    result, done = rewritten(model, lambda site: decouple(rule, site))
    assert done > 0
    info = result.graph.input[0]
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    feed = {info.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    reference = run_ort(model, feed)
    assert relative(reference, run_ort(result, feed)) < EXACT
    assert relative(reference, run_ov(result, feed)) < EXACT
    assert [o.name for o in result.graph.output] == [o.name for o in model.graph.output]
