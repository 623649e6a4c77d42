"""Models and text to and from disk. Whatever is written appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    set_external_data,
    uses_external_data,
)

from ndpass.errors import InputError, OutputError, UsageError

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
EXTERNAL_FROM = 1024  # bytes; smaller weights stay in the model, as onnx itself does it
PROTOBUF_LIMIT = 2_000_000_000  # bytes; a little under the 2 GiB that one protobuf message can hold


def load(path: Path) -> onnx.ModelProto:
    """The ONNX model at `path` with its external data in memory, checked; see `read`."""
    return read(path)[0]


def read(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """The ONNX model at `path` with its external data in memory, checked, and the files that these data came from.

    Raises InputError where the file is missing, no ONNX, truncated, invalid, holds NaN or infinite weights, or names
    external data that is missing or outside its folder.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path, load_external_data=False)
        beside = data_files(model, path.parent)  # loading them makes the model forget where they were
        if beside:
            load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # protobuf, the checker and the loader of external data raise a dozen types between them
        raise InputError(f"{path}: {_why(e)}") from e
    check_finite(model, str(path))
    return model, beside


def _why(e: Exception) -> str:
    text = " ".join(str(e).split())
    if "parse" in text.lower() or "ir_version" in text or type(e).__name__ == "DecodeError":
        return "not an ONNX model, or truncated: it cannot be parsed (export or copy it again)"
    if "external" in text.lower() or text.startswith("Data of TensorProto") or isinstance(e, FileNotFoundError):
        return f"its external data cannot be used: {text[:200]} (it must lie beside the model, inside its folder)"
    return f"not a valid ONNX model: {text[:300]}"


def data_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold the tensors of a model in `folder` whose external data were not loaded."""
    places = (ExternalDataInfo(t).location for _, t in _tensors(model.graph) if uses_external_data(t))
    return [folder / place for place in dict.fromkeys(places)]


def check_finite(model: onnx.ModelProto, name: str) -> None:
    """Raise InputError naming the first tensor that holds NaN, or an infinity where it is a layer's weight.

    Masks and bounds, such as those of a Clip, may be infinite.
    """
    weights = _weights(model.graph)
    for place, tensor in _tensors(model.graph):
        if tensor.data_type in FLOATS and not _finite(onnx.numpy_helper.to_array(tensor), place in weights):
            raise InputError(f"{name}: weights '{place}' hold NaN or infinite values: export the model again")


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Names of what weighted layers read besides their input; in inner graphs too."""
    own = {name for node in graph.node if node.op_type in WEIGHTED for name in node.input[1:]}
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return own.union(*(_weights(g) for g in inner))


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and the values of Constant nodes, with the names that they go by; in inner graphs too."""
    yield from ((t.name, t) for t in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _finite(array: NDArray[np.floating], weight: bool) -> bool:
    return bool(np.isfinite(array).all()) or (not weight and not np.isnan(array).any())


@dataclass(frozen=True)
class Staged:
    """A file being written: `path` is where to write it, in a hidden folder beside its final place.

    compress: whether IR is to have its weights in float16.
    """

    path: Path
    target: Path
    compress: bool = False

    @property
    def onnx(self) -> Path:
        """Where the ONNX model goes, whether it is the result or what the IR is made from."""
        return self.path.with_suffix(".onnx")

    def finish(self) -> None:
        """Make the IR from the ONNX model if an IR was asked for and is not there yet; the ONNX model then goes."""
        if self.path.suffix == ".xml" and self.onnx.exists():
            if not self.path.exists():
                from ndpass.ir import write_file

                write_file(self.onnx, self.path, self.compress)
            for part in list(self.path.parent.iterdir()):
                if part.name.startswith(self.onnx.name):
                    part.unlink()

    def commit(self) -> None:
        """Move everything in the staging folder to its place, the model itself last.

        An older model is removed before its data is replaced: no moment leaves a model beside another's weights.
        """
        extras = [p for p in self.path.parent.iterdir() if p != self.path]
        for source in [*extras, self.path]:
            shutil.copymode(self.path, source)  # onnx lets only the owner read external data
            _sync(source)
        if extras:
            self.target.unlink(missing_ok=True)
        elif self.target.exists():
            data_file(self.target).unlink(missing_ok=True)  # of the model that is replaced
        for source in [*extras, self.path]:  # after all that takes time: an interrupt finds hardly a gap
            source.replace(self.target.parent / source.name)
        _sync(self.target.parent)


@contextmanager
def staged(target: Path, compress: bool = False) -> Iterator[Staged]:
    """A staging folder beside `target`, removed at the end whatever happens.

    Raises OutputError at once where the folder is missing or cannot be written, and later where the disk is full.
    """
    if target.is_dir():
        raise OutputError(f"{target} is a folder: name a file in it")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as e:
        raise OutputError(f"{target}: cannot write into {target.parent.resolve()}: {e.strerror}") from e
    try:
        yield Staged(folder / target.name, target, compress)
    except OSError as e:
        raise OutputError(f"{target}: cannot be written: {e.strerror or e}") from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(target: Path, text: str) -> None:
    """Write a small file whole or not at all. Raises OutputError."""
    write_bytes(target, lambda file: file.write(text.encode()))


def write_bytes(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears whole or not at all. Raises OutputError."""
    with staged(target) as stage:
        with stage.path.open("wb") as file:
            write(file)
        stage.commit()


def check_writable(target: Path, *taken: Path) -> None:
    """Raise UsageError where `target` is one of the files `taken`, OutputError where it cannot be written."""
    if target.resolve() in {path.resolve() for path in taken}:
        raise UsageError(f"{target} is the name of a model: give another name")
    with staged(target):
        pass


def save(model: onnx.ModelProto, path: Path, as_external: bool = False) -> None:
    """Write ONNX; weights go to `<name>.data` beside it if asked for or if one file cannot hold them.

    External data is taken out of `model` on the way: it should not be used afterwards.
    """
    size = sum(len(t.raw_data) for t in model.graph.initializer)
    if as_external or size >= PROTOBUF_LIMIT:
        # not by onnx.save(location=...), which refuses a name that is taken in the working folder
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= EXTERNAL_FROM:
                set_external_data(tensor, data_file(path).name)
    onnx.save(model, path)


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
    from ndpass.ir import write_file

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


def data_file(path: Path) -> Path:
    """Where ndpass puts the weights of the model at `path` that are not in it."""
    return path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")


def stored_bytes(path: Path) -> int:
    """Size on disk of a model with its weights."""
    return sum(p.stat().st_size for p in (path, data_file(path)) if p.exists())
