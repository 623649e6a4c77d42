"""Models and helpers that several test files use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ndpass.conv import Block
from ndpass.graph import Graph, Site

Arrays = dict[str, NDArray[np.float32]]
EXACT = 1e-5  # relative output error in f32 of a rewrite that is exact in theory
SHARED = Path(__file__).parents[2] / "shared"


def rewritten(model: onnx.ModelProto, rewrite: Callable[[Site], Block | None]) -> tuple[onnx.ModelProto, int]:
    """The model with every site replaced by what `rewrite` gives for it (None: left alone), and how many were."""
    graph = Graph(model)
    done = 0
    for site in [s for s in graph.sites() if isinstance(s, Site)]:
        block = rewrite(site)
        if block is not None:
            graph.splice(site, block)
            done += 1
    graph.tidy()
    result = graph.to_model()
    onnx.checker.check_model(result, full_check=True)
    return result, done


def run_ort(model: onnx.ModelProto, feed: Arrays) -> list[NDArray[np.float32]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    results: list[NDArray[np.float32]] = ort.InferenceSession(model.SerializeToString(), options).run(None, feed)
    return results


def run_ov(model: onnx.ModelProto, feed: Arrays) -> list[NDArray[np.float32]]:
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(feed)
    return [np.asarray(results[i]) for i in range(len(compiled.outputs))]


def relative(a: list[NDArray[np.float32]], b: list[NDArray[np.float32]]) -> float:
    """‖a − b‖ / ‖a‖ over all outputs."""
    top = sum(float(np.sum((x.astype(np.float64) - y) ** 2)) for x, y in zip(a, b, strict=True))
    return float(np.sqrt(top / max(sum(float(np.sum(x.astype(np.float64) ** 2)) for x in a), 1e-30)))


def bind(model: onnx.ModelProto, arrays: list[NDArray[np.float32]], keep: int = 1) -> onnx.ModelProto:
    """The model with all inputs but the first `keep` made initializers of these values."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    for info, array in zip(list(bound.graph.input)[keep:], arrays[keep:], strict=True):
        bound.graph.initializer.append(numpy_helper.from_array(array, info.name))
        bound.graph.input.remove(info)
    return bound
