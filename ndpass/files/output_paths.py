"""Where a command may write: on none of its inputs, on no weights of a model, and only where a file can be made."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ndpass.errors import UsageError
from ndpass.files.staging import Outputs
from ndpass.files.weight_files import IR as IR
from ndpass.files.weight_files import MODELS, data_file, weight_files

WEIGHTS = (".bin", ".data")
NO_IMAGES = (*MODELS, ".json", ".svg", ".html")  # what ndpass writes and no folder of images is read for


def check_outputs(
    inputs: Iterable[Path | None],
    outputs: Mapping[str, Path | None],
    model: Path | None = None,
    served: Path | None = None,
) -> None:
    """Raise UsageError for an output that would replace an input, another output, or a model or its weights.

    inputs: all files and folders that the command reads. outputs: option -> the report, plan or picture that it asks
    for. model: where the rewritten model goes, which may replace an older model. served: the folder of --model-server.
    None stands for what is not given. Files are told apart by what they are: links and relative paths are followed.
    Raises OutputError where a file cannot be made. Nothing is left behind.
    """
    read = [path for path in inputs if path is not None]
    written = {f"{option} {path}": [path] for option, path in outputs.items() if path is not None}
    if model is not None:
        written = {str(model): [model, data_file(model)], **written}
    for (one, files), (other, others) in itertools.combinations(written.items(), 2):
        if shared := _shared(files, others):
            raise UsageError(f"{one} and {other} would both be written to {shared}: rename one of them")
    for what, files in written.items():
        _check_inputs(what, files, read)
    if served is not None:
        _check_inputs(f"--model-server {served}", [served], read)
    with Outputs() as trial:
        for path, *_ in written.values():
            trial.stage(path)
        if served is not None:
            trial.stage_folder(served / "1")
    for what, files in written.items():  # behind the trial, which takes back what a killed process had half in place
        _check_models(what, files)


def _check_inputs(what: str, files: Sequence[Path], inputs: Sequence[Path]) -> None:
    """files: the output itself and, for a model, its weights."""
    remedy = "give another name for the output"
    for given in inputs:
        if _same(files[0], given):
            raise UsageError(f"{what} is the input itself{_also(files[0], given)}: {remedy}")
        if given.is_dir() and files[0].suffix.lower() not in NO_IMAGES and _lies_in(files[0], given):
            raise UsageError(f"{what} is a file of the input {given}: {remedy}")
        if _shared(files, [given]):
            raise UsageError(f"{what}: its weights would overwrite the input {given}: {remedy}")
        if any(_lies_in(file, given.parent) for file in files) and (taken := _shared(files, weight_files(given))):
            culprit = "it" if taken == files[0] else "its weights"
            raise UsageError(f"{what}: {culprit} would overwrite those of the input {given}: {remedy}")


def _check_models(what: str, files: Sequence[Path]) -> None:
    """Raise UsageError where a report would replace a model, or a model the weights of another one."""
    path, *weights = files
    if path.exists() and (path.suffix in WEIGHTS or (not weights and path.suffix in MODELS)):
        raise UsageError(f"{what} would overwrite a model or its weights: give another name")
    for file in weights:
        if file.exists() and not _shared([file], weight_files(path)):
            raise UsageError(f"{what}: its weights would overwrite {file}, which belongs to another model: move that")


def _shared(files: Iterable[Path], others: Sequence[Path]) -> Path | None:
    """The first of the files that is the same as one of the others."""
    return next((file for file in files if any(_same(file, other) for other in others)), None)


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _lies_in(file: Path, folder: Path) -> bool:
    """Whether a file is there, in the folder or below."""
    return file.exists() and folder.resolve() in file.resolve().parents


def _also(path: Path, given: Path) -> str:
    return "" if path == given else f", {given}"


def check_kind(output: Path, from_ir: bool, int8: bool = False) -> None:
    """Raise UsageError for an output that is no model file, or ONNX where only IR can be written."""
    if output.suffix not in (".onnx", IR):
        raise UsageError(f"{output}: the output is an .onnx file, or an .xml for OpenVINO IR")
    if output.suffix != IR and from_ir:
        raise UsageError(f"{output}: an OpenVINO model cannot be written as ONNX: name an .xml as output")
    if output.suffix != IR and int8:
        raise UsageError(f"{output}: --int8 is written as OpenVINO IR: give -o {output.stem}.xml")


def default_output(source: Path, int8: bool = False) -> Path:
    """Where the rewritten model goes if nobody says: in the working folder, of the same kind; int8 is IR."""
    return Path(f"{source.stem}.ndpass{IR if int8 or source.suffix == IR else '.onnx'}")


def resume_folder(output: Path) -> Path:
    """Where a run that writes `output` keeps what it has done, so that it can go on when it is cut off."""
    return output.with_name(f".{output.name}.resume")
