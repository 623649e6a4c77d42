"""Weights and data at the edges of what numbers can be: results are finite, and no worse than what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command, assert_refused
from models import network, normal, run_ort
from net_rewrites import check_form, rewritten
from numpy.typing import NDArray
from random_nets import Net

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Budget

F = NDArray[Any]
Weights = dict[str, F]
FLOATS = {False: np.float32, True: np.float16}

C_IN, C, SIZE = 6, 12, 8
TEXT = f"""(float[N,{C_IN},{SIZE},{SIZE}] x) => (float[N,{C},{SIZE},{SIZE}] y) {{
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, w2, b2)
}}"""


def weights() -> Weights:
    return {"w1": normal(C, C_IN, 3, 3), "b1": normal(C), "w2": normal(C, C, 3, 3), "b2": normal(C, seed=1)}


def times(factor: float) -> Callable[[Weights], Weights]:
    """The first layer by the factor, the second by its inverse: the network computes the same."""
    return lambda w: {**w, "w1": w["w1"] * factor, "b1": w["b1"] * factor, "w2": w["w2"] / factor}


def scaled_outputs(w: Weights) -> Weights:
    scales = np.logspace(-12, 12, C)
    return {**w, "w2": w["w2"] * scales[:, None, None, None], "b2": w["b2"] * scales}


def scaled_inputs(w: Weights) -> Weights:
    scales = np.logspace(-12, 12, C)
    return {
        **w,
        "w1": w["w1"] * scales[:, None, None, None],
        "b1": w["b1"] * scales,
        "w2": w["w2"] / scales[:, None, None],
    }


def dead(w: Weights) -> Weights:
    """Channels behind the ReLU that are always 0, and channels that nothing reads."""
    w1, b1, w2 = w["w1"].copy(), w["b1"].copy(), w["w2"].copy()
    w1[:4], b1[:4] = 0, -1
    w2[:, 4:6] = 0
    return {**w, "w1": w1, "b1": b1, "w2": w2}


def all_dead(w: Weights) -> Weights:
    return {**w, "b1": np.full(C, -1e3)}


def constant(w: Weights) -> Weights:
    """Inner channels that never vary, and so an output without variance."""
    return {**w, "w1": 0 * w["w1"], "b1": 1 + np.abs(w["b1"])}


def nothing(w: Weights) -> Weights:
    return {name: 0 * value for name, value in w.items()}


def collinear(w: Weights) -> Weights:
    """Inner channels in pairs, and outputs that are all the same."""
    w1, b1, w2 = w["w1"].copy(), w["b1"].copy(), w["w2"].copy()
    w1[1::2], b1[1::2], w2[:] = 2 * w1[::2], 2 * b1[::2], w2[:1]
    return {**w, "w1": w1, "b1": b1, "w2": w2}


WEIGHTS: dict[str, Callable[[Weights], Weights]] = {
    "plain": lambda w: w,
    "huge": times(1e15),
    "tiny": times(1e-15),
    "denormal": times(1e-38),
    "outputs of unlike scales": scaled_outputs,
    "inputs of unlike scales": scaled_inputs,
    "dead channels": dead,
    "all dead": all_dead,
    "constant channels": constant,
    "zeros": nothing,
    "collinear channels": collinear,
}


def samples(count: int = 24) -> F:
    return np.random.default_rng(0).standard_normal((count, C_IN, SIZE, SIZE))


def collinear_samples() -> F:
    x = samples()
    x[:, 1::2] = -3 * x[:, ::2]
    return x


def with_dead_and_constant_channels() -> F:
    x = samples()
    x[:, 0], x[:, 1] = 0, 1e6
    return x


DATA: dict[str, Callable[[], F]] = {
    "plain": samples,
    "one sample": lambda: samples(1),
    "two samples": lambda: samples(2),
    "the same sample": lambda: samples(1).repeat(24, 0),
    "zeros": lambda: 0 * samples(),
    "constant": lambda: 0 * samples() + 3,
    "huge": lambda: 1e15 * samples(),
    "tiny": lambda: 1e-15 * samples(),
    "collinear channels": collinear_samples,
    "dead and constant channels": with_dead_and_constant_channels,
}

Asked = tuple[str, Budget]

FREE: tuple[Asked, ...] = (
    ("cd:rank=4,nd:rank=1", Budget("pinned")),
    ("cd", Budget("energy", 0.9)),
    ("nd:rank=1", Budget("pinned")),
    ("cd:rank=3", Budget("pinned")),
    ("sd:rank=4", Budget("pinned")),
)
FITTED: tuple[Asked, ...] = (
    ("cd:rank=4,nd:rank=1", Budget("pinned")),
    ("cp,cd,sd,nd", Budget("macs", 0.5)),
    ("cd:rank=3:solver=relu", Budget("pinned")),
    ("cp:channels=6:criterion=lasso", Budget("pinned")),
    *FREE[1:],
)


@pytest.fixture
def some(request: pytest.FixtureRequest) -> slice:
    """How much is asked of each: the first three, or all with --long."""
    return slice(None if request.config.getoption("--long") else 3)


def model_of(arrays: Weights, dtype: type[np.floating[Any]] = np.float32) -> onnx.ModelProto:
    kind = {np.float32: "float", np.float16: "float16"}[dtype]
    text = TEXT.replace("float[", f"{kind}[")
    return network(text, **{name: np.asarray(value, dtype) for name, value in arrays.items()})


def check(
    arrays: Weights,
    specs: Sequence[tuple[str, Budget]],
    x: F,
    calibrated: bool,
    half: bool = False,
    beyond: bool = False,
) -> None:
    """Outputs and reported errors are finite, none is worse than the mean answer, and a budget of energy is kept.

    beyond: whether a setting that is asked for may be worse than that, and is said to be.
    """
    net, x = (
        Net(model_of(arrays, np.float16 if half else np.float32), (C_IN, SIZE, SIZE), half, ()),
        x.astype(FLOATS[half]),
    )
    for spec, budget in specs:
        try:
            done = rewritten(net, "onnx", spec, budget, calibrated, x)
        except BudgetError:
            continue
        check_form(net, done)
        assert all(np.isfinite(y).all() for y in run_ort(done.after, {"x": x})), spec
        for layer in done.rows:
            for error in (layer.error_predicted, layer.error_measured):
                assert error is None or (0 <= error < np.inf and (error <= 1 + 1e-6 or beyond)), layer
            assert layer.status == "done" or layer.reason
            assert layer.status != "done" or budget.allows((layer.error_measured or 0.0) - 1e-9), layer


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, some: slice) -> None:
    arrays, x = WEIGHTS[name](weights()), samples()
    check(arrays, FREE[some], x, calibrated=False)
    check(arrays, FITTED[some], x, calibrated=True, beyond=name == "inputs of unlike scales")


@pytest.mark.parametrize("name", DATA)
def test_data(name: str, some: slice) -> None:
    check(weights(), FITTED[some], DATA[name](), calibrated=True)


HALF: dict[str, Callable[[Weights], Weights]] = {
    "large": times(1e3),
    "small": times(1e-3),
    "dead channels": dead,
    "constant channels": constant,
    "zeros": nothing,
    "collinear channels": collinear,
}


@pytest.mark.parametrize("name", HALF)
def test_weights_in_half_precision(name: str, some: slice) -> None:
    """What is finite in float16 before is so afterwards."""
    check(HALF[name](weights()), FITTED[some], samples(), calibrated=True, half=True)


@pytest.mark.usefixtures("folder")
def test_one_sample_is_too_few_to_measure_by(ndpass: Command) -> None:
    onnx.save(model_of(weights()), "in.onnx")
    np.save("one.npy", samples(1).astype(np.float32))
    done = ndpass("run", "in.onnx", "-q", "--passes", "cd:rank=3", "--calibration", "one.npy", "-o", "out.onnx")
    assert_refused(done, 3, "two samples", "give more")


@pytest.mark.usefixtures("folder")
def test_outputs_that_never_vary_are_said(ndpass: Command) -> None:
    onnx.save(model_of(constant(weights())), "in.onnx")
    np.save("data.npy", samples().astype(np.float32))
    done = ndpass("run", "in.onnx", "--passes", "cd:rank=3", "--calibration", "data.npy", "-o", "out.onnx")
    assert done.code == 0
    assert "the same output for every sample" in done.out + done.err
