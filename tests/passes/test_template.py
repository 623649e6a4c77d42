"""The template package as a user installs it: into a fresh environment, listed, used, part of auto, and broken."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from conftest import Finished, assert_refused, small_network
from test_packaging import has_build_backend

TEMPLATE = Path(__file__).parents[2] / "examples" / "my_pass"
QUICK = ("--no-latency",)  # what is tested here takes no milliseconds
MODULE = "ndpass_input_decomposition.py"
BROKEN = "pass 'id' of ndpass_input_decomposition:InputDecomposition cannot be loaded: no such thing as scipy.oops"


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the packages of this one, and a folder with net.onnx in which commands run."""

    python: Path
    packages: Path
    folder: Path

    def __call__(self, *args: str) -> Finished:
        done = subprocess.run(
            [str(self.python), "-m", *args], cwd=self.folder, capture_output=True, text=True, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the template package installed. Skips where no package can be built without the network."""
    if not has_build_backend():
        pytest.skip("needs setuptools>=77 in this environment, to build a package without the network")
    root = tmp_path_factory.mktemp("fresh")
    venv.create(root / "env", with_pip=False)
    scheme = {"base": str(root / "env"), "platbase": str(root / "env")}
    kind = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"  # Python 3.10 has no such name
    packages = Path(sysconfig.get_path("purelib", kind, scheme))
    here = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (packages / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    folder = root / "work"
    folder.mkdir()
    onnx.save(small_network(), folder / "net.onnx")
    shutil.copytree(TEMPLATE, root / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    made = Environment(Path(sysconfig.get_path("scripts", kind, scheme)) / "python", packages, folder)
    done = made("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", str(root / "source"))
    assert done.code == 0, done.err
    return made


@pytest.fixture
def broken(environment: Environment) -> Iterator[Environment]:
    """The package with a module whose import raises."""
    module = environment.packages / MODULE
    whole = module.read_text()
    module.write_text("raise RuntimeError('no such thing as scipy.oops')\n")
    yield environment
    module.write_text(whole)


def passes_of(report: Path) -> list[str]:
    names: list[str] = json.loads(report.read_text())["passes"]
    return names


def test_it_is_listed(environment: Environment) -> None:
    done = environment("ndpass", "passes")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == ["nd", "cd", "sd", "cp", "bm", "id"]
    assert "id   input decomposition: k×k becomes 1×1 to fewer channels, then k×k (rank=N|full)" in done.out


def test_it_is_used_by_name(environment: Environment) -> None:
    done = environment(
        "ndpass", "run", "net.onnx", "--passes", "id:rank=4", *QUICK, "-o", "id.onnx", "--json", "id.json"
    )
    assert done.code == 0, done.err
    assert passes_of(environment.folder / "id.json") == ["id"]
    kernels = [t.dims for t in onnx.load(environment.folder / "id.onnx").graph.initializer if len(t.dims) == 4]
    assert [4, 16, 1, 1] in [list(k) for k in kernels]


def test_it_takes_part_in_auto(environment: Environment) -> None:
    args = ["--passes", "auto", "--macs", "0.6", *QUICK, "-o", "auto.onnx", "--json", "auto.json"]
    done = environment("ndpass", "run", "net.onnx", *args)
    assert done.code == 0, done.err
    assert passes_of(environment.folder / "auto.json") == ["cd", "sd", "nd", "id"]


def test_a_typing_error_finds_it(environment: Environment) -> None:
    assert_refused(
        environment("ndpass", "run", "net.onnx", "--passes", "ID"), 2, "nd, cd, sd, cp, bm, id; did you mean 'id'?"
    )


def test_broken_it_is_left_out_of_the_list_with_its_reason(broken: Environment) -> None:
    done = broken("ndpass", "passes")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["nd", "cd", "sd", "cp", "bm"]
    assert done.err == f"ndpass: {BROKEN}; left out\n"


def test_broken_it_is_left_out_of_auto_with_its_reason(broken: Environment) -> None:
    args = ["--passes", "auto", "--macs", "0.6", *QUICK, "-o", "rest.onnx", "--json", "rest.json"]
    done = broken("ndpass", "run", "net.onnx", *args)
    assert done.code == 0, done.err
    assert f"{BROKEN}; left out of --passes auto" in done.err
    assert passes_of(broken.folder / "rest.json") == ["cd", "sd", "nd"]


def test_broken_it_is_an_error_where_it_is_asked_for(broken: Environment) -> None:
    assert_refused(broken("ndpass", "run", "net.onnx", "--passes", "id", "-o", "none.onnx"), 2, BROKEN)
    assert not (broken.folder / "none.onnx").exists()
