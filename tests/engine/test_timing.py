"""Models are timed by a worker of a real cluster: where it says, with its figures, and nothing is left there."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import small_network
from dask_cluster import DaskCluster, process_of
from models import deep

import ndpass
from ndpass.conv import Conv
from ndpass.engine.address import parse_engine
from ndpass.engine.cluster import Cluster, connected
from ndpass.engine.progress import Progress
from ndpass.engine.timing import SentModel, WorkerMachine, calling
from ndpass.errors import EngineError, InputError, UsageError
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.measuring.machine import ThisMachine, time_models
from ndpass.measuring.target import Target

pytest.importorskip("distributed", reason="--time-on needs the extra dask")

IMAGES = np.random.default_rng(0).standard_normal((30, 3, 8, 8)).astype(np.float32)
TARGET = Target(threads=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("cluster"), 2)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(two: DaskCluster) -> Iterator[Cluster]:
    with connected(parse_engine(two.engine), Progress(lambda *_: None)) as found:
        assert found is not None
        yield found


@pytest.fixture
def there(cluster: Cluster) -> WorkerMachine:
    return WorkerMachine(cluster, cluster.place("worker1"), TARGET)


def feed_for(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    graph = Graph(model)
    return {one.name: np.zeros(graph.sizes[one.name], np.float32) for one in graph.inputs()}


def run(two: DaskCluster, **options: object) -> ndpass.Result:
    given = {"calibration": IMAGES, "macs": 0.8, "engine": two.engine, "shards": 2, **options}
    return ndpass.run(small_network(), "cd", **given)  # type: ignore[arg-type]


def bytes_of(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def test_turns_are_taken_by_the_worker(two: DaskCluster, cluster: Cluster, there: WorkerMachine) -> None:
    model, feed = deep(), feed_for(deep())
    call = there.load(bytes_of(model), feed)()
    call()  # an inference by itself
    assert there.turns(process_of, [call, call]) == 2 * [float(two.processes["worker1"].pid)]
    assert calling(cluster, there.place)(os.getpid) == two.processes["worker1"].pid


def test_models_are_timed_in_turns_as_here(there: WorkerMachine) -> None:
    model, feed = bytes_of(deep()), feed_for(deep())
    times = time_models(there, [model, model], feed, seconds=0, min_rounds=4, compiled=2)
    assert [len(rounds) for rounds in times] == [4, 4]
    assert all(seconds > 0 for rounds in times for seconds in rounds)


def test_shares_are_those_of_the_same_layers(there: WorkerMachine) -> None:
    graph = Graph(deep())
    names = [site.name for site in graph.sites() if isinstance(site, Site)]
    shares = there.shares(bytes_of(deep()), feed_for(deep()), names)
    assert shares.keys() >= set(names)
    assert 0 < sum(shares.values()) <= 1.001


def test_blocks_are_timed_and_remembered_as_of_the_worker(there: WorkerMachine, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense, narrow = (
        Conv(rng.standard_normal((n, 8, 3, 3), dtype=np.float32), None, (1, 1), (1, 1, 1, 1)) for n in (8, 4)
    )
    first = Latencies(there, tmp_path, seconds=0.001).of([dense, narrow], (8, 8))
    assert all(seconds > 0 for seconds in first)
    assert Latencies(there, tmp_path, seconds=0.001).of([dense, narrow], (8, 8)) == first
    assert there.environment() == TARGET.environment()  # the workers of this test are on this machine


def test_what_is_not_used_any_more_leaves_the_worker(cluster: Cluster, there: WorkerMachine) -> None:
    call = there.load(bytes_of(deep()), feed_for(deep()))()
    there.turns(process_of, [call])
    assert any("compile" in key for key in cluster.client.has_what()[there.place])
    del call
    gc.collect()
    end = time.monotonic() + 20
    while any(key.startswith("ndpass") for key in cluster.client.has_what()[there.place]):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["onnx", "xml", "memory"])
def test_a_model_arrives_as_it_was(there: WorkerMachine, tmp_path: Path, kind: str) -> None:
    import openvino as ov

    path = tmp_path / "model.onnx"
    onnx.save(deep(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    read = ov.Core().read_model(path)
    if kind == "xml":
        path = tmp_path / "model.xml"
        ov.save_model(read, path, compress_to_fp16=False)
    model = read if kind == "memory" else path
    sent = SentModel.of(model)
    assert sent.nbytes > 1000
    here, feed = ThisMachine(TARGET), feed_for(deep())
    names = [node.name for node in deep().graph.node]
    assert here.shares(sent.read(), feed, names).keys() == here.shares(model, feed, names).keys()
    assert there.turns(process_of, [there.load(model, feed)()])


def test_what_openvino_cannot_run_is_said_as_here(there: WorkerMachine) -> None:
    with pytest.raises(InputError, match="that is to be timed: OpenVINO cannot read it"):
        there.load(b"no model", feed_for(deep()))()


def test_a_worker_that_is_not_there_is_refused_with_those_that_are(two: DaskCluster) -> None:
    with pytest.raises(UsageError, match=r"--time-on worker9: .* has no such worker; there are worker0 \(tcp.*worker1"):
        run(two, time_on="worker9")


def test_a_worker_needs_its_cluster() -> None:
    with pytest.raises(UsageError, match="--time-on names a worker of a cluster: give --engine"):
        ndpass.run(small_network(), "cd", calibration=IMAGES, macs=0.8, time_on="worker1")


def test_a_run_is_timed_where_it_says(two: DaskCluster) -> None:
    seen: list[str] = []
    result = run(two, time_on="worker1", progress=lambda stage, *_: seen.append(stage))
    assert result.report.latency_ms is not None
    assert result.report.target.cpu
    assert "timing the result" in " ".join(seen)


def test_a_worker_that_is_lost_ends_the_run_with_its_name(two: DaskCluster, there: WorkerMachine) -> None:
    call = there.load(bytes_of(deep()), feed_for(deep()))()
    two.kill("worker1")
    with pytest.raises(EngineError, match=f"worker {there.place}, which models are timed on, is gone"):
        there.turns(process_of, [call])
