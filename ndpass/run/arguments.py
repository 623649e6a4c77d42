"""What the options of the commands and of `ndpass.run` say: as typed -> budgets, passes, sizes, data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ndpass.errors import InputError, UsageError
from ndpass.files.model_path import close_to

if TYPE_CHECKING:
    from ndpass.calibration.feeds import Feeds
    from ndpass.calibration.preprocess import Preprocess
    from ndpass.graph.input_spec import InputSpec
    from ndpass.measuring.runtime import Precision
    from ndpass.passes import Pass
    from ndpass.planning.candidate import Budget, BudgetKind
    from ndpass.refining.options import Refine
    from ndpass.run.options import TargetOptions

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
PRECISIONS = ("f32", "bf16", "int8")
BUDGETS: Mapping[str, tuple[str, Callable[[float], bool], str]] = {  # name -> law, whether a value keeps it, example
    "max_drop": ("points of the metric, above 0 and below 100", lambda x: 0 < x < 100, "1.0"),
    "max_error": ("a share of an output's variance lies between 0 and 1", lambda x: 0 < x < 1, "0.05"),
    "speedup": ("times as fast, more than 1", lambda x: 1 < x < math.inf, "2"),
    "macs": ("a share lies between 0 and 1", lambda x: 0 < x <= 1, "0.6"),
    "energy": ("a share lies between 0 and 1", lambda x: 0 < x <= 1, "0.95"),
}
PICTURES = 60.0  # dB that pictures may fall below equal ones, where nobody says: 40 dB are left
DEFAULT: Mapping[bool, tuple[BudgetKind, float]] = {True: ("max_drop", 1.0), False: ("energy", 0.95)}  # with data?


def parse_bytes(size: str | int) -> int:
    """512MB, 4GB or a number of bytes. Raises UsageError."""
    text = str(size).strip()
    digits = text.rstrip("kKmMgGtTbB")
    try:
        count = float(digits) * UNITS[text[len(digits) :].upper()]
    except (ValueError, KeyError) as e:
        raise UsageError(f"--memory {size}: write a size as 512MB or 4GB") from e
    if not 0 <= count < math.inf:
        raise UsageError(f"--memory {size}: write a size as 512MB or 4GB, not negative and not infinite")
    return int(count)


def parse_limit(limit: str | float | None, budget: Budget) -> float | None:
    """What --time-limit says, in seconds; a number is seconds. Raises UsageError, also where a run does not plan.

    >>> from ndpass.planning.candidate import Budget
    >>> parse_limit("10min", Budget("speedup", 2.0))
    600.0
    """
    from ndpass.refining.options import LENGTH
    from ndpass.refining.options import UNITS as LENGTHS

    if limit is None:
        return None
    found = LENGTH.fullmatch(str(limit).lower())
    if not found or not float(found[1]) or (found[2] or "s") not in LENGTHS:
        raise UsageError(f"--time-limit {limit}: write a time, as 10min, 90s or 2h")
    if not budget.is_shared:
        raise UsageError("--time-limit is about budgets that layers share: --max-drop, --max-error, --speedup, --macs")
    return float(found[1]) * LENGTHS[found[2] or "s"]


def whole(name: str, value: object, least: int = 1) -> int:
    """A whole number, as such or as text. Raises UsageError."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__") or (number := int(value)) < least:
        raise UsageError(f"{name}={value!r}: give a whole number from {least} on")
    return number


def optional_whole(name: str, value: object) -> int | None:
    """A whole number from 1 on, or None. Raises UsageError."""
    return None if value is None else whole(name, value)


def target_options(device: str, precision: str | None, threads: object, batch: object, *, int8: bool) -> TargetOptions:
    """Raises UsageError for a precision that there is not, or that is not int8's."""
    from ndpass.run.options import TargetOptions

    if precision not in (None, *PRECISIONS):
        raise UsageError(f"--precision {precision}: give {', '.join(PRECISIONS)}")
    if int8 and precision not in (None, "int8"):
        raise UsageError(f"--int8 gives an int8 model, which does not run in {precision}: leave --precision out")
    return TargetOptions(
        device=device,
        precision="int8" if int8 else cast("Precision | None", precision),
        threads=optional_whole("threads", threads),
        batch=optional_whole("batch", batch),
    )


def budget_value(name: str, value: object) -> float:
    """The number of one budget, as such or as text. Raises UsageError naming the law and an example."""
    law, holds, example = BUDGETS[name]
    option = f"--{name.replace('_', '-')}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)  # type: ignore[arg-type] # whatever the caller gave
    except (TypeError, ValueError) as e:
        raise UsageError(f"{option} {value!r} is not a number: {law}, as in {option} {example}") from e
    if not holds(number):
        raise UsageError(f"{option} {number:g}: {law}, as in {option} {example}")
    return number


