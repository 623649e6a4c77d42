"""Runs that are cut off and go on: the same bytes in the end, and only the same run goes on."""

from __future__ import annotations

import atexit
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import changed_options, plain, run_options
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.conv import Block, Chain, Conv, Sum
from ndpass.errors import BudgetError, InputError, UsageError
from ndpass.passes import parse
from ndpass.planning.candidate import Budget, Candidate, Choice
from ndpass.report import Layer
from ndpass.rewriting.checkpoint import Checkpoint, Record
from ndpass.run import pipeline
from ndpass.run.options import Options

F = NDArray[np.floating[Any]]

pytestmark = pytest.mark.usefixtures("folder")

LAYERS = 4  # of the model, the linear head included
IMAGES = np.random.default_rng(0).standard_normal((52, 3, 8, 8)).astype(np.float32)
OUTPUT, FOLDER = Path("out.onnx"), Path(".out.onnx.resume")
RUNS = {"pinned": ("nd:rank=2:form=dw-pw", Budget("pinned")), "planned": ("cp,nd:rank=2", Budget("macs", 0.4))}

every_run = pytest.mark.parametrize("which", RUNS)


class CutOffError(Exception):
    """Stands for whatever ends a process: nothing catches it."""


@cache
def model_path() -> Path:
    """Three convolutions and a linear head, in a folder that goes with this process: runs have empty ones."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    onnx.save(plain(), path := Path(folder.name, "net.onnx"))
    return path


def options(which: str = "pinned", count: int = 36, **changed: Any) -> Options:
    spec, budget = RUNS[which]
    chosen = run_options(
        parse(spec),
        budget,
        calibration=lambda inputs: open_feeds(IMAGES[:count], inputs),
        validation=lambda inputs: open_feeds(IMAGES[-16:], inputs),
        threads=1,
        jobs=1,  # so that layers end one after the other
    )
    return changed_options(chosen, **changed)


def run(chosen: Options, stop: tuple[str, int] | None = None, model: Path | None = None) -> bytes:
    """The bytes of the output. stop: the stage and the step before which the run is cut off."""

    def listen(stage: str, done: int, _total: int) -> None:
        if (stage, done) == stop:
            raise CutOffError

    pipeline.run(model or model_path(), OUTPUT, chosen, listen)
    return OUTPUT.read_bytes()


def cut_off(chosen: Options, stage: str, step: int) -> None:
    with pytest.raises(CutOffError):
        run(chosen, (stage, step))
    assert not OUTPUT.exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What runs without a break write."""
    found = {}
    for which in RUNS:
        output = tmp_path_factory.mktemp(which) / OUTPUT
        pipeline.run(model_path(), output, options(which))
        found[which] = output.read_bytes()
    return found


# ---------------------------------------------------------------------------------------------------- the folder


def blocks() -> dict[str, Block | None]:
    rng = np.random.default_rng(0)

    def leaf(*shape: int, kind: str = "float64", **geometry: Any) -> Conv:
        return Conv(rng.standard_normal(shape).astype(kind), **geometry)

    deep = Chain(leaf(3, 2, 3, 1, strides=(2, 1), pads=(1, 0, 2, 0), dilations=(2, 1)), leaf(3, 1, 1, 3, group=3))
    return {
        "nothing": None,
        "conv": leaf(4, 3, 3, 3, kind="float32", bias=np.array([1e-40, np.pi, -0.0, 1e30])),
        "matrix": Chain(leaf(2, 8), leaf(6, 2, bias=np.arange(6.0))),
        "nested": Chain(Sum(deep, Chain(leaf(2, 2, 1, 1), leaf(3, 2, 3, 3))), leaf(5, 3, 1, 1, bias=np.ones(5))),
    }


def same(a: Block | None, b: Block | None) -> bool:
    """The same structure, geometry and bits."""
    if isinstance(a, Conv) and isinstance(b, Conv):
        geometry = all(getattr(a, k) == getattr(b, k) for k in ("strides", "pads", "dilations", "group"))
        arrays = [(a.weight, b.weight), (a.bias, b.bias)]
        return geometry and all(
            x is y is None or (x is not None and y is not None and x.dtype == y.dtype and x.tobytes() == y.tobytes())
            for x, y in arrays
        )
    if isinstance(a, (Chain, Sum)) and type(a) is type(b):
        return len(a.blocks) == len(b.blocks) and all(map(same, a.blocks, b.blocks))
    return a is b is None


ROW = Layer(
    name="a",
    status="done",
    setting={"cd": {"rank": 3}, "nd": {"rank": 2, "form": "dw-pw"}},
    macs=(10, 5),
    error_predicted=0.1,
    error_measured=1 / 3,
    op="Conv",
    shape="4x3x3x3",
)


