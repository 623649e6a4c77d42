"""The error that is reported of a random layer is the one that its written model has, as impulses through a runtime
and the calibration data themselves show it; the predicted one is the same, or with data an upper bound.

A model of one convolution is linear: its answers to one impulse for each element of a patch are its kernel.
"""

from __future__ import annotations

from collections.abc import Callable
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

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
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
    @given(layers(), st.sampled_from(("nd", "cd", "sd")), st.sampled_from((0.6, 0.9)), st.booleans())
    def check(net: Net, spec: str, energy: float, calibrated: bool) -> None:
        done = rewritten(net, "onnx", spec, Budget("energy", energy), calibrated)
        (row,) = done.rows
        assume(row.status == "done")
        site = opened(net, "onnx")[1].sites()[0]
        assert isinstance(site, Site)
        weight = site.conv.dense().matrix.astype(np.float64)
        off = ((kernel_of(done.after, site.conv) - weight) ** 2).sum(1)
        found = on_data(net, done.after, site, weight, off) if calibrated else float(off.sum() / np.sum(weight**2))
        assert row.error_measured is not None
        assert row.error_predicted is not None
        assert abs(row.error_measured - found) < ROUNDING
        assert row.error_measured <= row.error_predicted + ROUNDING
        if not calibrated:
            assert abs(row.error_predicted - row.error_measured) < ROUNDING

    check()


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


def on_data(net: Net, model: onnx.ModelProto, site: Site, weight: F, off: F) -> float:
    """The relative error on the calibration data and on the white noise that the prior adds to them, to each group.

    off (n_o,): the squared error of the weights of each output.
    """
    graph = opened(net, "onnx")[1]
    x = net.feed(SAMPLES, seed=1)
    calibration = Calibration.of(graph, [site], open_feeds(x, graph.inputs()), 1, 0, 1 << 30)
    energy = calibration.walk(graph).moments(site).g
    before, after = (run_ort(m, {"x": x})[0].astype(np.float64) for m in (net.model, model))
    outer = (0, *range(2, before.ndim))
    added, square = energy - before.var(outer), (weight**2).sum(1)
    groups = (array.reshape(site.outline.group, -1).sum(1) for array in (added, off, square))
    noise = sum(a * o / s for a, o, s in zip(*groups, strict=True))
    error = float(((before - after) ** 2).mean(outer).sum())
    return float((error + noise) / energy.sum())
