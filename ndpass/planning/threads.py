"""Plans layers side by side, and limits the threads of the algebra."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from ndpass.graph.graph import Site

T = TypeVar("T")


def side_by_side(tasks: Iterable[tuple[str, Callable[[], T]]], jobs: int) -> dict[str, T]:
    """Name -> result, in the order of the tasks. With `jobs` above 1 each task has a thread and its share of the cores.

    The next task is drawn when fewer than `jobs` are under way, so that no more of them hold memory at once. The first
    error ends the others before they begin.
    """
    if jobs == 1:
        return {name: task() for name, task in tasks}
    found: dict[str, T] = {}
    running: deque[tuple[str, Future[T]]] = deque()
    with threadpool_limits(max(1, (os.cpu_count() or 1) // jobs), user_api="blas"):
        pool = ThreadPoolExecutor(jobs)
        try:
            for name, task in tasks:
                running.append((name, pool.submit(task)))
                if len(running) == jobs:
                    _take(running, found)
            while running:
                _take(running, found)
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
    if site.outline.n_i * site.outline.kernel_size >= NARROW:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield
