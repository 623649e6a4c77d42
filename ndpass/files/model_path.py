"""What a path that is given as a model is, told before anything reads it; one line says what to type instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from ndpass.errors import InputError, reading
from ndpass.files.weight_files import IR, MODELS

PYTORCH = (".pt", ".pth", ".safetensors")
ARRAYS = (".npz", ".npy")
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
OTHERS = {
    ".h5": "a Keras model: convert it with tf2onnx, python -m tf2onnx.convert --keras",
    ".keras": "a Keras model: export it with model.export('{stem}.onnx', format='onnx')",
    ".engine": "a TensorRT engine, which cannot be rewritten: give the ONNX model that it was built from",
    ".ort": "a model optimised for onnxruntime: give the ONNX model that it was made from",
}


def check_model_path(path: Path) -> None:
    """Raise InputError for a path that cannot be a model: missing, a folder, a PyTorch file, data, an image.

    Only the name and the first bytes are looked at.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: {_instead_of(path)}")
    check_exported(path)
    ending = path.suffix.lower()
    if ending in ARRAYS or ending in IMAGES:
        kind = "an array file" if ending in ARRAYS else "an image"
        raise InputError(f"{path} is {kind}, no model: the model comes first, data as --calibration or --validation")
    if ending == ".bin" and path.with_suffix(IR).is_file():
        raise InputError(f"{path} holds only the weights of an OpenVINO IR: give {path.with_suffix(IR)}")
    if ending in OTHERS:
        raise InputError(f"{path} is {OTHERS[ending].format(stem=path.stem)}")


def check_exported(path: Path) -> None:
    """Raise InputError for a file that is missing, and for a network that was saved by PyTorch and not exported."""
    if not path.is_file():
        raise InputError(f"{path}: no such file{close_to(path, MODELS)}")
    if path.suffix.lower() in PYTORCH or _is_pytorch(path):
        raise InputError(
            f"{path} is a PyTorch file: load the network in Python and export it with "
            f'torch.onnx.export(network.eval(), torch.zeros(1, 3, 224, 224), "{path.stem}.onnx")'
        )


def check_data_path(path: Path) -> None:
    """Raise InputError for a model in the place of data."""
    if path.suffix.lower() in (*MODELS, *PYTORCH):
        raise InputError(f"{path} is a model, no data: the model comes first, data as --calibration or --validation")


def _is_pytorch(path: Path) -> bool:
    """Whether the file begins as torch.save writes it, an archive or an older pickle."""
    with reading(path), path.open("rb") as file:
        first = file.read(100)
    return first.startswith(b"\x80\x02") or (first.startswith(b"PK") and b"data.pkl" in first)


def _instead_of(folder: Path) -> str:
    """What to name in the place of a folder."""
    with reading(folder):
        inside = sorted(folder.iterdir())
    models = [p for p in inside if p.suffix in MODELS]
    if models:
        return f"name the model in it, as {models[0]}"
    if any(p.suffix.lower() in (*IMAGES, *ARRAYS) for p in inside):
        return "it holds data, no model; the model comes first, data as --calibration, --validation or --data"
    return "name the model in it; there is no .onnx and no .xml directly in it"


def close_to(path: Path, endings: Collection[str] | None = None) -> str:
    """The end of a message about a path that is not there: a name beside it that was probably meant, or nothing.

    endings: that it may have, None for any.
    """
    try:
        beside = {p.name: p for p in path.parent.iterdir() if endings is None or p.suffix in endings}
    except OSError:
        return ""
    found = difflib.get_close_matches(path.name, beside, 1)
    return f": did you mean {beside[found[0]]}?" if found else ""
