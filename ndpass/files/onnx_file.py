"""ONNX models, with weights inside the file or in files beside it, from and to disk."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import (
    load_external_data_for_model,
    set_external_data,
)

from ndpass.errors import InputError, writing
from ndpass.files.external_data import data_files
from ndpass.files.model_path import check_model_path
from ndpass.files.onnx_checks import check_types, check_values
from ndpass.files.weight_files import check_beside, data_file
from ndpass.graph.node_order import sort_nodes

EXTERNAL_FROM = 1024  # bytes; smaller weights stay in the model, as onnx itself does it
PROTOBUF_LIMIT = 2_000_000_000  # bytes; a little under the 2 GiB that one protobuf message can hold


def load(path: Path) -> onnx.ModelProto:
    """The ONNX model at `path` with its external data in memory, checked; see `read`."""
    return read(path)[0]


def read(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """The ONNX model at `path` with its external data in memory, checked, and the files that these data came from.

    Raises InputError where the file is missing, no ONNX, truncated, invalid, holds tensors that do not fit their shapes
    or NaN or infinite weights, or names external data that is missing or outside its folder.
    """
    check_model_path(path)
    try:
        model = onnx.load(path, load_external_data=False)
        sorted_here = sort_nodes(model.graph)  # both runtimes load what is out of order, the checker refuses it
        if not sorted_here:
            onnx.checker.check_model(str(path))
        beside = data_files(model, path.parent)  # loading them makes the model forget where they were
        for file in beside:
            check_beside(path, file)
        if beside:
            load_external_data_for_model(model, str(path.parent))
        if sorted_here:
            onnx.checker.check_model(model)
    except InputError:
        raise
    except Exception as e:  # protobuf, the checker and the loader of external data raise a dozen types between them
        raise InputError(f"{path}: {_why(e)}") from e
    check_types(model, str(path))
    check_values(model, str(path))
    return model, beside


def check_external_data(path: Path) -> None:
    """Raise InputError where the ONNX model at `path` names external data outside its folder; none of it is read."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as e:
        raise InputError(f"{path}: {_why(e)}") from e
    for file in data_files(model, path.parent):
        check_beside(path, file)


def _why(e: Exception) -> str:
    text = " ".join(str(e).split())
    if isinstance(e, OSError) and not isinstance(e, FileNotFoundError):
        return f"cannot be read: {e.strerror or e}"
    if "parse" in text.lower() or "ir_version" in text or type(e).__name__ == "DecodeError":
        return "not an ONNX model, or truncated: it cannot be parsed (export or copy it again)"
    if "external" in text.lower() or text.startswith("Data of TensorProto") or isinstance(e, FileNotFoundError):
        return f"its external data cannot be used: {text[:200]} (it must lie beside the model, inside its folder)"
    return f"not a valid ONNX model: {text[:300]}"


def save(model: onnx.ModelProto, path: Path, as_external: bool = False) -> None:
    """Write ONNX; weights go to `<name>.data` beside it if asked for or if one file cannot hold them.

    External data is taken out of `model` on the way: it should not be used afterwards.
    Raises OutputError.
    """
    size = sum(len(t.raw_data) for t in model.graph.initializer)
    if as_external or size >= PROTOBUF_LIMIT:
        # not by onnx.save(location=...), which refuses a name that is taken in the working folder
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= EXTERNAL_FROM:
                set_external_data(tensor, data_file(path).name)
    with writing(path):
        onnx.save(model, path)
