"""Whether OpenVINO and onnxruntime take the original for the same network, where it is known that they may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ndpass.errors import InputError
from ndpass.graph.graph import Graph
from ndpass.measuring.random_inputs import random_feed
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO, Outputs

ROUNDING = 1e-3  # relative, as where the results are compared


def check_pads(model: Path, graph: Graph) -> None:
    """Raise InputError naming transposed convolutions whose pads depend on open sizes, where the runtimes differ.

    All is calibrated and timed in OpenVINO, so this is asked before anything is. One sample is run in both.
    """
    layers = graph.without_pads()
    if not layers:
        return
    feed = random_feed(graph.inputs(), {s.name: s.fed(1, graph.sizes[s.name]) for s in graph.inputs()}, 0)
    try:
        theirs = OnnxRuntime(model)(feed)
    except InputError:  # then it is no measure of OpenVINO
        return
    if why := _difference(OpenVINO(model)(feed), theirs):
        names = ", ".join(f"'{name}'" for name in layers)
        raise InputError(
            f"{model}: OpenVINO and onnxruntime do not compute the same: {why}. They read output_shape of "
            f"ConvTranspose {names} differently, and its pads follow only from a fixed input size: "
            "export the model with a fixed height and width, or with pads in place of output_shape"
        )


def _difference(ours: Outputs, theirs: Outputs) -> str | None:
    """OpenVINO's outputs beside onnxruntime's; None where they are the same but for rounding."""
    for name, y in theirs.items():
        if ours[name].shape != y.shape:
            return f"output '{name}' is {ours[name].shape} in OpenVINO, {y.shape} in onnxruntime"
        wide = np.asarray(y, np.float64)
        error = float(np.linalg.norm(ours[name] - wide)) / max(float(np.linalg.norm(wide)), 1e-30)
        if not error <= ROUNDING:
            return f"output '{name}' differs by {error:.2g} (relative)"
    return None
