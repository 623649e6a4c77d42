"""Checks on the file that was written, read back from disk: is it legal, is it what was promised, do runtimes agree."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import onnx

from ndpass.errors import VerificationError
from ndpass.evaluate import Agreement
from ndpass.graph import Graph

AGREEMENT = 1e-3  # relative difference between OpenVINO and onnxruntime in f32 that is taken for rounding


def check_file(path: Path, original: onnx.ModelProto, promised_macs: int, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise VerificationError unless `path` is legal ONNX with the original's inputs and outputs and promised MACs.

    sizes: the input shapes that the MACs are counted at. original: only its inputs and outputs are looked at.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as e:  # the checker and shape inference raise several types
        raise VerificationError(f"the rewritten model is not legal ONNX: {' '.join(str(e).split())[:300]}") from e
    written = onnx.load(path)
    for side in ("input", "output"):
        before, after = signature(original, side), signature(written, side)
        if before != after:
            raise VerificationError(f"the {side}s of the rewritten model differ: {after} instead of {before}")
    counted = Graph(written, sizes).macs()
    del written
    gc.collect()  # nodes and tensors of a graph point at each other: only the collector frees the weights they hold
    if counted != promised_macs:
        raise VerificationError(f"the written graph takes {counted} MACs, {promised_macs} were promised")


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


def check_agreement(agreement: Agreement, limit: float = AGREEMENT) -> None:
    """Raise VerificationError where OpenVINO and onnxruntime differ by more than `limit`."""
    if not agreement.relative_error <= limit:  # NaN is no agreement
        raise VerificationError(
            f"OpenVINO and onnxruntime differ by {agreement.relative_error:.2g} (relative) on the rewritten model, "
            f"most on output '{agreement.worst_output}'; at most {limit:g} is rounding"
        )
