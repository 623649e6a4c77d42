"""What a calibrated run has done so far, a file a layer, so that a run that was cut off can go on.

The folder lies beside the output and goes when the run ends. Its manifest says what the run was: model, data, options.
A layer's file appears whole or not at all, so a kill at any moment loses the layer in work and no other. Weights are
kept in float64, as they were fitted: going on gives the bytes that a run without a break would have given. While a run
is at work it holds a lock in the folder, which ends with its process however that ends: a second one with the same
output is refused before it removes what the first has done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ndpass.calibration.collect import Data
from ndpass.conv import Array, Block, Chain, Conv, Sum
from ndpass.errors import UsageError
from ndpass.files.staging import write_bytes, write_text
from ndpass.planning.candidate import Candidate, Choice
from ndpass.report import Layer

log = logging.getLogger(__name__)


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
        return cls(output.with_name(f".{output.name}.resume"))

    def start(self, fingerprint: Mapping[str, str]) -> None:
        """Begin anew: what an earlier run left is removed. Raises UsageError if that is still at work."""
        self._claim()
        for left in self.folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left != Path(self._lock.lock_file):
                left.unlink()
        write_text(self.folder / "run.json", json.dumps(fingerprint, indent=1))
        self.begun = True

    def resume(self, fingerprint: Mapping[str, str]) -> None:
        """Check that this is the run that was cut off. Raises UsageError naming what differs, or if it is at work."""
        if self.folder.exists():
            self._claim()
        try:
            before = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UsageError(f"--resume: no run to go on with at {self.folder}: leave --resume out") from e
        changed = [key for key in fingerprint if before.get(key) != fingerprint[key]]
        if changed:
            texts = [f"{key} was {before.get(key)}, is {fingerprint[key]}" for key in changed]
            raise UsageError(f"--resume: this is another run: {'; '.join(texts)}. Start anew without --resume")
        self.begun = True

    def part(self, name: str) -> Checkpoint:
        """A folder inside for one of several rewrites of the same run."""
        inner = Checkpoint(self.folder / name)
        inner.folder.mkdir(exist_ok=True)
        inner.begun = True
        return inner

    def remove(self) -> None:
        """Remove what this run has left, not what it never came to."""
        self.release()
        if self.begun:
            shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Let another run have the folder, if this one had it."""
        if self._lock.is_locked:
            self._lock.release(force=True)
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _claim(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as e:
            raise UsageError(
                f"another run with this output is at work ({self.folder} is its own): wait for it, or name another "
                "output"
            ) from e

    def save_plan(self, plan: Mapping[str, Choice]) -> None:
        self.write("plan.json", pack_plan(plan))

    def load_plan(self) -> dict[str, Choice] | None:
        packed = self.read("plan.json")
        return None if packed is None else unpack_plan(packed)

    def write(self, name: str, content: object) -> None:
        """Keep what JSON can hold under a file name."""
        write_text(self.folder / name, json.dumps(content))

    def read(self, name: str) -> Any:
        """What `write` has kept, or None; a damaged file is as good as none."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as e:
            log.warning("%s cannot be read (%s): it is made again", path, e)
            return None

    def save(self, number: int, record: Record) -> None:
        arrays: dict[str, Any] = {}
        about = {
            "row": record.row.model_dump(),
            "looked": record.looked,
            "block": None if record.block is None else _pack(record.block, arrays),
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
                block = None if about["block"] is None else _unpack(about["block"], arrays)
                channels = arrays.get("channels", None)
                return Record(Layer(**about["row"]), about["looked"], block, channels)
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as e:
            log.warning("%s cannot be read (%s): this layer is done again", path, e)
            return None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04}.npz"


def pack_candidate(candidate: Candidate) -> list[Any]:
    """The fields in order, for JSON; `Candidate(*packed)` is the candidate again."""
    return [candidate.macs, candidate.error, candidate.setting, candidate.seconds, candidate.weighed]


def pack_plan(plan: Mapping[str, Choice]) -> dict[str, Any]:
    """Site name -> its choice, for JSON."""
    return {name: [pack_candidate(c.candidate), c.reason, c.status] for name, c in plan.items()}


def unpack_plan(packed: Mapping[str, Any]) -> dict[str, Choice]:
    """What `pack_plan` has packed."""
    return {name: Choice(Candidate(*fields), why, status) for name, (fields, why, status) in packed.items()}


def _pack(block: Block, arrays: dict[str, Any]) -> dict[str, Any]:
    """The block's structure as JSON; its weights go to `arrays`."""
    if not isinstance(block, Conv):
        kind = "chain" if isinstance(block, Chain) else "sum"
        return {kind: [_pack(b, arrays) for b in block.blocks]}
    name = f"w{len(arrays)}"
    arrays[name] = block.weight
    if block.bias is not None:
        arrays[f"{name}.bias"] = block.bias
    geometry = {key: getattr(block, key) for key in ("strides", "pads", "dilations", "group")}
    return {"conv": name, "bias": block.bias is not None, **geometry}


def _unpack(packed: Mapping[str, Any], arrays: Mapping[str, Array]) -> Block:
    if "conv" not in packed:
        kind, parts = next(iter(packed.items()))
        return (Chain if kind == "chain" else Sum)(*(_unpack(p, arrays) for p in parts))
    name = packed["conv"]
    geometry = {key: tuple(packed[key]) for key in ("strides", "pads", "dilations")}
    bias = arrays[f"{name}.bias"] if packed["bias"] else None
    return Conv(arrays[name], bias, group=packed["group"], **geometry)


def digest_file(*paths: Path) -> str:
    """Hash of the contents of files."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                found.update(chunk)
    return found.hexdigest()


def digest_data(data: Data) -> str:
    """Hash of all samples as the model gets them."""
    found = hashlib.blake2b(digest_size=16)
    for feed in data.batches():
        for name in sorted(feed):
            found.update(np.ascontiguousarray(feed[name]).tobytes())
    return found.hexdigest()
