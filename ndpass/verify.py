"""Checks on the file that was written, read back from disk: is it legal, is it what was promised, do runtimes agree."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx

from ndpass.errors import VerificationError
from ndpass.evaluate import Agreement
from ndpass.graph import Graph
from ndpass.runtime import port_name

if TYPE_CHECKING:
    import openvino as ov

Ports: TypeAlias = "list[tuple[str, str, str]]"  # name, type and shape of each
Interface: TypeAlias = "onnx.ModelProto | tuple[Ports, Ports]"  # the latter an OpenVINO model's inputs and outputs

AGREEMENT = 1e-3  # relative difference between OpenVINO and onnxruntime in f32 that is taken for rounding
FURTHER = 2.0  # times the original's difference that is no fault of the rewrite


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
    from ndpass.ir import read_ir
    from ndpass.ov_graph import OvGraph

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


def signature(model: onnx.ModelProto, side: str) -> list[tuple[str, bytes]]:
    """(name, type and shape) of the inputs or outputs in order; initializers listed as inputs are none."""
    weights = {t.name for t in model.graph.initializer}
    infos = getattr(model.graph, side)
    return [(i.name, i.type.SerializeToString(deterministic=True)) for i in infos if i.name not in weights]


def interface(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs of the model without anything else, to keep when the model itself is let go."""
    bare = onnx.ModelProto()
    weights = {t.name for t in model.graph.initializer}
    bare.graph.input.extend(i for i in model.graph.input if i.name not in weights)
    bare.graph.output.extend(model.graph.output)
    return bare


def ov_interface(model: ov.Model) -> tuple[Ports, Ports]:
    """Inputs and outputs in order."""
    inputs, outputs = (
        [(port_name(p), p.get_element_type().to_string(), p.get_partial_shape().to_string()) for p in ports]
        for ports in (model.inputs, model.outputs)
    )
    return inputs, outputs


def check_agreement(rewritten: Agreement, original: Callable[[], Agreement], limit: float = AGREEMENT) -> str | None:
    """Raise VerificationError where OpenVINO and onnxruntime differ by more than `limit` on the rewritten model.

    Not where they differ about as much on the original, which is looked at only then: a warning is returned.
    """
    found = rewritten.relative_error
    if found <= limit:  # NaN is no agreement
        return None
    before = original().relative_error
    if found <= FURTHER * before:
        return (
            f"OpenVINO and onnxruntime differ on the original already, by {before:.2g} (relative), and by {found:.2g} "
            f"on the rewritten model: it was measured in OpenVINO"
        )
    raise VerificationError(
        f"OpenVINO and onnxruntime differ by {found:.2g} (relative) on the rewritten model, by {before:.2g} on the "
        f"original, most on output '{rewritten.worst_output}'; at most {limit:g} is rounding"
    )
