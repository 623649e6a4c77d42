"""How much a metric may fall where nobody said: a point, and of pictures what is hardly seen.

Equal pictures have 100 dB, those of any rewrite 30 to 60: a point less than 100 is kept by none.
"""

from __future__ import annotations

from dataclasses import replace

from ndpass.errors import UsageError
from ndpass.listener import Listener
from ndpass.run.arguments import PICTURES
from ndpass.run.job import Job

LEAST = 20.0  # dB that no rewrite stays within


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
    if budget.by_default:
        listen(f"budget: --max-drop {PICTURES:g}, which keeps {100 - PICTURES:g} dB", 0, 0)
        return replace(job, options=replace(job.options, budget=replace(budget, value=PICTURES)))
    if budget.value is not None and budget.value < LEAST:
        raise UsageError(
            f"--max-drop {budget.value:g}: equal pictures have 100 dB, and no rewrite keeps {100 - budget.value:g}: "
            f"give --max-drop {PICTURES:g}, which keeps {100 - PICTURES:g} dB, or --max-error 0.001"
        )
    return job
