"""Layers that are planned side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")


def side_by_side(tasks: Iterable[tuple[str, Callable[[], T]]], jobs: int) -> dict[str, T]:
    """Name -> result, in the order of the tasks; with `jobs` above 1 each in a thread, the CPU's cores shared out.

    The next task is drawn when fewer than `jobs` are under way, so what tasks hold is in memory for so many at once.
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
    name, future = running.popleft()
    found[name] = future.result()
