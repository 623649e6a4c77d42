"""Files that are damaged or say something wrong end in a documented exit code, one line, and no file of ours.

Every input comes from a seed, which a failure names. Models go through the command line in a process of its own, for
native code reads them; all other files are read here. `pytest --long` tries ten times as many.
"""

from __future__ import annotations

import io
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from conftest import small_network
from many_commands import Commands
from models import residual
from mutations import changed_json, changed_onnx, changed_xml, damaged
from PIL import Image

from ndpass.calibration.feeds import open_feeds
from ndpass.errors import NdpassError, UsageError
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import InputSpec
from ndpass.measuring.latency_cache import LatencyCache
from ndpass.passes import parse
from ndpass.passes.compose import compose
from ndpass.planning.candidate import Candidate, Choice
from ndpass.rewriting.checkpoint import Checkpoint, Record
from ndpass.rewriting.rows import done
from ndpass.run.arguments import parsed
from ndpass.run.plan_file import PlanFile

Mutate = Callable[[bytes, random.Random], bytes]
Times = Callable[[int], range]


@pytest.fixture
def times(request: pytest.FixtureRequest) -> Times:
    """Seeds: so many, or ten times as many."""
    factor = 10 if request.config.getoption("--long") else 1
    return lambda few: range(factor * few)


@pytest.fixture(scope="module")
def command() -> Iterator[Commands]:
    running = Commands()
    yield running
    running.close()


def as_json(content: bytes, rng: random.Random) -> bytes:
    """Damaged as bytes, or still JSON and wrong."""
    if rng.random() < 0.5:
        return damaged(content, rng)
    return json.dumps(changed_json(json.loads(content), rng)).encode(errors="surrogatepass")


# -------------------------------------------------------------------------------------------------------- models


def as_onnx() -> dict[str, bytes]:
    return {"m.onnx": residual().SerializeToString()}


def as_ir() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.xml")
        ov.save_model(ov.Core().read_model(residual().SerializeToString()), path, compress_to_fp16=False)
        return {"m.xml": path.read_bytes(), "m.bin": path.with_suffix(".bin").read_bytes()}


MODELS: dict[str, tuple[Callable[[], dict[str, bytes]], str, Mutate, int]] = {
    "bytes of ONNX": (as_onnx, "m.onnx", damaged, 60),
    "fields of ONNX": (as_onnx, "m.onnx", changed_onnx, 80),
    "bytes of an IR's xml": (as_ir, "m.xml", damaged, 40),
    "elements of an IR's xml": (as_ir, "m.xml", changed_xml, 60),
    "bytes of an IR's bin": (as_ir, "m.bin", damaged, 20),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models(kind: str, command: Commands, times: Times, folder: Path, seen: Counter[str]) -> None:
    make, target, mutate, few = MODELS[kind]
    files = make()
    model = next(iter(files))
    output = f"out{Path(model).suffix}"
    allowed = {*files, output, "out.bin"}
    for seed in times(few):
        for name, content in files.items():
            (folder / name).write_bytes(mutate(content, random.Random(seed)) if name == target else content)
        rewrites = seed % 4 == 0 or target == "m.bin"
        options = ["-q", "--passes", "nd:rank=1", "--no-latency", "-o", output]
        found = command(folder, *(["run", model, *options] if rewrites else ["inspect", model]))
        left = {path.name for path in folder.iterdir()}
        assert found.is_documented, (kind, seed, found)
        assert left <= (allowed if found.code == 0 and rewrites else set(files)), (kind, seed, left)
        seen[found.kind] += 1
        for name in left - set(files):
            (folder / name).unlink()


# ---------------------------------------------------------------------------------------------------------- data

SPEC = [InputSpec("x", (None, 3, 8, 8), np.dtype(np.float32))]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "tiff": "TIFF", "webp": "WEBP", "bmp": "BMP", "ppm": "PPM"}


