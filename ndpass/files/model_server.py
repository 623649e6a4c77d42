"""A folder as OpenVINO Model Server reads it: NAME/VERSION/model.xml, versions being whole numbers."""

from __future__ import annotations

from pathlib import Path

from ndpass.errors import writing
from ndpass.files.staging import Outputs

MODEL = "model.xml"


def stage_version(model: Path, folder: Path, outputs: Outputs) -> Path:
    """Stage a model as IR in folder/N/model.xml, N one above the versions that are there.

    model: .onnx or .xml. Returns the path that the .xml will have. Raises OutputError where it cannot be written.
    """
    from ndpass.files.ir_file import write_file

    stage = outputs.stage_folder(folder / str(newest_version(folder) + 1))
    write_file(model, stage.path / MODEL, compress=False)
    stage.path.chmod(0o755)  # the server may run as another user
    return stage.target / MODEL


def newest_version(folder: Path) -> int:
    """The highest version that is in the folder; 0 where there is none."""
    with writing(folder):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def served_model(folder: Path) -> Path:
    """The .xml of the newest version in the folder."""
    return folder / str(newest_version(folder)) / MODEL
