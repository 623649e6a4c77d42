"""What torch computes of operators that only OpenVINO has, beside OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from models import normal, relative
from openvino import opset13 as ops
from openvino import opset14

torch = pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

from ndpass.refining import from_openvino  # noqa: E402 - torch may be missing
from ndpass.refining.layers import UnsupportedError  # noqa: E402
from ndpass.refining.network import Network  # noqa: E402
from ndpass.refining.rules import RULES  # noqa: E402

CLOSE = 1e-5  # relative error of rounding
FEED = {"x": normal(2, 4, 7, 9, seed=9)}
CONV = normal(5, 4, 3, 3)

Make = Callable[[Any], Any]  # the operator of a Parameter of FEED's shape


def whole(*numbers: int) -> Any:
    return ops.constant(np.array(numbers, np.int64))


def strided(x: Any, begin: list[int], end: list[int], strides: list[int], **masks: list[int]) -> Any:
    given = {"begin_mask": [0] * len(begin), "end_mask": [0] * len(begin), **masks}
    return ops.strided_slice(x, whole(*begin), whole(*end), whole(*strides), **given)


def mvn(x: Any, variance: bool, mode: str) -> Any:
    return ops.mvn(x, whole(2, 3), variance, 0.1, mode)


OWN: dict[str, Make] = {
    "swish": ops.swish,
    "swish with a slope": lambda x: ops.swish(x, ops.constant(np.float32(1.7))),
    "slopes of channels": lambda x: ops.prelu(x, ops.constant(normal(4))),
    "a strided slice": lambda x: strided(x, [0, 1, 2], [1, 3, 7], [1, 1, 2]),
    "open ends": lambda x: strided(x, [1, 1], [1, 2], [1, 1], begin_mask=[1, 0], end_mask=[0, 1]),
    "an axis less": lambda x: strided(x, [0, 2], [0, 3], [1, 1], end_mask=[1, 0], shrink_axis_mask=[0, 1]),
    "an axis more": lambda x: strided(x, [0, 0], [0, 2], [1, 1], end_mask=[1, 0], new_axis_mask=[1, 0]),
    "a broadcast": lambda x: ops.broadcast(x, whole(3, 2, 4, 7, 9)),
    "less the mean": lambda x: mvn(x, False, "INSIDE_SQRT"),
    "over the deviation": lambda x: mvn(x, True, "INSIDE_SQRT"),
    "over the deviation and a little": lambda x: mvn(x, True, "OUTSIDE_SQRT"),
    "a product of what is turned": lambda x: ops.matmul(x, ops.constant(normal(5, 7)), True, True),
    "truth and back": lambda x: ops.convert(ops.convert(x, "boolean"), "f32"),
    "whole numbers and back": lambda x: ops.convert(ops.convert(x, "i32"), "f32"),
    "a convolution of auto pads": lambda x: ops.convolution(
        x, ops.constant(CONV), [2, 2], [0, 0], [0, 0], [1, 1], "SAME_LOWER"
    ),
}
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "tf_half_pixel_for_nn", "align_corners")


def resized(nearest: str, coordinates: str) -> Make:
    """All of a row's scales from 0.3 to 3.5, one behind another."""

    def make(x: Any) -> Any:
        axes, scales = whole(3), [*np.arange(3, 36) / 10, 1 / 3, 2 / 3]
        parts = (
            ops.interpolate(
                x,
                ops.constant(np.array([scale], np.float32)),
                "nearest",
                "scales",
                coordinate_transformation_mode=coordinates,
                nearest_mode=nearest,
                axes=axes,
            )
            for scale in scales
        )
        return ops.concat(list(parts), 3)

    return make


OWN |= {f"nearest {n} {c}": resized(n, c) for n in NEAREST for c in COORDINATES}


