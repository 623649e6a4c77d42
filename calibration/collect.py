"""Run a model up to its sites, in bounded memory.

`references` runs the original once and keeps its responses at the sampled positions of every site. `Frontier` then
follows the network as it is rewritten: it stores the tensors that are alive just before a site for all images, so that
the next site costs one segment of the network: in memory if they fit the budget, else on disk (`spool`); where there is
no room either, the segment is run again from the last cut that was stored. All inference is OpenVINO in f32.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.checks import check_finite
from ndpass.calibration.feeds import Feed, Feeds
from ndpass.calibration.orders import orders_of
from ndpass.calibration.patches import Sample, responses
from ndpass.calibration.runners import Runners
from ndpass.calibration.spool import Batch, Spool
from ndpass.conv import Array
from ndpass.errors import InputError
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import single, static_batch
from ndpass.graph.transposed import Transposed
from ndpass.listener import Listener, Step, tell
from ndpass.measuring.runtime import OpenVINO

log = logging.getLogger(__name__)

MOST = 32  # samples in a batch; down to a quarter of that is tried, to split the images without a remainder

Lost: TypeAlias = "Mapping[str, tuple[int, NDArray[np.intp]]]"  # tensor -> axis, and the positions on it that are left
State: TypeAlias = "tuple[tuple[str, ...] | None, tuple[Feed, ...]]"  # the tensors that are stored, and their batches


@dataclass(frozen=True)
class Data:
    """Images for calibration in equal batches; the few that do not fill the last batch are left out."""

    feeds: Feeds
    batch: int
    threads: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, feeds: Feeds, fixed: int | None, threads: int | None, seed: int, most: int = MOST) -> Data:
        """fixed: the model's own batch size if it has one; most: samples that may be run at once if not."""
        count = len(feeds)
        if fixed is not None and count < fixed:
            raise InputError(f"the model takes {fixed} samples at once, {feeds.description} are fewer: give more")
        batch = fixed or (count if count <= most else equal_batches(count, most))
        used = count - count % batch
        if used < count:
            log.info("%d of %d samples used, a multiple of the batch of %d", used, count, batch)
        return cls(feeds.take(range(used)), batch, threads, seed)

    @property
    def images(self) -> int:
        return len(self.feeds)

    def batches(self) -> Iterator[Feed]:
        return self.feeds.batches(self.batch)

    def in_memory(self, most: int) -> Data:
        """The same, read now and kept, where that takes at most so many bytes."""
        one = sum(array.nbytes for array in next(self.feeds.batches(1)).values())
        return self if one * self.images > most else replace(self, feeds=self.feeds.in_memory())


