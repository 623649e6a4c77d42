"""What torch computes of each operator, beside onnxruntime; of OpenVINO's, beside OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models import network, normal, relative, run_ort, run_ov

torch = pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

from ndpass.graph.openvino.fold import fold  # noqa: E402 - torch may be missing
from ndpass.refining import from_onnx, from_openvino  # noqa: E402 - torch may be missing
from ndpass.refining.layers import UnsupportedError  # noqa: E402
from ndpass.refining.network import Network  # noqa: E402
from ndpass.refining.program import Program  # noqa: E402
from ndpass.refining.rules import RULES  # noqa: E402

CLOSE = 1e-5  # relative error of rounding
ONE = [  # operator on x (2, 4, 7, 9), attributes and other inputs as ONNX text
    "Relu(x)",
    "LeakyRelu<alpha=0.2>(x)",
    "PRelu(x, S)",
    "Clip(x, Low, High)",
    "Sigmoid(x)",
    "HardSigmoid<alpha=0.3>(x)",
    "HardSwish(x)",
    "Tanh(x)",
    "Elu<alpha=0.7>(x)",
    "Softmax<axis=1>(x)",
    "LogSoftmax<axis=-1>(x)",
    "Add(x, B)",
    "Sub(x, B)",
    "Mul(B, x)",
    "Div(x, High)",
    "Exp(x)",
    "Abs(x)",
    "Neg(x)",
    "Identity(x)",
    "Dropout(x)",
    "BatchNormalization<epsilon=0.01>(x, G, S1, M, V)",
    "InstanceNormalization(x, G, S1)",
    "LRN<size=3, alpha=0.1, bias=2.0>(x)",
    "MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,0,1]>(x)",
    "MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
    'MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x)',
    "MaxPool<kernel_shape=[2,2], strides=[3,2], pads=[1,1,1,1], ceil_mode=1>(x)",
    "AveragePool<kernel_shape=[3,3], strides=[3,3], pads=[1,1,1,1], ceil_mode=1>(x)",
    "AveragePool<kernel_shape=[2,3], strides=[2,2], pads=[1,1,0,1], ceil_mode=1, count_include_pad=1>(x)",
    "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)",
    "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,0,1], count_include_pad=1>(x)",
    "AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
    "GlobalAveragePool(x)",
    "GlobalMaxPool(x)",
    "ReduceMean<axes=[2,3], keepdims=0>(x)",
    "ReduceL2<axes=[1]>(x)",
    "Pad(x, Pads, High)",
    'Pad<mode="reflect">(x, Pads)',
    'Pad<mode="edge">(x, Pads)',
    "Concat<axis=1>(x, x)",
    "Slice(x, Starts, Ends, Axes, Steps)",
    "Flatten<axis=2>(x)",
    "Reshape(x, Sizes)",
    "Transpose<perm=[0,2,3,1]>(x)",
    "Gather<axis=1>(x, Index)",
    "Conv<pads=[1,0,0,1], strides=[2,1], dilations=[1,2]>(x, W, Bias)",
    'Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, W)',
    "Conv<group=4, pads=[1,1,1,1]>(x, D)",
    "ConvTranspose<strides=[2,2], pads=[1,0,0,1], output_padding=[1,1]>(x, W3, Bias)",
    'ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, W4)',
    "ConvTranspose<group=2, strides=[2,3], output_shape=[14,28]>(x, W2)",
    "ConvTranspose<strides=[2,2], output_shape=[14,17]>(x, W5)",
    'Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , Scales)',
    'Resize<mode="nearest">(x, , , Sides)',
    'Resize<mode="linear">(x, , Scales)',
    'Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , Sides)',
    'Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , , Sides)',
    'Resize<mode="nearest", nearest_mode="ceil", coordinate_transformation_mode="asymmetric">(x, , Scales)',
    'Resize<mode="nearest", nearest_mode="round_prefer_ceil">(x, , , Sides)',
    'Resize<mode="nearest">(x, , Odd)',
    'Resize<mode="nearest", nearest_mode="floor">(x, , Fewer)',
    'Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , Odd)',
    'Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , Fewer)',
    'Resize<mode="nearest", coordinate_transformation_mode="align_corners", nearest_mode="floor">(x, , , Sides)',
    "Expand(x, Wide)",
    "Softplus(x)",
    "Erf(x)",
    "Floor(x)",
    "Ceil(x)",
    "Min(x, B, Low)",
    "Max(x, B)",
    "Sum(x, B, x)",
    "ReduceMean(x)",
    "ReduceSum<keepdims=0>(x, Axes)",
    "ReduceSum<noop_with_empty_axes=1>(x)",
    "ReduceMax<axes=[1]>(x)",
    "ReduceMin<axes=[-1, 2], keepdims=0>(x)",
    "ReduceProd<axes=[1, 3]>(x)",
    "Tile(x, Steps4)",
    "MatMul(x, W9)",
    "LayerNormalization<axis=-1>(x, S9, B9)",
    "LayerNormalization<axis=2>(x, S9)",
    "LayerNormalization<axis=2>(x, S9, B9)",
    'Conv<auto_pad="VALID">(x, W)',
]
CONSTANTS = {
    "S": normal(4, 1, 1),
    "Low": np.float32(-0.5),
    "High": np.float32(0.7),
    "B": normal(4, 1, 1, seed=1),
    "G": normal(4, seed=2),
    "S1": normal(4, seed=3),
    "M": normal(4, seed=4),
    "V": np.abs(normal(4, seed=5)) + 0.1,
    "Pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]),
    "Starts": np.array([1, 5]),
    "Ends": np.array([3, -100]),
    "Axes": np.array([1, 3]),
    "Steps": np.array([1, -2]),
    "Sizes": np.array([0, -1, 9]),
    "Index": np.array([2, -1]),
    "W": normal(4, 4, 3, 2),
    "W2": normal(4, 3, 3, 3),
    "W3": normal(4, 4, 3, 2, seed=7),  # not W: OpenVINO 2026.4 computes a transposed convolution wrongly that shares
    "W4": normal(4, 4, 3, 2, seed=8),  # its weight with one that is not
    "D": normal(8, 1, 3, 3),
    "Bias": normal(4, seed=6),
    "Scales": np.array([1, 1, 2, 1.5], np.float32),
    "W5": normal(4, 4, 3, 2, seed=12),
    "Odd": np.array([1, 1, 1.3, 2.7], np.float32),
    "Fewer": np.array([1, 1, 0.5, 0.6], np.float32),
    "Sides": np.array([2, 4, 10, 5]),
    "Wide": np.array([2, 1, 1, 1]),
    "Steps4": np.array([1, 2, 1, 3]),
    "W9": normal(9, 5),
    "S9": normal(9, seed=10),
    "B9": normal(9, seed=11),
}
OTHERS = {  # several operators, or those that need inputs of other kinds
    "matrices": "f = Flatten(x)  m = MatMul(f, Wm)  y = Gemm<transB=1, alpha=0.5, beta=2.0>(m, Wg, Bg)",
    "halves": "a, b = Split<axis=1>(x, Two)  s = Sqrt(Abs2)  c = Mul(a, s)  y = Sub(c, b)",
    "shapes": """z = Shape(x)  n = Gather<axis=0>(z, Zero)  u = Unsqueeze(n, ZeroAxis)  t = Concat<axis=0>(u, Rest)
        r = Reshape(x, t)  q = Squeeze(r, Last)  y = Identity(q)""",
    "powers": "p = Pow(x, Even)  k = Constant<value_float=0.5>()  y = Add(p, k)",
    "blocks": "p = Slice(x, Begin, Even6, Sides2)  y = DepthToSpace<blocksize=2>(p)",
    "other blocks": """p = Slice(x, Begin, Even6, Sides2)  s = SpaceToDepth<blocksize=2>(p)
        y = DepthToSpace<blocksize=2, mode="CRD">(s)""",
    "equal parts": "a, b = Split<axis=1>(x)  y = Add(a, b)",
    "filled": "z = Shape(x)  c = ConstantOfShape<value = float[1] {1.5}>(z)  y = Mul(x, c)",
    "signs": """m = Less(x, Nought)  n = Not(m)  o = Where(n, x, Nought)  e = Exp(o)  r = Reciprocal(e)
        y = Log(r)""",
    "choices": "m = Greater(x, Nought)  c = Cast<to=1>(m)  o = Where(m, x, Nought)  y = Add(o, c)",
}
MORE = {
    "Wm": normal(252, 6),
    "Wg": normal(5, 6),
    "Bg": normal(5),
    "Two": np.array([2, 2]),
    "Abs2": np.abs(normal(2, 1, 1)),
    "Zero": np.array(0),
    "ZeroAxis": np.array([0]),
    "Rest": np.array([252, 1]),
    "Last": np.array([2]),
    "Even": np.float32(2),
    "Begin": np.array([0, 1]),
    "Even6": np.array([6, 7]),
    "Sides2": np.array([2, 3]),
    "Nought": np.float32(0),
}


def of(text: str, constants: dict[str, Any]) -> onnx.ModelProto:
    used = {name: np.asarray(value) for name, value in constants.items() if name in _words(text)}
    return network(f"(float[2,4,7,9] x) => (y) {{ {text} }}", **used)


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in text).split())


def computed(program: Program, feed: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    assert not program.missing(RULES)
    with torch.no_grad():
        return [y.numpy() for y in Network(program, trained=False)(feed).values()]


Pair = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # of the runtime, of torch


def together(lines: list[str]) -> onnx.ModelProto:
    """One model that gives y0, y1, ... for these operators: a runtime is started once for all of them."""
    text = "  ".join(f"y{i} = {line}" for i, line in enumerate(lines))
    outputs = ", ".join(f"y{i}" for i in range(len(lines)))
    used = {name: np.asarray(value) for name, value in CONSTANTS.items() if name in _words(text)}
    return network(f"(float[2,4,7,9] x) => ({outputs}) {{ {text} }}", **used)


FEED = {"x": normal(2, 4, 7, 9, seed=9)}
UNFIT = (  # OpenVINO leaves nothing of the first, refuses the others
    "Dropout(x)",
    "LayerNormalization<axis=2>(x, S9)",
    "LayerNormalization<axis=2>(x, S9, B9)",
)
OPENVINOS = [line for line in ONE if line not in UNFIT]


@pytest.fixture(scope="module")
def beside_onnxruntime() -> dict[str, Pair]:
    model = together(ONE)
    return dict(zip(ONE, zip(run_ort(model, FEED), computed(from_onnx.read(model), FEED), strict=True), strict=True))


@pytest.fixture(scope="module")
def beside_openvino() -> dict[str, Pair]:
    model = together(OPENVINOS)
    pairs = zip(run_ov(model, FEED), computed(of_openvino(model), FEED), strict=True)
    return dict(zip(OPENVINOS, pairs, strict=True))


def of_openvino(model: onnx.ModelProto) -> Program:
    """The program of what OpenVINO's front end makes of the model, in operators of its own."""
    import openvino as ov

    found = ov.Core().read_model(model.SerializeToString())
    fold(found)
    return from_openvino.read(found)


