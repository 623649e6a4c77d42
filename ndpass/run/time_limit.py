"""Samples that a time limit leaves no time for: layers are fitted to fewer.

Layers with little to gain are left out of planning for want of time (`ndpass.planning.deadline`), but every layer in
question, and the network in front of it, runs over all samples. Of large pictures that alone may take longer than the
limit, and then nothing would come of the run. A picture with many places has many patches, so that fewer pictures tell
nearly as much.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run.job import FITTED, Job

log = logging.getLogger(__name__)

SHARE = 0.5  # of the time that is left, for running samples; the rest is for algebra, timing and verifying
RUNS = 6.0  # inferences of the original that a sample takes, from calibrating to the end of the first fit
LEAST = 20  # samples that are kept whatever the limit


def within_limit(job: Job, inference: float | None, passed: float, checkpoint: Checkpoint | None) -> Job:
    """The job with as many samples to fit to as there is time for, and with a warning where these are fewer.

    inference: seconds of the original for one sample, None where it was not measured; passed: seconds since the start.
    A run that goes on has as many as it began with. Those of a cluster stay: how fast that is, nobody has measured.
    """
    limit, fit = job.options.effort.time_limit, job.fit
    if fit is None or job.cluster is not None:
        return job
    noted = checkpoint.noted(FITTED) if checkpoint and job.options.effort.resume else None
    if noted and noted.isdecimal():
        count, why = int(noted), "as before the run was cut off"
    elif limit is None or not inference:
        return job
    else:
        count, why = (
            max(int(SHARE * (limit - passed) / (RUNS * inference)), LEAST),
            "--time-limit leaves no time for all",
        )
    spared = len(fit) - count
    if not 0 < spared < len(fit):
        return job
    said = f"layers are fitted to {count} of {len(fit)} samples ({why}): more may give a better model"
    log.warning(said)
    fewer = fit.draw(count, job.options.data.seed)
    return replace(job, fit=fewer, spared=spared, warnings=(*job.warnings, said))
