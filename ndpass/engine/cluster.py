"""A connection to a Dask cluster: who works there, what was submitted, and how results come back.

`distributed` is imported here alone, and only once a cluster was asked for. TLS and security are Dask's own, as its
configuration has them. What is submitted bears this run's name, so that runs of several users do not meet, and goes
when the connection ends, however it does.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ndpass.engine import local_worker
from ndpass.engine.address import LOGGERS, Address
from ndpass.engine.progress import Progress
from ndpass.engine.tasks import given
from ndpass.engine.versions import SAME, difference
from ndpass.errors import EngineError, NdpassError, UsageError, last_words
from ndpass.measuring.environment import cpu_features

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

ANSWERS = 10.0  # seconds within which a scheduler has to answer
WORKERS = 30.0  # seconds within which there has to be a worker, from the start and after the last one was lost
REACHED = 1.0  # seconds within which a worker that can be reached takes a connection
LOOK = 0.5  # seconds from one look at the workers to the next
PAUSES = 1e-3, 0.05  # seconds from one look at a task to the next, at first and later


class Cluster:
    """What a run has of a cluster. address: as it was typed; direct: whether results come from the workers, not by way
    of the scheduler."""

    def __init__(self, client: Client, address: str, progress: Progress, direct: bool = False) -> None:
        self.client, self.address, self.progress, self.direct = client, address, progress, direct
        self._run, self._count, self._lock = uuid.uuid4().hex[:12], 0, threading.Lock()
        self._alone_since: float | None = None
        self._stopped = threading.Event()

    def submit(
        self,
        name: str,
        task: Callable[..., Any],
        *given: Any,
        priority: float = 0,
        place: str | None = None,
        only: bool = False,
    ) -> Future:
        """Have a worker do a task. name: what Dask's own pages call it. given: values or what `submit` has returned.

        place: a worker's address, which does it if it can; only: nobody else may.
        """
        with self._lock:
            self._count += 1
            key = f"ndpass {name}-{self._run}-{self._count}"
        where: dict[str, Any] = {} if place is None else {"workers": [place], "allow_other_workers": not only}
        with self._told():
            return self.client.submit(task, *given, key=key, pure=False, priority=priority, **where)

    def give(self, name: str, value: Any, size: int, place: str | None = None) -> Future:
        """Have the scheduler hand a value of so many bytes to whoever needs it; place: the only worker that does.

        Not by `scatter`: what Dask has scattered is gone with the last worker that has it, and Dask drops copies.
        """
        self.progress.moved(sent=size)
        return self.submit(name, given, value, place=place, only=place is not None)

    def result(self, future: Future, size: Callable[[Any], int] = lambda _: 0, at: str | None = None) -> Any:
        """What a task gave, waited for. size: its bytes; at: the only worker that may do it. Raises what the task
        raised, if that is ndpass's own, and EngineError where the cluster, or that worker, has failed."""
        with self._told():
            self._until_done(future, at)
            found = self.client.gather(future, direct=self.direct)  # without a limit: it may be large
            self.progress.moved(came=size(found))
            return found

    def _until_done(self, future: Future, at: str | None = None) -> None:
        """Wait, and tell how far the cluster is."""
        pause, looked = PAUSES[0], time.monotonic()
        while not future.done():
            time.sleep(pause)
            pause = min(1.5 * pause, PAUSES[1])
            if self._stopped.is_set():
                raise EngineError(f"{self.address}: the run was ended")
            if self.client.status in ("closing", "closed"):  # which no future may hear of
                raise EngineError(f"{self.address}: the scheduler is gone")
            if time.monotonic() - looked >= LOOK:
                self.progress.tell(self._some_workers(at))
                looked = time.monotonic()

    def wait(self, futures: Sequence[Future], at: str | None = None) -> None:
        """Until all of them are there, whose results stay where they are. at: the only worker that may do them, which
        progress does not count. Raises as `result`."""
        if at is None:
            self.progress.watch(futures)
        with self._told():
            for future in futures:
                self._until_done(future, at)
                if future.status != "finished":
                    future.result()

    def workers(self) -> Mapping[str, Any]:
        """Address -> what the scheduler last said of it."""
        with self._told():
            return dict(self.client.scheduler_info()["workers"])

    def places(self, count: int) -> list[str] | list[None]:
        """Workers for so many parts of something, neighbours on one where there are more of them than threads.

        Sums of neighbours are then merged without being moved.
        """
        slots = [address for address, worker in sorted(self.workers().items()) for _ in range(worker["nthreads"])]
        return [slots[number * len(slots) // count] for number in range(count)] if slots else [None] * count

    @property
    def threads(self) -> int:
        """Of all workers."""
        return sum(int(worker["nthreads"]) for worker in self.workers().values())

    def stop(self) -> None:
        """Nothing is waited for any more: the run ends."""
        self._stopped.set()

    def place(self, wanted: str) -> str:
        """The address of a worker that is given by its address or its name. Raises UsageError naming those there."""
        there = self.workers()
        found = [address for address, worker in there.items() if wanted in (address, str(worker["name"]))]
        if not found:
            names = sorted(f"{worker['name']} ({address})" for address, worker in there.items())
            raise UsageError(f"--time-on {wanted}: {self.address} has no such worker; there are {', '.join(names)}")
        return found[0]

    def _some_workers(self, needed: str | None = None) -> int:
        """How many there are. Raises EngineError where there has been none for a while, or the one that is needed is
        gone."""
        workers = self.workers()
        if needed is not None and needed not in workers:
            raise EngineError(f"{self.address}: worker {needed}, which models are timed on, is gone")
        if count := len(workers):
            self._alone_since = None
            return count
        self._alone_since = self._alone_since or time.monotonic()
        if time.monotonic() - self._alone_since > WORKERS:
            raise EngineError(f"{self.address}: no worker has been there for {WORKERS:.0f} s")
        return 0

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what Dask raises into one line."""
        try:
            yield
        except (NdpassError, MemoryError):
            raise
        except Exception as e:
            raise self._blamed(e) from e

    def _blamed(self, error: BaseException) -> EngineError:
        from distributed import KilledWorker
        from distributed.client import CancelledError
        from distributed.comm import CommClosedError

        if isinstance(error, KilledWorker):
            text = f"workers die over the same task, the last one was {error.last_worker.address}"
            return EngineError(f"{self.address}: {text}: is their memory too small? (--memory less, or more --shards)")
        if isinstance(error, CancelledError | CommClosedError) or self.client.status != "running":
            return EngineError(f"{self.address}: the scheduler is gone, or has dropped what it was given")
        return EngineError(f"{self.address}: a worker failed: {type(error).__name__}: {last_words(str(error))}")


@contextmanager
def connected(address: Address | None, progress: Progress) -> Iterator[Cluster | None]:
    """The cluster, ready for work; None where none is asked for.

    Raises UsageError without the extra, EngineError for a cluster that does not answer, has no workers, or has workers
    of other versions.
    """
    if address is None:
        yield None
        return
    _check_installed()
    with _quiet(), ExitStack() as stack:
        client = stack.enter_context(_client(address, stack))
        _wait_for_workers(client, address)
        cluster = Cluster(client, address.text, progress, direct=_are_reachable(client))
        _check_versions(client, address)
        _check_cpus(client)
        found = _count(len(cluster.workers()), "worker"), _count(cluster.threads, "thread")
        progress.say(f"{address.text}: {', '.join(found)}")
        yield cluster


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _check_installed() -> None:
    try:
        import distributed  # noqa: F401 - only whether it is there
    except ImportError as e:
        raise UsageError(f"--engine needs Dask, which is not there ({e}): pip install 'ndpass[dask]'") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's own words on what goes wrong, which take many lines: it is said in one."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in LOGGERS]
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    verbose = logging.getLogger("ndpass").isEnabledFor(logging.INFO)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="distributed")
        for one in loggers:
            one.setLevel(one.level if verbose else logging.CRITICAL + 1)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


@contextmanager
def _client(address: Address, stack: ExitStack) -> Iterator[Client]:
    """Connected; what is left of this run goes with it."""
    from distributed import Client, LocalCluster

    where: dict[str, Any] = {"address": address.scheduler}
    if address.file is not None:
        if not Path(address.file).is_file():
            raise UsageError(f"--engine {address.text}: there is no scheduler file at {address.file}")
        where = {"scheduler_file": address.file}
    if address.workers is not None:
        here = {"n_workers": address.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        try:
            where = {"address": stack.enter_context(LocalCluster(**here, preload=[local_worker.__name__]))}
        except (OSError, RuntimeError) as e:
            hint = 'a script asks for them under if __name__ == "__main__":'
            _refuse(address, f"its processes cannot be started ({last_words(str(e))}): {hint}", e)
    try:
        client = Client(**where, timeout=ANSWERS, set_as_default=False)
    except (OSError, ValueError, TypeError) as e:  # what a scheduler file or an address lead Dask to
        _refuse(address, f"no scheduler answers within {ANSWERS:.0f} s ({last_words(str(e))}): is it running?", e)
    try:
        yield client
    finally:
        with suppress(Exception):  # a scheduler that is gone
            client.close(timeout=ANSWERS / 2)


def _refuse(address: Address, text: str, error: Exception | None = None) -> NoReturn:
    raise EngineError(f"{address.text}: {text}") from error


def _wait_for_workers(client: Client, address: Address) -> None:
    from distributed import TimeoutError as Late

    try:
        client.wait_for_workers(1, timeout=WORKERS)
    except (Late, TimeoutError) as e:
        _refuse(address, f"the scheduler has no worker within {WORKERS:.0f} s: start one with dask worker", e)


def _are_reachable(client: Client) -> bool:
    """Whether all workers that are there take connections from here. Of many clusters only the scheduler does, and to
    find that out anew for each result would take long."""
    try:
        for worker in client.scheduler_info()["workers"]:
            host, _, port = worker.rpartition("://")[2].rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
    except (OSError, ValueError):
        return False
    return True


def _check_versions(client: Client, address: Address) -> None:
    """Raise EngineError naming the first worker whose packages are not those here."""
    found = client.get_versions(packages=list(SAME))
    asked = {name: found["client"]["packages"].get(name) for name in SAME}
    for worker, said in sorted(found["workers"].items()):
        if other := difference(said["packages"], asked):
            _refuse(address, f"worker {worker} has {other}: results would differ; install the same there")


def _check_cpus(client: Client) -> None:
    """Warn where workers have CPUs of several kinds, which do not round alike."""
    kinds = client.run(cpu_features)
    if len(set(kinds.values())) > 1:
        log.warning("the workers' CPUs are of several kinds: results depend, in their last digits, on who did what")
