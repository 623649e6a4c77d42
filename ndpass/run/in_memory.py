"""What a caller has in memory, as the files that a run reads, and what it wrote, in memory again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from ndpass.errors import NdpassError, UsageError, blaming
from ndpass.files import model_file, onnx_file
from ndpass.files.model_path import check_exported
from ndpass.run.plan_file import PlanFile

if TYPE_CHECKING:
    import openvino as ov


def file_of(model: Any, folder: Path) -> Path:
    """The path itself, or where in `folder` the model was written."""
    import openvino as ov

    if isinstance(model, str | Path):
        return Path(model)
    if isinstance(model, onnx.ModelProto):
        path = folder / "model.onnx"
        onnx_file.save(copy.deepcopy(model), path)
        return path
    if isinstance(model, ov.Model):
        from ndpass.files.ir_file import write_ir

        path = folder / "model.xml"
        write_ir(model, path, compress=False)
        return path
    law = "a model is a path, an onnx.ModelProto or an openvino.Model"
    raise UsageError(f"{law}; got {type(model).__name__}: ndpass.convert_model takes what OpenVINO converts")


def plan_file(plan: str | Path | PlanFile | None, folder: Path) -> Path | None:
    """The path itself, or where in `folder` the plan was written."""
    if isinstance(plan, PlanFile):
        plan.save(folder / "given.json")
        return folder / "given.json"
    return None if plan is None else Path(plan)


def load(path: Path) -> Any:
    """A model with its weights in memory: the file will go."""
    if path.suffix != model_file.IR:
        return onnx.load(path)
    import openvino as ov

    return ov.Core().read_model(path, config={"ENABLE_MMAP": False})


def converted(source: Any, conversion: dict[str, Any]) -> ov.Model:
    """The model as OpenVINO converts it. Raises InputError, for an ONNX file that is none before OpenVINO says so."""
    import openvino as ov

    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix == ".onnx":
            onnx_file.read(path)
        elif not path.is_dir():  # a folder may be a TensorFlow model
            check_exported(path)
    what = source if isinstance(source, str | Path) else f"the {type(source).__name__}"
    with blaming(f"{what}: OpenVINO cannot convert it"):
        return ov.convert_model(source, **conversion)


@contextmanager
def known_as(names: Mapping[Path, str], folder: Path) -> Iterator[None]:
    """Put what the caller knows in the place of paths in `folder`, which nobody has given: path -> what to call it."""
    try:
        yield
    except NdpassError as e:
        text = str(e)
        for path, name in names.items():
            if path.parent == folder:
                text = text.replace(str(path), name)
        if text == str(e):
            raise
        raise type(e)(text) from e
