"""Models and helpers that several test files use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from ndpass.conv import Block
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Pass
from ndpass.planning.candidate import Budget
from ndpass.run.options import Options

Arrays = dict[str, NDArray[np.float32]]
EXACT = 1e-5  # relative output error in f32 of a rewrite that is exact in theory
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def network(text: str, opset: int = 17, ir_version: int = 8, **weights: NDArray[Any]) -> onnx.ModelProto:
    """A model in ONNX text, `(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv(x, W) }`, with these initializers."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
    model: onnx.ModelProto = onnx.parser.parse_model(f"{header} net {text}")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def normal(*shape: int, seed: int = 0, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    """Normal numbers scaled as He et al. scale a layer's weights; another shape or seed gives other numbers."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.standard_normal(shape) * np.sqrt(2 / max(np.prod(shape[1:]), 1))).astype(dtype)


def feed_of(model: onnx.ModelProto, seed: int = 0, **dims: int) -> Arrays:
    """Seeded normal numbers for every input that is no initializer; `dims` are the sizes of symbolic axes."""
    rng = np.random.default_rng(seed)
    bound = {t.name for t in model.graph.initializer}
    feed = {}
    for info in (i for i in model.graph.input if i.name not in bound):
        shape = [dims[d.dim_param] if d.dim_param else d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feed[info.name] = rng.standard_normal(shape).astype(dtype)
    return feed


def interface(model: onnx.ModelProto) -> list[tuple[str, int, list[int | str]]]:
    """Name, type and shape of every input and output, in order; initializers listed as inputs do not count."""
    bound = {t.name for t in model.graph.initializer}
    values = [*(i for i in model.graph.input if i.name not in bound), *model.graph.output]
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    ]


def sites_of(model: onnx.ModelProto) -> list[Site]:
    return [found for found in Graph(model).sites() if isinstance(found, Site)]


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
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", f32)
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


def one_conv(
    shape: tuple[int, ...], in_hw: tuple[int, ...], attrs: str, bias: bool = True, batch: int = 1
) -> onnx.ModelProto:
    """x -> Conv -> y, the sizes of y left open."""
    x = ",".join(map(str, (batch, shape[1], *in_hw)))
    y = ",".join([str(batch), str(shape[0]), *"pqr"[: len(in_hw)]])
    weights = {"W": normal(*shape), **({"B": normal(shape[0], seed=1)} if bias else {})}
    return network(f"(float[{x}] x) => (float[{y}] y) {{ y = Conv<{attrs}>(x, {', '.join(weights)}) }}", **weights)


RESIDUAL = """(float[N,3,8,8] image) => (float[N,5] scores) {
    a = Conv<pads=[1,1,1,1]>(image, W1, B1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, W2, B2)
    s = Add(b, r)
    t = Relu(s)
    c = Conv<strides=[2,2], pads=[1,1,1,1]>(t, W3)
    u = Relu(c)
    p = GlobalAveragePool(u)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, W4, B4)
}"""


def residual(**changed: NDArray[np.float32]) -> onnx.ModelProto:
    """A residual block, a strided layer and a linear head; seeded weights, but for those given."""
    weights = {
        "W1": normal(8, 3, 3, 3),
        "B1": normal(8),
        "W2": normal(8, 8, 3, 3),
        "B2": normal(8),
        "W3": normal(12, 8, 3, 3),
        "W4": normal(5, 12),
        "B4": normal(5),
    }
    return network(RESIDUAL, **{**weights, **changed})


def plain() -> onnx.ModelProto:
    """A chain of three layers and a linear head, without branches."""
    return network(
        """(float[N,3,8,8] image) => (float[N,5] scores) {
            a = Conv<pads=[1,1,1,1]>(image, W1, B1)  r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)
            c = Conv<strides=[2,2], pads=[1,1,1,1]>(s, W3)  t = Relu(c)
            p = GlobalAveragePool(t)  f = Flatten(p)  scores = Gemm<transB=1>(f, W4, B4)
        }""",
        W1=normal(12, 3, 3, 3),
        B1=normal(12),
        W2=normal(16, 12, 3, 3),
        W3=normal(16, 16, 3, 3),
        W4=normal(5, 16),
        B4=normal(5),
    )


def deep(side: int = 28) -> onnx.ModelProto:
    """Three convolutions of 64 channels at side x side, wide enough that decoupling them pays."""
    text = f"""(float[batch,64,{side},{side}] image) => (float[batch,10] scores) {{
        a = Conv<pads = [1,1,1,1]>(image, w1)  r = Relu(a)
        b = Conv<pads = [1,1,1,1]>(r, w2)  s = Relu(b)
        c = Conv<pads = [1,1,1,1]>(s, w3)  t = Relu(c)
        p = GlobalAveragePool(t)  f = Flatten(p)  scores = Gemm(f, w4)
    }}"""
    weights = {f"w{i}": normal(64, 64, 3, 3, seed=i) for i in (1, 2, 3)}
    return network(text, **weights, w4=normal(64, 10))


def run_options(passes: Sequence[Pass], budget: Budget, **flat: Any) -> Options:
    """Options from names without their groups; nothing is timed at the end unless `latency=True`."""
    return changed_options(Options(passes=passes, budget=budget), **{"latency": False, **flat})


def changed_options(options: Options, **flat: Any) -> Options:
    """The options with some of them changed, named without their groups."""
    groups = {field.name: getattr(options, field.name) for field in fields(options)}
    for name, group in groups.items():
        if is_dataclass(group) and not isinstance(group, type) and name not in flat:
            own = {field.name: flat.pop(field.name) for field in fields(group) if field.name in flat}
            groups[name] = replace(group, **own)
    return replace(options, **{**groups, **flat})
