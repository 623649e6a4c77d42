"""A worker of a cluster as the machine that models are timed on.

A model goes there as bytes, is compiled there, and a round of turns is one message: what the network takes is in no
time that is measured. Compiled models are results that stay with the worker, and Dask lets go of them with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ndpass.engine.cluster import Cluster
from ndpass.errors import EngineError
from ndpass.files.ir_file import write_ir
from ndpass.files.own_folder import temporary_folder
from ndpass.measuring.machine import Loader, ThisMachine
from ndpass.measuring.openvino_core import shared_core
from ndpass.measuring.runtime import Feed, Runnable
from ndpass.measuring.target import Target
from ndpass.measuring.turns import Timed, Turn, in_order

if TYPE_CHECKING:
    from distributed import Future

T = TypeVar("T")


@dataclass(frozen=True)
class SentModel:
    """A model as bytes: of ONNX, or the two files of IR."""

    content: bytes
    weights: bytes | None = None

    @classmethod
    def of(cls, model: Path | Runnable) -> SentModel:
        """ONNX keeps its own names of layers, by which they are told apart; its weights go inside it. Raises
        EngineError where they are too large for that."""
        import onnx

        if isinstance(model, bytes):
            return cls(model)
        if isinstance(model, Path) and model.suffix == ".onnx":
            try:
                return cls(onnx.load(model).SerializeToString())
            except ValueError as e:  # more than 2 GB
                raise EngineError(f"--time-on: {model} is too large to be sent to a worker: {e}") from e
        if isinstance(model, Path):
            return cls(model.read_bytes(), model.with_suffix(".bin").read_bytes())
        return cls._written(model)

    @classmethod
    def _written(cls, model: Any) -> SentModel:
        """Of an ov.Model."""
        with temporary_folder() as folder:
            path = folder / "model.xml"
            write_ir(model, path, compress=False)
            return cls.of(path)

    @property
    def nbytes(self) -> int:
        return len(self.content) + len(self.weights or b"")

    def read(self) -> Runnable:
        """As it was, in the worker."""
        if self.weights is None:
            return self.content
        model: Runnable = shared_core().read_model(self.content, self.weights)
        return model


@dataclass(frozen=True)
class RemoteModel:
    """A compiled model that stays with the worker. machine: which reaches it."""

    machine: WorkerMachine
    future: Future

    def __call__(self) -> object:
        return self.machine.turns(_once, [self])


@dataclass(frozen=True)
class WorkerMachine:
    """place: the worker's address."""

    cluster: Cluster
    place: str
    target: Target

    @property
    def _call(self) -> Callable[..., Any]:
        return calling(self.cluster, self.place)

    def environment(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self._call(Target.environment, self.target)
        return found

    def now(self) -> float:
        """Of the machine that asks: how long it has waited."""
        return time.perf_counter()

    def load(self, model: Path | Runnable, feed: Feed) -> Loader:
        """The model goes to the worker once."""
        sent = self._give(model)

        def compiled() -> Timed:
            future = self.cluster.submit("compile", compile_there, self.target, sent, feed, place=self.place, only=True)
            self.cluster.wait([future], at=self.place)
            return RemoteModel(self, future)

        return compiled

    def turns(self, turn: Turn, calls: Sequence[Timed], *given: Sequence[Any]) -> list[float]:
        futures = [call.future for call in calls if isinstance(call, RemoteModel)]
        found: list[float] = self._call(turns_there, turn, given, *futures)
        return found

    def shares(self, model: Path | Runnable, feed: Feed, sites: Collection[str]) -> dict[str, float]:
        found: dict[str, float] = self._call(shares_there, self.target, self._give(model), feed, list(sites))
        return found

    def _give(self, model: Path | Runnable) -> Future:
        sent = SentModel.of(model)
        return self.cluster.give("model", sent, sent.nbytes, place=self.place)


def calling(cluster: Cluster, place: str) -> Callable[..., Any]:
    """What calls a function of ndpass's own on one worker, and waits for what it gives."""

    def call(function: Callable[..., T], *given: Any) -> T:
        name = getattr(function, "__name__", "task").strip("_")
        found: T = cluster.result(cluster.submit(name, function, *given, place=place, only=True), at=place)
        return found

    return call


# ------------------------------------------------------------------------------------------------------ in the worker


def compile_there(target: Target, model: SentModel, feed: Feed) -> Timed:
    """The model compiled, ready for an inference."""
    return ThisMachine(target).load(model.read(), feed)()


def turns_there(turn: Turn, given: Sequence[Sequence[Any]], *calls: Timed) -> list[float]:
    """One round."""
    return in_order(turn, calls, *given)


def shares_there(target: Target, model: SentModel, feed: Feed, sites: Collection[str]) -> dict[str, float]:
    """What each layer takes."""
    return ThisMachine(target).shares(model.read(), feed, sites)


def _once(call: Timed, _now: Callable[[], float]) -> float:
    call()
    return 0.0
