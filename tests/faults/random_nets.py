"""Small convolution nets drawn at random: every operator that real networks join convolutions with, in any order.

A net is a stream of a few channels on maps of 5 to 9 pixels (one to three axes), changed by `STEPS` one after the
other, with a head or without. Hypothesis shrinks a failing net to the fewest and simplest steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

BATCH = 2

Draw = Callable[[Any], Any]


@dataclass(frozen=True)
class Net:
    """A model with one input x, its channels and spatial sizes; half: whether it computes in float16."""

    model: onnx.ModelProto
    in_shape: tuple[int, ...]
    half: bool
    steps: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Net({' '.join(self.steps)})\n{onnx.printer.to_text(self.model)}"

    def feed(self, samples: int = BATCH, seed: int = 0) -> NDArray[Any]:
        """Seeded normal numbers (samples, channels, *hw)."""
        x = np.random.default_rng(seed).standard_normal((samples, *self.in_shape))
        return x.astype(np.float16 if self.half else np.float32)


@dataclass
class Draft:
    """A net being built. x: the stream's tensor, (batch, c, *hw)."""

    draw: Draw
    opset: int
    half: bool
    c: int
    hw: tuple[int, ...]
    rng: np.random.Generator
    x: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    @property
    def axes(self) -> int:
        return len(self.hw)

    def among(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def node(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """Another node; the name of its output."""
        number = len(self.nodes)
        names = [f"t{number}", *(f"t{number}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, f"{op.lower()}{number}", **attrs))
        return names[0]

    def weight(self, *shape: int, positive: bool = False, around: float = 0.0) -> str:
        """Another initializer, scaled to keep the stream's scale."""
        scale = (2 / max(np.prod(shape[1:]), 1)) ** 0.5 if len(shape) > 1 else 0.5
        value = self.rng.standard_normal(shape) * scale + around
        return self.constant(np.abs(value) + 0.5 if positive else value)

    def constant(self, value: Any, exact: bool = False) -> str:
        """exact: keep the type, else that of the net."""
        name = f"w{len(self.weights)}"
        array = np.asarray(value)
        self.weights[name] = array if exact else array.astype(np.float16 if self.half else np.float32)
        return name

    def conv(self, x: str, c: int, hw: tuple[int, ...], to: int, group: int = 1, same: bool = False) -> str:
        """A convolution of any geometry, or with `same` one that keeps the size. Sets `self.hw`."""
        kernel = tuple(self.among(3, 1, 2, 5) for _ in hw)
        dilations = tuple(1 if k == 1 else self.among(1, 1, 2) for k in kernel)
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        automatic = all(d == 1 for d in dilations) and self.among(False, False, True)
        strides = tuple(1 if same else self.among(1, 1, 2) for _ in hw)
        attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "group": group}
        if automatic:
            attrs["auto_pad"] = self.among("SAME_UPPER", "SAME_LOWER")
            out = tuple(-(-size // s) for size, s in zip(hw, strides, strict=True))
        else:
            begins = [r // 2 if same else self.among(*range(r // 2, r + 1)) for r in reach]
            ends = [r - b if same else self.among(*range(r // 2, r + 1)) for r, b in zip(reach, begins, strict=True)]
            attrs["pads"] = (*begins, *ends)
            out = tuple(
                (size + b + e - r - 1) // s + 1
                for size, b, e, r, s in zip(hw, begins, ends, reach, strides, strict=True)
            )
        shape = (to, c // group, *kernel)
        known = [n for n, w in self.weights.items() if w.shape == shape]
        weight = known[0] if known and self.among(False, True) else self.weight(*shape)
        inputs = [x, weight, *([self.weight(to)] if self.among(True, False) else [])]
        self.hw = out
        return self.node("Conv", *inputs, **attrs)

    def activation(self, x: str) -> str:
        kind = self.among("Relu", "none", "LeakyRelu", "Sigmoid", "Clip", "PRelu", "Swish")
        if kind == "none":
            return x
        if kind == "Clip":
            return self.node("Clip", x, self.constant(-1.0), self.constant(2.0))
        if kind == "PRelu":
            return self.node("PRelu", x, self.constant(np.full((1, *(1,) * self.axes), 0.2)))
        if kind == "Swish":
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node(kind, x)


def convolution(d: Draft) -> None:
    to = d.among(4, 6, 3, 8)
    d.x, d.c = d.activation(d.conv(d.x, d.c, d.hw, to)), to


def grouped(d: Draft) -> None:
    groups = [g for g in (2, 3) if d.c % g == 0] or [1]
    g = d.among(*groups)
    to = g * d.among(2, 1, 3)
    d.x, d.c = d.conv(d.x, d.c, d.hw, to, g), to


def depthwise(d: Draft) -> None:
    times = d.among(1, 1, 2)
    d.x = d.activation(d.conv(d.x, d.c, d.hw, times * d.c, d.c))
    d.c *= times


def residual(d: Draft) -> None:
    """A branch of one to three layers added to the stream, from either side."""
    begin, hw = d.x, d.hw
    y = begin
    for _ in range(d.among(2, 1, 3)):
        y = d.conv(y, d.c, hw, d.c, same=True)
        y = d.activation(y)
    ends = (begin, y) if d.among(True, False) else (y, begin)
    d.x = d.activation(d.node("Add", *ends))


def concatenation(d: Draft) -> None:
    """The stream beside itself, or beside a layer of it."""
    begin, hw, c = d.x, d.hw, d.c
    if d.among(False, True):
        d.x, d.c = d.node("Concat", begin, begin, axis=1), 2 * c
        return
    other = d.conv(begin, c, hw, c, same=True)
    parts = [begin, d.activation(other)]
    d.x, d.c = d.node("Concat", *(parts if d.among(True, False) else parts[::-1]), axis=1), 2 * c


def normalisation(d: Draft) -> None:
    c = d.c
    d.x = d.node(
        "BatchNormalization",
        d.x, d.weight(c, around=1.0), d.weight(c), d.weight(c), d.weight(c, positive=True),
    )  # fmt: skip


def squeeze_excite(d: Draft) -> None:
    inner, ones = d.among(2, 3), (1,) * d.axes
    pooled = d.node("GlobalAveragePool", d.x)
    small = d.node("Relu", d.node("Conv", pooled, d.weight(inner, d.c, *ones), d.weight(inner)))
    gate = d.node("Sigmoid", d.node("Conv", small, d.weight(d.c, inner, *ones), d.weight(d.c)))
    d.x = d.node("Mul", *((d.x, gate) if d.among(True, False) else (gate, d.x)))


def pad(d: Draft) -> None:
    mode = d.among("constant", "reflect", "edge")
    begins, ends = [d.among(1, 0, 2) for _ in d.hw], [d.among(1, 0) for _ in d.hw]
    amounts = d.constant(np.array([0, 0, *begins, 0, 0, *ends], np.int64), exact=True)
    d.x = d.node("Pad", d.x, amounts, mode=mode)
    d.hw = tuple(size + b + e for size, b, e in zip(d.hw, begins, ends, strict=True))


def resize(d: Draft) -> None:
    if max(d.hw) > 12:
        return
    scales = d.constant(np.array([1, 1, *(2.0 for _ in d.hw)], np.float32), exact=True)
    how = d.among("asymmetric", "half_pixel")
    roi = d.constant(np.zeros(0, np.float32), exact=True) if d.opset < 13 else ""
    d.x = d.node("Resize", d.x, roi, scales, mode="nearest", coordinate_transformation_mode=how, nearest_mode="floor")
    d.hw = tuple(2 * size for size in d.hw)


def resize_back(d: Draft) -> None:
    """A pool, and a Resize to the size that the stream had, read off it when the model runs."""
    if min(d.hw) < 2 or d.opset < 13:  # before that onnx, which MACs are counted by, does not follow such sizes
        return
    numbers = [d.constant(np.array([n], np.int64), exact=True) for n in (0, 2, 2 + d.axes)]
    small = d.node("MaxPool", d.x, kernel_shape=(2,) * d.axes, strides=(2,) * d.axes)
    parts = [d.node("Slice", d.node("Shape", t), *numbers[i : i + 2]) for i, t in enumerate((small, d.x))]
    d.x = d.node("Resize", small, "", "", d.node("Concat", *parts, axis=0), mode="nearest", nearest_mode="floor")


def halves(d: Draft) -> None:
    """A part of the stream as it is beside a layer of the rest, as in a C2f block."""
    if d.c < 2:
        return
    sizes = [k := d.among(*range(1, d.c)), d.c - k]
    given = [d.constant(np.array(sizes, np.int64), exact=True)] if d.opset >= 13 else []
    first = d.node("Split", d.x, *given, outputs=2, axis=1, **({} if given else {"split": sizes}))
    rest = f"{first}_1"
    other = d.activation(d.conv(rest, d.c - k, d.hw, d.c - k, same=True))
    parts = [first, other, *([rest] if d.among(True, False) else [])]
    d.x, d.c = d.node("Concat", *parts, axis=1), k + (len(parts) - 1) * (d.c - k)


def transposed(d: Draft) -> None:
    if max(d.hw) > 12:
        return
    to, group = d.among(4, 3, 2), 1
    if d.among(False, False, True) and d.c % 2 == 0:
        group = 2
    k, s = d.among(2, 3, 4), d.among(2, 1, 3)
    attrs: dict[str, Any] = {"strides": (s,) * d.axes, "group": group}
    if d.among(True, False):  # just `s` times the size
        begin = d.among(*range(max(k - s, 0) // 2, max(k - s, 0) + 1))
        attrs["pads"] = (begin,) * d.axes + (max(k - s - begin, 0),) * d.axes
        attrs["output_padding"] = (begin + max(k - s - begin, 0) - k + s,) * d.axes
        d.hw = tuple(size * s for size in d.hw)
    else:
        d.hw = tuple((size - 1) * s + k for size in d.hw)
    shape = (d.c, to, *(k for _ in range(d.axes)))
    inputs = [d.x, d.weight(*shape), *([d.weight(to * group)] if d.among(True, False) else [])]
    d.x, d.c = d.node("ConvTranspose", *inputs, **attrs), to * group


def pooling(d: Draft) -> None:
    if min(d.hw) < 2:
        return
    kind = d.among("MaxPool", "AveragePool")
    d.x = d.node(kind, d.x, kernel_shape=(2,) * d.axes, strides=(2,) * d.axes)
    d.hw = tuple(size // 2 for size in d.hw)


def split(d: Draft) -> None:
    """The stream as an output of its own."""
    if d.x != "x" and d.x not in d.outputs:
        d.outputs.append(d.x)


STEPS: Sequence[Callable[[Draft], None]] = (
    convolution, residual, normalisation, concatenation, depthwise, grouped, squeeze_excite, pad, pooling, resize,
    transposed, split, halves, resize_back,
)  # fmt: skip


def head(d: Draft) -> None:
    """A linear head behind global pooling, by Gemm or by MatMul and Add; or none."""
    kind = d.among("none", "gemm", "matmul")
    if kind == "none":
        return
    flat = d.node("Flatten", d.node("GlobalAveragePool", d.x))
    if kind == "gemm":
        d.x = d.node("Gemm", flat, d.weight(5, d.c), d.weight(5), transB=1)
    else:
        d.x = d.node("Add", d.node("MatMul", flat, d.weight(d.c, 5)), d.weight(5))
    d.hw, d.c = (), 5


@cache
def opsets() -> tuple[int, ...]:
    """From 11 to the newest that onnx knows and onnxruntime loads."""
    return tuple(version for version in range(11, onnx.defs.onnx_opset_version() + 1) if _is_loaded(version))


def _is_loaded(opset: int) -> bool:
    import onnxruntime as ort

    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", kinds[:1], kinds[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        ort.InferenceSession(model.SerializeToString())
    except Exception:  # onnxruntime's own classes
        return False
    return True


@st.composite
def nets(draw: Draw, half: bool | None = None) -> Net:
    """A net of two to six steps, at least one of them a convolution."""
    axes = draw(st.sampled_from((2, 2, 2, 1, 3)))
    opset = draw(st.sampled_from(opsets()))
    is_half = draw(st.sampled_from((False, False, False, True))) if half is None else half
    sizes = st.sampled_from((6, 7, 5) if axes == 3 else (8, 7, 9))
    in_shape = (draw(st.sampled_from((3, 4, 1))), *(draw(sizes) for _ in range(axes)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    d = Draft(draw, opset, is_half, in_shape[0], in_shape[1:], rng)
    steps = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5))
    for step in (convolution, *steps):
        if min(d.hw) >= 3 and d.c <= 16:
            step(d)
            d.steps.append(step.__name__)
    head(d)
    open_axes = draw(st.sampled_from(("none", "batch", "all")))
    return Net(_model(d, in_shape, open_axes), in_shape, is_half, tuple(d.steps))


def _model(d: Draft, in_shape: tuple[int, ...], open_axes: str) -> onnx.ModelProto:
    kind = TensorProto.FLOAT16 if d.half else TensorProto.FLOAT
    batch: int | str = BATCH if open_axes == "none" else "N"
    spatial: Sequence[int | str] = "HWD"[: len(in_shape) - 1] if open_axes == "all" else in_shape[1:]
    outputs = [*dict.fromkeys([*d.outputs, d.x])]
    graph = helper.make_graph(
        d.nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [batch, in_shape[0], *spatial])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in d.weights.items()],
    )
    ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", min(d.opset, 23))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", d.opset)], ir_version=max(ir_version, 6))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)
