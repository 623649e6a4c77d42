"""What the options of the commands say: as typed -> budgets, targets, sizes. UsageError for what makes no sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ndpass.errors import UsageError

if TYPE_CHECKING:
    from ndpass.calibration.feeds import Feeds
    from ndpass.graph.input_spec import InputSpec
    from ndpass.measuring.runtime import Precision
    from ndpass.measuring.target import Target
    from ndpass.passes import Pass
    from ndpass.planning.candidate import Budget, BudgetKind
    from ndpass.run.judge import OwnMetric


def parse_bytes(text: str) -> int:
    """512MB, 4GB or a plain number of bytes. Raises UsageError."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    digits = text.strip().rstrip("kKmMgGbB")
    unit = text.strip()[len(digits) :].upper()
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError) as e:
        raise UsageError(f"--memory {text}: write a size as 512MB or 4GB") from e
    if size < 0:
        raise UsageError(f"--memory {text}: a size is not negative")
    return size


def passes_and_budget(
    spec: str | Sequence[Pass],
    given: Mapping[str, float | None],
    plan: Path | None,
    default: tuple[BudgetKind, float],
    *,
    calibrated: bool,
) -> tuple[list[Pass], Budget]:
    """What the passes and the budget's options say, or a plan. Raises UsageError for what does not go together."""
    from ndpass.passes import AUTO, auto, parse
    from ndpass.planning.candidate import Budget
    from ndpass.planning.candidates import is_pinned
    from ndpass.run.plan_file import PlanFile

    asked = [f"--{key.replace('_', '-')}" for key, value in given.items() if value is not None]
    if plan is not None:
        if asked:
            raise UsageError(f"--plan says what every layer becomes: leave {' and '.join(asked)} out")
        return PlanFile.read(plan).rules(), Budget("pinned")
    if spec == AUTO:
        return auto(calibrated=calibrated), _budget(given, default)
    passes = parse(spec) if isinstance(spec, str) else list(spec)
    return passes, _budget(given, None if is_pinned(passes) else default)


def _budget(given: Mapping[str, float | None], default: tuple[BudgetKind, float] | None) -> Budget:
    """default: None where the settings are pinned."""
    from ndpass.planning.candidate import Budget

    values = {key: value for key, value in given.items() if value is not None}
    for key, value in values.items():
        if key in ("macs", "energy") and not 0 < value <= 1:
            raise UsageError(f"--{key} {value:g}: a share lies between 0 and 1, as in --{key} 0.6")
        if key == "speedup" and not value > 1:
            raise UsageError(f"--speedup {value:g}: times as fast, more than 1, as in --speedup 2")
        if key == "max_drop" and not 0 < value < 100:
            raise UsageError(f"--max-drop {value:g}: points of the metric, above 0, as in --max-drop 1.0")
    if values.keys() == {"max_drop", "speedup"}:
        return Budget("max_drop", values["max_drop"], values["speedup"])
    if len(values) > 1:
        raise UsageError("give one budget: --max-drop, --speedup (or both), --macs or --energy")
    for kind in ("max_drop", "speedup", "macs", "energy"):
        if kind in values:
            return Budget(kind, values[kind])
    return Budget(*default) if default else Budget("pinned")


def target_of(
    precision: Precision | None, threads: int | None, device: str, budget: Budget, *, int8: bool
) -> Target | None:
    """None where nothing is timed. Raises UsageError for a device or precision that is not there or not int8's."""
    from ndpass.measuring.target import Target

    if int8 and precision not in (None, "int8"):
        raise UsageError(f"--int8 gives an int8 model, which does not run in {precision}: leave --precision out")
    asked = Target(device=device)  # which looks whether it is there
    if not budget.in_milliseconds and not int8:
        return None
    kind: Precision = "int8" if int8 else precision or Target.default_precision(device)
    target = replace(asked, precision=kind, threads=threads)
    target.properties()
    return target


def height_width(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(p.isdecimal() and int(p) > 0 for p in parts) or len(parts) > 3:
        raise UsageError(f"--size {text}: write height x width, as 320x480, or one number for both")
    return tuple(int(p) for p in (parts if len(parts) > 1 else parts * 2))


def sizes_of(inputs: Sequence[InputSpec], text: str) -> dict[str, tuple[int, ...]]:
    """Input shapes with the open axes filled from --size; other open axes become 1."""
    shape = height_width(text)
    full = {}
    for spec in inputs:
        spatial = (1,) * (len(spec.shape) - len(shape)) + shape
        full[spec.name] = tuple(d or s for d, s in zip(spec.shape, spatial, strict=True))
    return full


OpenData: TypeAlias = "Callable[[Sequence[InputSpec]], Feeds]"


@dataclass(frozen=True)
class Options:
    """What to do. `calibration` and `validation` open data once the model's inputs are known.

    memory: bytes of activations that are kept; target: what latencies are measured for; cache: folder of those measured
    before; batch: of the target, the model's own or 1 if left out; plan: a file whose choices are applied in the place
    of a budget; save_plan: where they are written to; metric: of one's own (`ndpass.run.judge`); int8: quantise the
    result; compress: store the weights of IR in float16; jobs: layers that are planned side by side.
    """

    passes: Sequence[Pass]
    budget: Budget
    ignore: Sequence[str] = ()
    calibration: OpenData | None = None
    validation: OpenData | None = None
    threads: int | None = None
    seed: int = 0
    memory: int = 1 << 30
    resume: bool = False
    target: Target | None = None
    batch: int | None = None
    cache: Path | None = None
    plan: Path | None = None
    save_plan: Path | None = None
    metric: OwnMetric | None = None
    int8: bool = False
    compress: bool = False
    jobs: int = 1
