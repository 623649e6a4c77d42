"""The process that `forks.Forks` starts: reads orders, a line each, and forks a run of ndpass for each of them."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")
PROCESSES = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec")
RANDOM = re.compile(r"[a-z0-9_]{8}\b")


@dataclass(frozen=True)
class Order:
    """What a run is to be like.

    kill: the number of the moment at which it dies, and `signal` the signal that it gets then; after: seconds after it,
    where it dies by an alarm; twice: the signal comes again at the next moment. full: the moment from which on no file
    can grow. paper: times come from MACs. leap: the wall clock jumps by hours at each look. memory: bytes that it may
    take beside what it has when it begins.
    """

    root: str
    args: list[str]
    kill: int | None = None
    signal: int = signal.SIGKILL
    after: float = 0.0
    twice: bool = False
    full: int | None = None
    paper: bool = False
    leap: bool = False
    memory: int | None = None


class Moments:
    """Counts moments, and kills this process at the one that was ordered."""

    def __init__(self, order: Order) -> None:
        self._order, self._count, self._stage = order, 0, "begin"
        self._file: int | None = os.open(Path(order.root, "told", "moments"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self._root = os.path.realpath(order.root)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """What `sys.addaudithook` calls."""
        if event in PROCESSES:
            self.tell(f"process {event} {args[0]}")
        if event not in CHANGES or (event == "open" and not args[2] & WRITES):
            return
        path = args[1] if event in ("os.rename", "os.link") else args[0]
        if isinstance(path, (str, bytes, os.PathLike)):
            where = Path(os.fsdecode(path))
            if not where.is_absolute() or where.is_relative_to(self._root):
                self.tell(f"{event} {RANDOM.sub('*', where.name)}")

    def step(self, stage: str, number: int) -> None:
        self._stage = stage
        self.tell(f"step {number}")

    def tell(self, what: str) -> None:
        if self._file is not None:
            os.write(self._file, f"{self._stage}: {what}\n".encode())
        self._count += 1
        if self._count == self._order.full:
            self._file = None
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        if self._order.twice and self._order.kill and self._count == self._order.kill + 1:
            os.kill(os.getpid(), self._order.signal)
        if self._count == self._order.kill and self._order.after:
            signal.setitimer(signal.ITIMER_REAL, self._order.after)  # by default an alarm ends a process at once
        elif self._count == self._order.kill:
            os.kill(os.getpid(), self._order.signal)


def child(order: Order) -> None:
    """The run itself; does not return."""
    root = Path(order.root)
    os.chdir(root / "work")
    os.environ.update(NDPASS_CACHE=str(root / "cache"), TMPDIR=str(root / "temp"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from ndpass.cli import progress
    from ndpass.cli.app import main

    moments, plain = Moments(order), progress.Lines.step

    def step(lines: progress.Lines, now: Any) -> None:
        if now.total:  # else it is news
            moments.step(now.stage, now.done)
        plain(lines, now)

    progress.Lines.step = step  # type: ignore[method-assign]
    if order.paper:
        on_paper()
    if order.leap:
        leaping()
    if order.memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + order.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.argv = ["ndpass", *order.args]
    sys.addaudithook(moments.hear)
    main()


def on_paper() -> None:
    """Times that do not depend on the machine, and a training that is kept after each step."""
    from paper_machine import PaperMachine

    from ndpass.measuring import machine

    machine.ThisMachine = PaperMachine  # type: ignore[assignment, misc]
    if find_spec("torch"):
        from ndpass.refining import course

        course.KEEP_EVERY = -1.0


def leaping() -> None:
    """The wall clock goes back and forth by hours."""
    import time

    plain, hours = time.time, iter(range(10**9))
    time.time = lambda: plain() + (-1) ** next(hours) * 3600.0 * 5


def imports() -> None:
    """Everything that runs import."""
    import_module("ndpass.cli.run_command")
    import_module("ndpass.run.pipeline")
    for name in ("openvino", "onnxruntime", "onnx", "scipy.optimize", "sklearn.linear_model", "torch"):
        if find_spec(name.partition(".")[0]):
            import_module(name)


def serve() -> None:
    imports()
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pipes = [os.pipe(), os.pipe()]  # not files, which may not grow where the disk is full
        if (pid := os.fork()) == 0:
            for number, (_, end) in enumerate(pipes, 1):
                os.dup2(end, number)
            in_the_child(order)
        readers = [
            threading.Thread(target=save, args=(*pipe, order, name))
            for pipe, name in zip(pipes, ("out", "err"), strict=True)
        ]
        for reader in readers:
            reader.start()
        _, status = os.waitpid(pid, 0)
        for reader in readers:
            reader.join()
        print(os.waitstatus_to_exitcode(status), flush=True)


def save(end: int, other: int, order: Order, name: str) -> None:
    """Write what comes from a pipe to a file."""
    os.close(other)
    with os.fdopen(end, "rb") as pipe:
        Path(order.root, "told", name).write_bytes(pipe.read())


def in_the_child(order: Order) -> None:
    try:
        child(order)
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
