"""Channels behind reductions, reshapes, and axes that come and go: on both roads, beside the masked network."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import assert_as_masked, assert_ir_as_masked, find, group_of, load
from models import network, normal, run_ort, run_ov
from numpy.typing import NDArray

from ndpass.graph.axis_rules import REDUCTIONS

BEGIN = "(float[2,3,8,8] x) => (float[{}] y) {{ a = Conv<pads=[1,1,1,1]>(x, A, b) r = Sigmoid(a) {} }}"
OLD, NEW = 13, 18  # axes of a reduction are an attribute, an input
BOTH = (17, 18)


def behind(nodes: str, shape: str, opset: int = 17, **weights: NDArray[Any]) -> onnx.ModelProto:
    """Of r, the six channels (2, 6, 8, 8) of a convolution."""
    return network(BEGIN.format(shape, nodes), opset, A=normal(6, 3, 3, 3), b=normal(6), **weights)


def assert_followed(model: onnx.ModelProto) -> None:
    for channels in ([0, 2, 5], [4], [1, 2, 3, 4, 5]):
        assert_as_masked(model, "y", channels)
        assert_ir_as_masked(model, "y", np.array(channels))


def reduced(kind: str, axes: list[int], keep: int, opset: int) -> tuple[str, dict[str, NDArray[Any]]]:
    """The node m = Reduce(r), and the axes where they are an input."""
    if opset >= NEW or (kind == "Sum" and opset >= OLD):
        return f"m = Reduce{kind}<keepdims={keep}>(r, axes)", {"axes": np.array(axes)}
    return f"m = Reduce{kind}<keepdims={keep}, axes=[{','.join(map(str, axes))}]>(r)", {}


# OpenVINO keeps these as one operator; of L1 it drops the axes in opsets 13 to 17
IN_BOTH = ("L2", "Max", "Mean", "Min", "Prod", "Sum")


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(IN_BOTH),
    st.sampled_from([[2, 3], [3, 2], [2], [3]]),
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.booleans(),
    st.sampled_from([11, OLD, NEW]),
)
def test_reductions_over_space(kind: str, axes: list[int], below: list[bool], keep: bool, opset: int) -> None:
    """The axes in any order, counted from either end; kept as ones or not."""
    said = [a - 4 if negative else a for a, negative in zip(axes, below, strict=False)]
    node, weights = reduced(kind, said, int(keep), opset)
    if keep or len(axes) == 1:  # what is gone comes back, for a convolution
        listed = ",".join(map(str, axes))
        taken = "v = Unsqueeze(m, back)" if opset >= OLD else f"v = Unsqueeze<axes=[{listed}]>(m)"
        back = "" if keep else taken
        model = behind(
            f"{node} {back} y = Conv({'m' if keep else 'v'}, B)",
            "2,4,p,q",
            opset,
            **weights,
            **({"back": np.array(axes)} if "back)" in back else {}),
            B=normal(4, 6, 1, 1),
        )
    else:
        model = behind(f"{node} y = Gemm(m, B)", "2,4", opset, **weights, B=normal(6, 4))
    assert_followed(model)


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("opset", BOTH)
def test_every_reduction_of_onnx(kind: str, opset: int) -> None:
    node, weights = reduced(kind, [2, -1], 0, opset)
    assert_as_masked(behind(f"{node} y = MatMul(m, B)", "2,4", opset, **weights, B=normal(6, 4)), "y", [0, 3])


FOLLOWED: dict[str, tuple[str, str, dict[str, NDArray[Any]]]] = {
    "a gate, as torch writes it": (
        "m = ReduceMean<axes=[2,3], keepdims=0>(r) u = Gemm<transB=1>(m, U) s = Sigmoid(u) v = Unsqueeze(s, spots) "
        "g = Mul(r, v) y = Conv(g, B)",
        "2,4,8,8",
        {"U": normal(6, 6), "spots": np.array([2, 3]), "B": normal(4, 6, 1, 1)},
    ),
    "a gate whose axes come back one by one": (
        "m = ReduceMean<axes=[2,3], keepdims=0>(r) u = Gemm<transB=1>(m, U) s = Sigmoid(u) v = Unsqueeze(s, three) "
        "w = Unsqueeze(v, three) g = Mul(r, w) y = Conv(g, B)",
        "2,4,8,8",
        {"U": normal(6, 6), "three": np.array([-1]), "B": normal(4, 6, 1, 1)},
    ),
    "a gate by Reshape": (
        "m = GlobalAveragePool(r) f = Reshape(m, flat) u = Gemm<transB=1>(f, U) s = Sigmoid(u) v = Reshape(s, back) "
        "g = Mul(r, v) y = Conv(g, B)",
        "2,4,8,8",
        {
            "U": normal(6, 6),
            "flat": np.array([-1, 6]),
            "back": np.array([-1, 6, 1, 1]),
            "B": normal(4, 6, 1, 1),
        },
    ),
    "a pool and Squeeze": (
        "m = GlobalMaxPool(r) f = Squeeze(m, spots) y = Gemm(f, B)",
        "2,4",
        {"spots": np.array([2, -1]), "B": normal(6, 4)},
    ),
    "a Reshape that flattens": ("f = Reshape(r, flat) y = Gemm(f, B)", "2,4", {"flat": [2, 384], "B": [384, 4]}),
    "a Reshape that flattens all the rest": (
        "f = Reshape(r, flat) y = Gemm(f, B)",
        "2,4",
        {"flat": [0, -1], "B": [384, 4]},
    ),
    "a Reshape of space alone": (
        "f = Reshape(r, rows) g = Relu(f) h = Reshape(g, maps) y = Conv(h, B)",
        "2,4,4,16",
        {"rows": [0, 0, 64], "maps": [0, 6, 4, -1], "B": [4, 6, 1, 1]},
    ),
    "a Reshape of the same axes": (
        "f = Reshape(r, same) y = Conv(f, B)",
        "2,4,8,8",
        {"same": [2, -1, 8, 8], "B": [4, 6, 1, 1]},
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_axes_that_come_and_go(name: str) -> None:
    nodes, shape, weights = FOLLOWED[name]
    made = {k: (normal(*v) if k == "B" else np.array(v)) if isinstance(v, list) else v for k, v in weights.items()}
    assert_followed(behind(nodes, shape, **made))


READ = "h = Shape(r) n = Slice(h, zero, one) "
COMPUTED = {  # Reshapes to sizes that the model computes, as exporters write those of an open batch
    "flattened": (READ + "v = Concat<axis=0>(n, rest) f = Reshape(r, v) y = Gemm(f, B)", "2,4", [384, 4]),
    "a gate by a constant number": (
        READ + "m = GlobalAveragePool(r) u = Conv(m, U) v = Concat<axis=0>(n, six, rest, one) w = Reshape(u, v) "
        "g = Mul(r, w) y = Conv(g, B)",
        "2,4,8,8",
        [4, 6, 1, 1],
    ),
    "a number that is read off": (
        "h = Shape(r) k = Slice(h, zero, two) v = Concat<axis=0>(k, rest) f = Reshape(r, v) g = Relu(f) "
        "w = Reshape(g, h) y = Conv(w, B)",
        "2,4,8,8",
        [4, 6, 1, 1],
    ),
}


@pytest.mark.parametrize("run", [run_ort, run_ov])
@pytest.mark.parametrize("name", COMPUTED)
def test_reshapes_to_computed_sizes(name: str, run: Any) -> None:
    nodes, shape, weight = COMPUTED[name]
    numbers = {"zero": 0, "one": 1, "two": 2, "six": 6, "rest": -1}
    used = {k: np.array([v]) for k, v in numbers.items() if f" {k}" in nodes.replace(")", " ").replace("(", " ")}
    used |= {"U": normal(6, 6, 1, 1)} if "U)" in nodes else {}
    model = behind(nodes, shape, **used, B=normal(*weight))
    for channels in ([0, 2, 5], [4], [1, 2, 3, 4, 5]):
        assert_as_masked(model, "y", channels, run)


COMPUTED_AWAY = {
    "into groups": (READ + "v = Concat<axis=0>(n, two, three, rest) m = Reshape(r, v) z = Relu(m)", "Reshape 'm'"),
    "by a number used twice": (
        READ + "v = Concat<axis=0>(n, six, rest) m = Reshape(r, v) q = Conv(x, W) o = Reshape(q, v) z = Add(m, o)",
        "Reshape 'm'",
    ),
}


@pytest.mark.parametrize("name", COMPUTED_AWAY)
def test_computed_sizes_that_say_nothing_sure_of_the_channels_are_refused_by_name(name: str) -> None:
    nodes, reason = COMPUTED_AWAY[name]
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "rest": -1}
    used = {k: np.array([v]) for k, v in numbers.items() if f" {k}" in nodes.replace(")", " ").replace("(", " ")}
    used |= {"W": normal(6, 3, 1, 1)} if "W)" in nodes else {}
    model = behind(f"{nodes} y = Conv(r, B)", "2,4,8,8", **used, B=normal(4, 6, 1, 1))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("z"))
    assert find(load(model)[0], "y") == f"its input also feeds {reason}, whose channels cannot be pruned"


REFUSED = {
    "a mean over the channels": ("m = ReduceMean<axes=[1]>(r) y = Conv(r, B)", "ReduceMean 'm'"),
    "a mean over all": ("m = ReduceMean(r) y = Conv(r, B)", "ReduceMean 'm'"),
    "axes that are computed": (
        "h = ReduceMax<keepdims=0>(x) i = Cast<to=7>(h) k = Unsqueeze(i, zero) m = ReduceSum(r, k) y = Conv(r, B)",
        "ReduceSum 'm'",
    ),
    "Squeeze of all that is one": ("p = GlobalMaxPool(r) m = Squeeze(p) y = Conv(r, B)", "Squeeze 'm'"),
    "groups of channels": ("m = Reshape(r, groups) z = Relu(m) y = Conv(r, B)", "Reshape 'm'"),
    "as many as another axis has": ("m = Reshape(r, moved) z = Relu(m) y = Conv(r, B)", "Reshape 'm'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_channels_is_refused(name: str) -> None:
    nodes, reason = REFUSED[name]
    constants = {"zero": [0], "groups": [2, 2, 3, 64], "moved": [1, 2, 0, 64]}
    used = {k: np.array(v) for k, v in constants.items() if k in nodes}
    model = behind(nodes, "2,4,8,8", **used, B=normal(4, 6, 1, 1))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("m"))
    assert find(load(model)[0], "y") == f"its input also feeds {reason}, whose channels cannot be pruned"


def test_a_sum_of_nothing_is_what_it_was() -> None:
    nodes = "m = ReduceSum<noop_with_empty_axes=1>(r) y = Conv(m, B)"
    assert_as_masked(behind(nodes, "2,4,8,8", B=normal(4, 6, 1, 1)), "y")


def test_what_a_gate_reads_is_pruned_with_what_it_multiplies() -> None:
    nodes, shape, weights = FOLLOWED["a gate, as torch writes it"]
    group = group_of(load(behind(nodes, shape, **weights))[0], "y")
    assert {m.node.name for m in group.producers} == {"a", "u"}
    assert {m.node.name for m in group.consumers} == {"u", "y"}
