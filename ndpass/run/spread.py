"""Where calibration is done: in this process as a whole or in shards, or in shards by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ndpass.calibration.reference import Calibration, ShardedCalibration, batched
from ndpass.calibration.shards import MOST
from ndpass.engine.cluster import Cluster, connected
from ndpass.engine.progress import Progress
from ndpass.errors import UsageError
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph, Site
from ndpass.listener import Listener
from ndpass.passes import Pass
from ndpass.planning.away import Away
from ndpass.planning.threads import cores
from ndpass.run.job import Job
from ndpass.run.options import Options


def check_spread(options: Options) -> None:
    """Raise UsageError where there is nothing to share out."""
    effort = options.effort
    asked = "--engine" if effort.engine else "--shards" if effort.shards else None
    if effort.time_on is not None and not effort.engine:
        raise UsageError("--time-on names a worker of a cluster: give --engine dask://..., too")
    if asked and options.data.calibration is None:
        raise UsageError(f"{asked} shares out the calibration data: give --calibration PATH, or leave {asked} out")


@contextmanager
def spread(options: Options, listen: Listener) -> Iterator[tuple[Cluster | None, Listener]]:
    """The cluster of --engine, connected, and the listener that hears of it, too; None and `listen` without one.

    Raises as `ndpass.engine.cluster.connected`.
    """
    if options.effort.engine is None:
        yield None, listen
        return
    progress = Progress(listen)
    with connected(options.effort.engine, progress) as cluster:
        yield cluster, progress
        progress.say(f"{options.effort.engine.text}: {progress.bytes / 1e6:.0f} MB were moved from here and to here")


def timed_on(options: Options, cluster: Cluster | None) -> Options:
    """With the worker of --time-on as the machine that models are timed on. Raises UsageError for one that is not
    there."""
    if cluster is None or options.effort.time_on is None:
        return options
    from ndpass.engine.timing import WorkerMachine, calling

    place = cluster.place(options.effort.time_on)
    target = replace(options.target, machine=partial(WorkerMachine, cluster, place), call_there=calling(cluster, place))
    return replace(options, target=target)


def calibrated(
    job: Job, graph: Graph, sites: Sequence[Site], blocks: Sequence[Branch], listen: Listener
) -> Calibration:
    """The original's responses to the samples that are fitted to, of which there are some."""
    assert job.fit is not None
    effort, seed, threads = job.options.effort, job.options.data.seed, job.options.target.threads
    if job.cluster is None and effort.shards is None:
        return Calibration.of(graph, sites, job.fit, threads, seed, effort.memory, blocks, listen)
    count = effort.shards or MOST
    data = batched(graph, job.fit, threads, seed, effort.memory, count)
    if job.cluster is None:
        return ShardedCalibration.of_shards(graph, sites, data, effort.memory, blocks, count, effort.jobs or cores())
    from ndpass.engine.calibration import ClusterCalibration

    model = job.model, job.beside
    found = ClusterCalibration.over(job.cluster, model, graph, sites, data, effort.memory, blocks, count)
    job.cluster.progress.say(f"{found.cuts} shards: --shards {found.cuts} gives the same bytes on one machine")
    return found


def away_of(calibration: Calibration | None, passes: Sequence[Pass], most: int | None) -> Away | None:
    """The workers that have the calibration's moments, to plan there; None where this process has them.

    most: passes that are composed in a layer, at most; None: all.
    """
    from ndpass.engine.calibration import ClusterCalibration
    from ndpass.engine.planning import Planning

    if not isinstance(calibration, ClusterCalibration):
        return None
    return Planning(calibration.spread, passes, len(passes) if most is None else most)
