"""No command writes over what it reads, and what an interrupted run says of its outputs is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Finished, assert_refused

from ndpass.run import digits

USAGE, INTERRUPTED = 2, 130

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def data(folder: Path) -> Path:  # noqa: ARG001 - the folder that the test runs in
    """A few digits with their labels, for the network of `net`, which is refused before they are read."""
    images, labels = digits.images()[1]
    np.savez("data.npz", images=images[:40], labels=labels[:40])
    return Path("data.npz")


# ------------------------------------------------------------------------------------------- outputs that are inputs

COMMANDS = {
    "inspect": ("inspect", "net.onnx", "--json"),
    "inspect --report": ("inspect", "net.onnx", "--report"),
    "bench": ("bench", "net.onnx", "other.onnx", "--json"),
    "sensitivity --json": ("sensitivity", "net.onnx", "-q", "--calibration", "data.npz", "--json"),
    "sensitivity --plot": ("sensitivity", "net.onnx", "-q", "--calibration", "data.npz", "--plot"),
    "sensitivity --report": ("sensitivity", "net.onnx", "-q", "--calibration", "data.npz", "--report"),
    "run --report": ("run", "net.onnx", "-q", "-o", "out.onnx", "--report"),
    "run --json": ("run", "net.onnx", "-q", "-o", "out.onnx", "--json"),
    "run --save-plan": ("run", "net.onnx", "-q", "-o", "out.onnx", "--save-plan"),
    "run --model-server": ("run", "net.onnx", "-q", "-o", "out.onnx", "--model-server"),
    "run -o": ("run", "net.onnx", "-q", "-o"),
}


@pytest.mark.parametrize("which", COMMANDS)
@pytest.mark.usefixtures("net", "data")
def test_no_output_of_a_command_is_its_model(which: str, folder: Path, ndpass: Command) -> None:
    Path("other.onnx").write_bytes(Path("net.onnx").read_bytes())
    Path("link.onnx").symlink_to("net.onnx")
    before = contents(folder)
    for name in ("net.onnx", "./net.onnx", "link.onnx"):
        assert_refused(ndpass(*COMMANDS[which], name), USAGE, Path(name).name, "is the input itself", "another name")
    assert contents(folder) == before


@pytest.mark.parametrize("option", ["--json", "--save-plan", "--report"])
@pytest.mark.usefixtures("net", "data")
def test_no_output_of_a_run_is_its_data_or_its_plan(option: str, folder: Path, ndpass: Command) -> None:
    before = contents(folder)
    for given in (("--calibration", "data.npz"), ("--validation", "data.npz")):
        done = ndpass("run", "net.onnx", "-q", "-o", "out.onnx", *given, option, "data.npz")
        assert_refused(done, USAGE, f"{option} data.npz is the input itself")
    assert contents(folder) == before


@pytest.mark.usefixtures("net")
def test_a_report_does_not_replace_another_model_or_its_weights(folder: Path, ndpass: Command) -> None:
    for name in ("other.onnx", "other.xml", "other.bin", "other.onnx.data"):
        Path(name).touch()
    before = contents(folder)
    for name in ("other.onnx", "other.xml", "other.bin", "other.onnx.data"):
        done = ndpass("inspect", "net.onnx", "--json", name)
        assert_refused(done, USAGE, f"--json {name} would overwrite a model or its weights")
    assert contents(folder) == before


@pytest.mark.usefixtures("net")
def test_a_file_named_like_a_report_s_data_is_left_alone(ndpass: Command) -> None:
    Path("report.json").write_text("old")
    Path("report.json.data").write_text("mine")
    assert ndpass("inspect", "net.onnx", "--json", "report.json").code == 0
    assert Path("report.json").read_text().startswith("[")
    assert Path("report.json.data").read_text() == "mine"


@pytest.mark.parametrize("which", [name for name in COMMANDS if name not in ("run -o", "run --model-server")])
@pytest.mark.usefixtures("net", "data")
def test_a_folder_that_is_missing_is_told_before_anything_is_computed(
    which: str, folder: Path, ndpass: Command
) -> None:
    Path("other.onnx").write_bytes(Path("net.onnx").read_bytes())
    before = contents(folder)
    assert_refused(ndpass(*COMMANDS[which], "no/where/r.json"), USAGE, "r.json: cannot write into", "No such file")
    assert contents(folder) == before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sys.argv = ["ndpass", *{args!r}]
from ndpass.cli.app import main
main()
"""


@pytest.mark.usefixtures("net")
def test_a_report_that_is_too_large_for_the_disk_names_itself_and_leaves_the_older_one(folder: Path) -> None:
    """No file may grow beyond 100 bytes, which the kernel enforces where no small disk can be mounted."""
    Path("r.json").write_text("older")
    before = contents(folder)
    script = LIMITED.format(args=("inspect", "net.onnx", "--json", "r.json"))
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (USAGE, "ndpass: r.json: cannot be written: File too large\n")
    assert contents(folder) == before
    assert sorted(p.name for p in folder.iterdir()) == ["net.onnx", "r.json"]


# ---------------------------------------------------------------------------------------------------------- interrupts

INTERRUPTED_AT = """
import os, signal, sys

fired = []

def watch(event, args):
    if event == {event!r} and not fired and str(args[{which}]).endswith({name!r}):
        fired.append(event)
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(watch)
sys.argv = ["ndpass", *{args!r}]
from ndpass.cli.app import main
main()
"""

OTHERS = ("--json", "r.json", "--report", "r.html", "--save-plan", "plan.json", "--model-server", "served")
RUN = ("run", "-q", "--no-latency", "--passes", "nd:rank=2", "-o", "out.onnx", *OTHERS)
WRITTEN = ["out.onnx", "plan.json", "r.html", "r.json", "served/1/model.bin", "served/1/model.xml"]


def interrupted(event: str, which: int, name: str, args: tuple[str, ...] = RUN) -> Finished:
    """A run that gets Ctrl-C at the first event of Python's whose argument number `which` ends with `name`."""
    script = INTERRUPTED_AT.format(event=event, which=which, name=name, args=args)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == INTERRUPTED, done.stderr
    assert "Traceback" not in done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["out.onnx", "r.json", "served/1"])
def test_an_interrupt_while_outputs_are_put_in_place_finds_all_of_them(name: str, folder: Path) -> None:
    done = interrupted("os.rename", 1, name)
    assert done.err == "ndpass: interrupted, after out.onnx was written, verified and whole\n"
    assert sorted(contents(folder)) == WRITTEN
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]


def test_an_interrupt_while_the_model_server_s_copy_is_made_finds_none_of_them(net: Path, folder: Path) -> None:
    Path("out.onnx").write_bytes(b"an older model")
    Path("r.json").write_text("an older report")
    before = contents(folder)
    done = interrupted("os.chmod", 0, "1", ("run", str(net), *RUN[1:]))
    assert done.err == "ndpass: interrupted, no model was written\n"
    assert contents(folder) == before
    assert sorted(p.name for p in folder.iterdir()) == sorted(before)


def test_what_an_earlier_run_has_left_is_not_offered_to_go_on_with(net: Path) -> None:
    Path(".out.onnx.resume").mkdir()
    Path(".out.onnx.resume/run.json").write_text("{}")
    done = interrupted("os.chmod", 0, "1", ("run", str(net), *RUN[1:]))
    assert done.err == "ndpass: interrupted, no model was written\n"


@pytest.mark.usefixtures("data")
def test_an_interrupted_calibrated_run_says_how_to_go_on(folder: Path) -> None:
    model = str(digits.model_path())
    args = ("run", model, "-q", "--passes", "nd:rank=2", "--calibration", "data.npz", "-o", "out.onnx")
    done = interrupted("os.rename", 1, "run.json", args)
    rest = ".out.onnx.resume keeps what was done: go on with --resume"
    assert done.err.splitlines()[-1] == f"ndpass: interrupted, no model was written; {rest}"
    assert sorted(p.name for p in folder.iterdir()) == [".out.onnx.resume", "data.npz"]