def budget_of(given: Mapping[str, object], default: tuple[BudgetKind, float] | None) -> Budget:
    """The budget that was asked for. default: where none was; None: the settings are pinned. Raises UsageError."""
    from ndpass.planning.candidate import LOSSES, Budget

    values = {name: budget_value(name, value) for name, value in given.items() if value is not None}
    losses: tuple[BudgetKind, ...] = LOSSES
    for loss in losses:
        if values.keys() == {loss, "speedup"}:
            return Budget(loss, values[loss], values["speedup"])
    if len(values) > 1:
        raise UsageError("give one budget: --max-drop or --max-error, --speedup (or one with it), --macs or --energy")
    kinds: tuple[BudgetKind, ...] = (*losses, "speedup", "macs", "energy")
    for kind in kinds:
        if kind in values:
            return Budget(kind, values[kind])
    if default is None:
        return Budget("pinned")
    faster = default == DEFAULT[False]  # nobody who asks for nothing wants a slower model
    return Budget(*default, faster=faster, by_default=True)


def passes_of(spec: str | Sequence[str | Pass], *, calibrated: bool) -> list[Pass]:
    """Passes from text, from objects or from a list of both. Raises UsageError."""
    from ndpass.passes import AUTO, Pass, auto, check_order, parse

    if isinstance(spec, str):
        return auto(calibrated=calibrated) if spec == AUTO else parse(spec)
    parts: list[Pass] = []
    for part in spec:
        if not isinstance(part, str | Pass):
            what = f"the class {part.__name__}" if isinstance(part, type) else repr(part)
            raise UsageError(
                f"passes: {what} is no pass: give names, as 'nd:rank=2', or objects, as NetworkDecoupling()"
            )
        parts += parse(part) if isinstance(part, str) else [part]
    names = [rule.name for rule in parts]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"passes={names}: give each pass once, and at least one")
    check_order(parts)
    return parts


def passes_and_budget(
    spec: str | Sequence[str | Pass],
    given: Mapping[str, object],
    plan: Path | None,
    default: tuple[BudgetKind, float],
    *,
    calibrated: bool,
) -> tuple[list[Pass], Budget]:
    """What the passes and the budget's options say, or a plan. Raises UsageError for what does not go together."""
    from ndpass.planning.candidate import Budget

    if plan is not None:
        from ndpass.run.plan_file import PlanFile

        asked = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
        if asked:
            raise UsageError(f"--plan says what every layer becomes: leave {' and '.join(asked)} out")
        return PlanFile.read(plan).rules(), Budget("pinned")
    passes = passes_of(spec, calibrated=calibrated)
    return passes, budget_of(given, None if all(rule.pinned_fully for rule in passes) else default)


def parsed(preprocess: str | Preprocess | None) -> Preprocess | None:
    """What --preprocess says. Raises UsageError for a preprocessing that is none."""
    if not isinstance(preprocess, str):
        return preprocess
    from ndpass.calibration.preprocess import Preprocess

    return Preprocess.parse(preprocess)


def refinement_of(length: str | float | None, labels: bool, orthonormal: float, *, calibration: bool) -> Refine | None:
    """What --refine says; calibration: whether there are such data. Raises UsageError."""
    if length is None and not labels and not orthonormal:
        return None
    from ndpass.refining.options import parse

    asked = parse(length, labels, orthonormal)
    if not calibration:
        raise UsageError("--refine trains on data: give --calibration PATH")
    return asked


def metric_of(metric: Any) -> Any:
    """A function, 'module:function' or the name of a metric; None as it is. Raises UsageError for another name."""
    if metric is None or callable(metric):
        return metric
    from ndpass.measuring.metrics import checked_name

    return checked_name(str(metric))


@dataclass(frozen=True)
class Opener:
    """Opens samples once the model's inputs are known. samples: how many are drawn with the seed; None: all."""

    data: Any
    preprocess: Preprocess | None
    samples: int | None = None
    seed: int = 0

    def __call__(self, inputs: Sequence[InputSpec]) -> Feeds:
        from ndpass.calibration.feeds import open_feeds

        return open_feeds(self.data, inputs, self.preprocess, samples=self.samples, seed=self.seed)


def opener(data: Any, preprocess: str | Preprocess | None, samples: int | None, seed: int) -> Opener | None:
    """How to open samples once the model's inputs are known; None where none are given.

    data: a path, an array, any iterable of arrays or of {input name: array}, or an nncf.Dataset. Raises UsageError for
    a preprocessing that is none, InputError where nothing is at the path.
    """
    through = parsed(preprocess)
    if data is None:
        return None
    if hasattr(data, "get_inference_data"):  # an nncf.Dataset, whatever its version
        data = [_alone(item) for item in data.get_inference_data()]
    if isinstance(data, str | Path) and not Path(data).exists():
        raise InputError(f"{data}: no such file or folder{close_to(Path(data))}")

    return Opener(data, through, samples, seed)


def _alone(item: Any) -> Any:
    """What NNCF feeds a model with one input may come in a tuple."""
    return item[0] if isinstance(item, tuple | list) and len(item) == 1 else item


def ignore_patterns(ignore: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern or several."""
    return (ignore,) if isinstance(ignore, str) else tuple(ignore)


def height_width(text: str) -> tuple[int, ...]:
    """320x480, or one number for both. Raises UsageError."""
    parts = text.lower().split("x")
    if not all(p.isdecimal() and int(p) > 0 for p in parts) or len(parts) > 3:
        raise UsageError(f"--size {text}: write height x width, as 320x480, or one number for both")
    return tuple(int(p) for p in (parts if len(parts) > 1 else parts * 2))
