"""What is trained and what is compared, of ONNX and of OpenVINO models alike; weights go back where they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import feed_of, relative, residual, run_ort
from onnx import numpy_helper

from ndpass.graph.openvino.graph import OvGraph
from ndpass.refining import from_onnx, from_openvino


def test_weights_are_those_of_layers() -> None:
    assert from_onnx.read(residual()).weights() == ["W1", "B1", "W2", "B2", "W3", "W4", "B4"]


def test_responses_stand_with_what_is_added_directly() -> None:
    """The branch of the residual block is a response, too: passes put their own sum in its place."""
    assert from_onnx.read(residual()).responses() == ["a", "b", "s", "c", "scores"]


def test_both_roads_name_the_same_responses() -> None:
    import openvino as ov

    model = OvGraph(ov.Core().read_model(residual().SerializeToString())).to_model()
    program = from_openvino.read(model)
    assert program.responses() == ["a", "b", "s", "c", "scores"]
    assert sorted(program.constants[name].size for name in program.weights()) == sorted(
        numpy_helper.to_array(t).size for t in residual().graph.initializer
    )


def test_weights_of_onnx_go_back_and_all_else_stays() -> None:
    model = residual()
    doubled = {name: 2 * value for name, value in from_onnx.read(model).constants.items() if name == "W3"}
    found = from_onnx.write(model, doubled)
    arrays = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, found)]
    assert all(np.array_equal(arrays[1][n], (2 if n == "W3" else 1) * v) for n, v in arrays[0].items())
    assert found.graph.node == model.graph.node
    onnx.checker.check_model(found)


@pytest.mark.parametrize("half", [False, True])
def test_weights_of_openvino_go_back(half: bool, tmp_path: object) -> None:
    import openvino as ov

    source, feed = residual(), feed_of(residual(), N=3)
    model = ov.Core().read_model(source.SerializeToString())
    if half:
        ov.save_model(model, f"{tmp_path}/half.xml", compress_to_fp16=True)
        model = ov.Core().read_model(f"{tmp_path}/half.xml", config={"ENABLE_MMAP": False})
    model = OvGraph(model).to_model()
    program = from_openvino.read(model)
    before = len(model.get_ops())
    halved = {name: program.constants[name] / 2 for name in program.weights()}
    from_openvino.write(model, halved)
    assert len(model.get_ops()) == before
    for tensor in source.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 2, tensor.name))
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative(run_ort(source, feed), [compiled(feed)[0]]) < (1e-3 if half else 1e-5)
