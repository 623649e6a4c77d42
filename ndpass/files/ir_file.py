"""OpenVINO IR from and to disk: an .xml, and its weights in the .bin beside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino as ov

from ndpass.errors import InputError, OutputError, blaming, last_words
from ndpass.files.model_path import check_model_path
from ndpass.files.weight_files import check_beside, data_file
from ndpass.graph.openvino.fold import constant_value, name_of
from ndpass.graph.openvino.graph import BODIES

NEWEST = 11  # version of the format that OpenVINO 2026 writes
PADDING = 64  # bytes that may follow the last weight
WEIGHTED = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
    "BatchNormInference",
)


def read_ir(path: Path) -> ov.Model:
    """The model at `path` (.xml), its weights mapped from the .bin.

    Raises InputError where a file is missing, no IR, of a newer version, where the .bin is not as long as the .xml
    says, or where weights are NaN or infinite.
    """
    version, size = _declared(path)
    weights = data_file(path)
    if size and not weights.is_file():
        raise InputError(f"{path}: its weights, {weights.name}, are not beside it: copy both files of the IR")
    check_beside(path, weights)
    if size and not size <= weights.stat().st_size < size + PADDING:
        raise InputError(
            f"{weights}: holds {weights.stat().st_size} bytes where {path.name} wants {size}: it belongs to another "
            "model or is truncated, copy both files of the IR again"
        )
    try:
        model = ov.Core().read_model(path, weights) if size else ov.Core().read_model(path)
    except Exception as e:  # OpenVINO's classes share no parent
        why = f"its format is version {version}, OpenVINO {ov.__version__} reads up to {NEWEST}: update openvino"
        raise InputError(f"{path}: {why if version > NEWEST else last_words(str(e))}") from e
    _check_finite(model, path)
    return model


def write_ir(model: ov.Model, path: Path, compress: bool) -> None:
    """Write .xml and .bin; weights keep their type unless `compress`, which stores float32 as float16.

    Raises OutputError where OpenVINO cannot write.
    """
    name_alike(model)
    try:
        ov.save_model(model, path, compress_to_fp16=compress)
    except RuntimeError as e:  # OpenVINO writes with C++ streams, which do not say why they fail
        raise OutputError(f"{path}: cannot be written by OpenVINO, is the disk full? ({last_words(str(e))})") from e


def name_alike(model: ov.Model) -> None:
    """Name what has no name of its own by its type and place, so that equal models are equal in every byte.

    OpenVINO numbers all that a process has ever made, and orders layers by names. So what the process did before would
    show in the file.
    """
    ops = model.get_ordered_ops()
    taken = {op.get_friendly_name() for op in ops if op.get_friendly_name() != op.get_name()}
    numbers: dict[str, Iterator[int]] = {}
    for op in ops:
        kind = op.get_type_name()
        if op.get_friendly_name() == op.get_name():
            numbered = (f"{kind}_{i}" for i in numbers.setdefault(kind, count()))
            op.set_friendly_name(next(name for name in numbered if name not in taken))
        for body in BODIES.get(kind, ()):
            name_alike(getattr(op, body)())


def write_file(source: Path, path: Path, compress: bool) -> None:
    """Write the model at `source`, ONNX or IR, as IR at `path`; see `write_ir`. InputError for what cannot be read."""
    with blaming(f"{source}: OpenVINO cannot read it"):
        model = ov.Core().read_model(source)
    write_ir(model, path, compress)


def _declared(path: Path) -> tuple[int, int]:
    """The version of the format and the bytes of weights that the .xml names."""
    check_model_path(path)
    version = size = 0
    try:
        for _, element in ElementTree.iterparse(path, ["start"]):
            if element.tag == "net":
                version = max(version, int(element.get("version", "0")))
            elif element.tag == "data" and element.get("offset") and element.get("size"):
                size = max(size, int(element.get("offset", "0")) + int(element.get("size", "0")))
    except (ElementTree.ParseError, ValueError) as e:
        raise InputError(f"{path}: not an OpenVINO IR, or truncated: {e} (convert or copy it again)") from e
    if not version:
        raise InputError(f"{path}: not an OpenVINO IR: it has no <net version=...>")
    return version, size


def _check_finite(model: ov.Model, path: Path) -> None:
    """Raise InputError naming the first constant that holds NaN, or an infinity where it is a layer's weight."""
    for op in model.get_ops():
        value = constant_value(op) if name_of(op.output(0)) in ("f16", "f32", "f64") else None
        if value is None or value.dtype.kind != "f" or np.isfinite(value).all():
            continue
        readers = {i.get_node().get_type_name() for i in op.output(0).get_target_inputs()}
        if np.isnan(value).any() or readers & set(WEIGHTED):
            raise InputError(
                f"{path}: weights '{op.get_friendly_name()}' hold NaN or infinite values: export the model again"
            )
