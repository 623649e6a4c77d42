"""IR has the same bytes whatever the process did before: OpenVINO numbers all that a process has ever made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from conftest import small_network
from openvino import opset13

from ndpass.files.ir_file import name_alike, write_file, write_ir


def busy() -> None:
    """Numbers of one digit more than before, so that the order of names changes, too."""
    for _ in range(2_000):
        opset13.constant(1.0)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "net.onnx")
    written = []
    for name in ("first", "second"):
        write_file(tmp_path / "net.onnx", tmp_path / f"{name}.xml", compress=False)
        written.append([(tmp_path / name).with_suffix(end).read_bytes() for end in (".xml", ".bin")])
        busy()
    assert written[0] == written[1]


def branching() -> ov.Model:
    """y = x + 1 or x + 0, one of them inside an If; x is (2,). Inputs and outputs have names, nothing else has."""
    busy()
    x, choice = opset13.parameter([2], np.float32, name="x"), opset13.parameter([], np.bool_, name="choice")
    bodies = [added(1.0), added(0.0)]
    either = opset13.if_op(choice)
    either.set_then_body(bodies[0])
    either.set_else_body(bodies[1])
    either.set_input(x.output(0), bodies[0].get_parameters()[0], bodies[1].get_parameters()[0])
    either.set_output(bodies[0].get_results()[0], bodies[1].get_results()[0])
    either.output(0).set_names({"y"})
    return ov.Model([opset13.result(either.output(0))], [x, choice], "branching")


def added(value: float) -> ov.Model:
    inner = opset13.parameter([2], np.float32)
    inner.output(0).set_names({"inner"})
    total = opset13.add(inner, opset13.constant(value, np.float32))
    total.output(0).set_names({"total"})
    return ov.Model([opset13.result(total)], [inner])


def test_bodies_are_named_alike_too(tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        write_ir(branching(), tmp_path / "m.xml", compress=False)
        written.append((tmp_path / "m.xml").read_bytes())
    assert written[0] == written[1]


def test_names_of_the_user_s_stay_and_are_given_to_nothing_else() -> None:
    x = opset13.parameter([2], np.float32, name="x")
    mine = opset13.relu(x)
    mine.set_friendly_name("Relu_0")
    model = ov.Model([opset13.result(opset13.relu(mine))], [x])
    name_alike(model)
    assert [op.get_friendly_name() for op in model.get_ordered_ops()] == ["x", "Relu_0", "Relu_1", "Result_0"]
