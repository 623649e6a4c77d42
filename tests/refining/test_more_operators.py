"""Operators around layers, and recurrent ones, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import network, normal, relative, run_ort

torch = pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

from ndpass.refining import from_onnx  # noqa: E402 - torch may be missing
from ndpass.refining.network import Network  # noqa: E402
from ndpass.refining.rules import RULES  # noqa: E402

CLOSE = 1e-5
CONSTANTS: dict[str, Any] = {
    "HALF": np.float32(0.5),
    "ZERO": np.float32(0),
    "ONES": np.array([1]),
    "START": np.array(1),
    "STEP": np.array(2),
    "B": normal(4, 1, 1, seed=1),
    "W": normal(1, 12, 9, seed=2),
    "R": normal(1, 12, 3, seed=3),
    "H": normal(1, 24, seed=4)[:, :24],
    "W2": normal(2, 12, 9, seed=5),
    "R2": normal(2, 12, 3, seed=6),
    "H2": normal(2, 24, seed=7),
    "I2": normal(2, 4, 3, seed=8),
    "C2": normal(2, 4, 3, seed=9),
    "V": normal(1, 9, 9, seed=10),
    "S": normal(1, 9, 3, seed=11),
    "K": normal(1, 18, seed=12),
    "V2": normal(2, 9, 9, seed=13),
    "S2": normal(2, 9, 3, seed=14),
    "K2": normal(2, 18, seed=15),
}
LINES = {
    "and": "a = Greater(x, ZERO)  b = Less(x, HALF)  c = And(a, b)  y = Cast<to=1>(c)",
    "or": "a = GreaterOrEqual(x, HALF)  b = LessOrEqual(x, ZERO)  c = Or(a, b)  y = Cast<to=1>(c)",
    "xor": "a = Greater(x, ZERO)  b = Greater(x, HALF)  c = Xor(a, b)  y = Cast<to=1>(c)",
    "range": """z = Shape(x)  n = Gather<axis=0>(z, ONES)  e = Squeeze(n)  r = Range(START, e, STEP)
        f = Cast<to=1>(r)  m = ReduceSum<keepdims=0>(f)  y = Mul(x, m)""",
    "size": "n = Size(x)  f = Cast<to=1>(n)  y = Div(x, f)",
    "selu": "y = Selu(x)",
    "selu of its own": "y = Selu<alpha=2.0, gamma=3.0>(x)",
    "celu": "y = Celu<alpha=2.0>(x)",
    "thresholded": "y = ThresholdedRelu<alpha=0.3>(x)",
    "softsign": "y = Softsign(x)",
    "waves": "a = Sin(x)  b = Cos(x)  c = Sign(x)  d = Mul(b, c)  y = Add(a, d)",
    "rounded": "a = Div(x, HALF)  b = Round(a)  y = Add(x, b)",
    "modulo": "y = Mod<fmod=1>(x, HALF)",
    "einsum": 'y = Einsum<equation="ncij,ncik->njk">(x, x)',
    "argmax": "a = ArgMax<axis=1>(x)  f = Cast<to=1>(a)  y = Mul(x, f)",
    "argmin": "a = ArgMin<axis=-1, keepdims=0>(x)  y = Cast<to=1>(a)",
    "lstm": "s = Squeeze(t)  y, h, c = LSTM<hidden_size=3>(s, W, R, H)",
    "lstm backwards, without biases": 's = Squeeze(t)  y, h, c = LSTM<hidden_size=3, direction="reverse">(s, W, R)',
    "lstm that names its activations": """s = Squeeze(t)
        y, h, c = LSTM<hidden_size=3, activations=["Sigmoid", "Tanh", "Tanh"]>(s, W, R, H)""",
    "lstm in both directions": """s = Squeeze(t)
        y, h, c = LSTM<hidden_size=3, direction="bidirectional">(s, W2, R2, H2, , I2, C2)""",
    "gru": "s = Squeeze(t)  y, h = GRU<hidden_size=3>(s, V, S, K)",
    "gru, reset behind, in both directions": """s = Squeeze(t)
        y, h = GRU<hidden_size=3, direction="bidirectional", linear_before_reset=1>(s, V2, S2, K2, , I2)""",
}


@pytest.mark.parametrize("line", LINES)
def test_torch_computes_what_onnxruntime_does(line: str) -> None:
    text = LINES[line]
    words = set("".join(c if c.isalnum() else " " for c in text).split())
    used = {name: np.asarray(value) for name, value in CONSTANTS.items() if name in words}
    recurrent = "t)" in text
    outputs = "y, h, c" if "LSTM" in text else "y, h" if "GRU" in text else "y"
    shape = "float[7,4,9,1] t" if recurrent else "float[2,4,7,9] x"
    model = network(f"({shape}) => ({outputs}) {{ {text} }}", **used)
    feed = {"t": normal(7, 4, 9, 1, seed=20)} if recurrent else {"x": normal(2, 4, 7, 9, seed=20)}
    program = from_onnx.read(model)
    assert not program.missing(RULES)
    with torch.no_grad():
        found = [y.numpy() for y in Network(program, trained=False)(feed).values()]
    wanted = run_ort(model, feed)
    assert [y.shape for y in found] == [y.shape for y in wanted]
    assert relative(wanted, found) < CLOSE
