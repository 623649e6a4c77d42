"""Disks with little room, and folders that nobody may write to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from conftest import Command, assert_refused, small_network

SMALL_DISK = "size=96k"
WHAT = ("--passes", "nd:rank=2", "--no-latency", "-q")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"a small disk cannot be mounted here: {getattr(e, 'stderr', None) or e}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["out.onnx", "out.xml"])
def test_a_model_that_finds_no_room_names_itself(name: str, small_disk: Path, net: Path, ndpass: Command) -> None:
    (small_disk / "filler").write_bytes(bytes(80_000))
    (small_disk / name).write_text("older")
    done = ndpass("run", net, *WHAT, "-o", small_disk / name)
    assert_refused(done, 2, f"{small_disk / name}: cannot be written", "No space left on device")
    assert sorted(path.name for path in small_disk.iterdir()) == sorted(["filler", name])
    assert (small_disk / name).read_text() == "older"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder is known that nobody may write to")
def test_a_folder_that_nobody_may_write_to_is_told_before_the_work(net: Path, ndpass: Command) -> None:
    assert_refused(ndpass("run", net, *WHAT, "-o", "/proc/out.onnx"), 2, "/proc/out.onnx: cannot write into /proc")


EVERY_LIMIT = """
import resource, sys
from pathlib import Path
from ndpass.errors import OutputError
from ndpass.files.ir_file import write_file

source, out = Path(sys.argv[1]), Path(sys.argv[2])
write_file(source, out, compress=False)
whole = [path.read_bytes() for path in (out, out.with_suffix(".bin"))]
refused = 0
for limit in range(0, max(map(len, whole)) + 1, max(map(len, whole)) // 40):
    for path in (out, out.with_suffix(".bin")):
        path.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_file(source, out, compress=False)
    except OutputError:
        refused += 1
    else:
        assert [path.read_bytes() for path in (out, out.with_suffix(".bin"))] == whole, limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for path in (out, out.with_suffix(".bin")):
        path.touch()
print(refused)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_an_ir_is_whole_or_an_error_wherever_the_disk_is_full(tmp_path: Path) -> None:
    """OpenVINO writes with C++ streams, whose last bytes are written when they are closed."""
    onnx.save(small_network(), tmp_path / "net.onnx")
    command = [sys.executable, "-c", EVERY_LIMIT, str(tmp_path / "net.onnx"), str(tmp_path / "out.xml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 39
