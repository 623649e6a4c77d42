"""A metric of the user's own: a function of a compiled model."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ndpass.errors import UsageError


@dataclass(frozen=True)
class Metric:
    """A figure measured on `samples` samples, None where only the metric knows; accuracy is in per cent."""

    name: str
    value: float
    samples: int | None
    higher_is_better: bool = True


def resolve_metric(spec: str | Callable[[Any], float]) -> Callable[[Any], float]:
    """A metric of one's own: a callable (compiled OpenVINO model) -> float, or 'module:function' that names one.

    The working folder is searched first, as python itself does. Raises UsageError when there is no such function.
    """
    if callable(spec):
        return spec
    module, _, name = spec.partition(":")
    if not (module and name):
        raise UsageError(f"a metric is written module:function, '{spec}' is not: for example my_metrics:top5")
    function = getattr(_import(module, spec), name, None)
    if not callable(function):
        raise UsageError(f"metric '{spec}': module {module} has no function {name}")
    return cast(Callable[[Any], float], function)


def measure(metric: str | Callable[[Any], float], compiled: Any) -> Metric:
    """Calls a metric of one's own on a compiled OpenVINO model; `function.higher_is_better = False` turns it round.

    Raises UsageError when it fails or returns no finite number.
    """
    function = resolve_metric(metric)
    name = getattr(function, "__name__", type(function).__name__)
    try:
        value = float(function(compiled))
    except Exception as e:
        raise UsageError(f"metric {name} takes a compiled model and returns a number; it raised {e!r}") from e
    if not math.isfinite(value):
        raise UsageError(f"metric {name} returns a finite number; it returned {value}")
    return Metric(name, value, None, bool(getattr(function, "higher_is_better", True)))


def _import(module: str, spec: str) -> object:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise UsageError(f"metric '{spec}': module {module} cannot be imported: {e}") from e
    finally:
        sys.path.remove(folder)