@pytest.mark.parametrize("name", blocks())
@pytest.mark.parametrize("channels", [None, np.array([0, 2, 5])], ids=["all", "some"])
def test_a_record_comes_back_as_it_was(name: str, channels: NDArray[np.intp] | None) -> None:
    checkpoint = Checkpoint.beside(OUTPUT)
    checkpoint.start({})
    assert checkpoint.load(3) is None
    checkpoint.save(3, Record(ROW, True, blocks()[name], channels))
    found = checkpoint.load(3)
    assert found is not None
    assert (found.row, found.looked) == (ROW, True)
    assert same(found.block, blocks()[name])
    np.testing.assert_array_equal(found.channels, channels)
    assert checkpoint.load(2) is None


def test_a_plan_comes_back_as_it_was() -> None:
    checkpoint = Checkpoint.beside(OUTPUT)
    checkpoint.start({})
    assert checkpoint.load_plan() is None
    plan = {"a": Choice(Candidate(12, 1 / 3, {"nd": {"rank": 2, "form": "dw-pw"}})), "b": Choice(Candidate(9), "why")}
    checkpoint.save_plan(plan)
    assert checkpoint.load_plan() == plan


def test_a_new_run_forgets_the_old_one() -> None:
    checkpoint = Checkpoint.beside(OUTPUT)
    checkpoint.start({})
    checkpoint.save(0, Record(ROW, True))
    checkpoint.start({})
    assert checkpoint.load(0) is None
    checkpoint.remove()
    assert not FOLDER.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_with_the_same_output_is_refused_and_the_first_goes_on(
    resume: bool, uninterrupted: dict[str, bytes]
) -> None:
    refused = []

    def listen(stage: str, done: int, _total: int) -> None:
        if (stage, done) == ("rewriting", 3):
            with pytest.raises(UsageError, match=r"another run with this output is at work \(\.out\.onnx\.resume is"):
                run(options(resume=resume))
            refused.append(sorted(p.name for p in FOLDER.iterdir()))

    pipeline.run(model_path(), OUTPUT, options(), listen)
    assert refused == [[*(f"{i:04}.npz" for i in range(3)), "lock", "run.json"]]
    assert OUTPUT.read_bytes() == uninterrupted["pinned"]
    assert [p.name for p in Path().iterdir()] == [OUTPUT.name]


# ------------------------------------------------------------------------------------------------------- going on


@every_run
def test_a_run_that_is_cut_off_after_every_layer_ends_with_the_same_bytes(
    which: str, uninterrupted: dict[str, bytes]
) -> None:
    """Cut off before its first layer, then going on, cut off before the second, and so to the end."""
    cut_off(options(which), "rewriting", 0)
    for step in range(1, LAYERS):
        cut_off(options(which, resume=True), "rewriting", step)
        assert sorted(p.name for p in FOLDER.glob("0*.npz"))[-1:] <= [f"{step - 1:04}.npz"]
    assert run(options(which, resume=True)) == uninterrupted[which]
    assert [p.name for p in Path().iterdir()] == [OUTPUT.name]


@pytest.mark.parametrize(("which", "memory"), [("pinned", 0), ("planned", 150_000)])
def test_a_run_with_little_memory_goes_on_too(which: str, memory: int) -> None:
    """Layers that are done are run through the same segments, so what is kept is the same."""
    expected = run(options(which, memory=memory))
    OUTPUT.unlink()
    cut_off(options(which, memory=memory), "rewriting", 2)
    assert run(options(which, memory=memory, resume=True)) == expected


@pytest.mark.parametrize(("stage", "step"), [("planning", 3), ("verifying", 2)])
def test_a_run_that_is_cut_off_at_another_stage_goes_on(stage: str, step: int, uninterrupted: dict[str, bytes]) -> None:
    cut_off(options("planned"), stage, step)
    assert run(options("planned", resume=True)) == uninterrupted["planned"]
    assert not FOLDER.exists()


def test_layers_that_are_done_are_not_done_again() -> None:
    cut_off(options(), "rewriting", 2)
    done = {p.name: p.stat().st_mtime_ns for p in FOLDER.iterdir()}
    assert sorted(done) == [*(f"{i:04}.npz" for i in range(2)), "run.json"]
    cut_off(options(resume=True), "rewriting", 3)
    assert done.items() <= {p.name: p.stat().st_mtime_ns for p in FOLDER.iterdir()}.items()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_checkpoint import model_path, options
from ndpass.run import pipeline

