"""What a user gets: sdist and wheel with everything and nothing else, and a command line that starts at once."""

from __future__ import annotations

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
    if not has_build_backend():
        pytest.skip("needs setuptools>=77 in this environment, to build without the network")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for folder in (*FOLDERS, "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for file in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(file, source)
    make = f"from setuptools.build_meta import build_sdist as make; make({str(out)!r})"
    finished([sys.executable, "-c", make], source)
    (archive,) = out.glob("ndpass-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
        packed.extractall(out, filter="data")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    finished([*pip, "--wheel-dir", str(out), "."], out / archive.name.removesuffix(".tar.gz"))
    (wheel,) = out.glob("ndpass-*.whl")
    return Distributions(names, set(ZipFile(wheel).namelist()))


def finished(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("module", ["ndpass.cli.app", "ndpass.run.digits"])
def test_start_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    """`ndpass --help` must not wait for a runtime, so those are imported by the function that needs them."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    started = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    imported = set(started.stdout.split())
    assert module in imported
    assert imported & HEAVY == set()
