"""Nothing is sent: OpenVINO, NNCF and onnxruntime report to their makers unless they are kept from it.

Each command runs as a process without a variable that says CI, where reports are off anyway, and in an empty home,
where runtimes leave the number that they know an installation by. The network is a namespace of its own without an
interface: the kernel counts every attempt to reach an address, of native code, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import COMMAND
from models import normal

ALONE = ("unshare", "--user", "--map-root-user", "--net")
COUNTED = {"Ip": ("OutRequests", "OutNoRoutes"), "Tcp": ("ActiveOpens",), "Udp": ("OutDatagrams",)}
RUN = ("run", "net.onnx", "--passes", "cd:rank=4", "--quiet")
CONVERT = """
import ndpass
from ndpass.run import digits
model = ndpass.convert_model(digits.model_path(), passes="cd:rank=4", latency=False)
assert model.get_ops()
"""
TRIED = {
    "run": (*COMMAND, *RUN, "-o", "out.onnx"),
    "run --int8": (*COMMAND, *RUN, "-o", "out.xml", "--int8", "--calibration", "images.npy"),
    "bench": (*COMMAND, "bench", "net.onnx", "--seconds", "0.1"),
    "convert_model": (sys.executable, "-c", CONVERT),
}
SENDS = """
import os, urllib.request
if os.fork() == 0:
    try:
        urllib.request.urlopen("http://198.51.100.1/", timeout=1)
    except OSError:
        os._exit(0)
os.wait()
"""


def run_alone(command: tuple[str, ...], home: Path, folder: Path) -> int:
    """Run the command in `folder`; what it tried to reach, by the kernel's count."""
    kept = ("PATH", "LD_LIBRARY_PATH")
    environment = {k: v for k, v in os.environ.items() if k in kept or k.startswith(("OPENBLAS_", "OMP_"))}
    told = folder / "snmp"
    script = 'told=$1; shift; "$@"; code=$?; cat /proc/net/snmp > "$told"; exit $code'
    done = subprocess.run(
        [*ALONE, "sh", "-c", script, "sh", str(told), *command],
        cwd=folder,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return attempts(told.read_text())


def attempts(snmp: str) -> int:
    """The sum of COUNTED in what /proc/net/snmp says: a line of names and one of numbers for each protocol."""
    lines = [line.split() for line in snmp.splitlines()]
    tables = {
        names[0].rstrip(":"): dict(zip(names[1:], map(int, numbers[1:]), strict=True))
        for names, numbers in zip(lines[::2], lines[1::2], strict=True)
    }
    return sum(tables[protocol][name] for protocol, names in COUNTED.items() for name in names)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home folder, where a network of one's own can be had."""
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no network namespace of one's own (unshare --net)")
    return tmp_path_factory.mktemp("home")


def test_an_attempt_of_a_child_process_is_counted(home: Path, tmp_path: Path) -> None:
    assert run_alone((sys.executable, "-c", "pass"), home, tmp_path) == 0
    assert run_alone((sys.executable, "-c", SENDS), home, tmp_path) > 0


@pytest.mark.parametrize("tried", TRIED)
def test_nothing_is_sent_and_no_runtime_leaves_a_number(tried: str, home: Path, net: Path) -> None:
    if "--int8" in tried and find_spec("nncf") is None:
        pytest.skip("needs nncf (the extra `int8`)")
    np.save(net.with_name("images.npy"), normal(40, 3, 8, 8))
    assert run_alone(TRIED[tried], home, net.absolute().parent) == 0
    left = {path.relative_to(home).parts for path in home.rglob("*") if path.is_file()}
    assert {parts[:2] for parts in left} <= {(".cache", "ndpass")}, left
