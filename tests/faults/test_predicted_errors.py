"""The error that is reported of a random layer is the one that its written model has, as impulses through a runtime
and the calibration data themselves show it, whatever the scales of its channels; the predicted one is close to it.

A model of one convolution is linear: its answers to one impulse for each element of a patch are its kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from conftest import Examples
from hypothesis import assume, given
from hypothesis import strategies as st
from models import run_ort
from net_rewrites import opened, rewritten
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from random_nets import Net

from ndpass.conv import Conv
from ndpass.graph.graph import Site
from ndpass.planning.candidate import Budget

F = NDArray[Any]
ROUNDING = 1e-5  # of a relative squared error, whose kernels are float32
SAMPLES = 12  # as `rewritten` fits to


@st.composite
def layers(draw: Callable[[Any], Any]) -> Net:
    """A convolution of any geometry on maps on which its whole patch fits."""
    axes = draw(st.sampled_from((2, 1, 3)))
    one = lambda *values: tuple(draw(st.sampled_from(values)) for _ in range(axes))  # noqa: E731
    kernel, strides, dilations = one(3, 1, 2), one(1, 2), one(1, 2)
    pads = (*one(0, 1, 2), *one(0, 1))
    group, n_o, n_i = (draw(st.sampled_from(values)) for values in ((1, 2, 3), (5, 4, 8), (3, 4, 6)))
    n_o, n_i = (n_o, n_i) if group == 1 else (group * (n_o // 2), group * (n_i // 2))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weights = {"w": rng.standard_normal((n_o, n_i // group, *kernel)), "b": rng.standard_normal(n_o)}
    attrs = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    sizes = [["N", n, *"HWD"[:axes]] for n in (n_i, n_o)]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", *weights], ["y"], "layer", **attrs)],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes[0])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [*sizes[1][:2], *"PQR"[:axes]])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Net(model, (n_i, *(8 for _ in range(axes))), False, ("layer",))


def test_the_reported_error_is_that_of_the_written_model(examples: Examples) -> None:
    @examples(60, 1_000)
    @given(
        layers(),
        st.sampled_from(("nd", "cd", "sd")),
        st.sampled_from((0.6, 0.9)),
        st.booleans(),
        st.sampled_from((0.0, 1.0, 4.0)),
    )
    def check(net: Net, spec: str, energy: float, calibrated: bool, decades: float) -> None:
        net, x = scaled(net, decades)
        done = rewritten(net, "onnx", spec, Budget("energy", energy), calibrated, x)
        (row,) = done.rows
        assume(row.status == "done")
        site = opened(net, "onnx")[1].sites()[0]
        assert isinstance(site, Site)
        weight = site.conv.dense().matrix.astype(np.float64)
        off = float(((kernel_of(done.after, site.conv) - weight) ** 2).sum() / np.sum(weight**2))
        found = on_data(net.model, done.after, x) if calibrated else off
        assert row.error_measured is not None
        assert row.error_predicted is not None
        assert abs(row.error_measured - found) < ROUNDING
        if not calibrated or spec == "cd":
            assert abs(row.error_predicted - row.error_measured) < ROUNDING
        else:  # a fit takes further steps than its estimate, each of which lowers what it loses, its prior counted
            assert row.error_measured <= 1.1 * row.error_predicted + ROUNDING

    check()


def scaled(net: Net, decades: float) -> tuple[Net, F]:
    """The layer with input channels whose scales differ by so many decades and count alike, and samples for it."""
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    held = next(t for t in model.graph.initializer if t.name == "w")
    weight = numpy_helper.to_array(held)
    groups = net.in_shape[0] // weight.shape[1]
    scales = 10.0 ** np.linspace(-decades, 0, weight.shape[1])
    shape = (-1, *(1,) * (weight.ndim - 2))
    held.CopyFrom(numpy_helper.from_array((weight / scales.reshape(shape)).astype(np.float32), "w"))
    x = net.feed(SAMPLES, seed=1) * np.tile(scales, groups).reshape(shape)
    return replace(net, model=model), x.astype(np.float32)


def kernel_of(model: onnx.ModelProto, conv: Conv) -> F:
    """The kernel (n_o, n_i·K) of a model that is one linear layer, at an output position off all borders."""
    axes = len(conv.kernel)
    at = [-(-p // s) for p, s in zip(conv.pads[:axes], conv.strides, strict=True)]
    start = [a * s - p for a, s, p in zip(at, conv.strides, conv.pads[:axes], strict=True)]
    x = np.zeros((conv.n_i * conv.kernel_size + 1, conv.n_i, *(14 for _ in range(axes))), np.float32)
    for row, (channel, *tap) in enumerate(np.ndindex(conv.n_i, *conv.kernel)):
        place = [b + t * d for b, t, d in zip(start, tap, conv.dilations, strict=True)]
        x[(row, channel, *place)] = 1
    (y,) = run_ort(model, {"x": x})
    answers = y[(slice(None), slice(None), *at)].astype(np.float64)
    return (answers[:-1] - answers[-1]).T


def on_data(model: onnx.ModelProto, written: onnx.ModelProto, x: F) -> float:
    """The relative error of a written model's outputs on samples x."""
    before, after = (run_ort(m, {"x": x})[0].astype(np.float64) for m in (model, written))
    outer = (0, *range(2, before.ndim))
    return float(((before - after) ** 2).mean(outer).sum() / before.var(outer).sum())
