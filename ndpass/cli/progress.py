"""Progress on stderr: a bar with the time left on a terminal, lines anywhere else, at least one every 10 s."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from ndpass.cli.pace import Pace, about, clock
from ndpass.listener import Listener, Step, Watcher

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY, BEAT = 9.7, 0.25  # seconds from one line to the next where stderr is no terminal, and between two looks
WORTH_SAYING = 20.0  # seconds; what takes less is not announced
BUSY = 0.5  # load for each core from which on a machine is not idle


@contextmanager
def progress(quiet: bool, *, stages: bool = True) -> Iterator[Listener]:
    """A bar with the time left on a terminal and in a notebook, lines on any other stderr, nothing when quiet.

    stages: whether a line is written where a stage begins, beside those that come every 10 s.
    """
    if quiet:
        yield lambda *_: None
    elif _draws():
        with _bars() as listen:
            yield listen
    else:
        with _beating(Lines(Pace(), sys.stderr, stages)) as lines:
            yield lines


def is_seen() -> bool:
    """Whether somebody looks on: at a terminal or in a notebook."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _draws() -> bool:
    """Whether a bar can be drawn: a notebook needs ipywidgets for it."""
    return find_spec("ipywidgets") is not None if _in_notebook() else sys.stderr.isatty()


class Lines(Watcher):
    """A line where a stage begins, and `beat` writes one where none has been written for EVERY seconds."""

    def __init__(self, pace: Pace, out: TextIO, stages: bool = True) -> None:
        self.pace, self._out, self._stages = pace, out, stages
        self._seen: set[str] = set()
        self._last = pace.elapsed

    def step(self, now: Step) -> None:
        self.pace.step(now)
        if now.stage not in self._seen and (self._stages or not now.total):
            self._seen.add(now.stage)
            self._write(now.stage)

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.pace.expect(seconds)
        if text := announcement(sum(seconds.values())):
            self._write(text)

    def beat(self) -> None:
        """To be called often; writes where it is time."""
        if self.pace.stage is not None and self.pace.elapsed - self._last >= EVERY:
            self._write(f"{where(self.pace.stage.step)}, {times(self.pace)}")

    def _write(self, text: str) -> None:
        self._last = self.pace.elapsed
        self._out.write(f"ndpass: {text}\n")
        self._out.flush()


def where(step: Step) -> str:
    """The stage, the layer and its number: planning conv3_1 (7 of 13)."""
    number = f" ({step.done + 1} of {step.total})" if step.total > 1 else ""
    return f"{step.stage}{' ' if step.layer else ''}{step.layer}{number}"


def times(pace: Pace) -> str:
    """0:42 elapsed, about 2:10 left."""
    left = pace.left
    rest = "time left unknown" if left is None else f"about {clock(left)} left"
    return f"{clock(pace.elapsed)} elapsed, {rest}"


def announcement(
    seconds: float, load: Callable[[], tuple[float, float, float]] | None = None, cores: int | None = None
) -> str:
    """What a run takes, and what else the machine does; empty where it is not worth a line.

    load: as os.getloadavg, which Windows does not have. cores: of this process.
    """
    if seconds < WORTH_SAYING:
        return ""
    load = load or getattr(os, "getloadavg", None)
    cores = cores or os.cpu_count() or 1
    now = load()[0] if load else 0.0
    busy = f" on an idle machine; load is {now:.1f} on {cores} cores" if now > BUSY * cores else ""
    return f"this takes about {about(seconds)}{busy}"


@contextmanager
def _beating(lines: Lines) -> Iterator[Lines]:
    """Beat in a thread of its own: a step may take minutes."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            lines.beat()

    thread = threading.Thread(target=beat, daemon=True, name="progress")
    thread.start()
    try:
        yield lines
    finally:
        done.set()
        thread.join()


class _Bar(Watcher):
    """One bar for the whole command; what it shows is asked for anew whenever the terminal is drawn."""

    def __init__(self, pace: Pace, bars: Progress) -> None:
        self.pace, self._bars = pace, bars
        self._task = bars.add_task("", total=1.0)

    def step(self, now: Step) -> None:
        self.pace.step(now)
        if not now.total:  # news, which stays
            self._say(now.stage)

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.pace.expect(seconds)
        if text := announcement(sum(seconds.values())):
            self._say(text)

    def draw(self) -> str:
        """The text behind the bar; moves the bar, too."""
        self._bars.tasks[0].completed = self.pace.share
        return times(self.pace)

    def _say(self, text: str) -> None:
        self._bars.console.print(f"ndpass: {text}", markup=False, highlight=False)


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn
    from rich.text import Text

    from ndpass.cli.table import middle
    from ndpass.run.figures import printable

    bar: _Bar | None = None

    class Where(ProgressColumn):
        max_refresh = 0.1

        def render(self, task: Any) -> Text:  # noqa: ARG002 - rich calls it with its task
            stage = bar.pace.stage if bar else None
            return Text(middle(printable(where(stage.step)), 30).ljust(30) if stage else "")

    class Times(ProgressColumn):
        max_refresh = 0.1

        def render(self, task: Any) -> Text:  # noqa: ARG002 - rich calls it with its task
            return Text(bar.draw() if bar and bar.pace.stage else "")

    columns = (Where(), BarColumn(bar_width=12), Times())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        bar = _Bar(Pace(), bars)
        yield bar
