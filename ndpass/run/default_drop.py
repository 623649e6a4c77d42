"""How much a metric may fall where nobody said: a point, and of pictures what is hardly seen.

Equal pictures have 100 dB, those of any rewrite 30 to 60: a point less than 100 is kept by none. An upscaler's picture
is mostly its input's: where plain interpolation has 36 dB, 40 dB would be a model without four tenths of what the
original adds. Then a tenth of that is what may be lost.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from ndpass.errors import UsageError
from ndpass.listener import Listener
from ndpass.run.arguments import PICTURES
from ndpass.run.job import Job

log = logging.getLogger(__name__)

LEAST = 20.0  # dB that no rewrite stays within
TENTH = 10.0  # dB above plain interpolation: a tenth of what the network adds is lost
HALF = 3.0


def with_drop(job: Job, listen: Listener) -> Job:
    """The job with the drop that goes with its metric, where none was asked for.

    Runs the original if it has not been. Raises UsageError for a drop that no rewrite keeps.
    """
    budget = job.options.budget
    if budget.kind != "max_drop" or job.options.plan is not None or job.guessed or job.judge.has_own_metric:
        return job
    named = job.judge.metric
    if named is None or named.name != "psnr":
        return job
    fitting = drop_of_pictures(named.plain)
    keeps = f"--max-drop {fitting:g}, which keeps {100 - fitting:g} dB"
    if budget.by_default:
        listen(f"budget: {keeps}", 0, 0)
        return replace(job, options=replace(job.options, budget=replace(budget, value=fitting)))
    if budget.value is not None and budget.value < LEAST:
        error = 0.001 if named.plain is None else 0.1
        raise UsageError(
            f"--max-drop {budget.value:g}: equal pictures have 100 dB, and no rewrite keeps {100 - budget.value:g}: "
            f"give {keeps}, or --max-error {error:g}"
        )
    if budget.value is not None and named.plain is not None and 100 - budget.value < named.plain + HALF:
        log.warning(said := _allows_too_much(budget.value, named.plain, keeps))
        return replace(job, warnings=(*job.warnings, said))
    return job


def drop_of_pictures(plain: float | None) -> float:
    """Points: of pictures as such, or of pictures of the input, whose plain interpolation has so many dB."""
    kept = 100 - PICTURES if plain is None else max(100 - PICTURES, plain + TENTH)
    return max(LEAST, math.floor(100 - kept))


def _allows_too_much(drop: float, plain: float, keeps: str) -> str:
    return (
        f"--max-drop {drop:g} keeps {100 - drop:g} dB and plain interpolation of the input has {plain:.1f}: half of "
        f"what the network adds may be lost, or more; {keeps}, allows a tenth"
    )
