"""What a worker does: a shard's way along the network, a step at a time, and the sums of shards put together.

A step takes where the shard was and gives where it is and what was asked for; it changes nothing that it was given. So
a step that is lost with its worker is done again by another one, and all before it, if these are lost too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ndpass.calibration.collect import Frontier, Lost, Responding, State, responses_of
from ndpass.calibration.digests import digest_data
from ndpass.calibration.gather import answered, gather, gather_ahead, gather_block
from ndpass.calibration.shards import Shard
from ndpass.calibration.walk import narrowed
from ndpass.conv import Array, Conv
from ndpass.engine.model import Log, Model
from ndpass.graph.branches import Branch
from ndpass.graph.channel_walk import Labels
from ndpass.graph.sites import Site

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A layer, or a residual branch as one convolution, without its weights. shape: of the weight."""

    name: str
    op: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    @classmethod
    def of(cls, name: str, op: str, conv: Conv) -> Place:
        return cls(name, op, conv.weight.shape, conv.strides, conv.pads, conv.dilations, conv.group)

    @property
    def outline(self) -> Conv:
        """With zeros that take no memory."""
        zeros = np.broadcast_to(np.float32(0), self.shape)
        return Conv(zeros, None, self.strides, self.pads, self.dilations, self.group)

    @property
    def site(self) -> Site:
        """Without its costs, which nobody asks a worker for."""
        return Site(self.name, self.op, self.outline, None, 1, lambda: self.outline)


@dataclass(frozen=True)
class Past:
    """Go through a layer."""

    place: Place

    def __call__(self, walk: _Walk) -> None:
        walk.frontier.past(self.place.site)


@dataclass(frozen=True)
class Pruned:
    """Tensors have lost channels: `Walk.prune`."""

    kept: Lost
    counted: bool

    def __call__(self, walk: _Walk) -> None:
        walk.frontier.prune(self.kept, self.counted)


@dataclass(frozen=True)
class Narrowed:
    """Layers give a part of their outputs alone: `Walk.narrow`."""

    kept: Mapping[str, Labels]


@dataclass(frozen=True)
class Edited:
    """The graph changes. number: of the change among those that come with the step."""

    number: int


@dataclass(frozen=True)
class Sums:
    """What the moments of a layer are made of, of one of `every` positions of each image."""

    place: Place
    every: int = 1

    def __call__(self, walk: _Walk) -> Any:
        name, shard = self.place.name, walk.shard
        own = shard.chosen[name], walk.responses[name], shard.held_row(name)
        return gather(self.place.site, walk.frontier, *own, self.every)


@dataclass(frozen=True)
class SumsAhead:
    """The same of a layer behind `at`, where the shard is."""

    place: Place
    at: Place
    every: int = 1

    def __call__(self, walk: _Walk) -> Any:
        name, shard = self.place.name, walk.shard
        own = shard.chosen[name], walk.responses[name], shard.held_row(name)
        return gather_ahead(self.place.site, self.at.site, walk.frontier, *own, self.every)


@dataclass(frozen=True)
class BlockSums:
    """The same of a residual branch. first: its first layer; output, response: tensors, as of a `Branch`."""

    block: Place
    first: Place
    output: str
    response: str

    def __call__(self, walk: _Walk) -> Any:
        name, shard = self.block.name, walk.shard
        own = shard.chosen[name], walk.responses[name], shard.held_row(name)
        outline = self.block.outline
        names = name, (self.first.name,), (), self.output, self.response
        block = Branch(*names, outline, (), 1, 0, lambda: outline)
        return gather_block(block, self.first.site, walk.frontier, *own)


@dataclass(frozen=True)
class Answers:
    """A kernel's answers to a layer's patches, one of `step` of them: `ndpass.calibration.gather.answered`."""

    place: Place
    kernel: Array
    columns: NDArray[np.intp] | None
    step: int

    def __call__(self, walk: _Walk) -> Any:
        name, shard = self.place.name, walk.shard
        before = shard.rows_before(name)
        return answered(
            self.place.site, walk.frontier, shard.chosen[name], self.kernel, self.columns, self.step, before
        )


Op: TypeAlias = "Past | Pruned | Narrowed | Edited | Sums | SumsAhead | BlockSums | Answers"


@dataclass(frozen=True)
class Held:
    """A shard with all that it needs, where it is: so a step has one thing to begin with, and is done where that lies.

    own: the original's responses to it, by name. log: the changes of the network so far; state: the activations at the
    frontier.
    """

    model: Model
    shard: Shard
    own: Mapping[str, Array]
    log: Log = field(default_factory=Log)
    state: State = (None, ())

    def __sizeof__(self) -> int:
        feeds = [array.nbytes for feed in self.state[1] for array in feed.values()]
        return sum(feeds) + sum(map(len, self.log.edits)) + sum(array.nbytes for array in self.own.values())


@dataclass(frozen=True)
class _Walk:
    frontier: Frontier
    shard: Shard
    responses: Mapping[str, Array]


def begin(model: Model, shard: Shard, wanted: Responding, memory: int) -> Held:
    """The shard before the first step. memory: as of `ndpass.calibration.collect.references`."""
    with one_thread(), model.at(Log()) as runners:
        return Held(model, shard, responses_of(wanted, shard.chosen, shard.data, memory, runners))


def step(held: Held, ops: Sequence[Op], edits: Sequence[bytes]) -> tuple[Held, Any]:
    """Where the shard is after these operations, and what the last one gives."""
    found = None
    with one_thread():
        for op in ops:
            if isinstance(op, Edited):
                held = replace(held, log=held.log.then(edits[op.number]))
                continue
            if isinstance(op, Narrowed):
                held = replace(held, own=narrowed(held.own, op.kept))
                continue
            with held.model.at(held.log) as runners:
                frontier = held.shard.frontier(runners)
                frontier.restore(held.state)
                found = op(_Walk(frontier, held.shard, held.own))
                held = replace(held, state=frontier.state)
    return held, found


def own(held: Held, name: str) -> Array:
    """The original's responses of one layer."""
    return held.own[name]


def given(value: T) -> T:
    """What a task was given: the scheduler can have it sent again where a worker is lost."""
    return value


def digest(shard: Shard) -> str:
    """Hash of a shard's samples."""
    return digest_data(shard.data)


def part(whole: Any, name: Any) -> Any:
    """One of the things that a task gave."""
    return whole[name]


class _Limit:
    """One thread for the algebra while any task is at it; how many there are otherwise is somebody else's."""

    def __init__(self) -> None:
        self._lock, self._tasks = threading.Lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._tasks:
                self._limits = threadpool_limits(1, user_api="blas")
            self._tasks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._tasks -= 1
            if not self._tasks:
                self._limits.restore_original_limits()


_LIMIT = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the algebra, in all threads of this process."""
    with _LIMIT:
        yield
