"""What a user gets: a wheel with everything and nothing else, and a command line that starts at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from a copy: setuptools puts what lies in an old `build/` into it."""
    if not has_build_backend():
        pytest.skip("needs setuptools>=77 in this environment, to build a wheel without the network")
    source = tmp_path_factory.mktemp("source")
    for folder in (*FOLDERS, "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*pip, "--wheel-dir", "dist", "."], cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = (source / "dist").glob("ndpass-*.whl")
    return set(ZipFile(path).namelist())


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
