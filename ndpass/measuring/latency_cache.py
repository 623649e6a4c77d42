"""Latencies remembered on disk: one JSON file for each machine and target, which may be read, edited or deleted.

What cannot be read or used is ignored with a warning in the log. It is never an error: a cache only saves time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ndpass.errors import OutputError
from ndpass.files.staging import write_text

log = logging.getLogger(__name__)

VERSION: Literal[1] = 1  # of the file and of the way of measuring; files of another version are ignored
Seconds = Annotated[float, Field(gt=0, lt=3600, allow_inf_nan=False, strict=True)]
SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)


class Stored(BaseModel):
    """The file. environment: what latencies depend on besides the block; latencies: block as text -> seconds."""

    version: Literal[1]
    environment: dict[str, str]
    latencies: dict[str, Any]


def cache_folder() -> Path:
    """$NDPASS_CACHE, else ndpass in $XDG_CACHE_HOME, else ~/.cache/ndpass."""
    if own := os.environ.get("NDPASS_CACHE"):
        return Path(own)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "ndpass"


class LatencyCache:
    """Block as text -> seconds, in one environment. folder: None keeps nothing on disk."""

    def __init__(self, folder: Path | None, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        text = json.dumps(self._environment, sort_keys=True)
        name = f"latency-v{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self.path = None if folder is None else folder / name
        self._known = self._read()

    def get(self, key: str) -> float | None:
        return self._known.get(key)

    def put(self, new: Mapping[str, float]) -> None:
        """Remember these too. What others have written to the file meanwhile stays; of equal keys the last one wins."""
        self._known |= new
        if self.path is None:
            return
        self._known = self._read() | self._known
        try:
            if self.path is not None:  # reading may have found that the folder cannot be used
                self._write(self.path)
        except (OSError, OutputError) as e:
            log.warning("latencies are not remembered on disk: %s", e)
            self.path = None

    def _read(self) -> dict[str, float]:
        if self.path is None:
            return {}
        try:
            stored = Stored.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as e:
            log.warning("%s: latencies are not remembered on disk: %s", self.path, e.strerror or e)
            self.path = None
            return {}
        except ValidationError as e:
            log.warning("%s: not a file of latencies of version %d, ignored: %s", self.path, VERSION, _reason(e))
            return {}
        if stored.environment != self._environment:
            log.warning("%s: latencies of another machine or target, ignored", self.path)
            return {}
        return self._valid(stored.latencies)

    def _valid(self, latencies: Mapping[str, Any]) -> dict[str, float]:
        good: dict[str, float] = {}
        for key, value in latencies.items():
            try:
                good[key] = SECONDS.validate_python(value)
            except ValidationError:
                continue
        if len(good) < len(latencies):
            log.warning("%s: %d entries are no latencies, ignored", self.path, len(latencies) - len(good))
        return good

    def _write(self, path: Path) -> None:
        """Replace the file in one step: whoever reads meanwhile finds the old file or the new one."""
        stored = Stored(version=VERSION, environment=self._environment, latencies=dict(sorted(self._known.items())))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, stored.model_dump_json(indent=1))


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
