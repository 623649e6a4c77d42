"""The last touch on a layer that a ReLU follows, where a pass asks for it (`cd:solver=relu`); else why not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Conv
from ndpass.errors import UsageError
from ndpass.passes import Decomposition, Pass, Setting
from ndpass.passes.base import block_error
from ndpass.rewriting.checkpoint import Record

log = logging.getLogger(__name__)

Rows = Callable[[], tuple[Array, Array]]  # answers of the best kernel and responses wanted, (S, n_o) each


def asking(passes: Sequence[Pass], settings: Mapping[str, Mapping[str, Any]]) -> Decomposition | None:
    """The pass that asks for it with its setting, by pass name, if there is one."""
    rules = [rule for rule in passes if isinstance(rule, Decomposition)]
    return next((rule for rule in rules if rule.for_relu(settings.get(rule.name, {}))), None)


def check_data(passes: Sequence[Pass], given: bool) -> None:
    """Raise UsageError where a pass asks for samples and there are none."""
    rule = asking(passes, {rule.name: rule.pinned for rule in passes})
    if rule is not None and not given:
        raise UsageError(f"{rule.name}:solver=relu is a fit to data: give --calibration, or leave solver=relu out")


def unsuited(rule: Decomposition, behind: Sequence[str], record: Record, fitted: bool) -> str | None:
    """Why the layer keeps its linear fit, or None. behind: what its output goes into; fitted: whether to data."""
    if not fitted:
        return "there are no data"
    others = [name for name in record.row.setting if name not in (rule.name, "cp")]
    if others:
        return f"{', '.join(others)} acts inside it too"
    if list(behind) != ["Relu"]:
        return f"its output goes into {', '.join(sorted(set(behind))) or 'nothing'}, not into one Relu alone"
    return None


def refitted(record: Record, rule: Decomposition, conv: Conv, moments: Moments, rows: Rows) -> Record:
    """The layer fitted for the ReLU behind it, or as it was with the reason."""
    setting = cast(Setting, record.row.setting[rule.name])  # a report's row may hold any JSON, a pass's holds these
    block, gain = rule.refit_for_relu(conv, setting, moments, *rows())
    if gain <= 0:
        return linear(record, rule, "no fit for the Relu was better on held-out rows")
    error = block_error(conv, block, moments)
    row = _noted(record, rule, "relu", f"{100 * gain:.1f} % less error behind the Relu than the linear fit, held out")
    return replace(row, row=row.row.model_copy(update={"error_measured": error}), block=block)


def linear(record: Record, rule: Decomposition, why: str) -> Record:
    """The record with the linear fit that it has, and why."""
    return _noted(record, rule, "linear", f"linear fit: {why}")


def _noted(record: Record, rule: Decomposition, solver: str, text: str) -> Record:
    log.info("%s: %s", record.row.name, text)
    setting = {**record.row.setting, rule.name: {**record.row.setting[rule.name], "solver": solver}}
    return replace(record, row=record.row.model_copy(update={"setting": setting, "reason": text}))
