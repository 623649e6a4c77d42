"""What is offered after a command can be pasted and run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from conftest import Command
from reports import report

from ndpass.report import Latency, Variant
from ndpass.run.next_steps import Given, after_run, command

NET, OUT, DATA = Path("my net.onnx"), Path("out.onnx"), Path("images")


def offered(given: Given, **changes: object) -> list[list[str]]:
    return [shlex.split(step.command) for step in after_run(report(**changes), given)]


def test_a_path_with_a_blank_is_one_word() -> None:
    assert command("bench", NET, None, "", OUT) == "ndpass bench 'my net.onnx' out.onnx"


def test_without_data_the_first_step_is_to_give_some() -> None:
    first, *others = offered(Given(NET, OUT), metric=None)
    assert first[:5] == ["ndpass", "run", "my net.onnx", "--calibration", "IMAGES"]
    assert others == [["ndpass", "bench", "my net.onnx", "out.onnx"]]


def test_with_data_int8_is_next_with_the_same_preprocessing() -> None:
    steps = offered(Given(NET, OUT, DATA, preprocess="imagenet,size=320"))
    assert steps[0] == [
        *shlex.split(command("run", NET, "--calibration", DATA)),
        "--preprocess",
        "imagenet,size=320",
        "--int8",
        "--max-drop",
        "1",
    ]
    assert steps[1][:5] == ["ndpass", "evaluate", "out.onnx", "--data", "images"]


def test_a_slower_result_is_answered_by_a_budget_in_time() -> None:
    slow = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True)
    assert offered(Given(NET, OUT, DATA), latency_ms=slow)[0][-2:] == ["--max-drop", "1"]
    quantised = Variant(name="result", precision="int8", metric=90.0, latency_ms=1.0, speedup=3.0, spread=(2.9, 3.1))
    assert all("--int8" not in step for step in offered(Given(NET, OUT, DATA), variants=[quantised]))


@pytest.mark.usefixtures("folder")
def test_what_a_run_and_an_inspection_offer_runs(net: Path, ndpass: Command) -> None:
    shown = ndpass("run", net, "--passes", "nd:rank=2", "-o", "out.onnx", "--no-latency")
    assert shown.code == 0, shown.err
    *_, bench = [line.strip() for line in shown.out.splitlines() if line.startswith("  ndpass ")]
    assert bench == "ndpass bench net.onnx out.onnx"
    done = ndpass(*shlex.split(bench)[1:], "--seconds", "0.1", "--precision", "f32", "--runtime", "openvino")
    assert done.code == 0, done.err
    offered = ndpass("inspect", net).out.splitlines()
    assert "  ndpass run net.onnx" in offered
