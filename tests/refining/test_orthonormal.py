"""BSConv-S's regulariser: which factors it holds, what its penalty is, and that training brings it down."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal

torch = pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

from ndpass.calibration.feeds import open_feeds  # noqa: E402 - torch may be missing
from ndpass.errors import UsageError  # noqa: E402
from ndpass.graph.graph import Graph  # noqa: E402
from ndpass.graph.openvino.graph import OvGraph  # noqa: E402
from ndpass.refining import from_onnx  # noqa: E402
from ndpass.refining.network import Network  # noqa: E402
from ndpass.refining.options import Refine, parse  # noqa: E402
from ndpass.refining.orthonormal import Factor, low_rank, orthonormalised, penalty  # noqa: E402
from ndpass.refining.refine import Task, program_of, refine  # noqa: E402

WEIGHT = 0.1  # the paper's
HEAD = "(float[N,6,8,8] x) => (float[N,4] y)"
TAIL = "r = Relu(s)  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm<transB=1>(f, G)"
DENSE = "s = Conv(x, W)"
PAIR = "v = Conv(x, V)  s = Conv(v, U, B)"
DEPTHWISE = "v = Conv(x, V)  d = Conv<pads=[1,1,1,1], group=3>(v, D)  s = Conv(d, U, B)"
BRANCHES = """v = Conv(x, V)  a = Conv<pads=[1,1,1,1], group=3>(v, D)  b = Conv<pads=[1,1,1,1], group=3>(v, E)
    d = Add(a, b)  s = Conv(d, U, B)"""
NONLINEAR = "v = Conv(x, V)  n = Relu(v)  s = Conv(n, U, B)"

V, U = normal(3, 6, 1, 1, seed=1), normal(8, 3, 1, 1, seed=2)
WEIGHTS = {
    "W": np.einsum("ot...,ti...->oi...", U, V),
    "V": V,
    "U": U,
    "B": normal(8),
    "D": normal(3, 1, 3, 3, seed=3),
    "E": normal(3, 1, 3, 3, seed=4),
    "G": normal(4, 8, seed=5),
}


def model(body: str) -> onnx.ModelProto:
    used = {name: value for name, value in WEIGHTS.items() if f" {name}" in f"{body} {TAIL}"}
    return network(f"{HEAD} {{ {body} {TAIL} }}", **used)


def factors(body: str, original: str = DENSE) -> list[Factor]:
    return low_rank(from_onnx.read(model(body)), from_onnx.read(model(original)))


def spoilt(body: str) -> onnx.ModelProto:
    """The model with an error in its last layer, which training can mend."""
    made = model(body)
    other = network(f"{HEAD} {{ {body} {TAIL} }}", G=WEIGHTS["G"] + 0.3 * normal(4, 8, seed=6))
    del made.graph.initializer[[t.name for t in made.graph.initializer].index("G")]
    made.graph.initializer.extend(other.graph.initializer)
    return made


def task(body: str, weight: float = WEIGHT) -> Task:
    original = model(DENSE)
    inputs = Graph(original).inputs()
    images = np.random.default_rng(0).standard_normal((192, 6, 8, 8)).astype(np.float32)
    fit, held = open_feeds(images, inputs).split(1 / 3, 0)
    asked = Refine(epochs=8, orthonormal=weight)
    return Task(
        original=original,
        rewritten=spoilt(body),
        names=None,
        inputs=inputs,
        fit=fit,
        held=held,
        asked=asked,
        threads=1,
    )


def quiet(*_: Any) -> None:
    """Hears nothing."""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (DENSE, []),
        (PAIR, [Factor("V", "U")]),
        (DEPTHWISE, [Factor("V")]),
        (BRANCHES, [Factor("V")]),
        (NONLINEAR, []),
    ],
)
def test_factors_are_those_that_lead_linearly_to_more_channels(body: str, found: list[Factor]) -> None:
    assert factors(body) == found


def test_a_narrow_layer_of_the_original_is_no_factor() -> None:
    assert factors(PAIR, original=PAIR) == []


def test_openvino_models_have_the_same_factors() -> None:
    import openvino as ov

    one, other = (
        program_of(OvGraph(ov.Core().read_model(model(body).SerializeToString())).to_model())
        for body in (DEPTHWISE, DENSE)
    )
    (factor,) = low_rank(one, other)
    assert one.constants[factor.first].shape == V.shape


def test_the_penalty_is_the_papers() -> None:
    """‖V Vᵀ − I‖²_F, summed over the factors, by loops."""
    other = normal(2, 5, 1, 1, seed=9)
    wanted = 0.0
    for v in (V, other):
        for i in range(len(v)):
            for j in range(len(v)):
                product = sum(float(v[i, k, 0, 0]) * float(v[j, k, 0, 0]) for k in range(v.shape[1]))
                wanted += (product - (i == j)) ** 2
    found = penalty({"V": torch.from_numpy(V), "other": torch.from_numpy(other)}, ["V", "other"])
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_two_factors_are_made_orthonormal_without_changing_the_network() -> None:
    program = from_onnx.read(model(PAIR))
    made = orthonormalised(program, factors(PAIR))
    rows = made.constants["V"].reshape(3, 6)
    assert rows @ rows.T == pytest.approx(np.eye(3), abs=1e-6)
    feed = {"x": np.random.default_rng(1).standard_normal((4, 6, 8, 8)).astype(np.float32)}
    before, after = (Network(p, trained=False)(feed)["y"].numpy() for p in (program, made))
    assert after == pytest.approx(before, abs=1e-5 * float(np.abs(before).max()))


@pytest.mark.parametrize("body", [PAIR, DEPTHWISE, BRANCHES])
def test_training_brings_the_penalty_down(body: str) -> None:
    report = refine(task(body), quiet).report
    assert report.kept
    found = report.orthonormal
    assert found is not None
    assert (found.weight, found.factors) == (WEIGHT, 1)
    assert found.before == pytest.approx(float(penalty({"V": torch.from_numpy(V)}, ["V"])), rel=1e-4)
    assert found.after < 0.9 * found.before


def test_without_it_the_factors_are_left_alone() -> None:
    assert refine(task(DEPTHWISE, weight=0.0), quiet).report.orthonormal is None


def test_that_there_are_no_factors_is_said() -> None:
    said: list[str] = []
    report = refine(task(DENSE), lambda stage, _, total: None if total else said.append(stage)).report
    assert report.orthonormal is not None
    assert report.orthonormal.factors == 0
    assert sum("no pointwise factor of low rank" in text for text in said) == 1


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan"), "much"])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(UsageError, match="weight of 0 or more"):
        parse(20, orthonormal=weight)


def test_a_weight_without_a_length_is_refused() -> None:
    with pytest.raises(UsageError, match="--refine-orthonormal is about --refine"):
        parse(None, orthonormal=WEIGHT)
