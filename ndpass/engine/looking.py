"""The look at all data before a run begins, by workers where the data are in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from socket import gethostname

import numpy as np

from ndpass.calibration.feeds import Feeds
from ndpass.calibration.survey import Survey, survey
from ndpass.engine.cluster import Cluster
from ndpass.errors import InputError

PARTS = 4  # for each thread of the cluster


def look_at(cluster: Cluster | None) -> Callable[[Feeds], Mapping[str, Survey]]:
    """What looks at data: this process, where there is no cluster."""
    return survey if cluster is None else partial(surveyed, cluster)


def surveyed(cluster: Cluster, feeds: Feeds) -> Mapping[str, Survey]:
    """As `ndpass.calibration.survey.survey`."""
    if feeds.nbytes:  # they are in this process: to send them takes longer
        return survey(feeds)
    places = np.array_split(np.arange(len(feeds)), min(PARTS * max(cluster.threads, 1), len(feeds)))
    parts = [cluster.submit("look", look, feeds.take(own).alone()) for own in places]
    cluster.progress.watch(parts)
    found: dict[str, Survey] = {}
    for part in parts:
        for name, own in cluster.result(part).items():
            found[name] = found[name].merge(own) if name in found else own
    return found


def look(feeds: Feeds) -> Mapping[str, Survey]:
    """A worker's part. Raises InputError naming the worker's machine, which may not see what the others do."""
    try:
        return survey(feeds)
    except InputError as e:
        where = f"read by a worker on {gethostname()}: workers read data at a path that all share"
        raise InputError(f"{e} ({where})") from e
