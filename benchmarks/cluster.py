"""`python -m benchmarks.cluster`: the moments of all layers from one process and from 1, 2 and 4 worker processes.

    python -m benchmarks.cluster --networks vgg16x0.5_64 --images 320
    python -m benchmarks.cluster --networks vgg16x0.5_64 --images 320 --delay 50

Each way cuts seeded images into the same shards, runs the original on them, and asks for the moments of one layer after
the other, as a run does that rewrites them. Rows have the seconds of that, without those in which processes start, and
bytes: those that workers sent one another (`between`), that went from and to the machine that asks, and what loopback
counts (`wire`; what comes to the machine that asks by way of the scheduler counts twice). On paper, with W
workers, P shards, and patches of n elements in a layer with n_o outputs, workers send one another 8n(n + n_o) bytes
between W − 1 and P − 1 times, and the one that asks gets that once, with the patches that are held out. `alike`:
whether the bytes of all moments are those of one process. `--delay`: milliseconds that reading an image takes, for
storage that is slow. `--kill`: one of four workers is killed when half of the layers are done. Rows are appended to
benchmarks/results/cluster.json. `--quick`: a small network and few images.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import options
from benchmarks.networks.by_name import sized
from benchmarks.networks.layers import seeded
from benchmarks.results import rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.reference import Calibration, ShardedCalibration, batched
from ndpass.calibration.shards import MOST
from ndpass.calibration.sources import Feed, Source
from ndpass.engine.address import parse_engine
from ndpass.engine.calibration import ClusterCalibration
from ndpass.engine.cluster import Cluster, connected
from ndpass.engine.progress import Progress
from ndpass.graph.graph import Graph, Site

MINUTES = 20
MEMORY = 1 << 30  # bytes of activations that calibration may keep
WORKERS = (1, 2, 4)
BYTES = (
    "between",
    "paper_least",
    "paper_most",
    "to_here",
    "paper_here",
    "from_here",
    "wire",
)  # of a row, as it is printed


@dataclass(frozen=True)
class Slow:
    """A source that takes its time for each sample, as storage far away does."""

    source: Source
    seconds: float

    def __len__(self) -> int:
        return len(self.source)

    def read(self, samples: NDArray[np.intp]) -> Feed:
        time.sleep(self.seconds * len(samples))
        return self.source.read(samples)

    def part(self, samples: NDArray[np.intp]) -> Slow:
        return replace(self, source=self.source.part(samples))

    @property
    def nbytes(self) -> int:
        return self.source.nbytes


@dataclass(frozen=True)
class Subject:
    """A network with the data for its layers."""

    model: Path
    feeds: Feeds
    shards: int

    def opened(self) -> tuple[Graph, list[Site]]:
        graph = Graph(onnx.load(self.model))
        return graph, [site for site in graph.sites() if isinstance(site, Site)]

    def here(self, jobs: int | None) -> Calibration:
        """In this process: as a whole in as many threads as there are, or in shards, `jobs` of them at once."""
        graph, sites = self.opened()
        if jobs is None:
            return Calibration.of(graph, sites, self.feeds, None, 0, MEMORY)
        data = batched(graph, self.feeds, None, 0, MEMORY, self.shards)
        return ShardedCalibration.of_shards(graph, sites, data, MEMORY, (), self.shards, jobs)

    def there(self, cluster: Cluster) -> Calibration:
        graph, sites = self.opened()
        data = batched(graph, self.feeds, None, 0, MEMORY, self.shards)
        return ClusterCalibration.over(cluster, (self.model, ()), graph, sites, data, MEMORY, (), self.shards)

    def walked(self, calibrated: Callable[[], Calibration], halfway: Callable[[], object] = list) -> Row:
        """The seconds of calibrating and of asking every layer, and a hash of all that came of it."""
        graph, sites = self.opened()
        found, start = hashlib.blake2b(digest_size=8), time.perf_counter()
        walk = calibrated().walk(graph)
        for number, site in enumerate(sites):
            if number == len(sites) // 2:
                halfway()
            moments = walk.moments(site)
            for array in (moments.C, moments.B, moments.g):
                found.update(np.ascontiguousarray(array).tobytes())
        return {"seconds": time.perf_counter() - start, "digest": found.hexdigest()}

    def on_paper(self, workers: int) -> Row:
        """Bytes of moments: at least and at most between workers, and to the machine that asks."""
        shapes = [(s.outline.n_i * s.outline.kernel_size, s.outline.n_o) for s in self.opened()[1]]
        one = sum(8 * n * (n + n_o) for n, n_o in shapes)
        return {"paper_least": (workers - 1) * one, "paper_most": (self.shards - 1) * one, "paper_here": one}


def main() -> None:
    args = arguments()
    name = f"cluster{args.suffix}"
    with tempfile.TemporaryDirectory() as folder:
        for network in args.networks:
            key = {"network": network, "images": args.images, "shards": args.shards, "delay": args.delay}
            compare(prepared(Path(folder), network, args), {**key, "cpu": rows.cpu()}, name, args)


def compare(subject: Subject, key: Row, name: str, args: argparse.Namespace) -> None:
    """Adds a row for each way that has none, and prints it."""
    cores = len(os.sched_getaffinity(0))
    ways: dict[str, Callable[[], Row]] = {
        "whole": partial(subject.walked, partial(subject.here, None)),
        "shards": partial(subject.walked, partial(subject.here, 1)),
        f"shards, {cores} at once": partial(subject.walked, partial(subject.here, cores)),
        **{f"{count} workers": partial(on_workers, subject, f"dask://local:{count}") for count in args.workers},
    }
    if args.kill:
        ways["4 workers, one killed"] = partial(on_workers, subject, "dask://local:4", kill=True)
    if args.engine:
        ways[args.engine_name or args.engine] = partial(on_workers, subject, args.engine)
    wanted = ""
    for way, measure in ways.items():
        if not rows.known(name, {**key, "way": way}):
            rows.add(name, {**key, "way": way, **measure()})
        row = rows.known(name, {**key, "way": way})[-1]
        wanted = row["digest"] if way == "shards" else wanted
        alike = "" if way == "whole" else f"alike: {row['digest'] == wanted}"
        moved = "  ".join(f"{text} {row[text] / 1e6:.0f} MB" for text in BYTES if text in row)
        print(f"{key['network']:14} {way:22} {row['seconds']:7.1f} s  {alike}  {moved}", flush=True)


def on_workers(subject: Subject, engine: str, *, kill: bool = False) -> Row:
    """A row of the workers of a cluster. kill: whether one of them is killed halfway."""
    progress = Progress(lambda *_: None)
    with connected(parse_engine(engine), progress) as cluster:
        assert cluster is not None
        count = len(cluster.workers())
        cluster.client.run(warm)
        before, wire = sum(cluster.client.run(sent).values()), loopback()
        halfway = partial(killed, cluster) if kill else list
        found = subject.walked(partial(subject.there, cluster), halfway)
        between = sum(cluster.client.run(sent).values()) - before - progress.came
        wire = loopback() - wire
    moved = {"between": between, "from_here": progress.sent, "to_here": progress.came, "wire": wire}
    return {**found, **moved, **subject.on_paper(count)}


def warm() -> None:
    """Import what a worker needs, which a cluster that is there has done before."""
    import onnxruntime  # noqa: F401
    import openvino  # noqa: F401

    import ndpass.engine.tasks  # noqa: F401


def sent(dask_worker: Any) -> int:
    """Bytes that a worker has sent to others."""
    return int(dask_worker.transfer_outgoing_bytes_total)


def loopback() -> int:
    """Bytes that processes of this machine have sent one another by network since it was started; 0 where nobody says.

    What came here went two ways: from a worker to the scheduler, and on.
    """
    counters = Path("/proc/net/dev")
    lines = counters.read_text().splitlines() if counters.exists() else []
    return next((int(line.split()[1]) for line in lines if line.split()[0] == "lo:"), 0)


def killed(cluster: Cluster) -> None:
    """Kill the first worker's process."""
    with suppress(ProcessLookupError):
        os.kill(next(iter(cluster.client.run(os.getpid).values())), signal.SIGKILL)


def prepared(folder: Path, network: str, args: argparse.Namespace) -> Subject:
    """The network and its images as files."""
    model, data = folder / f"{network}.onnx", folder / f"{network}.npy"
    onnx.save(seeded(sized(network), 0), model)
    (spec,) = Graph(onnx.load(model)).inputs()
    shape = [size or 1 for size in spec.shape[1:]]
    np.save(data, np.random.default_rng(0).standard_normal((args.images, *shape)).astype(np.float32))
    feeds = open_feeds(data, [spec])
    return Subject(model, slowed(feeds, args.delay / 1e3), args.shards)


def slowed(feeds: Feeds, seconds: float) -> Feeds:
    return replace(feeds, source=Slow(feeds.source, seconds)) if seconds else feeds


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    options.add_quick(parser, "a small network on few images")
    parser.add_argument("--networks", nargs="+", default=["vgg16x0.5_64"])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--shards", type=int, default=MOST)
    parser.add_argument("--workers", type=int, nargs="*", default=list(WORKERS))
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds that reading an image takes")
    parser.add_argument("--engine", help="a cluster to measure besides, as ndpass run takes it")
    parser.add_argument("--engine-name", help="what its rows call it")
    parser.add_argument("--kill", action="store_true", help="kill one of four workers halfway")
    quick = {"networks": ["vgg11x0.125_32"], "images": 40, "shards": 4, "workers": [1, 2]}
    return options.parse(parser, on_digits=False, model_needed=False, **quick)


if __name__ == "__main__":
    main()
