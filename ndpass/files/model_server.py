"""A folder as OpenVINO Model Server reads it: NAME/VERSION/model.xml, versions being whole numbers."""

from __future__ import annotations

from pathlib import Path

from ndpass.errors import writing
from ndpass.files.staging import Outputs


def stage_version(model: Path, folder: Path, outputs: Outputs) -> Path:
    """Stage a model as IR in folder/N/model.xml, N one above the versions that are there.

    model: .onnx or .xml. Returns the path that the .xml will have. Raises OutputError where it cannot be written.
    """
    from ndpass.files.ir_file import write_file

    with writing(folder):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    version = 1 + max((int(name) for name in names if name.isdecimal()), default=0)
    stage = outputs.stage_folder(folder / str(version))
    write_file(model, stage.path / "model.xml", compress=False)
    stage.path.chmod(0o755)  # the server may run as another user
    return stage.target / "model.xml"


def check_served(folder: Path) -> None:
    """Raise OutputError where a folder for OpenVINO Model Server cannot be made or written; nothing is left behind."""
    with Outputs() as trial:
        trial.stage_folder(folder / "1")


def serve(model: Path, folder: Path) -> Path:
    """`stage_version`, put in place at once."""
    with Outputs() as outputs:
        place = stage_version(model, folder, outputs)
        outputs.commit()
        return place
