"""What a user gets: sdist and wheel with everything and nothing else, and a command line that starts at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
# mapped by pyproject.toml: folder in the checkout -> folder in the wheel
FOLDERS = {"ndpass": "ndpass", "passes": "ndpass/passes", "calibration": "ndpass/calibration"}
HEAVY = {"numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "openvino", "scipy", "sklearn"}


def has_build_backend() -> bool:
    """Whether a wheel can be built here without fetching setuptools, in the version that pyproject.toml asks for."""
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@dataclass(frozen=True)
class Distributions:
    """Names of the files in an sdist, without its own folder, and in the wheel that was built from it."""

    source: set[str]
    wheel: set[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Built from a copy: setuptools puts what lies in an old `build/` into a wheel."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    copy_sources(source)
    make("sdist", source, out)
    (archive,) = out.glob("ndpass-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
        packed.extractall(out, filter="data")
    wheel = make("wheel", out / archive.name.removesuffix(".tar.gz"), out)
    return Distributions(names, set(ZipFile(wheel).namelist()))


def copy_sources(to: Path) -> None:
    if not has_build_backend():
        pytest.skip("needs setuptools>=77 in this environment, to build without the network")
    for folder in (*FOLDERS, "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for file in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(file, to)


def make(what: str, source: Path, out: Path, **environment: str) -> Path:
    """Build the "sdist" or "wheel" of `source` into `out`, as pip does it, without the network."""
    build = f"from setuptools.build_meta import build_{what} as make; print(make({str(out)!r}))"
    said = finished([sys.executable, "-c", build], source, **environment)
    return out / said.splitlines()[-1]


def finished(command: list[str], folder: Path, **environment: str) -> str:
    """What the command printed."""
    everything = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def wheel(built: Distributions) -> set[str]:
    return built.wheel


def test_sdist_holds_the_sources_and_the_papers_that_go_with_them(built: Distributions) -> None:
    modules = {p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    documents = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"}
    assert modules | documents | {"pyproject.toml", "ndpass/py.typed", "ndpass/run/digits.onnx"} <= built.source
    tops = {name.partition("/")[0] for name in built.source if "/" in name}
    assert {top for top in tops if not top.endswith(".egg-info")} == set(FOLDERS)


def test_wheel_holds_every_module(wheel: set[str]) -> None:
    expected = {
        f"{inside}/{file.relative_to(ROOT / folder)}"
        for folder, inside in FOLDERS.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {name for name in wheel if name.endswith(".py")} == expected


def test_wheel_holds_the_data(wheel: set[str]) -> None:
    assert {"ndpass/py.typed", "ndpass/run/digits.onnx", "ndpass/run/page.html.j2"} <= wheel


def test_wheel_holds_nothing_else(wheel: set[str]) -> None:
    folders = {name.split("/")[0] for name in wheel}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"ndpass"}


def test_the_same_sources_give_the_same_wheel(tmp_path: Path) -> None:
    """Whenever and wherever it is built, with SOURCE_DATE_EPOCH as tools that publish set it."""
    wheels = []
    for number, day in enumerate((1_000_000_000, 1_700_000_000)):
        source, out = tmp_path / f"{number}" / "source", tmp_path / f"{number}" / "out"
        source.mkdir(parents=True)
        out.mkdir()
        copy_sources(source)
        for path in source.rglob("*"):
            os.utime(path, (day, day))
        wheels.append(make("wheel", source, out, SOURCE_DATE_EPOCH="1750000000", PYTHONHASHSEED=str(number)))
    assert wheels[0].read_bytes() == wheels[1].read_bytes()


@pytest.mark.parametrize("module", ["ndpass.cli.app", "ndpass.run.digits"])
def test_start_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    """`ndpass --help` must not wait for a runtime, so those are imported by the function that needs them."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    started = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    imported = set(started.stdout.split())
    assert module in imported
    assert imported & HEAVY == set()
