"""Both runtimes behind one face: names, types, batches that do not fit, precision, and one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from models import SHARED

from ndpass.errors import InputError, UsageError, last_words
from ndpass.graph.input_spec import filled
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO, Session

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
RELU = "g (float[N, 2, 3, 3] x) => (float[N, 2, 3, 3] y) { y = Relu(x) }"
FIXED = "g (float[4, 2, 3, 3] x) => (float[4, 2, 3, 3] y) { y = Relu(x) }"
RUNTIMES = [OpenVINO, OnnxRuntime]
both = pytest.mark.parametrize("runtime", RUNTIMES)
Runtime = Callable[[Path | bytes], Session]


def model(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(f"{HEADER} {text}").SerializeToString())


def samples(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@both
def test_the_face_describes_inputs_and_outputs(runtime: Runtime) -> None:
    session = runtime(
        model("g (float[N, 2, H, 3] x, int64[1] k) => (float[N, 2, H, 3] y, int64[1] j) { y = Relu(x) j = Neg(k) }")
    )
    specs = [(s.name, s.shape, s.dtype) for s in session.inputs]
    assert specs == [("x", (None, 2, None, 3), np.dtype("float32")), ("k", (1,), np.dtype("int64"))]
    assert session.outputs == ("y", "j")


@both
def test_outputs_equal_numpy(runtime: Runtime) -> None:
    x = samples(5, 2, 3, 3)
    np.testing.assert_array_equal(runtime(model(RELU))({"x": x})["y"], np.maximum(x, 0))


@both
@pytest.mark.parametrize("body", ["y = Relu(x) z = Identity(y)", "y = Relu(x) a = Identity(y) z = Dropout(a)"])
def test_an_output_keeps_its_onnx_name_though_the_runtime_merges_tensors(runtime: Runtime, body: str) -> None:
    session = runtime(model(f"g (float[N, 2, 3, 3] x) => (float[N, 2, 3, 3] z) {{ {body} }}"))
    assert list(session({"x": samples(1, 2, 3, 3)})) == ["z"]


@both
def test_two_names_of_one_tensor_are_two_outputs(runtime: Runtime) -> None:
    text = "g (float[N, 2] x) => (float[N, 2] z, float[N, 2] a) { z = Relu(x) a = Identity(z) }"
    out = runtime(model(text))({"x": samples(3, 2)})
    assert list(out) == ["z", "a"]
    np.testing.assert_array_equal(out["z"], out["a"])


@both
def test_outputs_of_one_call_survive_the_next(runtime: Runtime) -> None:
    session, x = runtime(model(RELU)), samples(1, 2, 3, 3)
    first = session({"x": x})["y"]
    session({"x": np.zeros_like(x)})
    np.testing.assert_array_equal(first, np.maximum(x, 0))


@both
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_a_static_batch_takes_any_number_of_samples(runtime: Runtime, count: int) -> None:
    x = samples(count, 2, 3, 3)
    np.testing.assert_array_equal(runtime(model(FIXED))({"x": x})["y"], np.maximum(x, 0))


@both
def test_an_output_with_several_rows_a_sample_is_cut_in_step(runtime: Runtime) -> None:
    text = "g (float[2, 3, 4] x) => (float[6, 4] y) <int64[2] s = {6, 4}> { y = Reshape(x, s) }"
    x = samples(5, 3, 4)
    np.testing.assert_array_equal(runtime(model(text))({"x": x})["y"], x.reshape(15, 4))


@both
def test_only_inputs_with_the_batch_axis_are_split(runtime: Runtime) -> None:
    text = "g (float[1] scale, float[1, 3] x) => (float[1, 3] y) { y = Mul(x, scale) }"
    x, scale = samples(5, 3), np.array([2], np.float32)
    np.testing.assert_array_equal(runtime(model(text))({"x": x, "scale": scale})["y"], 2 * x)


@both
def test_an_output_without_a_batch_axis_cannot_be_joined(runtime: Runtime) -> None:
    text = "g (float[2, 3] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }"
    session = runtime(model(text))
    assert session({"x": np.ones((2, 3), np.float32)})["y"] == 6
    with pytest.raises(InputError, match="fixed at 2 and output 'y'"):
        session({"x": samples(3, 3)})


@both
@pytest.mark.parametrize(("batch", "count"), [(4, 6), (4, 3), (4, 8), (8, 20)])
def test_samples_of_a_fixed_batch_are_joined_along_their_own_axis(runtime: Runtime, batch: int, count: int) -> None:
    """Time-first outputs were joined along time, with the rows that fill up the batch among them."""
    text = (
        f"g (float[{batch},2,8] x) => (float[8,{batch},2] y, float[{2 * batch},8] v, float[{2 * batch},8] f)"
        f" <int64[2] s = {{{2 * batch}, 8}}> {{ y = Transpose<perm=[2,0,1]>(x) t = Transpose<perm=[1,0,2]>(x)"
        " v = Reshape(t, s) f = Reshape(x, s) }"
    )
    x = samples(count, 2, 8)
    found = runtime(model(text))({"x": x})
    np.testing.assert_array_equal(found["y"], x.transpose(2, 0, 1))
    np.testing.assert_array_equal(found["v"], x.transpose(1, 0, 2).reshape(-1, 8))
    np.testing.assert_array_equal(found["f"], x.reshape(-1, 8))


@both
def test_a_batch_of_one_gives_a_number_a_sample(runtime: Runtime) -> None:
    """It was refused with the advice to use a batch of 1."""
    text = "g (float[1, 3] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }"
    x = samples(4, 3)
    np.testing.assert_allclose(runtime(model(text))({"x": x})["y"], x.sum(1), rtol=1e-5)


@both
def test_an_output_that_is_the_same_for_all_samples_is_given_once(runtime: Runtime) -> None:
    constant = "k = Constant<value = float[3, 1] {1, 2, 3}>()"
    text = f"g (float[2, 3] x) => (float[2, 3] y, float[3, 1] k) {{ y = Relu(x) {constant} }}"
    found = runtime(model(text))({"x": samples(5, 3)})
    assert found["y"].shape == (5, 3)
    assert found["k"].tolist() == [[1], [2], [3]]


@both
def test_a_name_may_look_like_one_that_openvino_gives(runtime: Runtime) -> None:
    x, y = "x/sink_port_0", "y/sink_port_0"
    session = runtime(model(f'g (float[N, 3] "{x}") => (float[N, 3] "{y}") {{ "{y}" = Relu("{x}") }}'))
    assert ([spec.name for spec in session.inputs], session.outputs) == ([x], (y,))


@both
def test_one_sample_at_a_time_may_give_any_number_of_rows(runtime: Runtime) -> None:
    text = "g (float[1, 6] x) => (int64[n, 2] y) { z = NonZero(x) y = Transpose(z) }"
    x = np.array([[0, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 2]], np.float32)
    y = runtime(model(text))({"x": x})["y"]
    np.testing.assert_array_equal(y[:, 1], [1, 0, 1, 3, 5])


ADD = "g (float[N, 2] x, float t) => (float[N, 2] y) { y = Mul(x, t) }"


@both
def test_samples_with_values_of_their_own_are_run_apart(runtime: Runtime) -> None:
    x, t = samples(5, 2), np.array([1, 1, 2, 2, 1], np.float32)
    np.testing.assert_array_equal(runtime(model(ADD))({"x": x, "t": t})["y"], x * t[:, None])


@both
def test_outputs_of_samples_that_are_run_apart_are_joined_along_their_axis(runtime: Runtime) -> None:
    """A single number ended in a ValueError, time-first outputs were joined along time."""
    text = "g (float[N, 2, 3] x, float t) => (float[3, N, 2] y, float u) { z = Mul(x, t) y = Transpose<perm=[2,0,1]>(z)"
    x, t = samples(5, 2, 3), np.array([1, 1, 2, 2, 1], np.float32)
    found = runtime(model(f"{text} u = Neg(t) }}"))({"x": x, "t": t})
    np.testing.assert_array_equal(found["y"], (x * t[:, None, None]).transpose(2, 0, 1))
    np.testing.assert_array_equal(found["u"], -t)


@both
def test_samples_of_a_model_without_a_batch_axis_are_stacked(runtime: Runtime) -> None:
    x = samples(3, 2, 4)
    session = runtime(
        model("g (float[2, 4] x) => (float[2, 4] y, float s) { y = Relu(x) s = ReduceSum<keepdims=0>(x) }")
    )
    found = session({"x": x})
    np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
    np.testing.assert_allclose(found["s"], x.sum((1, 2)), rtol=1e-5)


def test_more_samples_than_the_model_takes_at_once_are_split() -> None:
    bounded = ov.Core().read_model(model(RELU))
    bounded.reshape("[1..4,2,3,3]")
    x = samples(9, 2, 3, 3)
    np.testing.assert_array_equal(OpenVINO(bounded)({"x": x})["y"], np.maximum(x, 0))


def test_onnxruntime_s_axes_of_minus_one_are_open() -> None:
    proto = onnx.load_from_string(model(RELU))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert OnnxRuntime(proto.SerializeToString()).inputs[0].shape == (None, 2, 3, 3)


@both
def test_no_samples_are_refused(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="at least one sample"):
        runtime(model(FIXED))({"x": samples(0, 2, 3, 3)})


@both
def test_float64_becomes_what_the_model_takes_but_floats_never_become_integers(runtime: Runtime) -> None:
    assert runtime(model(RELU))({"x": np.ones((1, 2, 3, 3))})["y"].dtype == np.float32
    with pytest.raises(InputError, match="input 'k' takes int64, the data is float32"):
        runtime(model("g (int64[N] k) => (int64[N] j) { j = Neg(k) }"))({"k": np.ones(2, np.float32)})


@both
def test_wrong_names_and_wrong_shapes_are_refused_in_one_line(runtime: Runtime) -> None:
    session = runtime(model(RELU))
    with pytest.raises(InputError, match=r"takes inputs \['x'\], the data gives \['image'\]"):
        session({"image": samples(1, 2, 3, 3)})
    with pytest.raises(InputError, match="cannot run it") as error:
        session({"x": samples(1, 5, 3, 3)})
    assert "5" in one_line(error)
    assert error.value.__cause__ is not None


@both
def test_an_unreadable_file_is_named_in_one_line(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(InputError, match=r"broken\.onnx: no such file"):
        runtime(path)
    path.write_bytes(model(RELU)[:-9])
    with pytest.raises(InputError, match=r"broken\.onnx: .*cannot load it: .+") as error:
        runtime(path)
    one_line(error)
    assert error.value.__cause__ is not None


@both
def test_an_operator_that_no_runtime_has_is_named(runtime: Runtime) -> None:
    with pytest.raises(InputError, match=r"the model in memory: .*Frobnicate") as error:
        runtime(model("g (float[N] x) => (float[N] y) { y = Frobnicate(x) }"))
    one_line(error)


@both
@pytest.mark.parametrize("external", [False, True])
def test_weights_are_found_inside_and_beside_the_file(runtime: Runtime, external: bool, tmp_path: Path) -> None:
    weight = samples(300, 4)
    proto = onnx.parser.parse_model(f"{HEADER} g (float[N, 300] x) => (float[N, 4] y) {{ y = MatMul(x, w) }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=external, location="model.data")
    assert (tmp_path / "model.data").exists() == external
    x = samples(2, 300)
    np.testing.assert_allclose(runtime(path)({"x": x})["y"], x @ weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lean", [True, False])
def test_onnxruntime_computes_the_same_lean_or_not(lean: bool) -> None:
    x = samples(2, 2, 3, 3)
    np.testing.assert_array_equal(OnnxRuntime(model(RELU), lean=lean)({"x": x})["y"], np.maximum(x, 0))


def test_an_ir_is_read_by_openvino_and_refused_by_onnxruntime(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    ov.save_model(ov.Core().read_model(model(RELU)), path)
    x = samples(2, 2, 3, 3)
    np.testing.assert_array_equal(OpenVINO(path)({"x": x})["y"], np.maximum(x, 0))
    with pytest.raises(InputError, match=r"model\.xml: onnxruntime reads ONNX"):
        OnnxRuntime(path)


def test_an_openvino_model_is_taken_and_left_as_it_was() -> None:
    original = ov.Core().read_model(model(RELU))
    session = OpenVINO(original, shapes=lambda specs: {spec.name: (2, 2, 3, 3) for spec in specs})
    assert session.inputs[0].shape == (2, 2, 3, 3)
    assert original.input(0).get_partial_shape().is_dynamic


def test_openvino_is_pinned_to_f32_and_to_the_threads_asked_for() -> None:
    compiled = OpenVINO(model(RELU), threads=1).compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_bf16_is_what_is_asked_for_or_an_error() -> None:
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        compiled = OpenVINO(model(RELU), precision="bf16").compiled
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.bf16
    else:
        with pytest.raises(UsageError, match="bf16"):
            OpenVINO(model(RELU), precision="bf16")


@both
def test_prepared_runs_on_the_feed_it_was_given(runtime: Runtime) -> None:
    session = runtime(model(RELU))
    run = session.prepared({"x": samples(2, 2, 3, 3)})
    assert run() is not None
    with pytest.raises(InputError, match="takes inputs"):
        session.prepared({})


def test_filled_repeats_the_last_sample() -> None:
    np.testing.assert_array_equal(filled(np.array([[1], [2]]), 4), [[1], [2], [2], [2]])


def test_last_words_leaves_out_where_a_check_stands() -> None:
    assert last_words("Exception from core.cpp:84:\nCheck 'a' failed:\nno such port\n\n") == "no such port"
    assert last_words("\n") == "no reason given"


def test_last_words_of_several_operators_are_the_cause_that_the_first_had() -> None:
    log = """Exception from src/inference/src/cpp/core.cpp:84:
        Model wasn't fully converted. Failed operations detailed log:
        -- Conv-15 with a message:
        While validating ONNX node '<Node(Conv): y>': Check 'rank().is_static()' failed at src/conv.cpp:38:
        FrontEnd API failed with GeneralFailure:
        The input data tensor's rank has to be known (static)

        -- ReduceMean-15 with a message:
        While validating ONNX node '<Node(ReduceMean): z>':
        Unsupported input type dynamic

        Summary:
        -- Conversion is failed for: Conv-15, ReduceMean-15"""
    assert last_words(log) == "Conv-15: The input data tensor's rank has to be known (static)"
    assert last_words("Summary:\n-- No conversion rule found for operations: A.B") == (
        "-- No conversion rule found for operations: A.B"
    )


def test_the_runtimes_agree_on_a_trained_model() -> None:
    path = SHARED / "models/resnet20_cifar10.onnx"
    if not path.exists():
        pytest.skip("../shared with the trained models is not beside this checkout")
    feed = {"image": samples(3, 3, 32, 32)}
    np.testing.assert_allclose(OpenVINO(path)(feed)["logits"], OnnxRuntime(path)(feed)["logits"], rtol=1e-3, atol=1e-3)
