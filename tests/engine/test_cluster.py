"""Runs on a real scheduler and three worker processes come to the bytes of one process, whatever happens to them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import COMMAND, small_network
from dask_cluster import DaskCluster
from models import network, normal, plain, residual

import ndpass
from ndpass.calibration.feeds import open_feeds
from ndpass.cli.interrupt import truth_when_interrupted
from ndpass.engine import cluster as engine
from ndpass.engine import planning
from ndpass.engine.address import parse_engine
from ndpass.errors import EngineError, InputError
from ndpass.graph.graph import Site
from ndpass.listener import Step, Watcher
from ndpass.passes import parse
from ndpass.planning import plan, sensitivity
from ndpass.planning.candidate import Budget
from ndpass.planning.estimates import Known
from ndpass.run import digits, pipeline
from ndpass.run.options import Data, Effort, Options
from ndpass.version import VERSION

pytest.importorskip("distributed", reason="--engine needs the extra dask")

SHARDS = 4
BRANCH = """(float[N,3,8,8] image) => (float[N,5] scores) {
    a = Conv<pads=[1,1,1,1]>(image, W1)  r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, W2)  s = Relu(b)  c = Conv<pads=[1,1,1,1]>(s, W3)  t = Add(r, c)  u = Relu(t)
    d = Conv<pads=[1,1,1,1], strides=[2,2]>(u, W4)  v = Relu(d)
    p = GlobalAveragePool(v)  f = Flatten(p)  scores = MatMul(f, W5)
}"""


def branch() -> onnx.ModelProto:
    """A residual branch of two layers, which can become one, and a layer behind it."""
    shapes = {"W1": (8, 3, 3, 3), "W2": (8, 8, 3, 3), "W3": (8, 8, 3, 3), "W4": (12, 8, 3, 3), "W5": (12, 5)}
    return network(BRANCH, **{name: normal(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())})


IMAGES = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
QUIET: dict[str, Any] = {"calibration": IMAGES, "latency": False, "shards": SHARDS}
SCENARIOS: dict[str, tuple[Callable[[], onnx.ModelProto], str, dict[str, Any]]] = {
    "planned": (small_network, "cd,nd", {"macs": 0.6}),
    "pruned": (branch, "cp,cd", {"macs": 0.5}),
    "residual": (residual, "cp,sd", {"macs": 0.6}),
    "merged": (branch, "bm", {"macs": 0.8}),
    "refitted for the Relu": (small_network, "cd:rank=8:solver=relu", {}),
    "in little memory": (small_network, "sd:rank=4", {"memory": 20_000}),
}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("cluster"), 3)
    yield cluster
    cluster.close()


def written(result: ndpass.Result) -> bytes:
    return bytes(result.model.SerializeToString())


class Heard(Watcher):
    """All steps, and all news."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.news: list[str] = []

    def step(self, now: Step) -> None:
        self.steps.append(now)
        self.news += [] if now.total else [now.stage]

    def expect(self, seconds: Mapping[str, float]) -> None:
        pass


def until(seconds: float = 20) -> Iterator[None]:
    """Moments to look at what takes a little time, until it has had enough."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.05)


def is_gone(group: int) -> bool:
    """Whether all processes of a group end."""
    for _ in until():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
    return False


def silent(*_: object) -> None:
    pass


def run(scenario: str, **options: Any) -> bytes:
    make, passes, budget = SCENARIOS[scenario]
    return written(ndpass.run(make(), passes, **{**QUIET, "progress": silent, **budget, **options}))


@cache
def by_one_process(scenario: str) -> bytes:
    return run(scenario, jobs=1)


@pytest.mark.parametrize("scenario", ["merged", "refitted for the Relu", "in little memory"])
def test_a_cluster_comes_to_the_bytes_of_one_process(three: DaskCluster, scenario: str) -> None:
    assert run(scenario, engine=three.engine) == by_one_process(scenario)


@pytest.mark.parametrize("direct", [True, False])
def test_results_come_from_workers_that_can_be_reached_else_by_way_of_the_scheduler(
    three: DaskCluster, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ConnectionRefusedError

    if not direct:
        monkeypatch.setattr(engine.socket, "create_connection", refused)
    seen: list[bool] = []
    gather = engine.Cluster.result

    def noted(self: engine.Cluster, *given: Any, **named: Any) -> Any:
        seen.append(self.direct)
        return gather(self, *given, **named)

    monkeypatch.setattr(engine.Cluster, "result", noted)
    assert run("merged", engine=three.engine) == by_one_process("merged")
    assert set(seen) == {direct}


def test_layers_are_planned_by_workers_with_the_fits_that_plans_ask_for_later(
    three: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As wide layers are: their moments stay with the workers."""
    wanted = by_one_process("planned")
    monkeypatch.setattr(plan, "NARROW", 0)
    asked: list[str] = []
    settle = planning.Planning.settle

    def noted(self: planning.Planning, site: Site, *given: Any) -> bool:
        asked.append(site.name)
        return settle(self, site, *given)

    def not_here(*_: object) -> Known:
        raise AssertionError

    monkeypatch.setattr(planning.Planning, "settle", noted)
    monkeypatch.setattr(plan, "known_of", not_here)
    monkeypatch.setattr(sensitivity, "LocalProber", not_here)
    assert run("planned", engine=three.engine) == wanted
    assert asked


