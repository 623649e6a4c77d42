"""The command as users and their scripts meet it: streams, exit codes, report.json, signals, and the digits model."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import COMMAND, Command
from models import network, normal

from ndpass.report import Report
from ndpass.run import digits

INTERRUPTED = 130

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in


def accuracy(model: Path) -> float:
    """Per cent of the validation digits that onnxruntime classifies as labelled."""
    images, labels = digits.images()[1]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    return 100 * float((logits.argmax(axis=1) == labels).mean())


# --------------------------------------------------------------------------------------------------- the main job


def test_without_arguments_the_digits_model_is_rewritten(folder: Path, ndpass_process: Command) -> None:
    done = ndpass_process("run")
    assert done.code == 0, done.err
    assert "accuracy" in done.out
    assert "written: digits.ndpass.onnx" in done.out
    onnx.checker.check_model("digits.ndpass.onnx", full_check=True)
    assert [p.name for p in folder.iterdir()] == ["digits.ndpass.onnx"]


RAN: dict[str, bytes] = {}  # what `ran` has left, by name


@pytest.fixture
def ran(ndpass: Command, folder: Path) -> dict[str, Any]:
    """r.json of a run of the digits model, which is done once; out.onnx lies beside it."""
    if not RAN:
        assert ndpass("run", "-q", "--passes", "nd:rank=2", "-o", "out.onnx", "--json", "r.json").code == 0
        RAN.update({path.name: path.read_bytes() for path in folder.iterdir()})
    for name, content in RAN.items():
        (folder / name).write_bytes(content)
    report: dict[str, Any] = json.loads(RAN["r.json"])
    return report


def test_metric_is_what_onnxruntime_finds(ran: dict[str, Any]) -> None:
    metric = ran["metric"]
    assert (metric["name"], metric["samples"]) == ("accuracy", 797)
    tie = 100 / 797  # two logits may be so close that the runtimes round them differently
    assert metric["before"] == pytest.approx(accuracy(digits.model_path()), abs=tie)
    assert metric["after"] == pytest.approx(accuracy(Path("out.onnx")), abs=tie)


def test_evaluate_gives_the_accuracy(ndpass: Command) -> None:
    images, labels = digits.images()[1]
    np.savez("data.npz", images=images, labels=labels)
    done = ndpass("evaluate", digits.model_path(), "--data", "data.npz")
    assert (done.code, done.err) == (0, "")
    assert f"accuracy   {accuracy(digits.model_path()):.2f} %" in done.out


# -------------------------------------------------------------------------------------------------------- streams


def test_a_pipe_gets_plain_text(net: Path, ndpass_process: Command) -> None:
    """The report on stdout, progress on stderr, no escape codes and no bars in either."""
    done = ndpass_process("run", net, "--passes", "nd:rank=2", "-o", "out.onnx")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    assert "MACs:" in done.out
    assert done.err.splitlines() == [
        f"ndpass: {stage}"
        for stage in ("reading", "planning", "rewriting", "writing", "verifying", "timing the result")
    ]


def test_a_terminal_gets_a_table(net: Path, folder: Path) -> None:
    leader, follower = pty.openpty()
    command = [*COMMAND, "run", str(net), "--passes", "nd:rank=2", "-o", "out.onnx"]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(command, cwd=folder, stdout=follower, stderr=subprocess.PIPE, env=env) as process:
        os.close(follower)
        seen = read_terminal(leader)
        assert process.wait() == 0
    assert "\x1b[1m" in seen
    assert "\x1b[32m" in seen  # a layer that was rewritten
    table, _, rest = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).replace("\r", "").partition("written: out.onnx\n")
    assert max(map(len, table.splitlines())) <= 80
    assert rest.startswith("\nnext:\n")
    assert "  ndpass bench net.onnx out.onnx\n" in rest


def read_terminal(leader: int) -> str:
    """All that is written to a terminal until its last writer goes, which Linux reports as an error."""
    parts = []
    try:
        while part := os.read(leader, 4096):
            parts.append(part)
    except OSError:
        pass
    os.close(leader)
    return b"".join(parts).decode()


def test_quiet_is_silent(net: Path, folder: Path, ndpass_process: Command) -> None:
    done = ndpass_process("run", net, "-q", "--passes", "nd:rank=2", "-o", "out.onnx")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (folder / "out.onnx").exists()


def test_output_is_named_after_the_model(net: Path, folder: Path, ndpass: Command) -> None:
    assert ndpass("run", net, "-q", "--passes", "nd:rank=2").code == 0
    assert sorted(p.name for p in folder.iterdir()) == ["net.ndpass.onnx", "net.onnx"]


def test_inspect_bench_and_passes_print_to_stdout(net: Path, ndpass: Command) -> None:
    for args, word in (
        (("inspect", net), "blueprint"),
        (("passes",), "network decoupling"),
        (("bench", net, net, "--seconds", "0.1", "--precision", "f32"), "times as fast"),
    ):
        done = ndpass(*args)
        assert (done.code, done.err) == (0, "")
        assert word in done.out


# ---------------------------------------------------------------------------------------------------- report.json

PROMISED = {
    "": {
        "ndpass",
        "passes",
        "budget",
        "target",
        "model",
        "metric",
        "latency_ms",
        "seconds",
        "peak_memory_bytes",
        "layers",
    },
    "target": {"cpu", "precision", "threads", "batch", "openvino"},
    "model": {"macs", "params", "bytes"},
    "metric": {"name", "before", "after", "samples"},
    "seconds": {"calibrate", "plan", "rewrite", "verify", "total"},
    "layers": {"name", "status", "reason", "setting", "macs", "latency_us", "error_predicted", "error_measured"},
}


def violation(value: Any, schema: dict[str, Any], defs: dict[str, Any], at: str = "report") -> str | None:
    """Where and why a JSON value breaks a schema, or None; as much of JSON Schema as pydantic writes for the report."""
    if "$ref" in schema:
        return violation(value, defs[schema["$ref"].rsplit("/", 1)[-1]], defs, at)
    if "anyOf" in schema:
        found = [violation(value, option, defs, at) for option in schema["anyOf"]]
        return None if None in found else found[0]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return f"{at} is no {schema['type']}: {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is none of {schema['enum']}: {value!r}"
    return violation_inside(value, schema, defs, at)


def violation_inside(value: Any, schema: dict[str, Any], defs: dict[str, Any], at: str) -> str | None:
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        if missing := set(schema.get("required", ())) - value.keys():
            return f"{at} lacks {missing}"
        parts = [(key, item, known.get(key, others)) for key, item in value.items()]
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        parts = [(str(i), v, first[i] if i < len(first) else schema.get("items", {})) for i, v in enumerate(value)]
    for key, item, inner in parts:
        if inner is False:
            return f"{at} has {key}, which the schema does not know"
        if found := violation(item, {} if inner is True else inner, defs, f"{at}.{key}"):
            return found
    return None


def test_report_follows_the_schema_that_is_printed(ndpass: Command, ran: dict[str, Any]) -> None:
    schema = json.loads(ndpass("report-schema").out)
    assert violation(ran, schema, schema["$defs"]) is None
    assert violation({**ran, "surprise": 1}, schema, schema["$defs"]) is not None
    assert violation({**ran, "layers": [{"name": 3}]}, schema, schema["$defs"]) is not None
    Report.model_validate(ran)


def test_report_has_the_promised_keys(ran: dict[str, Any]) -> None:
    for part, keys in PROMISED.items():
        for value in [ran] if not part else ran[part] if part == "layers" else [ran[part]]:
            assert keys <= value.keys(), part
    assert ran["model"]["bytes"][1] == Path("out.onnx").stat().st_size
    assert {layer["name"] for layer in ran["layers"]} >= {"stem", "block1.conv1", "head"}


# -------------------------------------------------------------------------------------------------------- signals


@pytest.fixture
def long_run(folder: Path) -> list[str]:
    """A run that verifies for many seconds: thousands of samples, one at a time."""
    text = "(float[batch,16,16,16] x) => (float[batch,16,16,16] y) { y = Conv<pads = [1,1,1,1]>(x, w) }"
    onnx.save(network(text, w=normal(16, 16, 3, 3)), folder / "net.onnx")
    np.save(folder / "data.npy", np.zeros((8000, 16, 16, 16), np.float32))
    (folder / "out.onnx").write_bytes(b"an older model")
    return [
        *COMMAND,
        "run",
        "net.onnx",
        "--passes",
        "nd:rank=2",
        "--validation",
        "data.npy",
        "--batch",
        "1",
        "-o",
        "out.onnx",
    ]


def stop(command: list[str], folder: Path, stage: str, sign: signal.Signals) -> tuple[int, str]:
    """Send the signal once the stage is reported; the exit code and what else stood on stderr."""
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == f"ndpass: {stage}\n":
                break
        time.sleep(0.1)  # into the stage
        process.send_signal(sign)
        rest = process.stderr.read()
        return process.wait(), rest


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["reading", "verifying"])
def test_interrupted_run_leaves_nothing(stage: str, sign: signal.Signals, long_run: list[str], folder: Path) -> None:
    code, said = stop(long_run, folder, stage, sign)
    assert code == INTERRUPTED, said
    assert said.splitlines()[-1].startswith("ndpass: interrupted, no model was written")
    assert "Traceback" not in said
    assert sorted(p.name for p in folder.iterdir()) == ["data.npy", "net.onnx", "out.onnx"]
    assert (folder / "out.onnx").read_bytes() == b"an older model"


def test_killed_run_leaves_what_was_there(long_run: list[str], folder: Path) -> None:
    """Nobody can tidy up after a kill: a hidden folder may stay, but the model at the target is the older one."""
    code, _ = stop(long_run, folder, "verifying", signal.SIGKILL)
    assert code == -signal.SIGKILL
    shown = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".out.onnx."))
    assert shown == ["data.npy", "net.onnx", "out.onnx"]
    assert (folder / "out.onnx").read_bytes() == b"an older model"


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the first failure is that of a later write, or of the last flush
@pytest.mark.parametrize("command", [["--version"], ["passes"], ["inspect", "net.onnx"]])
@pytest.mark.usefixtures("net")
def test_reader_of_a_pipe_that_goes_away_is_told_nothing(command: list[str], unbuffered: str, folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(), said) == (1, "")