def assert_alike(wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> None:
    assert found.shape == wanted.shape
    assert relative([wanted], [found]) < CLOSE


@pytest.mark.parametrize("line", ONE)
def test_torch_computes_what_onnxruntime_does(line: str, beside_onnxruntime: dict[str, Pair]) -> None:
    assert_alike(*beside_onnxruntime[line])


@pytest.mark.parametrize("line", OPENVINOS)
def test_torch_computes_what_openvino_makes_of_it(line: str, beside_openvino: dict[str, Pair]) -> None:
    assert_alike(*beside_openvino[line])


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_operators_one_behind_the_other(text: str) -> None:
    model = of(text, {**CONSTANTS, **MORE})
    (wanted,) = run_ort(model, FEED)
    for program in (from_onnx.read(model), of_openvino(model)):
        assert_alike(wanted, *computed(program, FEED))


def test_what_is_not_known_is_named() -> None:
    program = from_onnx.read(of("a = Asin(x)  y = Relu(a)", {}))
    assert [op for op, _ in program.missing(RULES)] == ["Asin"]


def test_an_attribute_that_is_not_known_is_named() -> None:
    program = from_onnx.read(of('y = Resize<mode="cubic">(x, , Scales)', CONSTANTS))
    with pytest.raises(UnsupportedError, match="resize of mode cubic"):
        computed(program, {"x": normal(2, 4, 7, 9)})


REFUSED = [  # operator, opset, what is said of it
    ("BatchNormalization<training_mode=1>(x, G, S1, M, V)", 17, "BatchNormalization in training mode"),
    ("AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x)", 19, "AveragePool with dilations"),
    ('Pad<mode="wrap">(x, Pads)', 19, "padding of mode wrap"),
    ('Resize<mode="linear", antialias=1>(x, , Scales)', 18, "a resize of mode linear with antialias"),
    ('Resize<keep_aspect_ratio_policy="not_larger">(x, , , Sides)', 18, "a resize that keeps the ratio of sides"),
    ('Resize<coordinate_transformation_mode="half_pixel_symmetric">(x, , Scales)', 19, "half_pixel_symmetric"),
]


@pytest.mark.parametrize(("line", "opset", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_torch_would_compute_otherwise_is_refused(line: str, opset: int, said: str) -> None:
    model = of(f"y = {line}", CONSTANTS)
    model.opset_import[0].version = opset
    with pytest.raises(UnsupportedError, match=said):
        computed(from_onnx.read(model), FEED)


NEWER = [("Gelu(x)", 20), ('Gelu<approximate="tanh">(x)', 20), ("Mish(x)", 18), ("Pad(x, Two, High, Axes)", 18)]


@pytest.mark.parametrize(("line", "opset"), NEWER)
def test_operators_of_newer_opsets(line: str, opset: int) -> None:
    model = of(f"y = {line}", {**CONSTANTS, "Two": np.array([1, 2, 0, 1])})
    model.opset_import[0].version = opset
    (wanted,) = run_ort(model, FEED)
    for program in (from_onnx.read(model), of_openvino(model)):
        assert_alike(wanted, *computed(program, FEED))


@pytest.mark.parametrize("scales", ["Scales", "Odd", "Fewer"])
@pytest.mark.parametrize(("line", "opset"), [("Resize(x, {})", 10), ("Upsample(x, {})", 9)])
def test_a_resize_that_knows_no_coordinates(line: str, opset: int, scales: str) -> None:
    """Of what shrinks it takes the element above, of what grows the one below."""
    if opset == 9 and scales == "Fewer":
        pytest.skip("Upsample only grows")
    model = of(f"y = {line.format(scales)}", CONSTANTS)
    model.opset_import[0].version, model.ir_version = opset, 4
    assert_alike(*run_ort(model, FEED), *computed(from_onnx.read(model), FEED))


def test_an_old_softmax_flattens() -> None:
    model = of("y = Softmax<axis=2>(x)", {})
    model.opset_import[0].version = 11
    feed = {"x": normal(2, 4, 7, 9)}
    assert relative(run_ort(model, feed), computed(from_onnx.read(model), feed)) < CLOSE
