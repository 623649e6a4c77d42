"""Plans, candidates and blocks as JSON and arrays, exact to the last bit, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.planning.candidate import Candidate, Choice


def pack_candidate(candidate: Candidate) -> list[Any]:
    """The fields in order, for JSON; `Candidate(*packed)` is the candidate again."""
    c = candidate
    return [c.macs, c.error, c.setting, c.seconds, c.weighed, c.bound]


def pack_plan(plan: Mapping[str, Choice]) -> dict[str, Any]:
    """Site name -> its choice, for JSON."""
    return {name: [pack_candidate(c.candidate), c.reason, c.status] for name, c in plan.items()}


def unpack_plan(packed: Mapping[str, Any]) -> dict[str, Choice]:
    """Restore what `pack_plan` gave."""
    return {name: Choice(Candidate(*fields), why, status) for name, (fields, why, status) in packed.items()}


def pack_block(block: Block, arrays: dict[str, Any]) -> dict[str, Any]:
    """The block's structure, for JSON; its weights and biases are added to `arrays`, under names that it holds."""
    if not isinstance(block, Conv):
        kind = "chain" if isinstance(block, Chain) else "sum"
        return {kind: [pack_block(b, arrays) for b in block.blocks]}
    name = f"w{len(arrays)}"
    arrays[name] = block.weight
    if block.bias is not None:
        arrays[f"{name}.bias"] = block.bias
    geometry = {key: getattr(block, key) for key in ("strides", "pads", "dilations", "group")}
    return {"conv": name, "bias": block.bias is not None, **geometry}


def unpack_block(packed: Mapping[str, Any], arrays: Mapping[str, Array]) -> Block:
    """Restore what `pack_block` gave."""
    if "conv" not in packed:
        kind, parts = next(iter(packed.items()))
        return (Chain if kind == "chain" else Sum)(*(unpack_block(p, arrays) for p in parts))
    name = packed["conv"]
    geometry = {key: tuple(packed[key]) for key in ("strides", "pads", "dilations")}
    bias = arrays[f"{name}.bias"] if packed["bias"] else None
    return Conv(arrays[name], bias, group=packed["group"], **geometry)
