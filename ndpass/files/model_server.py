"""A folder as OpenVINO Model Server reads it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ndpass.errors import OutputError


def check_served(folder: Path) -> None:
    """Raise OutputError where a folder for OpenVINO Model Server cannot be made or written; nothing is left behind."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written for the model server: {e.strerror or e}") from e


def serve(model: Path, folder: Path) -> Path:
    """Write a model as IR where OpenVINO Model Server looks: folder/N/model.xml, N one above the versions there are.

    The version appears whole or not at all. Returns the path of the .xml; raises OutputError.
    """
    from ndpass.files.ir_file import write_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    except OSError as e:
        raise OutputError(f"{folder}: cannot be written for the model server: {e.strerror or e}") from e
    versions = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
    place = folder / str(max(versions, default=0) + 1)
    try:
        write_file(model, stage / "model.xml", compress=False)
        stage.chmod(0o755)  # the server may run as somebody else
        stage.rename(place)
    except OSError as e:
        raise OutputError(f"{place}: cannot be written: {e.strerror or e}") from e
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return place / "model.xml"
