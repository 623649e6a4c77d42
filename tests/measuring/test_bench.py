"""`ndpass bench` on real models. Times are only compared with each other, and only where they differ many times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from ndpass.errors import InputError, UsageError
from ndpass.graph.input_spec import InputSpec
from ndpass.measuring.bench import QUANTISED, bench, concrete
from ndpass.measuring.environment import cpu_features
from ndpass.measuring.fake_int8 import quantised
from ndpass.measuring.random_inputs import random_feed
from ndpass.measuring.turns import COMPILED

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
F32 = np.dtype("float32")


def conv_file(folder: Path, name: str, repeats: int = 1, batch: str = "N", size: str = "H, W") -> Path:
    """`repeats` 3×3 convolutions of 32 channels, one after the other."""
    nodes = " ".join(f"x{i + 1} = Conv<pads = [1, 1, 1, 1]>(x{i}, w)" for i in range(repeats))
    dims = f"{batch}, 32, {size}"
    proto = onnx.parser.parse_model(f"{HEADER} g (float[{dims}] x0) => (float[{dims}] x{repeats}) {{ {nodes} }}")
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3), dtype=np.float32) / 17
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, folder / name)
    return folder / name


def test_models_are_timed_beside_the_first_in_each_runtime(tmp_path: Path) -> None:
    """Of the times only the form is known: on a busy machine a small model may well wait longer."""
    light, heavy = conv_file(tmp_path, "light.onnx"), conv_file(tmp_path, "heavy.onnx", repeats=16)
    result = bench([light, heavy], precisions=("f32",), shape=(24, 24), rounds=8, seconds=0, threads=1)
    assert [(row.runtime, Path(row.model).name) for row in result.rows] == [
        (runtime, name) for runtime in ("openvino", "onnxruntime") for name in ("light.onnx", "heavy.onnx")
    ]
    for first, second in (result.rows[:2], result.rows[2:]):
        assert (first.speedup, first.verdict, first.rounds) == (1.0, None, 4 * COMPILED)  # an even number each
        assert len(first.times_ms) == len(second.times_ms) == first.rounds
        assert np.median(second.times_ms) == pytest.approx(second.median_ms)
        assert second.verdict in ("slower", "faster", "no significant difference")
        assert second.speedup_spread is not None
        assert second.speedup is not None
        assert second.speedup_spread[0] <= second.speedup <= second.speedup_spread[1]


def test_a_row_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    import openvino as ov

    path = conv_file(tmp_path, "model.onnx")
    ov.save_model(ov.Core().read_model(path), tmp_path / "model.xml")
    result = bench([tmp_path / "model.xml", path], shape=(8, 8), rounds=2, seconds=0, runtimes=["onnxruntime"])
    first, second = result.rows
    assert (first.skipped, first.median_ms, first.rounds) == ("onnxruntime reads ONNX only", None, 0)
    assert second.skipped is None
    assert (second.speedup, second.verdict) == (None, None)  # there is nothing to compare it with


def test_bf16_is_measured_where_there_is_bf16_and_skipped_with_a_reason_elsewhere(tmp_path: Path) -> None:
    path = conv_file(tmp_path, "model.onnx")
    result = bench([path], precisions=("bf16",), shape=(8, 8), rounds=2, seconds=0)
    openvino, onnxruntime = result.rows
    has = "BF16" in result.environment.capabilities
    assert openvino.skipped == (None if has else "this CPU has no bf16")
    assert (openvino.median_ms is not None) == has
    assert onnxruntime.skipped == "onnxruntime runs a model in its own types"


def test_in_int8_a_model_is_quantised_to_be_timed_unless_it_is_quantised_already(tmp_path: Path) -> None:
    import openvino as ov

    path = conv_file(tmp_path, "model.onnx")
    ov.save_model(quantised(ov.Core().read_model(path)), tmp_path / "int8.xml", compress_to_fp16=False)
    result = bench([path, tmp_path / "int8.xml"], precisions=("int8",), shape=(8, 8), rounds=8, seconds=0, threads=1)
    made, given, *onnxruntime = result.rows
    assert (made.note, given.note) == (QUANTISED, None)
    assert made.median_ms is not None
    assert given.median_ms is not None
    assert onnxruntime[0].skipped == "onnxruntime runs a model in its own types"
    assert onnxruntime[1].skipped == "onnxruntime reads ONNX only"


def test_what_was_measured_with_is_recorded_and_goes_into_json(tmp_path: Path) -> None:
    result = bench([conv_file(tmp_path, "m.onnx")], precisions=("f32",), shape=(8, 8), rounds=2, seconds=0, threads=1)
    environment = json.loads(json.dumps(result.to_dict()))["environment"]
    assert environment["threads"] == 1
    assert all(environment[key] for key in ("cpu", "capabilities", "affinity", "openvino", "onnxruntime", "python"))


def test_cpu_features_are_those_of_the_kernels_list(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_int8 avx512f\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_features(listing) == ("avx2", "avx512f", "amx_int8")
    assert cpu_features(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("axes", "batch", "shape", "expected"),
    [
        ((None, 3, 8, 8), 4, None, (4, 3, 8, 8)),
        ((None, 3, None, None), 2, (5, 6), (2, 3, 5, 6)),
        ((2, 3, None, 8), 2, (5, 6), (2, 3, 5, 8)),
        ((None, None, None, None), 1, (3, 5, 6), (1, 3, 5, 6)),
        ((None, None, None, 3), 2, (5, 6), (2, 5, 6, 3)),
        ((), 2, None, ()),
        ((None,), 2, (7,), (2,)),
    ],
)
def test_open_axes_are_filled(
    axes: tuple[int | None, ...], batch: int, shape: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert concrete("m.onnx", [InputSpec("x", axes, F32)], batch, shape) == {"x": expected}


def test_axes_that_stay_open_and_another_fixed_batch_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"m\.onnx: input 'x' \(1, 3, \?, \?\) leaves axes open: give --size 224x224"):
        concrete("m.onnx", [InputSpec("x", (None, 3, None, None), F32)], 1, None)
    with pytest.raises(UsageError, match="fixed at 8, 1 was asked for: give batch 8"):
        concrete("m.onnx", [InputSpec("x", (8, 3), F32)], 1, None)


@pytest.mark.parametrize("kind", ["float32", "float16", "int64", "bool"])
def test_random_inputs_are_the_seed_s_and_of_the_input_s_type(kind: str) -> None:
    specs = [InputSpec("x", (None, 50), np.dtype(kind))]
    first, again, other = (random_feed(specs, {"x": (4, 50)}, seed)["x"] for seed in (0, 0, 1))
    assert first.dtype == np.dtype(kind)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_wrong_options_and_broken_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(UsageError, match="one model or more"):
        bench([])
    with pytest.raises(UsageError, match="openvino, onnxruntime; got tvm"):
        bench([path], runtimes=["tvm"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="f32, bf16, int8; got int4"):
        bench([path], precisions=["int4"])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"broken\.onnx"):
        bench([path])
