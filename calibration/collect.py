"""Run a model up to its sites and fill their moments, in bounded memory.

`references` runs the original once and keeps its responses at the sampled positions of every site. `Frontier` then
follows the network as it is rewritten: it stores the tensors that are alive just before a site for all images if they
fit the memory budget, so that the next site costs one segment of the network; where they do not fit, the segment is
run again from the last cut that did. All inference is OpenVINO in f32.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.feeds import Feed, Feeds
from ndpass.calibration.moments import Moments, Sums, choose_strength
from ndpass.calibration.patches import Sample, patches, responses
from ndpass.conv import Array
from ndpass.errors import InputError
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import single, static_batch
from ndpass.measuring.runtime import OpenVINO

log = logging.getLogger(__name__)

HELD_OUT = 0.1  # share of the images whose patches choose the strength of the prior
HELD_OUT_ROWS = 2_000
ENOUGH = 4  # patches for each unknown that a warning of too few asks for
BLOCK_ROWS = 8_192  # patches that enter the moments at once
BLOCK_ELEMENTS = 1 << 26  # of these patches; grouped layers may have more for each than dense ones
MOST_ANSWERS = 32_000_000  # bytes of a kernel's answers to single patches
MOST = 32  # samples in a batch; down to a quarter of that is tried, to split the images without a remainder


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


def equal_batches(count: int, most: int) -> int:
    """The size of equal batches of `count` samples that leaves the fewest out; at most `most`, at least a quarter."""
    return max(range(max(1, most // 4), most + 1), key=lambda size: (count - count % size, size))


def samples(graph: Graph, sites: Sequence[Site], data: Data, blocks: Sequence[Branch] = ()) -> dict[str, Sample]:
    """The positions of every site, drawn from its number among `sites`, and after them of every block."""
    places = [(site.name, site.outline, graph.places(site, data.batch)) for site in sites]
    shapes = graph.shapes(data.batch) if blocks else {}
    places += [(one.name, one.outline, math.prod(shapes[one.output][2:])) for one in blocks]
    return {
        name: Sample.draw(outline, every, data.images, data.seed, number)
        for number, (name, outline, every) in enumerate(places)
    }


def references(
    graph: Graph,
    sites: Sequence[Site],
    chosen: Mapping[str, Sample],
    data: Data,
    memory: int = 1 << 30,
    blocks: Sequence[Branch] = (),
) -> dict[str, Array]:
    """Site name -> responses (rows, n_o) of the network as `graph` is now, float32, from one run over the data.

    memory: bytes that the responses of the images which are run at once take at most, if those of one image do.
    blocks: whose sums are kept under their names, too. Raises InputError naming the layer whose responses are not
    finite.
    """
    names = {site.name: graph.output_of(site) for site in sites} | {one.name: one.output for one in blocks}
    last = {site.name for site in sites if not site.outline.kernel}  # whose responses have their channels last
    phased = {site.name: site.transposed for site in sites if site.transposed}
    batch = _fitting(graph, list(names.values()), data, memory)
    runner = OpenVINO(graph.segment(list(names.values()), None, batch), threads=data.threads)
    taken: dict[str, list[Array]] = {name: [] for name in names}
    for number, feed in enumerate(data.feeds.batches(batch)):
        fed = single(feed, graph.inputs())
        outputs = runner.lent({spec.name: fed[spec.name] for spec in runner.inputs})
        for name, tensor in names.items():
            positions = chosen[name].of(number * batch, batch)
            y = phased[name].parted(outputs[tensor]) if name in phased else outputs[tensor]
            taken[name].append(responses(y, positions, name in last))
    found = {name: np.concatenate(parts) for name, parts in taken.items()}
    for name, own in found.items():
        _check_finite(name, own)
    for site in sites:
        _check_enough(site, data.images, chosen[site.name].rows)
    return found


def _fitting(graph: Graph, names: Sequence[str], data: Data, memory: int) -> int:
    """How many images are run at once: a part of the batch, so that a batch fixed by the model stays whole."""
    if static_batch(graph.inputs()):
        return data.batch
    shapes = graph.shapes(data.batch)
    most = memory * data.batch // max(sum(4 * int(np.prod(shapes[name])) for name in names), 1)
    return max(b for b in range(1, data.batch + 1) if data.batch % b == 0 and (b == 1 or b <= most))


def _check_finite(name: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise InputError(f"layer '{name}' gives NaN or infinite values on the calibration data: does --preprocess fit?")


def _check_enough(site: Site, images: int, rows: int) -> None:
    """Warn where the patches are fewer than what is unknown of each output."""
    unknowns = site.outline.unknowns
    if rows < unknowns:
        needed = -(-ENOUGH * unknowns * images // rows)
        log.warning(
            "layer '%s' has %d patches for %d unknowns and stays close to its weights: give %d images or more",
            site.name,
            rows,
            unknowns,
            needed,
        )


class Frontier:
    """The inputs of one site after the other, in graph order, of a network that is being rewritten behind it."""

    def __init__(self, graph: Graph, data: Data, memory: int) -> None:
        self.graph, self.data, self.memory = graph, data, memory
        self._cut: tuple[str, ...] | None = None
        self._stored: deque[Feed] = deque()

    def advance(self, site: Site) -> Iterator[Array]:
        """The site's input, a batch at a time; to be read to its end."""
        x, live = self.graph.input_of(site), self.graph.live(site)
        if self._cut is not None and set(live) <= set(self._cut):
            yield from (feed[x] for feed in self._stored)
            return
        keep = self._size(live) <= self.memory
        wanted = live if keep else (x,)
        run = self._runner(wanted)
        fresh: deque[Feed] = deque()
        for feed in self._feeds(consume=keep):
            outputs = run(feed)
            if keep:
                fresh.append({name: outputs[name] for name in live})
            yield outputs[x]
        if keep:
            self._cut, self._stored = live, fresh

    def beside(self, site: Site, others: Sequence[str]) -> Iterator[Feed]:
        """The site's input and other tensors of the network as it is now, a batch at a time; to be read to its end."""
        deque(self.advance(site), maxlen=0)
        run = self._runner((self.graph.input_of(site), *others))
        yield from (run(feed) for feed in self._feeds(consume=False))

    @property
    def cut(self) -> tuple[str, ...] | None:
        """The tensors that are stored of all images, of which the last site and all behind it can be computed; None
        where that takes the inputs."""
        return self._cut

    def feeds(self) -> Iterator[Feed]:
        """These tensors, or the inputs, a batch at a time."""
        return self._feeds(consume=False)

    def prune(self, kept: Mapping[str, tuple[int, NDArray[np.intp]]], counted: bool) -> None:
        """These tensors of the network have lost all but some channels: axis, and positions on it.

        No layer that reads these channels is behind the frontier, so that the others are what they were, but for lists
        of sizes where the network itself has counted the channels.
        """
        if counted:
            self._cut, self._stored = None, deque()
        for feed in self._stored:
            for name in kept.keys() & feed.keys():
                axis, stay = kept[name]
                feed[name] = np.take(feed[name], stay, axis)

    def _size(self, live: Sequence[str]) -> int:
        """Bytes that these tensors take for all images; one whose length depends on values is looked at once."""
        shapes = self.graph.shapes(self.data.batch)
        unknown = [name for name in live if name not in shapes]
        one = sum(4 * int(np.prod(shapes[name])) for name in live if name in shapes)
        if unknown:
            first = self._runner(unknown)(next(self._feeds(consume=False)))
            one += sum(first[name].nbytes for name in unknown)
        return one * (self.data.images // self.data.batch)

    def _runner(self, wanted: Sequence[str]) -> _Run:
        here = self._cut or tuple(spec.name for spec in self.graph.inputs())
        inner = [name for name in wanted if name not in here]
        if not inner:
            return _Run(None, wanted)
        model = self.graph.segment(inner, self._cut, self.data.batch)
        return _Run(OpenVINO(model, threads=self.data.threads), wanted)

    def _feeds(self, consume: bool) -> Iterator[Feed]:
        """The stored batches, let go of one by one where newer ones take their place, or the data themselves."""
        if self._cut is None:
            yield from (single(feed, self.graph.inputs()) for feed in self.data.batches())
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

    def __call__(self, feed: Feed) -> Feed:
        if self.runner is None:
            return feed
        made = self.runner.lent({spec.name: feed[spec.name] for spec in self.runner.inputs})
        return {name: np.array(made[name]) if name in made else feed[name] for name in self.wanted}


def collect(site: Site, frontier: Frontier, sample: Sample, reference: Array) -> Callable[[], Moments]:
    """The site's moments with the prior towards its weights in them, its strength chosen by held-out images.

    What is returned makes them, from sums over the site's inputs: the walk is over by then, and the algebra may be done
    while the next one is under way.
    """
    batch = frontier.data.batch

    def rows() -> Iterator[Array]:
        for number, x in enumerate(frontier.advance(site)):
            yield patches(site.outline, x, sample.of(number * batch, batch))

    return _gathered(_of_layer(site), frontier.data, sample, rows(), reference)


def collect_ahead(site: Site, at: Site, frontier: Frontier, sample: Sample, reference: Array) -> Moments:
    """The same of a site behind the one that the frontier is at, on the network as it is now."""
    batch, x = frontier.data.batch, frontier.graph.input_of(site)

    def rows() -> Iterator[Array]:
        for number, found in enumerate(frontier.beside(at, (x,))):
            yield patches(site.outline, found[x], sample.of(number * batch, batch))

    return _gathered(_of_layer(site), frontier.data, sample, rows(), reference)()


def collect_block(block: Branch, first: Site, frontier: Frontier, sample: Sample, reference: Array) -> Moments:
    """The moments of a branch as one convolution: of the input of its first layer and of what it should give.

    reference (rows, n_o): what the original has behind the sum. Of that the branch gives what the shortcut, in the
    network as it is now, does not: now the sum less the branch. The branch itself must still be as it was.
    """
    batch, x = frontier.data.batch, frontier.graph.input_of(first)
    wide = np.result_type(reference, np.float32)  # differences in float16 may overflow
    wanted = reference.astype(wide)

    def rows() -> Iterator[Array]:
        for number, found in enumerate(frontier.beside(first, (block.output, block.response))):
            positions = sample.of(number * batch, batch)
            difference = found[block.output].astype(wide) - found[block.response]
            shortcut = responses(difference, positions, channels_last=False)
            start = number * batch * positions.shape[1]
            wanted[start : start + len(shortcut)] -= shortcut
            yield patches(block.outline, found[x], positions)

    return _gathered(_Layer(block.name, lambda: block.conv.matrix), frontier.data, sample, rows(), wanted)()


@dataclass(frozen=True)
class _Layer:
    """What patches are gathered for. weight: gives the one (n_o, n / groups) that the prior is at."""

    name: str
    weight: Callable[[], Array]
    groups: int = 1

    def parts(self, array: Array) -> list[Array]:
        """The columns of each group, of patches (S, n) or of responses (S, n_o)."""
        return np.split(array, self.groups, axis=1)


def _of_layer(site: Site) -> _Layer:
    return _Layer(site.name, lambda: site.conv.matrix, site.outline.group)


def _gathered(
    layer: _Layer, data: Data, sample: Sample, found: Iterator[Array], reference: Array
) -> Callable[[], Moments]:
    """What makes moments from patches, a batch at a time, and the responses (rows, n_o), read after the patches."""
    batch, each = data.batch, sample.positions.shape[1]
    held_from = _held_from(data, each)
    sums: list[Sums] = []
    held: list[Array] = []
    block: list[Array] = []
    start = 0  # first row of the block
    for number, rows in enumerate(found):
        first = number * batch * each
        _check_finite(layer.name, rows)
        if first >= held_from:
            held.append(rows)
            continue
        block.append(rows)
        end = first + len(rows)
        if end - start >= min(BLOCK_ROWS, max(BLOCK_ELEMENTS // rows.shape[1], 1)) or end >= held_from:
            xs, ys = layer.parts(np.concatenate(block)), layer.parts(reference[start:end])
            sums = sums or [Sums(x.shape[1], y.shape[1]) for x, y in zip(xs, ys, strict=True)]
            for own, x, y in zip(sums, xs, ys, strict=True):
                own.add(x, y)
            block, start = [], end
    return partial(_with_prior, layer, sums, held, reference[held_from:])


def answers(
    site: Site, frontier: Frontier, sample: Sample, kernel: Array, columns: NDArray[np.intp] | None = None
) -> tuple[Array, int]:
    """What a kernel (n_o, n) makes of the site's patches, (S, n_o) float32, one for every `step` of them, and `step`.

    For fits that need more than moments, at the cost of another walk over the site's inputs. columns (n,): the part of
    a patch that the kernel reads; left out, all of it.
    """
    batch, each = frontier.data.batch, sample.positions.shape[1]
    step = -(-4 * len(kernel) * sample.rows // MOST_ANSWERS)
    thin = np.ascontiguousarray(kernel.T, np.float32)
    found = []
    for number, x in enumerate(frontier.advance(site)):
        rows = patches(site.outline, x, sample.of(number * batch, batch))[-number * batch * each % step :: step]
        found.append((rows if columns is None else rows[:, columns]) @ thin)
    return np.concatenate(found), step


def _held_from(data: Data, each: int) -> int:
    """The row from which on patches are held out: whole batches, at least one where there are several."""
    batches = data.images // data.batch
    most = max(1, HELD_OUT_ROWS // (data.batch * each))
    count = min(max(1, round(HELD_OUT * batches)), most) if batches > 1 else 0
    return (batches - count) * data.batch * each


def _with_prior(layer: _Layer, sums: Sequence[Sums], held: list[Array], y: Array) -> Moments:
    """The moments of the layer, of each group with a prior of its own."""
    weights = np.split(layer.weight(), layer.groups)
    n = weights[0].shape[1]
    x = np.concatenate(held) if held else np.zeros((0, n * layer.groups), np.float32)
    found, strengths = [], []
    for own, weight, inputs, outputs in zip(sums, weights, layer.parts(x), layer.parts(y), strict=True):
        moments = own.moments()
        strengths.append(choose_strength(moments, weight, inputs, outputs))
        if len(inputs):
            own.add(inputs, outputs)
            moments = own.moments()
        found.append(moments.shrunk(weight, strengths[-1]))
    log.info("%s: %d patches of %d, prior %g", layer.name, found[0].count, n, float(np.median(strengths)))
    return Moments.beside(found)