@pytest.mark.parametrize("kind", ["xml", "onnx"])
def test_a_model_of_several_files_does_too(three: DaskCluster, folder: Path, kind: str) -> None:
    """OpenVINO's, and ONNX with its weights in a file of their own."""
    import openvino as ov

    (folder / "model" / "weights").mkdir(parents=True)
    path = folder / "model" / f"net.{kind}"
    onnx.save(plain(), folder / "net.onnx")
    if kind == "xml":
        ov.save_model(ov.convert_model(folder / "net.onnx"), path, compress_to_fp16=False)
    else:
        onnx.save(plain(), path, save_as_external_data=True, location="weights/net.data", size_threshold=0)
    assert len([file for file in (folder / "model").rglob("*") if file.is_file()]) == 2
    found = []
    for options in ({"engine": three.engine}, {"jobs": 2}):
        ndpass.run(path, "cd:rank=4", **QUIET, **options).save(folder / f"out.{kind}")
        found.append([file.read_bytes() for file in sorted(folder.glob("out.*"))])
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["npy", "folder"])
def test_workers_read_files_by_themselves(
    three: DaskCluster, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    np.save(folder / "images.npy", pixels)
    (folder / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "images" / f"{number:03}.png")
    data = {"calibration": Path("images" if kind == "folder" else "images.npy"), "preprocess": "scale=1/255"}
    one = run("in little memory", **data, jobs=1)
    monkeypatch.setattr(engine, "LOOK", 1e-3)
    heard = Heard()
    assert run("in little memory", **data, engine=three.engine, progress=heard) == one
    assert any("3 workers, 3 threads" in text for text in heard.news)
    assert any(re.search(r"\d of 4 shards, 3 workers, \d MB moved", step.layer) for step in heard.steps)


def test_a_worker_that_is_killed_changes_no_byte(three: DaskCluster) -> None:
    three.add("weak")
    three.wait(4)
    killed = []

    def listen(stage: str, done: int, _: int) -> None:
        if stage == "rewriting" and done == 2 and not killed:
            killed.append(stage)
            three.kill("weak")

    assert run("pruned", engine=three.engine, progress=listen) == by_one_process("pruned")
    assert killed


def test_a_worker_of_another_version_is_refused(
    three: DaskCluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "ndpass-0.0.1.dist-info").mkdir()
    (folder / "ndpass-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ndpass\nVersion: 0.0.1\n")
    three.add("old", PYTHONPATH=str(folder))
    three.wait(4)
    other = rf"has ndpass 0.0.1 \(here {VERSION}\): results would differ"
    try:
        with pytest.raises(EngineError, match=rf"worker tcp://127.* {other}"):
            run("planned", engine=three.engine)
        monkeypatch.setattr(engine, "_check_versions", silent)  # as if it came later
        with pytest.raises(EngineError, match=rf"a worker on .*, which came later, {other}"):
            run("planned", engine=three.engine)
    finally:
        three.kill("old")


def test_two_users_on_one_cluster(three: DaskCluster, folder: Path) -> None:
    onnx.save(residual(), folder / "net.onnx")
    np.save(folder / "images.npy", IMAGES)
    given = ["run", "net.onnx", "-o", "out.onnx", "--calibration", "images.npy", "--passes", "cp,sd", "--macs", "0.6"]
    given += ["--no-latency", "--shards", str(SHARDS), "--engine", three.engine]
    with subprocess.Popen([*COMMAND, *given], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        mine = run("in little memory", engine=three.engine)
        _, said = other.communicate()
    assert other.returncode == 0, said
    assert b"3 workers, 3 threads" in said
    assert mine == by_one_process("in little memory")
    assert (folder / "out.onnx").read_bytes() == by_one_process("residual")


def test_an_interrupt_cancels_what_was_submitted_and_nothing_else(three: DaskCluster) -> None:
    from distributed import Client

    def interrupted(stage: str, *_: int) -> None:
        if stage == "rewriting":
            raise KeyboardInterrupt

    with Client(scheduler_file=str(three.file), set_as_default=False) as other:
        theirs = other.submit(sum, [20, 22], key="somebody else's")
        with pytest.raises(KeyboardInterrupt):
            run("in little memory", engine=three.engine, progress=interrupted)
        assert theirs.result() == 42
        for _ in until():
            keys = other.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
            if not (left := {key for key in keys if str(key).startswith("ndpass")}):
                break
        assert not left


def test_ctrl_c_in_a_terminal_ends_processes_here_without_a_word_of_theirs(folder: Path) -> None:
    """A terminal sends it to all of them."""
    np.save(folder / "images.npy", digits.images()[0][0][:300])
    given = ["run", digits.model_path(), "-o", "out.onnx", "--calibration", "images.npy", "--passes", "cp,cd,nd"]
    given += ["--macs", "0.5", "--no-latency", "--engine", "dask://local:1"]
    command = [*COMMAND, *map(str, given)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line == "ndpass: planning\n":
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130
    assert "1 worker, 1 thread" in said[0]
    assert ".out.onnx.resume keeps what was done: go on with --resume" in said[-1]
    assert all(line.startswith("ndpass: ") for line in said), said
    assert is_gone(process.pid)


def test_what_a_worker_finds_wrong_is_said_as_if_it_was_found_here(three: DaskCluster) -> None:
    text = """(float[batch,3,8,8] image) => (float[batch,4,8,8] y) {
        l = Log(image)  y = Conv<pads = [1,1,1,1]>(l, w)
    }"""
    with pytest.raises(InputError, match="gives NaN or infinite values on the calibration data"):
        ndpass.run(network(text, w=normal(4, 3, 3, 3)), "sd:rank=2", **QUIET, engine=three.engine, progress=silent)


def test_without_workers_or_scheduler_the_run_ends_and_one_machine_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(plain(), folder / "net.onnx")
    np.save(folder / "images.npy", IMAGES)
    alone = DaskCluster(folder, 0)

    def options(**effort: Any) -> Options:
        data = Data(calibration=lambda inputs: open_feeds(IMAGES, inputs))
        return Options(
            passes=parse("cd:rank=4"),
            budget=Budget("pinned"),
            data=data,
            effort=Effort(latency=False, shards=SHARDS, **effort),
        )

    def listen(stage: str, done: int, _: int) -> None:
        if stage == "rewriting" and done == 1 and alone.processes:
            alone.close()

    model, out = folder / "net.onnx", folder / "out.onnx"
    try:
        with monkeypatch.context() as soon:
            soon.setattr(engine, "WORKERS", 0.2)
            with pytest.raises(EngineError, match="the scheduler has no worker within"):
                run("planned", engine=alone.engine)
        alone.add("worker")
        gone = r"the scheduler is gone.*; .out.onnx.resume keeps what was done: go on with --resume"
        with pytest.raises(EngineError, match=gone), truth_when_interrupted(Path("out.onnx"), resume=False):
            pipeline.run(model, out, options(engine=parse_engine(alone.engine)), listen)
    finally:
        alone.close()
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / ".out.onnx.resume").glob("*.npz")}
    assert kept
    resumed: dict[str, int] = {}

    def seen(stage: str, done: int, _: int) -> None:
        if stage == "verifying" and not done:
            found = (folder / ".out.onnx.resume").glob("*.npz")
            resumed.update((path.name, path.stat().st_mtime_ns) for path in found)

    pipeline.run(model, out, options(resume=True), seen)
    assert {name: resumed[name] for name in kept} == kept  # they were not made again
    whole = folder / "whole.onnx"
    pipeline.run(model, whole, options())
    assert out.read_bytes() == whole.read_bytes()


def test_another_number_of_shards_is_another_run() -> None:
    name = "refitted for the Relu"
    assert run(name, shards=2, jobs=1) != by_one_process(name)
    assert run(name, shards=1, jobs=1) == run(name, shards=None, threads=1)


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ANSWERS", 0.5)
    with pytest.raises(EngineError, match=r"dask://127.0.0.1:1: no scheduler answers within 0 s .*: is it running"):
        run("planned", engine="dask://127.0.0.1:1")


def test_threads_are_left_as_they_were(three: DaskCluster) -> None:
    before = threading.active_count()
    run("in little memory", engine=three.engine)
    for _ in until():
        if threading.active_count() <= before + 1:  # Dask keeps its event loop
            break
    assert threading.active_count() <= before + 1, threading.enumerate()
