"""The one `openvino.Core` of the process that reads and compiles models and asks for devices."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ndpass.files.weight_files import ONNX

if TYPE_CHECKING:
    import openvino as ov


@cache
def shared_core() -> ov.Core:
    """The same Core at each call.

    OpenVINO's CPU plugin gives the thread that loads it a stack of its own for signals, and takes it away with its
    Core. Of two Cores whose lives overlap, the one that goes last leaves the stack of the other behind, which is gone:
    the next Ctrl-C ends the process with a segmentation fault (seen with OpenVINO 2026.4). One Core that stays does
    not.
    """
    import openvino as ov

    return ov.Core()


def read_model(model: Path | bytes) -> ov.Model:
    """The model in a file, or an ONNX model in bytes, as OpenVINO reads it, but with ONNX's pads in an ONNX model."""
    from ndpass.graph.openvino.onnx_pads import give_onnx_pads

    read = shared_core().read_model(model)
    return give_onnx_pads(read) if isinstance(model, bytes) or model.suffix == ONNX else read