def listen(stage, done, total):
    if (stage, done) == ("rewriting", 3):
        os.kill(os.getpid(), signal.SIGKILL)

pipeline.run(model_path(), Path("out.onnx"), options(), listen)
"""


def test_a_run_that_is_killed_goes_on(uninterrupted: dict[str, bytes]) -> None:
    """kill -9 of a process of its own, which nothing can tidy up after."""
    script = KILLED.format(tests=[str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not OUTPUT.exists()
    assert len(list(FOLDER.glob("0*.npz"))) == 3
    assert run(options(resume=True)) == uninterrupted["pinned"]
    assert not FOLDER.exists()


def test_the_folder_goes_when_a_run_ends_well() -> None:
    run(options())
    assert [p.name for p in Path().iterdir()] == [OUTPUT.name]


def test_the_folder_goes_with_an_error_that_would_come_again() -> None:
    with pytest.raises(BudgetError):
        run(options("planned", budget=Budget("macs", 1e-4)))
    assert not list(Path().iterdir())


# ------------------------------------------------------------------------------------------------------- refusals


def another_model() -> Path:
    """The model with one weight changed in its last bit."""
    model = onnx.load(model_path())
    tensor = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.nextafter(array.flat[0], np.float32(2))
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, "another.onnx")
    return Path("another.onnx")


def brighter() -> Callable[[Any], Any]:
    """The same images but for one pixel."""
    images = IMAGES[:36].copy()
    images[17, 0, 3, 3] += 1e-5
    return lambda inputs: open_feeds(images, inputs)


CHANGES = {
    "data": lambda: options(calibration=brighter()),
    "passes": lambda: options(passes=parse("nd:rank=3:form=dw-pw")),
    "budget": lambda: options(budget=Budget("energy", 0.9)),
    "ignore": lambda: options(ignore=["b"]),
    "seed 0, threads 1, memory 1073741824, is seed 1": lambda: options(seed=1),
    "is seed 0, threads 2": lambda: options(threads=2),
    "memory 5000": lambda: options(memory=5000),
}


@pytest.fixture
def unfinished(folder: Path) -> None:  # noqa: ARG001 - the folder that the test runs in
    cut_off(options(), "rewriting", 1)


@pytest.mark.parametrize("word", CHANGES)
@pytest.mark.usefixtures("unfinished")
def test_another_run_is_refused_with_what_changed(word: str) -> None:
    with pytest.raises(UsageError, match=word) as refused:
        run(changed_options(CHANGES[word](), resume=True))
    assert str(refused.value).count(" was ") == 1  # nothing else
    assert "--resume" in str(refused.value)
    assert (FOLDER / "0000.npz").exists()  # the run that was meant can still go on
    assert not OUTPUT.exists()


@pytest.mark.usefixtures("unfinished")
def test_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="model was"):
        run(options(resume=True), model=another_model())
    assert (FOLDER / "0000.npz").exists()


@pytest.mark.usefixtures("unfinished")
def test_a_slip_costs_nothing() -> None:
    """A model that is not there, or data that do not fit: what was done is kept for the next try."""
    with pytest.raises(InputError):
        run(options(resume=True), model=Path("nosuch.onnx"))
    assert (FOLDER / "0000.npz").exists()


def test_nothing_to_go_on_with() -> None:
    with pytest.raises(UsageError, match="no run to go on with"):
        run(options(resume=True))
    assert not list(Path().iterdir())


def test_a_run_without_data_has_nothing_to_go_on_with() -> None:
    with pytest.raises(UsageError, match="no --calibration"):
        run(options(resume=True, calibration=None))


# --------------------------------------------------------------------------------------------------- damaged files


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """A byte of the weights, which the archive's checksum tells."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def of_something_else(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weights=np.zeros(3))


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, of_something_else], ids=lambda f: f.__name__)
def test_a_damaged_layer_is_done_again(
    damage: Callable[[Path], None], uninterrupted: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cut_off(options(), "rewriting", 3)
    damage(FOLDER / "0001.npz")
    assert run(options(resume=True)) == uninterrupted["pinned"]
    assert "0001.npz cannot be read" in caplog.text


def test_a_damaged_plan_is_made_again(uninterrupted: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    cut_off(options("planned"), "rewriting", 3)
    truncated(FOLDER / "plan.json")
    assert run(options("planned", resume=True)) == uninterrupted["planned"]
    assert "plan.json cannot be read" in caplog.text


def test_a_damaged_manifest_is_no_run_to_go_on_with() -> None:
    cut_off(options(), "rewriting", 1)
    truncated(FOLDER / "run.json")
    with pytest.raises(UsageError, match="no run to go on with"):
        run(options(resume=True))
