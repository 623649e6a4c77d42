"""A model on its way to workers: as the bytes of its files, which each worker reads by itself, and what became of it.

Nothing of a model is unpickled: its files are written to a folder of the worker's and go through the same checks as
those of a user, and a change of it is JSON and arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from socket import gethostname
from typing import Any

import numpy as np

from ndpass.calibration.runners import Runners
from ndpass.calibration.shards import KEPT
from ndpass.calibration.walk import Edit
from ndpass.engine.versions import difference, here
from ndpass.errors import EngineError, VerificationError, reading
from ndpass.files import model_file
from ndpass.files.own_folder import new_temporary
from ndpass.graph.graph import Graph, Site
from ndpass.graph.shapes import Shape
from ndpass.rewriting.packing import pack_block, unpack_block

MOST = 3  # graphs of a model that a worker has at once: one that is behind the others comes back from a lost worker


@dataclass(frozen=True)
class Log:
    """The changes of a graph since it was read, packed; keys: a name for the graph before, between and after them."""

    edits: tuple[bytes, ...] = ()
    keys: tuple[str, ...] = ("",)

    def then(self, edit: bytes) -> Log:
        """With one change more."""
        key = hashlib.blake2b(self.keys[-1].encode() + edit, digest_size=16).hexdigest()
        return Log((*self.edits, edit), (*self.keys, key))


@dataclass(eq=False)
class _Live:
    """A graph in a worker, where it is, and by how many threads it is run now."""

    runners: Runners
    key: str = ""
    users: int = 0


class Model:
    """The files of a model, path -> bytes, and in a worker the graphs that were read from them.

    A process has it once, however often it comes, and as long as anything that is worked on refers to it. key: tells it
    from all others; name: of the main file; sizes: the input shapes that costs are counted at; threads: of each
    inference; versions: of the machine that asks.
    """

    def __init__(
        self,
        key: str,
        name: str,
        files: Mapping[str, bytes],
        sizes: Mapping[str, Shape],
        threads: int,
        versions: Mapping[str, str | None],
    ) -> None:
        self.key, self.name, self.files, self.sizes, self.threads = key, name, files, sizes, threads
        self.versions = versions
        self._live: list[_Live] = []
        self._changed = threading.Condition()

    @classmethod
    def of(cls, path: Path, beside: Sequence[Path], sizes: Mapping[str, Shape], threads: int) -> Model:
        """Of a model's file and the files that its weights are in."""
        files = {}
        for file in (path, *beside):
            with reading(file):
                files[file.relative_to(path.parent).as_posix()] = file.read_bytes()
        return cls(uuid.uuid4().hex, path.name, files, dict(sizes), threads, here())

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(map(len, self.files.values()))

    def __sizeof__(self) -> int:
        return self.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _once, (self.key, self.name, self.files, self.sizes, self.threads, self.versions)

    @contextmanager
    def at(self, log: Log) -> Iterator[Runners]:
        """The graph after these changes, which stays like that in the block."""
        with self._changed:
            live = self._found(log)
            live.users += 1
        try:
            yield live.runners
        finally:
            with self._changed:
                live.users -= 1
                self._changed.notify_all()

    def _found(self, log: Log) -> _Live:
        """One that is there, is brought there, or is read anew; the one that was used last stays longest."""
        while True:
            there = [live for live in self._live if live.key == log.keys[-1]]
            idle = [live for live in self._live if live.key in log.keys and not live.users]
            if there or idle:
                live = there[0] if there else max(idle, key=lambda one: log.keys.index(one.key))
                break
            if len(self._live) < MOST:
                live = self._read()
                break
            unused = next((one for one in self._live if not one.users), None)
            if unused:
                self._live.remove(unused)
            else:
                self._changed.wait()
        for edit in log.edits[log.keys.index(live.key) :]:
            apply(edit, live.runners.graph)
            live.runners.forget()
        live.key = log.keys[-1]
        self._live = [*(one for one in self._live if one is not live), live]
        return live

    def _read(self) -> _Live:
        """Raises EngineError in a worker that came after the others were looked at, and is not as they are."""
        if other := difference(here(), self.versions):
            raise EngineError(f"a worker on {gethostname()}, which came later, has {other}: results would differ")
        folder = new_temporary()
        for name, content in self.files.items():
            path = folder.path / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        graph = model_file.open_graph(folder.path / self.name, self.sizes).graph
        weakref.finalize(graph, folder.remove)
        return _Live(Runners(graph, self.threads, KEPT))


_THERE: weakref.WeakValueDictionary[str, Model] = weakref.WeakValueDictionary()
_COMING = threading.Lock()


def _once(key: str, *content: Any) -> Model:
    """The model of this process with this key."""
    with _COMING:
        model = _THERE.get(key)
        if model is None:
            model = _THERE[key] = Model(key, *content)
        return model


def pack(edit: Edit) -> bytes:
    """A change of a graph as bytes that NumPy reads without unpickling anything."""
    arrays: dict[str, Any] = {}
    block = None if edit.block is None else pack_block(edit.block, arrays)
    branch = edit.merges and {"first": edit.merges.first, "inner": edit.merges.inner}
    about = {"layer": edit.layer, "block": block, "branch": branch}
    if edit.channels is not None:
        arrays["channels"] = edit.channels
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def apply(packed: bytes, graph: Graph) -> None:
    """Change a graph as another one was changed."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        block = None if about["block"] is None else unpack_block(about["block"], arrays)
        channels = arrays.get("channels", None)
    layer = about["layer"]
    if about["branch"] and block is not None:
        graph.merge_layers(about["branch"]["first"], layer, about["branch"]["inner"], block)
        return
    site = site_of(graph, layer)
    if channels is not None:
        group = graph.channel_group(site)
        if isinstance(group, str):
            raise VerificationError(f"layer '{layer}' could be pruned on the machine that asks, here: {group}")
        graph.keep_channels(group, channels)
    elif block is not None:
        graph.splice(site, block)


def site_of(graph: Graph, layer: str) -> Site:
    """The layer of this name, which is there."""
    return next(one for one in graph.sites() if isinstance(one, Site) and one.name == layer)
