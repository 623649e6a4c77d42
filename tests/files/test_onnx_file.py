"""Files: everything that can be wrong with one that is read, and nothing left behind by one that is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import EXACT, feed_of, network, normal, relative, run_ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

from ndpass.errors import InputError
from ndpass.files import onnx_file
from ndpass.files.staging import staged
from ndpass.files.weight_files import check_beside, stored_bytes

# a weight of 1728 bytes: what is smaller than 1 KiB stays in the model also when the others lie outside
TEXT = "(float[1,3,8,8] x) => (float[1,16,6,6] y) { y = Conv(x, W) }"


def model(weight: NDArray[np.floating] | None = None) -> onnx.ModelProto:
    return network(TEXT, W=normal(16, 3, 3, 3) if weight is None else weight)


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# load


def refused(path: Path) -> str:
    """The one line that says why `path` is not read; it begins with the path."""
    with pytest.raises(InputError) as refusal:
        onnx_file.load(path)
    text = str(refusal.value)
    assert path.name in text.split(":")[0]
    assert "\n" not in text
    assert refusal.value.exit_code == 3
    return text


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    onnx_file.save(model(), tmp_path / "m.onnx")
    assert onnx_file.load(tmp_path / "m.onnx") == model()


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "m.onnx").endswith("no such file")


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"no model at all", b"\xff" * 100],
    ids=["image", "text", "ones"],
)
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "not an ONNX model" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    whole = model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(whole[: int(share * len(whole))])
    assert "truncated" in refused(tmp_path / "m.onnx")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert "not a" in refused(tmp_path / "m.onnx")


def test_a_model_that_the_checker_refuses(tmp_path: Path) -> None:
    broken = model()
    broken.graph.node[0].input[0] = "nowhere"
    (tmp_path / "m.onnx").write_bytes(broken.SerializeToString())
    text = refused(tmp_path / "m.onnx")
    assert "not a valid ONNX model" in text
    assert "nowhere" in text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, dtype: type[np.floating], value: float) -> None:
    weight = normal(16, 3, 3, 3, dtype=dtype)
    weight[1, 2, 0, 0] = value
    broken = model(weight)
    kind = TensorProto.DataType.Value(
        {"float16": "FLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}[weight.dtype.name]
    )
    for info in (*broken.graph.input, *broken.graph.output):
        info.type.tensor_type.elem_type = kind
    (tmp_path / "m.onnx").write_bytes(broken.SerializeToString())
    assert "weights 'W' hold NaN or infinite values" in refused(tmp_path / "m.onnx")


def test_weights_in_a_constant_node_that_are_no_numbers(tmp_path: Path) -> None:
    weight = normal(16, 3, 3, 3)
    weight[0] = np.nan
    constant = onnx.helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(weight))
    broken = network(TEXT)
    broken.graph.node.insert(0, constant)
    (tmp_path / "m.onnx").write_bytes(broken.SerializeToString())
    assert "hold NaN or infinite values" in refused(tmp_path / "m.onnx")


def test_an_infinity_that_is_no_weight_is_fine(tmp_path: Path) -> None:
    """A mask of −inf and a lower bound of Clip are what they should be."""
    text = "(float[1,3,8,8] x) => (float[1,3,8,8] y) { c = Clip(x, low) y = Max(c, mask) }"
    infinite = network(text, low=np.array(-np.inf, np.float32), mask=np.full((1, 1, 8, 8), -np.inf, np.float32))
    (tmp_path / "m.onnx").write_bytes(infinite.SerializeToString())
    assert onnx_file.load(tmp_path / "m.onnx") == infinite


# external data


def with_data(folder: Path) -> Path:
    """A model of which the weight lies in m.onnx.data."""
    folder.mkdir(exist_ok=True)
    onnx_file.save(model(), folder / "m.onnx", as_external=True)
    return folder / "m.onnx"


def pointing_to(folder: Path, location: str) -> Path:
    """A model whose weight is said to lie at `location`."""
    pointing = model()
    weight = pointing.graph.initializer[0]
    size = len(weight.raw_data)
    set_external_data(weight, location, offset=0, length=size)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    (folder / "m.onnx").write_bytes(pointing.SerializeToString())
    return folder / "m.onnx"


def test_external_data_is_written_beside_and_read_back(tmp_path: Path) -> None:
    path = with_data(tmp_path)
    assert listing(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert onnx_file.data_files(onnx.load(path, load_external_data=False), path.parent)
    loaded = onnx_file.load(path)
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), normal(16, 3, 3, 3))
    assert relative(run_ort(model(), feed_of(model())), run_ort(loaded, feed_of(model()))) < EXACT
    assert stored_bytes(path) == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_small_weights_may_stay_inside(tmp_path: Path) -> None:
    many = network(
        "(float[1,3,8,8] x) => (float[1,16,6,6] y) { y = Conv(x, W, B) }", W=normal(16, 3, 3, 3), B=normal(16)
    )
    onnx_file.save(many, tmp_path / "m.onnx", as_external=True)
    loaded = onnx_file.load(tmp_path / "m.onnx")
    for tensor, array in zip(loaded.graph.initializer, (normal(16, 3, 3, 3), normal(16)), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)


def test_external_data_of_constant_nodes_is_read_too(tmp_path: Path) -> None:
    weight = normal(16, 3, 3, 3)
    constants = network(TEXT)
    constants.graph.node.insert(
        0, onnx.helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(weight, "W"))
    )
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0, "convert_attribute": True}
    onnx.save(constants, tmp_path / "m.onnx", **options)
    loaded = onnx_file.load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.node[0].attribute[0].t), weight)


def test_missing_external_data(tmp_path: Path) -> None:
    path = with_data(tmp_path)
    (tmp_path / "m.onnx.data").unlink()
    text = refused(path)
    assert "its external data cannot be used" in text
    assert "it must lie beside the model, inside its folder" in text


def test_truncated_external_data(tmp_path: Path) -> None:
    path = with_data(tmp_path)
    os.truncate(tmp_path / "m.onnx.data", 100)
    refused(path)


def test_nan_in_external_data(tmp_path: Path) -> None:
    onnx_file.save(model(np.full((16, 3, 3, 3), np.nan, np.float32)), tmp_path / "m.onnx", as_external=True)
    assert "weights 'W' hold NaN" in refused(tmp_path / "m.onnx")


def test_external_data_outside_the_folder_of_the_model(tmp_path: Path) -> None:
    """A model must not make its reader open any file that its writer names."""
    with_data(tmp_path / "other")
    (tmp_path / "here").mkdir()
    absolute = tmp_path / "other" / "m.onnx.data"
    for location in ("../other/m.onnx.data", str(absolute), "x/../../other/m.onnx.data"):
        assert "its external data cannot be used" in refused(pointing_to(tmp_path / "here", location))


def test_external_data_behind_a_link_out_of_the_folder(tmp_path: Path) -> None:
    with_data(tmp_path / "other")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "m.onnx.data").symlink_to(tmp_path / "other" / "m.onnx.data")
    assert "its external data cannot be used" in refused(pointing_to(tmp_path / "here", "m.onnx.data"))


def in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    """A model whose If reads the tensor in one of its branches."""
    inside = onnx.helper.make_node("Constant", [], ["z"], value=tensor)
    (out,) = network("(float[16,3,3,3] x) => (float[16,3,3,3] z) { z = Identity(x) }").graph.output
    branch = onnx.helper.make_graph([inside], "branch", [], [out])
    chosen = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    whole = network("(bool c) => (float[16,3,3,3] y) { y = Identity(c) }")
    whole.graph.node[0].CopyFrom(chosen)
    return whole


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    """A model that calls a function which holds the tensor."""
    whole = network("(float[16,3,3,3] x) => (float[16,3,3,3] y) { y = Identity(x) }")
    whole.graph.node[0].op_type, whole.graph.node[0].domain = "Shift", "own"
    inside = onnx.helper.make_node("Constant", [], ["z"], value=tensor)
    total = onnx.helper.make_node("Add", ["a", "z"], ["b"])
    opset = onnx.helper.make_opsetid("", 17)
    whole.functions.append(onnx.helper.make_function("own", "Shift", ["a"], ["b"], [inside, total], [opset]))
    whole.opset_import.append(onnx.helper.make_opsetid("own", 1))
    return whole


@pytest.mark.parametrize("place", [in_a_branch, in_a_function], ids=lambda f: f.__name__)
def test_external_data_of_inner_graphs_outside_the_folder(
    place: Callable[[TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "secret.bin").write_bytes(normal(16, 3, 3, 3).tobytes())
    tensor = numpy_helper.from_array(normal(16, 3, 3, 3), "W")
    set_external_data(tensor, "../secret.bin", offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    path = tmp_path / "here" / "m.onnx"
    path.write_bytes(place(tensor).SerializeToString())
    assert "its external data cannot be used" in refused(path)
    with pytest.raises(InputError, match=r"m\.onnx: its external data cannot be used: .*leads out of its folder"):
        onnx_file.check_external_data(path)


def test_a_model_that_is_a_link_may_have_its_data_where_it_lies(tmp_path: Path) -> None:
    """Download caches keep files elsewhere and link to them."""
    path = with_data(tmp_path / "blobs")
    (tmp_path / "m.onnx").symlink_to(path)
    (tmp_path / "m.onnx.data").symlink_to(tmp_path / "blobs" / "m.onnx.data")
    check_beside(tmp_path / "m.onnx", tmp_path / "m.onnx.data")
    (tmp_path / "other.data").write_bytes(b"")
    with pytest.raises(InputError, match="leads out of its folder"):
        check_beside(path, tmp_path / "other.data")


# OpenVINO IR


def test_ir_keeps_the_type_of_the_weights_and_takes_no_onnx_along(tmp_path: Path) -> None:
    import openvino as ov

    target = tmp_path / "m.xml"
    with staged(target) as stage:
        onnx_file.save(model(), stage.onnx)
        stage.finish()
        stage.commit()
    assert listing(tmp_path) == ["m.bin", "m.xml"]
    read = ov.Core().read_model(target)
    constants = [
        op.data for op in read.get_ops() if op.get_type_name() == "Constant" and op.data.shape == (16, 3, 3, 3)
    ]
    np.testing.assert_array_equal(constants, [normal(16, 3, 3, 3)])
    assert stored_bytes(target) == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_ir_whose_weights_are_a_link_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    import openvino as ov

    from ndpass.files.ir_file import read_ir

    onnx_file.save(model(), tmp_path / "m.onnx")
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "m.xml"
    ov.save_model(ov.Core().read_model(tmp_path / "m.onnx"), path, compress_to_fp16=False)
    path.with_suffix(".bin").rename(tmp_path / "secret.bin")
    path.with_suffix(".bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputError, match=r"m\.xml: its external data cannot be used: .*m\.bin leads out"):
        read_ir(path)
