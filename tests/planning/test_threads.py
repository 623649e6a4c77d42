"""Side by side gives what one after the other gives, in that order, and holds no more at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx
import pytest
from models import network, normal
from threadpoolctl import threadpool_info

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.plan import Planner
from ndpass.planning.threads import Room, side_by_side


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_results_keep_their_order_and_as_many_run_at_once_as_may(jobs: int) -> None:
    """Tasks wait for each other: the first `jobs` of them end only when all of these have begun, the last one first."""
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(jobs)
    ended = [threading.Event() for _ in range(6)]

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number < jobs:
            together.wait(60)
            if number + 1 < jobs:
                assert ended[number + 1].wait(60)
        with lock:
            running -= 1
        ended[number].set()
        return number**2

    tasks = ((str(n), lambda n=n: work(n)) for n in range(6))
    assert list(side_by_side(tasks, jobs).items()) == [(str(n), n**2) for n in range(6)]
    assert most == jobs


def test_no_more_tasks_are_drawn_than_may_run() -> None:
    """What a task holds is in memory from then on."""
    drawn, done = 0, list[int]()

    def work() -> None:
        done.append(1)

    def tasks() -> Iterator[tuple[str, Callable[[], None]]]:
        nonlocal drawn
        for n in range(20):
            drawn += 1
            assert drawn - len(done) <= 2
            yield str(n), work

    assert len(side_by_side(tasks(), 2)) == 20


def test_an_error_ends_the_others_before_they_begin() -> None:
    begun: list[int] = []

    def failing() -> int:
        raise ValueError("this one")

    def tasks() -> Iterator[tuple[str, Callable[[], int]]]:
        yield "a", failing
        for n in range(100):
            yield str(n), lambda n=n: begun.append(n) or n

    with pytest.raises(ValueError, match="this one"):
        side_by_side(tasks(), 2)
    assert len(begun) < 3


def test_the_threads_of_the_algebra_are_given_back() -> None:
    def threads() -> list[int]:
        return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]

    np.linalg.eigh(np.eye(3))
    before = threads()
    assert side_by_side([("a", threads)], 10_000)["a"] == [1] * len(before)
    assert threads() == before


def two_layers() -> onnx.ModelProto:
    text = """(float[N,3,8,8] x) => (float[N,12,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, W1)
        y = Conv<pads=[1,1,1,1]>(a, W2)
    }"""
    return network(text, W1=normal(8, 3, 3, 3), W2=normal(12, 8, 3, 3))


@pytest.mark.parametrize("jobs", [2, None])
def test_candidates_are_those_of_one_job(jobs: int | None) -> None:
    """To the last bit: each layer has one thread for its algebra, whatever else is under way."""
    graph, passes = Graph(two_layers()), parse("cp,cd,sd,nd")
    sites = [s for s in graph.sites() if isinstance(s, Site)]
    images = np.random.default_rng(0).standard_normal((40, 3, 8, 8), dtype=np.float32)
    calibration = Calibration.of(graph, sites, open_feeds(images, graph.inputs()), 1, 0, 1 << 30)
    one, other = (Planner(graph, passes, calibration, jobs=n).candidates(sites, lambda *_: None) for n in (1, jobs))
    assert list(one) == list(other) == [site.name for site in sites]
    assert one == other


def test_tasks_wait_for_room() -> None:
    """Of 5 units only one task of 4 or several of 1 run at once; one that takes more than there is runs by itself."""
    lock, held, most = threading.Lock(), [0], [0]
    sizes = {"a": 4, "b": 1, "c": 1, "d": 9, "e": 2}

    def task(name: str) -> str:
        with lock:
            held[0] += sizes[name]
            most[0] = max(most[0], held[0] if name != "d" else 0)
            assert name != "d" or held[0] == 9
        time.sleep(0.01)
        with lock:
            held[0] -= sizes[name]
        return name

    tasks = ((name, partial(task, name)) for name in sizes)
    assert list(side_by_side(tasks, 4, Room(5, sizes.__getitem__))) == list(sizes)
    assert most[0] <= 5
