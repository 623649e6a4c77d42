"""The refit of a layer for the ReLU behind it, where a pass offers one and it is asked for (`cd:solver=relu`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ndpass.calibration.moments import Moments
from ndpass.conv import Array, Conv
from ndpass.errors import UsageError
from ndpass.passes import Decomposition, Pass, Setting
from ndpass.passes.base import block_error, setting_text
from ndpass.passes.relu_fit import ReluFit
from ndpass.rewriting.checkpoint import Record

log = logging.getLogger(__name__)

Rows = Callable[[], tuple[Array, Array]]  # answers of the best kernel and responses wanted, (S, n_o) each


def asking(passes: Sequence[Pass], settings: Mapping[str, Mapping[str, Any]]) -> ReluFit | None:
    """The pass that is to fit for the ReLU, or None; settings: by pass name, of a layer or the pinned options."""
    rules = [rule for rule in passes if isinstance(rule, ReluFit)]
    return next((rule for rule in rules if rule.for_relu(settings.get(rule.name, {}))), None)


def check_data(passes: Sequence[Pass], given: bool) -> None:
    """Raise UsageError where a pass asks for samples and there are none."""
    pinned = {rule.name: rule.pinned for rule in passes}
    rule = asking(passes, pinned)
    if rule is not None and not given:
        linear = rule.linear_setting(pinned[rule.name])
        asked = setting_text({k: v for k, v in pinned[rule.name].items() if linear.get(k) != v})
        raise UsageError(f"{rule.name}:{asked} is a fit to data: give --calibration, or leave {asked} out")


def unsuited(rule: ReluFit, passes: Sequence[Pass], behind: Sequence[str], record: Record, fitted: bool) -> str | None:
    """Why the layer keeps its linear fit, or None.

    passes: of the run; behind: the operators that read the layer's output; fitted: whether it is fitted to data.
    """
    if not fitted:
        return "there are no data"
    inside = [other.name for other in passes if isinstance(other, Decomposition) and other.name != rule.name]
    others = [name for name in record.row.setting if name in inside]
    if others:
        return f"{', '.join(others)} acts inside it too"
    if record.block is not None and record.block.leaves()[-1].group > 1:
        return "it is a grouped convolution"
    if list(behind) != ["Relu"]:
        return f"its output goes into {', '.join(sorted(set(behind))) or 'nothing'}, not into one Relu alone"
    return None


def refitted(record: Record, rule: ReluFit, conv: Conv, moments: Moments, rows: Rows) -> Record:
    """The record with the layer fitted for the ReLU behind it, or with its linear fit and the reason.

    conv, moments: of the layer as it was fitted; rows: gives the samples, which are only collected where they are used.
    """
    setting = cast(Setting, record.row.setting[rule.name])  # a report's row may hold any JSON, a pass's holds these
    block, gain = rule.refit_for_relu(conv, setting, moments, *rows())
    if gain <= 0:
        return linear(record, rule, "no fit for the Relu was better on held-out rows")
    error = block_error(conv, block, moments)
    text = f"{100 * gain:.1f} % less error behind the Relu than the linear fit, held out"
    row = _noted(record, rule.name, setting, text).row.model_copy(update={"error_measured": error})
    return replace(record, row=row, block=block)


def linear(record: Record, rule: ReluFit, why: str) -> Record:
    """The record with the linear fit that it has, and why it keeps it."""
    setting = rule.linear_setting(cast(Setting, record.row.setting[rule.name]))
    return _noted(record, rule.name, setting, f"linear fit: {why}")


def _noted(record: Record, name: str, setting: Setting, text: str) -> Record:
    """The record with the setting that pass `name` has now, and why."""
    log.info("%s: %s", record.row.name, text)
    settings = {**record.row.setting, name: dict(setting)}
    return replace(record, row=record.row.model_copy(update={"setting": settings, "reason": text}))
