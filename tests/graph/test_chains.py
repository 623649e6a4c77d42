"""Plain chains of two convolutions: which are found, how more in a row are paired, and how they are merged."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import network, normal, relative, run_ort

from ndpass.conv import Conv
from ndpass.graph.branches import Branch, Unmerged
from ndpass.graph.chains import disjoint
from ndpass.graph.graph import Graph
from ndpass.graph.openvino.graph import OvGraph

PADDED = "pads=[1,1,1,1]"
ACTIVATIONS = {
    "relu": "r = Relu(a)",
    "silu": "g = Sigmoid(a)  r = Mul(a, g)",
    "silu the other way round": "g = Sigmoid(a)  r = Mul(g, a)",
    "mish": "g = Softplus(a)  h = Tanh(g)  r = Mul(a, h)",
    "hard swish": "g = Add(a, THREE)  h = Clip(g, ZERO, SIX)  i = Mul(a, h)  r = Div(i, SIX)",
    "gelu": "g = Div(a, TWO)  h = Erf(g)  i = Add(h, ONE)  j = Mul(a, i)  r = Mul(j, HALF)",
    "none": "r = Identity(a)",
}
NUMBERS = {"ZERO": 0.0, "HALF": 0.5, "ONE": 1.0, "TWO": 2.0, "THREE": 3.0, "SIX": 6.0}


def net(body: str, **more: np.ndarray) -> onnx.ModelProto:
    """From `x`, of 8 channels, to `y`."""
    weights = {name: normal(8, 8, 3, 3, seed=i) / 4 for i, name in enumerate("ABCDEF")}
    numbers = {name: np.array(value, np.float32) for name, value in NUMBERS.items()}
    text = f"(float[N,8,9,9] x) => (float y) {{ {body} }}"
    used = {n: w for n, w in {**weights, **numbers, **more}.items() if n in text.replace("(", " ").replace(")", " ")}
    return network(text, **used)


def plain(model: onnx.ModelProto, ir: bool = False) -> list[Branch]:
    graph = OvGraph(ov.Core().read_model(model.SerializeToString())) if ir else Graph(model)
    return [one for one in graph.blocks() if isinstance(one, Branch) and one.is_plain]


@pytest.mark.parametrize("ir", [False, True], ids=["onnx", "ir"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_two_convolutions_with_an_activation_between_are_a_chain(activation: str, ir: bool) -> None:
    body = f"a = Conv<{PADDED}>(x, A)  {ACTIVATIONS[activation]}  b = Conv<strides=[2,2], {PADDED}>(r, B)  y = Relu(b)"
    (chain,) = plain(net(body), ir)
    assert chain.layers == ("a", "b")
    assert (chain.outline.kernel, chain.outline.strides, chain.outline.pads) == ((5, 5), (2, 2), (2, 2, 2, 2))
    assert chain.macs == 8 * 8 * 9 * (81 + 25)


@pytest.mark.parametrize(
    "body",
    [
        f"a = Conv<{PADDED}>(x, A)  r = MaxPool<kernel_shape=[2,2]>(a)  y = Conv<{PADDED}>(r, B)",
        f"a = Conv<{PADDED}>(x, A)  r = Relu(a)  b = Conv(r, B)  c = Conv(r, C)  y = Concat<axis=1>(b, c)",
        f"a = Conv<{PADDED}>(x, A)  p = GlobalAveragePool(a)  g = Sigmoid(p)  r = Mul(a, g)  y = Conv<{PADDED}>(r, B)",
        f"a = Conv<{PADDED}>(x, A)  r = Mul(a, a)  y = Conv<{PADDED}>(r, B)",
        f"a = Conv<{PADDED}, group=8>(x, G)  r = Relu(a)  y = Conv(r, P)",
        "a = Conv(x, W)  r = Relu(a)  y = Conv(r, N)",
    ],
    ids=["pooled", "read twice", "squeeze", "squared", "depthwise and pointwise", "through few channels"],
)
def test_others_are_no_chain(body: str) -> None:
    model = net(body, G=normal(8, 1, 3, 3), P=normal(8, 8, 1, 1), W=normal(2, 8, 1, 1), N=normal(8, 2, 1, 1))
    assert plain(model) == []


def test_a_chain_takes_the_place_of_a_sum_that_is_no_block() -> None:
    body = f"""a = Conv<{PADDED}>(x, A)  r = Relu(a)  b = Conv<{PADDED}>(r, B)  s = Relu(b)  t = Add(s, x)
               c = Conv<{PADDED}>(t, C)  u = Relu(c)  y = Add(u, t)"""
    chain, other = sorted(Graph(net(body)).blocks(), key=lambda one: one.name != "a to b")
    assert isinstance(chain, Branch)
    assert isinstance(other, Unmerged)
    assert other.name == "y"


def test_layers_of_residual_branches_are_in_no_chain() -> None:
    body = f"""o = Conv<{PADDED}>(x, A)  p = Relu(o)  a = Conv<{PADDED}>(p, B)  r = Relu(a)  b = Conv<{PADDED}>(r, C)
               s = Add(b, p)  c = Conv<{PADDED}>(s, D)  t = Relu(c)  y = Conv<{PADDED}>(t, E)"""
    found = Graph(net(body)).blocks()
    assert [one.layers for one in found] == [("a", "b"), ("c", "y")]
    assert [one.is_plain for one in found if isinstance(one, Branch)] == [False, True]


def pair(first: str, last: str) -> Branch:
    conv = Conv(np.zeros((1, 1, 1, 1)))
    return Branch(f"{first} to {last}", (first, last), (last, first), "y", "y", conv, (1, 1), 1, 1, lambda: conv)


@given(st.lists(st.none() | st.integers(1, 50), max_size=8))
@settings(max_examples=200, deadline=None)
def test_the_pairs_of_a_row_save_most(saved: list[int | None]) -> None:
    """saved: by each layer with the one before it, None where they are no pair; beside all ways to pair them."""
    order = [str(i) for i in range(len(saved) + 1)]
    pairs = {str(i + 1): (pair(str(i), str(i + 1)), float(s)) for i, s in enumerate(saved) if s is not None}
    found = disjoint(order, pairs)
    layers = [layer for one in found for layer in one.layers]
    assert len(layers) == len(set(layers))
    assert layers == sorted(layers, key=order.index)
    possible = [
        sum(pairs[last][1] for last in chosen)
        for count in range(len(pairs) + 1)
        for chosen in itertools.combinations(pairs, count)
        if all(abs(int(a) - int(b)) > 1 for a, b in itertools.combinations(chosen, 2))
    ]
    assert sum(pairs[one.last][1] for one in found) == max(possible)


@pytest.mark.parametrize("ir", [False, True], ids=["onnx", "ir"])
def test_merging_leaves_one_layer_in_the_name_of_the_last(ir: bool) -> None:
    """A chain without an activation and without inner padding is one convolution, which the linear one is."""
    body = f"a = Conv<{PADDED}>(x, A)  r = Identity(a)  b = Conv(r, B)  g = Sigmoid(b)  y = Mul(b, g)"
    model = net(body)
    graph = OvGraph(ov.Core().read_model(model.SerializeToString())) if ir else Graph(model)
    (chain,) = graph.blocks()
    assert isinstance(chain, Branch)
    graph.merge(chain, chain.conv)
    graph.tidy()
    assert [site.name for site in graph.sites()] == ["b/0_5x5"]
    x = normal(2, 8, 9, 9, seed=7)
    written = graph.to_model()
    found = (
        [ov.compile_model(written, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]]
        if ir
        else run_ort(written, {"x": x})
    )
    # the linear stand-in of an Identity lets all through
    assert relative(found, run_ort(model, {"x": x})) < 1e-5
