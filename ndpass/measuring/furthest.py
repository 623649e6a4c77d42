"""Which samples two models differ most on.

    error of a sample = Σ over outputs of |y − ŷ|² of the sample over E|y|² of a sample

so an output of large values counts no more than one of small ones. 0 means equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ndpass.measuring.runtime import Outputs

Floats = NDArray[np.float64]


class SampleErrors:
    """The errors of samples, gathered batch by batch. Outputs without a row for each sample tell nothing of them."""

    def __init__(self) -> None:
        self._off: dict[str, list[Floats]] = {}
        self._square: dict[str, list[Floats]] = {}
        self._samples = 0

    def add(self, a: Outputs, b: Outputs, samples: int) -> None:
        """The next samples' outputs of the reference and of the other model."""
        self._samples += samples
        for name, value in a.items():
            if value.ndim and len(value) == samples:
                with np.errstate(invalid="ignore", over="ignore"):
                    self._off.setdefault(name, []).append(_squares(value.astype(np.float64) - b[name]))
                self._square.setdefault(name, []).append(_squares(value.astype(np.float64)))

    def ranked(self, most: int) -> list[tuple[int, float]]:
        """At most `most` samples by number, the furthest first, with their errors; none that do not differ.

        A sample with an output that is not finite is infinitely far off.
        """
        total = np.zeros(self._samples)
        for name, parts in self._off.items():
            off, square = np.concatenate(parts), np.concatenate(self._square[name])
            if len(off) == self._samples:  # else it had a row for each sample of some batches by chance
                total += np.nan_to_num(off / (square.mean() or 1.0), nan=np.inf, posinf=np.inf)
        return [(int(i), float(total[i])) for i in np.argsort(-total, kind="stable")[:most] if total[i] > 0]


def _squares(rows: Floats) -> Floats:
    """(samples,) the sum of the squares of each row."""
    flat = rows.reshape(len(rows), -1)
    squares: Floats = np.einsum("sv,sv->s", flat, flat)
    return squares
