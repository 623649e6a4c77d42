"""Checks on the file that was written, read back from disk: is it legal, and is it what was promised."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import onnx

from ndpass.errors import VerificationError
from ndpass.files.interface import Interface, Ports, ov_interface, signature
from ndpass.graph.graph import Graph


def check_file(path: Path, original: Interface, promised_macs: int, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise VerificationError unless `path` is a legal model with the original's inputs and outputs and promised MACs.

    sizes: the input shapes that the MACs are counted at. original: only its inputs and outputs are looked at.
    """
    if isinstance(original, onnx.ModelProto):
        counted = _checked_onnx(path, original, sizes)
    else:
        counted = _checked_ir(path, original, sizes)
    gc.collect()  # nodes and tensors of a graph point at each other: only the collector frees the weights they hold
    if counted != promised_macs:
        raise VerificationError(f"the written graph takes {counted} MACs, {promised_macs} were promised")


def _checked_ir(path: Path, original: tuple[Ports, Ports], sizes: Mapping[str, tuple[int, ...]]) -> int:
    """The MACs of the IR at `path`."""
    from ndpass.files.ir_file import read_ir
    from ndpass.graph.openvino.graph import OvGraph

    written = read_ir(path)
    for side, before, after in zip(("input", "output"), original, ov_interface(written), strict=True):
        if before != after:
            raise VerificationError(f"the {side}s of the rewritten model differ: {after} instead of {before}")
    return OvGraph(written, sizes).macs()


def _checked_onnx(path: Path, original: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """The MACs of the ONNX model at `path`."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as e:  # the checker and shape inference raise several types
        raise VerificationError(f"the rewritten model is not legal ONNX: {' '.join(str(e).split())[:300]}") from e
    written = onnx.load(path)
    for side in ("input", "output"):
        before, after = signature(original, side), signature(written, side)
        if before != after:
            raise VerificationError(f"the {side}s of the rewritten model differ: {after} instead of {before}")
    return Graph(written, sizes).macs()