def written(write: Callable[..., object], *args: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    write(file, *args, **options)
    return file.getvalue()


def data_files() -> dict[str, bytes]:
    labels = np.arange(6) % 3
    picture = Image.fromarray(PIXELS[0].repeat(3, 0).repeat(3, 1))
    return {
        "a.npz": written(np.savez, images=PIXELS, labels=labels),
        "packed.npz": written(np.savez_compressed, images=PIXELS, labels=labels),
        "a.npy": written(np.save, PIXELS.transpose(0, 3, 1, 2).astype(np.float32)),
        **{f"a.{ending}": written(picture.save, name) for ending, name in FORMATS.items()},
    }


def read_all(path: Path) -> None:
    pixels = parsed(None if path.suffix == ".npy" else "size=8,scale=1/255")
    for batch in open_feeds(path, SPEC, pixels).batches(4):
        assert batch["x"].shape[1:] == (3, 8, 8)
        assert batch["x"].dtype == np.float32


@pytest.mark.parametrize("name", data_files())
def test_data(name: str, times: Times, tmp_path: Path, seen: Counter[str], capfd: pytest.CaptureFixture[str]) -> None:
    content, is_array = data_files()[name], name.endswith(("npz", "npy"))
    for seed in times(50):
        (tmp_path / name).write_bytes(damaged(content, random.Random(seed)))
        seen[outcome(lambda: read_all(tmp_path / name if is_array else tmp_path), seed)] += 1
    capfd.readouterr()  # libtiff has something to say


def outcome(read: Callable[[], object], seed: int, *refusals: type[NdpassError]) -> str:
    """What reading came to: done, or an error of ndpass; no other."""
    error: Exception | None = None
    try:
        read()
    except Exception as e:
        error = e
    if error is not None and (not isinstance(error, refusals or NdpassError) or "\n" in str(error)):
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return type(error).__name__ if error else "done"


# ------------------------------------------------------------------------------------------------ what ndpass wrote


def plan_of(sites: list[Site]) -> PlanFile:
    first, second, third = (site.name for site in sites)
    return PlanFile(
        model="digest",
        passes=["cp", "cd", "nd"],
        budget={"macs": 0.5},
        layers={
            first: {"nd": {"rank": 1, "form": "pw-dw"}},
            second: {"cp": {"channels": 8, "criterion": "greedy"}, "cd": {"rank": 4}},
            third: {"cd": {"rank": 2}},
        },
    )


def test_plans(times: Times, tmp_path: Path, seen: Counter[str]) -> None:
    graph = Graph(small_network())
    sites = [site for site in graph.sites() if isinstance(site, Site)]
    content, path = plan_of(sites).to_json().encode(), tmp_path / "plan.json"
    path.write_bytes(content)
    assert PlanFile.load(path, "digest").choices(graph, sites)
    for seed in times(400):
        path.write_bytes(as_json(content, random.Random(seed)))
        seen[outcome(lambda: PlanFile.load(path, "digest").choices(graph, sites), seed)] += 1


def test_latencies(times: Times, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are never an error."""
    caplog.set_level(logging.CRITICAL)
    cache = LatencyCache(tmp_path, {"cpu": "one"})
    cache.put({"a": 1.0, "b": 0.5})
    assert cache.path is not None
    content = cache.path.read_bytes()
    for seed in times(200):
        cache.path.write_bytes(as_json(content, random.Random(seed)))
        value = LatencyCache(tmp_path, {"cpu": "one"}).get("a")
        assert value is None or 0 < value < 3600, seed


def test_checkpoints(times: Times, tmp_path: Path, seen: Counter[str], caplog: pytest.LogCaptureFixture) -> None:
    """What is damaged is made again; another run's is refused."""
    caplog.set_level(logging.CRITICAL)
    checkpoint = Checkpoint(tmp_path / "kept")
    checkpoint.start({"model": "digest"})
    site = next(site for site in Graph(small_network()).sites() if isinstance(site, Site))
    candidate = Candidate(10**9, 0.1, {"cd": {"rank": 2}})
    block = compose(parse("cd:rank=2"), site.conv, candidate.setting)
    checkpoint.save(0, Record(done(site, candidate, 5, 0.1), True, block, np.arange(3)))
    checkpoint.save_plan({site.name: Choice(candidate)})
    checkpoint.save_candidates("layer", [candidate])
    known = {"0000.npz", "plan.json", "run.json", "lock"}
    (candidates,) = (path.name for path in checkpoint.folder.iterdir() if path.name not in known)
    reads: dict[str, Callable[[], object]] = {
        "0000.npz": lambda: checkpoint.load(0),
        "plan.json": checkpoint.load_plan,
        "run.json": lambda: checkpoint.resume({"model": "digest"}),
        candidates: lambda: checkpoint.load_candidates("layer"),
    }
    for name, read in reads.items():
        content = (checkpoint.folder / name).read_bytes()
        for seed in times(75):
            mutate = damaged if name.endswith("npz") else as_json
            (checkpoint.folder / name).write_bytes(mutate(content, random.Random(seed)))
            seen[f"{name[:4]} {outcome(read, seed, UsageError)}"] += 1
        (checkpoint.folder / name).write_bytes(content)
    checkpoint.remove()
