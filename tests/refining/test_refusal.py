"""What torch cannot run or train is known before anything is rewritten, with its reason."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal, residual

pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

from ndpass.calibration.feeds import open_feeds
from ndpass.errors import InputError
from ndpass.graph.graph import Graph
from ndpass.measuring.runtime import OpenVINO
from ndpass.refining.refusal import refusal

WEIGHTS: dict[str, Any] = {
    "W": normal(2, 3, 3, 3),
    "K": normal(8, 8),
    "S": np.array([1, 1, 2, 2], np.float32),
}


def model(body: str, inputs: str = "float[N,3,8,8] x") -> onnx.ModelProto:
    return network(f"({inputs}) => (y) {{ {body} }}", **{n: w for n, w in WEIGHTS.items() if n in body})


def said(made: onnx.ModelProto, other: onnx.ModelProto | None = None, samples: int = 8) -> str:
    """What is said of it. other: the model that runs in the runtime, where it is another one."""
    graph = Graph(made)
    feeds = open_feeds(np.random.default_rng(0).standard_normal((samples, 3, 8, 8)).astype(np.float32), graph.inputs())
    return refusal(graph.to_model(), None, graph.inputs(), feeds, OpenVINO(Graph(other or made).runnable()))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Asin(x)  y = Conv(a, W)", "no operator Asin"),
        ('a = Conv(x, W)  y = Resize<mode="cubic">(a, , S)', "resize of mode cubic"),
        ("y = Conv(x, W)", ""),
        ("a = Conv(x, W)  y = ReduceMean<keepdims=0>(a)", "no output has an axis for samples"),
        ("a = Conv(x, W)  y = Transpose<perm=[1,0,2,3]>(a)", "no output has an axis for samples"),
        (
            "t = Transpose<perm=[1,0,2,3]>(x)  a = MatMul(t, K)  b = Cast<to=7>(a)  c = Cast<to=1>(b)"
            "  y = Transpose<perm=[1,0,2,3]>(c)",
            "torch cannot train it: element 0 of tensors does not require grad",
        ),
    ],
)
def test_what_torch_cannot_run_or_train_is_known_beforehand(body: str, reason: str) -> None:
    found = said(model(body))
    assert (reason in found) if reason else found == ""


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_batch_that_the_model_fixes_is_trained_as_it_is(fixed: int) -> None:
    assert said(model("y = Conv(x, W)", f"float[{fixed},3,8,8] x")) == ""
    reason = "no output has an axis for samples" if fixed > 1 else ""
    assert said(model("a = Conv(x, W)  y = Transpose<perm=[1,0,2,3]>(a)", f"float[{fixed},3,8,8] x")).startswith(reason)


@pytest.mark.parametrize(("labels", "right"), [([0, 1, 4, 3], True), ([0, 1, 5, 3], False)])
def test_labels_that_number_no_class_are_refused_beforehand(labels: list[int], right: bool) -> None:
    """Those of the data that are trained on; the metric sees those of the validation data alone."""
    graph = Graph(residual())
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    feeds = open_feeds(images, graph.inputs(), labels=np.array(labels))
    runner = OpenVINO(graph.runnable())
    with nullcontext() if right else pytest.raises(InputError, match="number of a class, 0 to 4 in this model"):
        assert refusal(graph.to_model(), None, graph.inputs(), feeds, runner, labelled=True) == ""


def test_one_sample_tells_of_the_axis_too() -> None:
    assert said(model("y = Conv(x, W)"), samples=1) == ""


@pytest.mark.parametrize(
    ("body", "text"), [("y = Log(x)", "is not finite in torch or the runtime alone"), ("y = Neg(x)", "differs by")]
)
def test_an_answer_unlike_that_of_the_runtime_is_none(body: str, text: str) -> None:
    """A NaN is beyond no bound, nor within one."""
    ours, theirs = model(body), model("y = Relu(x)")
    assert f"output 'y' {text}" in said(ours, theirs)
    if "Log" in body:
        assert f"output 'y' {text}" in said(theirs, ours)


def test_what_is_no_number_in_both_is_alike() -> None:
    assert "runtime" not in said(model("a = Log(x)  y = Conv(a, W)"))
