"""Which files hold the weights of a model that is a file: the .bin of an IR, the external data of an ONNX model."""

from __future__ import annotations

from pathlib import Path

from ndpass.errors import InputError

IR = ".xml"
ONNX = ".onnx"
MODELS = (ONNX, IR)  # endings of the model files that ndpass writes


def data_file(path: Path) -> Path:
    """Where ndpass puts the weights that are not in the model file at `path`."""
    return path.with_suffix(".bin") if path.suffix == IR else path.with_name(f"{path.name}.data")


def weight_files(path: Path) -> list[Path]:
    """The files that hold weights of the model at `path` and are there; none where `path` is no readable model."""
    if path.suffix == IR:
        return [data_file(path)] if path.is_file() and data_file(path).is_file() else []
    if path.suffix != ONNX or not path.is_file():
        return []
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from ndpass.files.external_data import data_files

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError):
        return []
    return [file for file in data_files(model, path.parent) if file.is_file()]


def check_beside(model: Path, weights: Path) -> None:
    """Raise InputError where a file of weights lies outside the folder of its model, links followed.

    A model from elsewhere must not have its reader open, and copy into the output, whatever file it names. The folder
    is that of the path as given or, where that is a link, of the file itself.
    """
    folders = {model.parent.resolve(), model.resolve().parent}
    if not folders & set(weights.resolve().parents):
        raise InputError(
            f"{model}: its external data cannot be used: {weights} leads out of its folder (it must lie beside the "
            "model, inside its folder)"
        )


def stored_bytes(path: Path) -> int:
    """Size on disk of the model at `path` with the weights that ndpass has put beside it."""
    return sum(p.stat().st_size for p in (path, data_file(path)) if p.exists())
