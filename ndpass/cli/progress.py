"""Progress on stderr: a bar with the time left on a terminal, a line a stage anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndpass.listener import Listener


@contextmanager
def progress(quiet: bool) -> Iterator[Listener]:
    """A bar with the time left on a terminal, a line a stage on any other stderr, nothing when quiet."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        with _bars() as listen:
            yield listen
    else:
        yield _stage_lines()


def _stage_lines() -> Listener:
    seen: set[str] = set()

    def listen(stage: str, *_: int) -> None:
        if stage not in seen:
            seen.add(stage)
            print(f"ndpass: {stage}", file=sys.stderr)

    return listen


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def listen(stage: str, done: int, total: int) -> None:
            if not total:  # news, which stays
                bars.console.print(f"ndpass: {stage}", markup=False, highlight=False)
                return
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1, total=1)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield listen
