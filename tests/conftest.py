"""The command line in this process and as one of its own, and a small network to run it on."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: its threads wait for each other on a busy machine

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import pytest
from models import network, normal
from quick_command import FEW_ROUNDS

from ndpass.cli import app as cli

COMMAND = (sys.executable, str(Path(__file__).with_name("quick_command.py")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="thousands of trials in tests/faults, and the largest models")


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]
Examples = Callable[[int, int], Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of this machine are tested for their form alone, so few of them are taken."""
    for module, name, value in FEW_ROUNDS:
        monkeypatch.setattr(import_module(module), name, value)


@pytest.fixture
def net(folder: Path) -> Path:
    """net.onnx: two 3x3 convolutions and a linear layer, (batch, 3, 8, 8) -> (batch, 5); seeded weights."""
    onnx.save(small_network(), folder / "net.onnx")
    return Path("net.onnx")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of benchmarks/results, and of the models that benchmarks make."""
    from benchmarks import options
    from benchmarks.results import rows

    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(options, "MODELS", tmp_path / "built")
    return tmp_path


def small_network() -> onnx.ModelProto:
    text = """(float[batch,3,8,8] image) => (float[batch,5] scores) {
        a = Conv<pads = [1,1,1,1]>(image, w1, b1)  r = Relu(a)
        b = Conv<pads = [1,1,1,1], strides = [2,2]>(r, w2)  s = Relu(b)
        p = GlobalAveragePool(s)  f = Flatten(p)  scores = Gemm(f, w3)
    }"""
    weights = {"w1": normal(16, 3, 3, 3), "b1": normal(16), "w2": normal(32, 16, 3, 3), "w3": normal(32, 5)}
    return network(text, **weights)


@pytest.fixture
def ndpass(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`ndpass("run", model, ...)` through the entry point, in this process; the runtimes are imported only once.

    An exception that the entry point lets through, which a user would see as a traceback, fails the test.
    """

    def call(*args: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["ndpass", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return Finished(int(left.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def ndpass_process(folder: Path) -> Command:
    """The same as a process of its own, its streams being pipes."""

    def call(*args: object) -> Finished:
        command = [*COMMAND, *map(str, args)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


def assert_refused(done: Finished, code: int, *words: str) -> None:
    """One line on stderr with these words, nothing on stdout."""
    assert done.code == code, done
    assert done.out == ""
    assert done.err.startswith("ndpass: ")
    assert done.err.count("\n") == 1, done.err
    assert len(done.err) < 500, done.err
    for word in words:
        assert word in done.err


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Examples:
    """`@examples(few, many)` above `@given`: few in the suite, many with --long; what fails can be drawn again."""
    from hypothesis import HealthCheck, settings

    def drawn(few: int, many: int) -> Any:
        count = many if request.config.getoption("--long") else few
        return settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=[*HealthCheck])

    return drawn


@pytest.fixture
def seen() -> Iterator[Counter[str]]:
    """How often each thing came of what was tried; `pytest -rP` shows it."""
    found: Counter[str] = Counter()
    yield found
    print(dict(found))
