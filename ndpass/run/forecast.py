"""About how long each stage of a run takes, before it begins.

What a network's inferences take is measured: the original has just run on the validation data. What the algebra takes
is in proportion to the layers' work (`ndpass.planning.work`), and what timing takes to the number of candidates. The
constants were measured on two cores of a server's CPU (VGG16 and ResNet-20 for CIFAR-10, 300 and 500 images; a VGG16 of
240×240 pixels, 120 images; a YOLOv8n, 200 images), where they give the whole within a half. Progress corrects itself by
what the stages behind have taken.
"""

from __future__ import annotations

from ndpass.listener import Within
from ndpass.passes import Pruning
from ndpass.planning.drop_search import MOST_FITS
from ndpass.planning.threads import cores
from ndpass.run.job import Job

MACS_PER_SECOND = 3e10  # where no inference was measured
SLOWEST = 5e9  # MACs a second; what is measured beyond that was compiling
PLAN = 3.2e-4  # seconds for a unit of work, of the first composition; the layer's moments serve the others, too
FURTHER = 0.25  # of that for each further composition
FIT = 3.6e-4  # seconds for a unit of work
FREE = 1e-4  # of planning or fitting without data
BLOCKS = {1: 5, 2: 10}  # candidates that are timed in a layer, by the number of passes
MORE_BLOCKS = 14  # of three passes or more
CORES = 2, 8  # that the constants were measured on, and that layers side by side make use of at most
BLOCK, CALLS = 0.08, 12  # seconds for a candidate that is timed, if it is not remembered, and runs of the whole layer
TRAINED = 9.0  # inferences that training on a sample takes: the original's, there and back
PLANS = 3  # that are timed until one holds
USUAL_FITS = 4  # of a budget in the metric


def forecast(job: Job, inference: float | None, passed: float = 0.0) -> dict[str, float]:
    """Stage -> seconds, in order. inference: seconds of the original for one sample, None where it was not measured;
    passed: since the command began."""
    one = job.macs / MACS_PER_SECOND if inference is None else min(inference, job.macs / SLOWEST)
    fit, measured, options = len(job.fit or ()), len(job.measured), job.options
    stages = {"calibrating": 1.5 * fit * one} if job.fit is not None else {}
    fitting = FIT * job.work + 2 * fit * one if job.fit is not None else FREE * job.work
    planned = options.plan is None and (options.budget.is_shared or job.fit is None)
    stages |= _planning(job, one) if planned else {}
    if not options.budget.in_milliseconds or options.plan is not None:
        stages["rewriting"] = fitting
    elif options.budget.kind == "speedup":
        stages |= {"timing plans": PLANS * _plan(one), "rewriting": fitting}
    else:
        stages["timing plans"] = PLANS * _plan(one)
        each = fitting + measured * one
        for number in range(1, USUAL_FITS + 1):
            stages[f"fit {number} of at most {MOST_FITS}"] = each + (PLANS * _plan(one) if number > 1 else 0.0)
    if options.refine is not None:
        stages["refining"] = options.refine.seconds or TRAINED * (options.refine.epochs or 0) * fit * one
    stages |= {"writing": 0.1, "verifying": 1.0 + (measured + 48) * one}
    if options.output.int8:
        stages["quantising"] = 4.0 + 6 * min(fit, 300) * one
    if options.effort.latency or options.budget.in_milliseconds or options.budget.faster:
        stages["timing the result"] = 3.0 + 150 * one
    limit, total = options.effort.time_limit, sum(stages.values())
    if limit is None or total <= limit - passed:
        return stages
    once = {name: s for name, s in stages.items() if not name.startswith("fit ") or name.startswith("fit 1 ")}
    short = min(max(limit - passed, 0.0) / sum(once.values()), 1.0)
    return Within({name: s * short for name, s in once.items()}, limit)


def _planning(job: Job, one: float) -> dict[str, float]:
    options, rules = job.options, len(job.options.passes)
    compositions = rules * (rules + 1) // 2
    algebra = (FREE if job.fit is None else PLAN) * (1 + FURTHER * (compositions - 1)) * job.work
    threads = job.cluster.threads if job.cluster else min(options.effort.jobs or cores(), CORES[1])
    algebra *= CORES[0] / threads
    stages = {"planning": algebra + 2 * len(job.fit or ()) * one}
    if job.fit is not None or options.budget.is_shared or options.budget.in_milliseconds:
        turns = 4 if any(isinstance(rule, Pruning) for rule in options.passes) else 2
        whole = max(2 * len(job.fit or ()), job.probed * turns * len(job.sites)) * one
        stages["probing"] = 0.6 * whole  # half of the network lies behind a layer, in the mean
    if options.budget.in_milliseconds:
        stages["timing"] = BLOCKS.get(rules, MORE_BLOCKS) * (BLOCK * len(job.sites) + CALLS * one)
    elif options.budget.faster:
        stages["timing plans"] = _plan(one)
    return stages


def _plan(one: float) -> float:
    """Of timing one plan beside the original, whole and layer by layer."""
    return 2.0 + 70 * one