def equal_batches(count: int, most: int) -> int:
    """The size of equal batches of `count` samples that leaves the fewest out; at most `most`, at least a quarter."""
    return max(range(max(1, most // 4), most + 1), key=lambda size: (count - count % size, size))


def samples(graph: Graph, sites: Sequence[Site], data: Data, blocks: Sequence[Branch] = ()) -> dict[str, Sample]:
    """The positions of every site, drawn from its number among `sites`, and after them of every block.

    Raises InputError for a layer whose rows do not come with the samples.
    """
    wanted, shapes = responding(graph, sites, blocks), graph.shapes(data.batch)
    maps = wanted.names.keys() - set(wanted.last)
    orders = orders_of(graph, wanted.names, sorted(maps), data.feeds, data.batch, data.threads)
    outlines = [(site.name, site.outline) for site in sites] + [(one.name, one.outline) for one in blocks]
    return {
        name: Sample.draw(
            outline,
            math.prod(shapes[wanted.names[name]]) // outline.n_o // data.batch,
            data.images,
            data.seed,
            number,
            orders[name],
        )
        for number, (name, outline) in enumerate(outlines)
    }


def references(
    graph: Graph,
    sites: Sequence[Site],
    chosen: Mapping[str, Sample],
    data: Data,
    memory: int = 1 << 30,
    blocks: Sequence[Branch] = (),
    listen: Listener = lambda *_: None,
) -> dict[str, Array]:
    """Site name -> responses (rows, n_o) of the network as `graph` is now, float32, from one run over the data.

    memory: bytes that the responses of the images which are run at once take at most, if those of one image do.
    blocks: whose sums are kept under their names, too. Raises InputError naming the layer whose responses are not
    finite.
    """
    return responses_of(responding(graph, sites, blocks), chosen, data, memory, Runners(graph, data.threads), listen)


@dataclass(frozen=True)
class Responding:
    """names: of layers and of blocks -> the tensor of their responses; last: those whose channels come last; phased:
    transposed ones, whose responses are those of their phases."""

    names: Mapping[str, str]
    last: Collection[str]
    phased: Mapping[str, Transposed]


def responding(graph: Graph, sites: Sequence[Site], blocks: Sequence[Branch]) -> Responding:
    """Of sites and of the sums of blocks."""
    names = {site.name: graph.output_of(site) for site in sites} | {one.name: one.output for one in blocks}
    last = {site.name for site in sites if not site.outline.kernel}
    return Responding(names, last, {site.name: site.transposed for site in sites if site.transposed})


def responses_of(
    wanted: Responding,
    chosen: Mapping[str, Sample],
    data: Data,
    memory: int,
    runners: Runners,
    listen: Listener = lambda *_: None,
) -> dict[str, Array]:
    """As `references`, of the graph that `runners` run."""
    names, phased, graph = wanted.names, wanted.phased, runners.graph
    orders, whole = {name: chosen[name].order for name in names}, data.batch
    with runners.lock:
        batch = _fitting(graph, list(names.values()), data, memory) if all(o.told for o in orders.values()) else whole
    runner = runners(list(names.values()), None, batch)
    taken: dict[str, list[Array]] = {name: [] for name in names}
    for number, feed in enumerate(data.feeds.batches(batch)):
        tell(listen, Step("calibrating", number, -(-len(data.feeds) // batch)))
        fed = single(feed, graph.inputs())
        outputs = runner.lent({spec.name: fed[spec.name] for spec in runner.inputs})
        for name, tensor in names.items():
            positions = chosen[name].of(number * batch, batch)
            y = phased[name].parted(outputs[tensor]) if name in phased else outputs[tensor]
            taken[name].append(responses(orders[name].by_sample(y, batch), positions, name in wanted.last))
    found = {name: np.concatenate(parts) for name, parts in taken.items()}
    for name, own in found.items():
        check_finite(name, own)
    return found


def _fitting(graph: Graph, names: Sequence[str], data: Data, memory: int) -> int:
    """How many images are run at once: a part of the batch, so that a batch fixed by the model stays whole."""
    if static_batch(graph.inputs()):
        return data.batch
    shapes = graph.shapes(data.batch)
    most = memory * data.batch // max(sum(4 * int(np.prod(shapes[name])) for name in names), 1)
    return max(b for b in range(1, data.batch + 1) if data.batch % b == 0 and (b == 1 or b <= most))


class Frontier:
    """The inputs of one site after the other, in graph order, of a network that is being rewritten behind it."""

    def __init__(
        self, graph: Graph, data: Data, memory: int, runners: Runners | None = None, folder: Path | None = None
    ) -> None:
        """memory: bytes for what is stored. runners: of the graph, where several frontiers share them. folder: where
        what does not fit the memory is put on disk; None: nowhere."""
        self.graph, self.data, self.memory, self.folder = graph, data, memory, folder
        self._runners = runners or Runners(graph, data.threads)
        self._cut: tuple[str, ...] | None = None
        self._stored: deque[Batch] = deque()
        self._spool: Spool | None = None  # that the last batches were put on

    @property
    def state(self) -> State:
        """Where it is; whoever has it may not write to its arrays."""
        return self._cut, tuple(dict(batch) for batch in self._stored)

    def restore(self, state: State) -> None:
        """Go on from where another one was, on the same data and a graph in the same state."""
        self._cut, self._stored = state[0], deque(Batch(feed) for feed in state[1])

    def advance(self, site: Site) -> Iterator[Array]:
        """The site's input, a batch at a time; to be read to its end."""
        x, live = self.graph.input_of(site), self.graph.live(site)
        if self._cut is not None and set(live) <= set(self._cut):
            yield from (feed[x] for feed in self._stored)
            return
        with self._runners.lock:
            size = self._size(live)
        spool = self._spool_for(size) if size > self.memory else None
        keep = size <= self.memory or spool is not None
        run = self._runner(live if keep else (x,))
        fresh: deque[Batch] = deque()
        for batch in self._batches(consume=keep):
            outputs = run(batch)
            if keep:
                fresh.append(outputs.of(live, spool))
            yield outputs[x]
        if keep:
            self._cut, self._stored, self._spool = live, fresh, spool

    def _spool_for(self, size: int) -> Spool | None:
        """A file for so many bytes, None where there is no room for it."""
        if self.folder is None:
            return None
        try:
            return Spool(self.folder, size)
        except OSError as e:
            log.info("%d MB of activations are not put on disk: %s", size >> 20, e)
            return None

    def past(self, site: Site) -> None:
        """Go through a site without a look at its input: through the same segments, so that what follows has the same
        bits."""
        deque(self.advance(site), maxlen=0)

    def beside(self, site: Site, others: Sequence[str]) -> Iterator[Mapping[str, Array]]:
        """The site's input and other tensors of the network as it is now, a batch at a time; to be read to its end."""
        self.past(site)
        run = self._runner((self.graph.input_of(site), *others))
        yield from (run(batch) for batch in self._batches(consume=False))

    @property
    def cut(self) -> tuple[str, ...] | None:
        """The tensors that are stored of all images, of which the last site and all behind it can be computed; None
        where that takes the inputs."""
        return self._cut

    def feeds(self) -> Iterator[Feed]:
        """These tensors, or the inputs, a batch at a time."""
        yield from (dict(batch) for batch in self._batches(consume=False))

    def prune(self, kept: Lost, counted: bool) -> None:
        """These tensors of the network have lost all but some channels.

        No layer that reads these channels is behind the frontier, so that the others are what they were, but for lists
        of sizes where the network itself has counted the channels.
        """
        if counted:
            self._cut, self._stored = None, deque()
        self._stored = deque(batch.narrowed(kept, self._spool) for batch in self._stored)

    def _size(self, live: Sequence[str]) -> int:
        """Bytes that these tensors take for all images; one whose length depends on values is looked at once."""
        shapes = self.graph.shapes(self.data.batch)
        unknown = [name for name in live if name not in shapes]
        one = sum(4 * int(np.prod(shapes[name])) for name in live if name in shapes)
        if unknown:
            first = self._runner(unknown)(next(self._batches(consume=False)))
            one += sum(first[name].nbytes for name in unknown)
        return one * (self.data.images // self.data.batch)

    def _runner(self, wanted: Sequence[str]) -> _Run:
        here = self._cut or tuple(spec.name for spec in self.graph.inputs())
        inner = [name for name in wanted if name not in here]
        if not inner:
            return _Run(None, wanted)
        return _Run(self._runners(inner, self._cut, self.data.batch), wanted)

    def _batches(self, consume: bool) -> Iterator[Batch]:
        """The stored batches, let go of one by one where newer ones take their place, or the data themselves."""
        if self._cut is None:
            yield from (Batch(single(feed, self.graph.inputs())) for feed in self.data.batches())
        elif consume:
            while self._stored:
                yield self._stored.popleft()
        else:
            yield from self._stored


@dataclass(frozen=True)
class _Run:
    """A compiled segment; tensors that it does not make pass through from its feed."""

    runner: OpenVINO | None
    wanted: Sequence[str]

    def __call__(self, batch: Batch) -> Batch:
        if self.runner is None:
            return batch
        made = self.runner.lent({spec.name: batch[spec.name] for spec in self.runner.inputs})
        return Batch({name: np.array(made[name]) if name in made else batch.parts[name] for name in self.wanted})