def grown(mode: str, shape: list[int] | None, begins: int = 0, groups: int = 0) -> Make:
    """A transposed convolution of kernel (3, 4) and stride 2: (7, 9) becomes (15, 20), of which `shape` is left."""
    weight = ops.constant(normal(2, 2, 3, 3, 4) if groups else normal(4, 3, 3, 4))
    given = {"output_shape": whole(*shape)} if shape else {}
    pads = {"pads_begin": [begins] * 2, "pads_end": [0, 0], "auto_pad": mode}
    if groups:
        return lambda x: ops.group_convolution_backprop_data(x, weight, [2, 2], *given.values(), **pads)
    return lambda x: ops.convolution_backprop_data(x, weight, [2, 2], **given, **pads)


OWN |= {
    f"grown by {mode} to {shape}, {begins} cut off, {groups} groups": grown(mode, shape, begins, groups)
    for mode in ("explicit", "valid", "same_upper", "same_lower")
    for shape in (None, [14, 19], [13, 17], [16, 22])
    for begins in ((0, 1) if mode == "explicit" else (0,))
    for groups in (0, 2)
    if shape or not groups
}


def pooled(kind: str, rounding: str, kernel: list[int], stride: int, pads: list[int], counted: bool = False) -> Make:
    if kind == "max":
        return lambda x: opset14.max_pool(x, [stride] * 2, [1, 1], pads, pads, kernel, rounding).output(0)
    return lambda x: opset14.avg_pool(x, [stride] * 2, pads, pads, kernel, not counted, rounding)


OWN |= {
    f"{kind} pool, {rounding}, {kernel}, stride {stride}, pads {pads}": pooled(kind, rounding, kernel, stride, pads)
    for kind in ("max", "mean")
    for rounding in ("floor", "ceil", "ceil_torch")
    for kernel, stride, pads in (([2, 2], 2, [0, 0]), ([3, 3], 2, [1, 1]), ([2, 3], 3, [1, 1]))
    if kind == "max" or rounding != "ceil" or kernel != [2, 3]  # a mean of nothing is what OpenVINO makes of it
}
OWN |= {
    f"mean pool with its pads, {rounding}, {kernel}, stride {stride}, pads {pads}": pooled(
        "mean", rounding, kernel, stride, pads, counted=True
    )
    for rounding in ("floor", "ceil", "ceil_torch")
    for kernel, stride, pads in (([2, 2], 2, [0, 0]), ([3, 3], 2, [1, 1]), ([2, 3], 3, [1, 1]), ([3, 3], 3, [1, 0]))
}
OWN |= {
    f"a response of {size} channels": lambda x, size=size: ops.lrn(x, whole(1), 0.1, 0.75, 1.0, size) for size in (3, 4)
}
REFUSED: dict[str, tuple[Make, str]] = {
    "an ellipsis": (lambda x: strided(x, [0, 0], [0, 2], [1, 1], ellipsis_mask=[1, 0]), "an ellipsis or backwards"),
    "backwards": (lambda x: strided(x, [1], [0], [-1]), "an ellipsis or backwards"),
    "axes": (lambda x: ops.broadcast(x, whole(2, 4, 7, 9), whole(0, 1, 2, 3), "EXPLICIT"), "explicit axes"),
    "cubic": (
        lambda x: ops.interpolate(x, whole(14, 18), "cubic", "sizes", axes=whole(2, 3)),
        "Interpolate of mode cubic",
    ),
}


def model(make: Make) -> ov.Model:
    x = ops.parameter([2, 4, 7, 9], np.float32, "x")
    x.output(0).set_names({"x"})
    return ov.Model([make(x)], [x], "own")


def by_openvino(made: ov.Model) -> list[np.ndarray[Any, Any]]:
    return list(ov.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(FEED).values())


def by_torch(made: ov.Model) -> list[np.ndarray[Any, Any]]:
    program = from_openvino.read(made)
    assert not program.missing(RULES)
    with torch.no_grad():
        return [y.numpy() for y in Network(program, trained=False)(FEED).values()]


@pytest.mark.parametrize("name", OWN)
def test_torch_computes_what_openvino_does(name: str) -> None:
    made = model(OWN[name])
    wanted, found = by_openvino(made), by_torch(made)
    assert [y.shape for y in found] == [y.shape for y in wanted]
    assert relative(wanted, found) < CLOSE


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_would_compute_otherwise_is_refused(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(UnsupportedError, match=said):
        by_torch(model(make))
