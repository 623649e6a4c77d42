"""Plans layers side by side, each in one thread, and limits the threads of the algebra.

Several threads in one matrix product or decomposition wait for each other, and on a machine that does other work, too,
they wait for long: a Cholesky decomposition of 2,304 unknowns took 0.15 s of CPU in one thread whatever else ran, in
two threads 0.27 s on two idle cores and 3.3 s on two busy ones. Side by side, two layers take two cores, idle or busy,
and what they come to does not depend on how many there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from threadpoolctl import threadpool_limits

from ndpass.graph.graph import Site

T = TypeVar("T")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Room:
    """Bytes that tasks may hold together, and what each takes by its name; one that takes more runs by itself."""

    total: int
    of: Callable[[str], int]


def side_by_side(
    tasks: Iterable[tuple[str, Callable[[], T]]],
    jobs: int,
    room: Room | None = None,
    stop: Callable[[], None] | None = None,
) -> dict[str, T]:
    """Name -> result, in the order of the tasks, of which `jobs` run at once, each with one thread for its algebra.

    The next task is drawn when fewer than `jobs` are under way, and waits until there is room, so that no more of them
    hold memory at once. The first error ends the others before they begin; `stop` is called before those are waited
    for that are under way.
    """
    found: dict[str, T] = {}
    with threadpool_limits(1, user_api="blas"):
        if jobs == 1:
            return {name: task() for name, task in tasks}
        running: deque[tuple[str, Future[T]]] = deque()
        pool = ThreadPoolExecutor(jobs)
        try:
            for name, task in tasks:
                while room and running and sum(map(room.of, [name, *(other for other, _ in running)])) > room.total:
                    _take(running, found)
                running.append((name, pool.submit(task)))
                if len(running) == jobs:
                    _take(running, found)
            while running:
                _take(running, found)
        except BaseException:
            if stop:
                stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _take(running: deque[tuple[str, Future[T]]], found: dict[str, T]) -> None:
    """Wait for the task that began first and put its result into `found`."""
    name, future = running.popleft()
    found[name] = future.result()


NARROW = 2_048  # elements of a patch; layers with fewer use one thread for the algebra


@contextmanager
def blas_threads(site: Site) -> Iterator[None]:
    """One thread for the algebra of a narrow layer, whose products are so short that threads wait for each other.

    Measured on two busy cores: a plan for the digits model took 130 s with two threads and 14 s with one.
    """
    if site.outline.unknowns >= NARROW:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield
