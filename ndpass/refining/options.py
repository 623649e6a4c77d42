"""What is asked of a refinement."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.util import find_spec

from ndpass.errors import UsageError

UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
LENGTH = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
LAW = "write a time, as 10min, 90s or 2h, or a number of epochs, as 20"
PIP = "pip install 'ndpass[refine]'"


@dataclass(frozen=True, kw_only=True)
class Refine:
    """How long weights are trained: seconds, or epochs over the calibration data; one of them is None.

    labels: whether the labels of the data count, too. orthonormal: weight of the penalty that holds pointwise factors
    of low rank orthonormal, 0 for none.
    """

    seconds: float | None = None
    epochs: int | None = None
    labels: bool = False
    orthonormal: float = 0.0

    @property
    def text(self) -> str:
        """As it was typed, more or less: the same for the same training."""
        length = f"{self.epochs} epochs" if self.seconds is None else f"{self.seconds:g} s"
        factors = f", orthonormal factors {self.orthonormal:g}" if self.orthonormal else ""
        return f"{length}{', with labels' if self.labels else ''}{factors}"


def parse(length: str | float | None, labels: bool = False, orthonormal: float = 0.0) -> Refine | None:
    """What --refine says, None where it is not given. Raises UsageError for a length that is none, and without torch.

    >>> parse("90s").seconds, parse(20).epochs
    (90.0, 20)
    """
    if not (isinstance(orthonormal, int | float) and 0 <= orthonormal < math.inf):
        raise UsageError(f"--refine-orthonormal {orthonormal}: write a weight of 0 or more, as 0.1")
    if length is None:
        if labels or orthonormal:
            option = "--refine-labels" if labels else "--refine-orthonormal"
            raise UsageError(f"{option} is about --refine: say how long, as --refine 10min")
        return None
    found = LENGTH.fullmatch(str(length).lower())
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if not number or (unit and unit not in UNITS) or (not unit and number % 1):
        raise UsageError(f"--refine {length}: {LAW}")
    check_torch()
    if unit:
        return Refine(seconds=number * UNITS[unit], labels=labels, orthonormal=orthonormal)
    return Refine(epochs=int(number), labels=labels, orthonormal=orthonormal)


def check_torch() -> None:
    """Raise UsageError where torch is not installed; it is not imported."""
    if find_spec("torch") is None:
        raise UsageError(f"--refine trains with torch, which is not installed: {PIP}")
