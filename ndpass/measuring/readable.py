"""Whether OpenVINO, which measures what ndpass makes, reads a model, and what to do where it does not."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ndpass.errors import InputError, last_words
from ndpass.measuring.openvino_core import shared_core


class Unreadable(NamedTuple):
    """Why OpenVINO does not read a model, and the command that mends it; None where nothing is known to."""

    reason: str
    remedy: str | None

    @property
    def text(self) -> str:
        return f"OpenVINO, which measures what ndpass makes, cannot read the model: {self.reason}"


def unreadable(path: Path, sizes: Mapping[str, Sequence[int]]) -> Unreadable | None:
    """None where OpenVINO reads the model. sizes: the shapes of its inputs, of which some axes may be open.

    Its operators may need to know shapes, as those behind an If do: then the model is read once these sizes are fixed.
    """
    try:
        shared_core().read_model(path)
    except Exception as e:  # the runtime's errors share no class
        if not _reads_fixed(path, sizes):
            return Unreadable(last_words(str(e)), None)
        return Unreadable(f"not with open axes ({last_words(str(e))})", _fixed(path, sizes))
    return None


def check_runs(path: Path, sizes: Mapping[str, Sequence[int]]) -> None:
    """Raise InputError where OpenVINO cannot read the model."""
    if (found := unreadable(path, sizes)) is not None:
        raise InputError(f"{path}: {found.text}" + (f": fix them with {found.remedy}" if found.remedy else ""))


def _reads_fixed(path: Path, sizes: Mapping[str, Sequence[int]]) -> bool:
    import openvino as ov

    try:
        ov.convert_model(str(path), input={name: list(shape) for name, shape in sizes.items()})
    except Exception:  # then something else is wrong, which reading it has said
        return False
    return True


def _fixed(path: Path, sizes: Mapping[str, Sequence[int]]) -> str:
    """A command that writes the model as an IR of these sizes beside it."""
    given, written = json.dumps(str(path)), json.dumps(str(path.with_suffix(".xml")))
    shapes = json.dumps({name: list(shape) for name, shape in sizes.items()})
    model = f"ov.convert_model({given}, input={shapes})"
    code = f"import openvino as ov; ov.save_model({model}, {written}, compress_to_fp16=False)"
    return shlex.join(["python", "-c", code])
