"""What --engine says: which Dask cluster, by the address of its scheduler, by a scheduler file, or one made here."""

from __future__ import annotations

from dataclasses import dataclass

from ndpass.errors import UsageError

SCHEME = "dask://"
LOCAL = "local:"
LOGGERS = ("distributed", "tornado", "asyncio")  # what begins the names of those that Dask speaks through
FORMS = "dask://HOST:PORT, dask://tls://HOST:PORT, dask://PATH.json (a scheduler file) or dask://local:N"


@dataclass(frozen=True)
class Address:
    """text: as it was typed. scheduler: where it listens, as Dask says it; file: the scheduler's; workers: how many
    processes to start here. One of the three is given."""

    text: str
    scheduler: str | None = None
    file: str | None = None
    workers: int | None = None


def parse_engine(text: str | None) -> Address | None:
    """The cluster that is asked for, None where none is. Raises UsageError for what is no address.

    >>> parse_engine("dask://10.0.0.7:8786").scheduler
    'tcp://10.0.0.7:8786'
    >>> parse_engine("dask://local:4").workers
    4
    """
    if text is None:
        return None
    if not isinstance(text, str) or not text.startswith(SCHEME):
        raise UsageError(f"--engine {text}: an engine is {FORMS}")
    where = text.removeprefix(SCHEME)
    if where.startswith(LOCAL):
        count = where.removeprefix(LOCAL)
        if not count.isdecimal() or not int(count):
            raise UsageError(f"--engine {text}: say how many processes, as dask://local:4")
        return Address(text, workers=int(count))
    if where.endswith(".json"):
        return Address(text, file=where)
    protocol, _, rest = where.rpartition("://")
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--engine {text}: an engine is {FORMS}")
    return Address(text, scheduler=f"{protocol or 'tcp'}://{rest}")
