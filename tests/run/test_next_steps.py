"""What is offered after a command can be pasted and run."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import Command
from models import network, normal
from reports import report

from ndpass.cli import app as cli
from ndpass.graph.graph import Graph
from ndpass.report import Latency, Layer, MetricChange, Variant
from ndpass.run.inspection import inspect
from ndpass.run.next_steps import Given, after_inspect, after_refine, after_run, command, words_of

PASSES, EVALUATED = ["--passes", "cd,nd"], ["--data", "images"]
NET, OUT, DATA = Path("my net.onnx"), Path("out.onnx"), Path("images")


def offered(given: Given, **changes: object) -> list[list[str]]:
    return [shlex.split(step.command) for step in after_run(report(**changes), given)]


def test_a_path_with_a_blank_is_one_word() -> None:
    assert command("bench", NET, None, "", OUT) == "ndpass bench 'my net.onnx' out.onnx"


def test_without_data_the_first_step_is_to_give_some() -> None:
    first, *others = offered(Given(NET, OUT), metric=None)
    assert first[:5] == ["ndpass", "run", "my net.onnx", "--calibration", "DATA"]
    assert others == [["ndpass", "bench", "my net.onnx", "out.onnx"]]


def test_with_data_int8_is_next_with_the_same_preprocessing() -> None:
    steps = offered(Given(NET, OUT, DATA, preprocess="imagenet,size=320"))
    assert steps[0] == [
        *shlex.split(command("run", NET, "--calibration", DATA)),
        "--preprocess",
        "imagenet,size=320",
        "--passes",
        "cd,nd",
        "--int8",
        "--max-drop",
        "1",
    ]
    assert steps[1][:5] == ["ndpass", "evaluate", "out.onnx", "--data", "images"]


def test_size_samples_and_target_stay_in_the_next_steps() -> None:
    """Else `bench` stands still at an open size, and the next run is timed on another target."""
    given = Given(NET, OUT, DATA, size="64x48", samples=60, threads=1, precision="f32")
    int8, _, bench = offered(given)
    assert bench[4:] == ["--size", "64x48", "--precision", "f32", "--threads", "1"]
    assert int8[3:] == [
        *("--calibration", "images", "--samples", "60", "--size", "64x48", "--threads", "1"),
        *("--passes", "cd,nd", "--int8", "--max-drop", "1"),
    ]
    fit, _ = offered(given._replace(calibration=None), metric=None)
    assert fit[3:] == [
        *("--calibration", "DATA", "--size", "64x48", "--precision", "f32", "--threads", "1"),
        *("--passes", "cd,nd"),
    ]


def test_data_are_drawn_alike_after_every_command() -> None:
    """Another seed or number of samples is other data, so figures would not be of "the same data"."""
    drawn = ["--samples", "50", "--seed", "3", "--threads", "2"]
    given = Given(NET, OUT, DATA, preprocess="imagenet", seed=3, threads=2, samples=50)
    check, bench = (shlex.split(step.command) for step in after_refine(given))
    assert check[2:] == ["out.onnx", *EVALUATED, "--preprocess", "imagenet", *drawn, "--against", "my net.onnx"]
    assert bench[2:] == ["my net.onnx", "out.onnx", "--threads", "2"]
    held, _ = (shlex.split(step.command) for step in after_refine(given._replace(validation=Path("held"))))
    assert held[3:5] == ["--data", "held"]


@pytest.mark.usefixtures("net")
def test_data_are_drawn_alike_after_slopes(ndpass: Command) -> None:
    np.savez("data.npz", images=np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32))
    drawn = ("--samples", "20", "--seed", "3", "--threads", "1")
    done = ndpass("sensitivity", "net.onnx", "--calibration", "data.npz", *drawn)
    steps = [shlex.split(line) for line in done.out.splitlines() if line.strip().startswith("ndpass ")]
    assert [step[1] for step in steps] == ["run", "sensitivity"]
    assert all(step[2:11] == ["net.onnx", "--calibration", "data.npz", *drawn] for step in steps)


def test_the_size_stays_after_inspect() -> None:
    text = "(float[1,64,H,W] x) => (float[1,64,p,q] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
    model = network(text, W=normal(64, 64, 3, 3))
    graph = Graph(model)
    graph.assume(graph.sizes_at((32, 48)))
    steps = after_inspect(list(inspect(graph)), NET, "32x48")
    assert [shlex.split(step.command)[3:] for step in steps] == [
        ["--size", "32x48"],
        ["--calibration", "DATA", "--size", "32x48"],
    ]


def test_all_other_options_stay_in_the_next_run() -> None:
    """A device, layers to leave alone, a metric: without them it is another run."""
    kept = words_of({"--device": "GPU.0", "--ignore": ["a", "re:b.*"], "--anyway": True, "--jobs": None, "--x": False})
    assert kept == ("--device", "GPU.0", "--ignore", "a", "--ignore", "re:b.*", "--anyway")
    given = Given(NET, OUT, DATA, seed=3, threads=2, batch=4, samples=50, kept=kept)
    words = ["--threads", "2", "--batch", "4", "--seed", "3", *kept]
    int8, check, bench = offered(given)
    assert int8[3:] == ["--calibration", "images", "--samples", "50", *words, *PASSES, "--int8", "--max-drop", "1"]
    assert check[3:] == [*EVALUATED, "--samples", "50", "--seed", "3", "--threads", "2", "--against", "my net.onnx"]
    assert bench[4:] == ["--threads", "2", "--batch", "4"]
    slow = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True)
    assert offered(given, latency_ms=slow)[0][7 : 7 + len(words)] == words
    fit, _ = offered(given._replace(calibration=None), metric=None)
    assert fit[5 : 5 + len(words)] == words


def test_passes_that_can_do_more_are_offered_where_the_default_does_little() -> None:
    conv = Layer(name="a", status="done", macs=(40, 30))
    others = Layer(name="b", status="skipped", macs=(60, 60))
    first, *_ = offered(Given(NET, OUT), metric=None, passes=["nd"], layers=[conv, others])
    assert first[5:] == ["--passes", "auto"]
    first, *_ = offered(
        Given(NET, OUT), metric=None, passes=["nd"], layers=[others.model_copy(update={"macs": (40, 40)}), conv]
    )
    assert first[5:] == []


def test_options_as_typed_are_in_the_commands_that_are_offered(net: Path, ndpass: Command) -> None:
    typed = [
        "--passes",
        "nd:rank=2",
        "--ignore",
        "scores",
        "--seed",
        "2",
        "--device",
        "CPU",
        "--jobs",
        "1",
        "--batch",
        "2",
    ]
    shown = ndpass("run", net, *typed, "-o", "out.onnx", "--no-latency")
    assert shown.code == 0, shown.err
    (line,) = [line for line in shown.out.splitlines() if "--calibration DATA" in line]
    assert "--batch 2 --seed 2 --ignore scores --jobs 1" in line
    assert "--device" not in line  # the default


def test_the_budget_that_was_given_stays_in_the_next_step() -> None:
    steps = offered(Given(NET, OUT, DATA), budget={"max_error": 0.05})
    assert steps[0][-3:] == ["--int8", "--max-error", "0.05"]


def test_a_slower_result_is_answered_by_a_budget_in_time() -> None:
    slow = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True)
    assert offered(Given(NET, OUT, DATA), latency_ms=slow)[0][-2:] == ["--max-drop", "1"]
    quantised = Variant(name="result", precision="int8", metric=90.0, latency_ms=1.0, speedup=3.0, spread=(2.9, 3.1))
    assert all("--int8" not in step for step in offered(Given(NET, OUT, DATA), variants=[quantised]))


def test_of_pictures_no_drop_is_offered_because_the_run_finds_one_that_can_be_kept() -> None:
    """Nor where nothing is known of the metric: a point is refused where the outputs are pictures."""
    pictures = MetricChange(name="psnr", before=100.0, after=31.0, samples=9)
    slow = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True)
    for changes in ({"latency_ms": slow}, {"budget": {"macs": 0.5}}):
        assert "--max-drop" not in offered(Given(NET, OUT, DATA), metric=pictures, **changes)[0]
    assert offered(Given(NET, OUT, DATA), metric=pictures, budget={"max_drop": 53.0})[0][-2:] == ["--max-drop", "53"]
    assert "--max-drop" not in offered(Given(NET, OUT), metric=None)[0]


def test_what_is_offered_is_understood(net: Path, ndpass: Command) -> None:
    """Each command is parsed as the command line parses it; paths that are no examples have to be there."""
    shown = ndpass("run", net, "--passes", "nd:rank=2", "-o", "out.onnx", "--no-latency")
    assert shown.code == 0, shown.err
    lines = [line.strip() for text in (shown.out, ndpass("inspect", net).out) for line in text.splitlines()]
    offered = [shlex.split(line) for line in lines if line.startswith("ndpass ")]
    assert ["ndpass", "bench", "net.onnx", "out.onnx"] in offered
    assert ["ndpass", "run", "net.onnx"] in offered
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined] # it is a group
    for _, name, *words in offered:
        with commands[name].make_context(name, words) as context:
            paths = [value for value in context.params.values() if isinstance(value, Path)]
        assert all(path.exists() or path == Path("DATA") for path in paths)
