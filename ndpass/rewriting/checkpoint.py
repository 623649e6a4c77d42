"""What a calibrated run has done so far, a file a layer, so that a run that was cut off can go on.

The folder lies beside the output and goes when the run ends. Its manifest says what the run was: model, data, options.
A file appears whole or not at all, so a kill at any moment loses the layer in work and no other: neither the candidates
of those planned, nor the seconds of those timed, nor the weights of those rewritten. Weights are kept in float64, as
they were fitted: going on gives the bytes that a run without a break would have given. A run at work holds a lock in
the folder, which ends with its process however that ends: a second run with the same output is refused before it
removes what the first has done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ndpass.conv import Block
from ndpass.errors import UsageError, writing
from ndpass.files.output_paths import resume_folder
from ndpass.files.staging import write_bytes, write_text
from ndpass.planning.candidate import Candidate, Choice
from ndpass.report import Layer
from ndpass.rewriting.packing import pack_block, pack_candidate, pack_plan, unpack_block, unpack_plan

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 3  # to get the lock of a folder that another run is just leaving


@dataclass(frozen=True)
class Record:
    """What became of one site. looked: whether its inputs were run; channels: those of its group that cp kept."""

    row: Layer
    looked: bool
    block: Block | None = None
    channels: NDArray[np.intp] | None = None


class Checkpoint:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = False  # until then the folder is what another run has left
        self._lock = FileLock(folder / "lock", timeout=0)

    @classmethod
    def beside(cls, output: Path) -> Checkpoint:
        """The checkpoint of the run that writes `output`."""
        return cls(resume_folder(output))

    def start(self, fingerprint: Mapping[str, str]) -> None:
        """Begin anew: what an earlier run left is removed. Raises UsageError if that is still at work."""
        self._claim()
        with writing(self.folder):
            self._clear()
        write_text(self._about, json.dumps(fingerprint, indent=1))
        self.begun = True

    def resume(self, fingerprint: Mapping[str, str]) -> None:
        """Check that this is the run that was cut off. Raises UsageError naming what differs, or if it is at work."""
        if self.folder.exists():
            self._claim()
        try:
            before = dict(json.loads(self._about.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as e:
            raise UsageError(f"--resume: no run to go on with at {self.folder}: leave --resume out") from e
        changed = [key for key in fingerprint if before.get(key) != fingerprint[key]]
        if changed:
            texts = [f"{key} was {before.get(key)}, is {fingerprint[key]}" for key in changed]
            raise UsageError(f"--resume: this is another run: {'; '.join(texts)}. Start anew without --resume")
        self.begun = True

    def noted(self, key: str) -> str | None:
        """What the fingerprint of the run that was cut off says under `key`; None where there is no such run."""
        try:
            found = json.loads(self._about.read_text(encoding="utf-8"))[key]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if isinstance(found, str) else None

    def part(self, name: str) -> Checkpoint:
        """A folder inside, for one of several stages or rewrites of the same run."""
        inner = Checkpoint(self.folder / name)
        inner.folder.mkdir(exist_ok=True)
        inner.begun = True
        return inner

    def remove(self) -> None:
        """Remove what this run has left, not what it never came to, and let go of the lock last."""
        if self.begun:
            with suppress(OSError):  # what stays is removed by the next run
                self._clear()
        self.release()

    def release(self) -> None:
        """Let another run have the folder, if this one had it; a folder with nothing in it goes."""
        if not self._lock.is_locked:
            return
        with suppress(OSError):  # Windows removes no file that is open
            self._lock_file.unlink()
        with suppress(OSError):  # something is in it
            self.folder.rmdir()
        self._lock.release(force=True)

    @property
    def _about(self) -> Path:
        """Says which run it is."""
        return self.folder / "run.json"

    @property
    def _lock_file(self) -> Path:
        return Path(self._lock.lock_file)

    def _claim(self) -> None:
        """Take the lock. A run that ends removes its lock file, and another one may have opened that before."""
        for _ in range(TRIES):
            try:
                self._lock.acquire()
            except FileNotFoundError:
                continue
            except Timeout as e:
                raise UsageError(
                    f"another run with this output is at work ({self.folder} is its own): wait for it, or name another "
                    "output"
                ) from e
            if self._lock_file.exists():
                return
            self._lock.release(force=True)
        raise UsageError(f"{self.folder} cannot be locked, other runs come and go there: name another output")

    def _clear(self) -> None:
        """Remove everything but the lock; last what says of which run it is, so that none goes on with less."""
        for left in self.folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left not in (self._lock_file, self._about):
                left.unlink()
        self._about.unlink(missing_ok=True)

    def take(self, other: Checkpoint, count: int) -> None:
        """Keep what `other` knows of those of the first `count` sites that were fitted."""
        for number in range(count):
            if (record := other.load(number)) is not None and record.block is not None:
                self.save(number, record)

    def save_plan(self, plan: Mapping[str, Choice]) -> None:
        """Keep the choice of every layer."""
        self.write("plan.json", pack_plan(plan))

    def load_plan(self) -> dict[str, Choice] | None:
        """What `save_plan` has kept, or None."""
        return self._restored("plan.json", unpack_plan)

    def save_layer(self, layer: str, content: Mapping[str, Any]) -> None:
        """Keep what JSON can hold of one layer."""
        self.write(_file_name(layer), {"layer": layer, **content})

    def load_layer(self, layer: str, unpack: Callable[[Any], T]) -> T | None:
        """What `unpack` makes of what `save_layer` has kept, or None."""
        return self._restored(_file_name(layer), unpack)

    def save_candidates(self, layer: str, candidates: Sequence[Candidate]) -> None:
        """Keep the candidates of one layer, without their fitted blocks."""
        self.save_layer(layer, {"candidates": [pack_candidate(candidate) for candidate in candidates]})

    def load_candidates(self, layer: str) -> list[Candidate] | None:
        """What `save_candidates` has kept of the layer, or None."""
        return self.load_layer(layer, lambda kept: [Candidate(*fields) for fields in kept["candidates"]])

    def write(self, name: str, content: object) -> None:
        """Keep what JSON can hold under a file name."""
        write_text(self.folder / name, json.dumps(content))

    def read(self, name: str) -> Any:
        """What `write` has kept, or None; a damaged file is as good as none."""
        return self._restored(name, lambda content: content)

    def _restored(self, name: str, unpack: Callable[[Any], T]) -> T | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return unpack(json.loads(path.read_text(encoding="utf-8")))
        except Exception as e:  # whatever the damaged content leads `unpack` to
            log.warning("%s cannot be read (%s): it is made again", path, e)
            return None

    def save(self, number: int, record: Record) -> None:
        """Keep what became of site `number`."""
        arrays: dict[str, Any] = {}
        about = {
            "row": record.row.model_dump(),
            "looked": record.looked,
            "block": None if record.block is None else pack_block(record.block, arrays),
        }
        if record.channels is not None:
            arrays["channels"] = record.channels
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        write_bytes(self._path(number), lambda file: np.savez(file, **arrays))

    def load(self, number: int) -> Record | None:
        """What is known of site `number`, or None; a damaged file is as good as none."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                about = json.loads(arrays["about"].tobytes())
                block = None if about["block"] is None else unpack_block(about["block"], arrays)
                channels = arrays.get("channels", None)
                return Record(Layer(**about["row"]), about["looked"], block, channels)
        except Exception as e:  # zip, zlib, header and JSON each have errors of their own
            log.warning("%s cannot be read (%s): this layer is done again", path, e)
            return None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04}.npz"


def _file_name(layer: str) -> str:
    """A file name for a layer, whose own name may hold any character."""
    return f"{hashlib.blake2b(layer.encode(), digest_size=8).hexdigest()}.json"
