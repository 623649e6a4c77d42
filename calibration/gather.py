"""From a layer's inputs to its moments: patches are summed, those of a few images choose the strength of the prior.

The images that choose are the last ones. Sums of parts of the data can be made apart and merged: `Gathered`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration.checks import check_finite
from ndpass.calibration.collect import Data, Frontier
from ndpass.calibration.moments import Moments
from ndpass.calibration.patches import Sample, patches, responses, spread
from ndpass.calibration.priors import choose_strength, regularised
from ndpass.calibration.sums import Sums
from ndpass.conv import Array, Conv
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Site

log = logging.getLogger(__name__)

HELD_OUT = 0.1  # share of the images whose patches choose the strength of the prior
HELD_OUT_ROWS = 2_000
BLOCK_ROWS = 8_192  # patches that enter the moments at once
BLOCK_ELEMENTS = 1 << 26  # of these patches; grouped layers may have more for each than dense ones
MOST_ANSWERS = 32_000_000  # bytes of a kernel's answers to single patches


@dataclass(frozen=True, eq=False)
class Gathered:
    """What the moments of a layer are made of, over some of the images.

    sums: of the patches that are fitted to, of each group of the layer; empty where all are held out. held (rows, n),
    wanted (rows, n_o): patches that are held out and the responses there.
    """

    sums: tuple[Sums, ...]
    held: Array
    wanted: Array

    def merge(self, other: Gathered) -> Gathered:
        """Over the images of both, those of `other` being behind; both stay as they are."""
        both = self.sums and other.sums
        sums = tuple(map(Sums.merge, self.sums, other.sums)) if both else self.sums or other.sums
        held, wanted = (np.concatenate(pair) for pair in ((self.held, other.held), (self.wanted, other.wanted)))
        return Gathered(sums, held, wanted)

    def owned(self) -> Gathered:
        """The same with sums that may be added to: what comes from another process may not be written to."""
        return replace(self, sums=tuple(own.owned() for own in self.sums))

    def __sizeof__(self) -> int:
        return self.held.nbytes + self.wanted.nbytes + sum(own.nbytes for own in self.sums)


@dataclass(frozen=True)
class Layer:
    """What patches are gathered for. weight: gives the one (n_o, n / groups) that the prior is at."""

    name: str
    weight: Callable[[], Array]
    groups: int = 1

    @classmethod
    def of(cls, site: Site) -> Layer:
        return cls(site.name, lambda: site.conv.matrix, site.outline.group)

    @classmethod
    def of_block(cls, block: Branch) -> Layer:
        return cls(block.name, lambda: block.conv.matrix)

    def parts(self, array: Array) -> list[Array]:
        """The columns of each group, of patches (S, n) or of responses (S, n_o)."""
        return np.split(array, self.groups, axis=1)


def held_from(images: int, each: int) -> int:
    """The image from which on patches are held out, at least one where there are several.

    It does not depend on the batch, which depends on the memory. each: patches of an image.
    """
    most = max(1, HELD_OUT_ROWS // each)
    return images - min(max(1, round(HELD_OUT * images)), most) if images > 1 else images


def collect(site: Site, frontier: Frontier, sample: Sample, reference: Array, every: int = 1) -> Callable[[], Moments]:
    """The site's moments with the prior towards its weights in them, its strength chosen by held-out images.

    every: one of so many positions of each image is looked at. What is returned makes them, from sums over the site's
    inputs: the walk is over by then, and the algebra may be done while the next one is under way.
    """
    held = _held_rows(frontier.data, sample)
    found = gather(site, frontier, sample, reference, held, every)
    return partial(with_prior, Layer.of(site), found)


def collect_block(block: Branch, first: Site, frontier: Frontier, sample: Sample, reference: Array) -> Moments:
    """The moments of a branch as one convolution: of the input of its first layer and of what it should give.

    reference (rows, n_o): what the original has behind the sum. The branch itself must still be as it was.
    """
    held = _held_rows(frontier.data, sample)
    found = gather_block(block, first, frontier, sample, reference, held)
    return with_prior(Layer.of_block(block), found)


def collect_ahead(
    site: Site, at: Site, frontier: Frontier, sample: Sample, reference: Array, every: int = 1
) -> Callable[[], Moments]:
    """The same of a site behind the one that the frontier is at, on the network as it is now."""
    found = gather_ahead(site, at, frontier, sample, reference, _held_rows(frontier.data, sample), every)
    return partial(with_prior, Layer.of(site), found)


def gather(site: Site, frontier: Frontier, sample: Sample, reference: Array, held_row: int, every: int = 1) -> Gathered:
    """Over the frontier's images. held_row: the row of `reference` from which on patches are held out; every: one of so
    many positions of each image is looked at."""
    sample, reference, held_row = _thinned(sample, reference, held_row, every)
    return _gathered(Layer.of(site), _patches(site, site.outline, frontier, sample), reference, held_row)


def _patches(site: Site, outline: Conv, frontier: Frontier, sample: Sample) -> Iterator[Array]:
    """Of the input of the site, for a convolution that reads the same, a batch at a time."""
    batch = frontier.data.batch
    for number, x in enumerate(frontier.advance(site)):
        yield patches(outline, sample.order.by_sample(x, batch), sample.of(number * batch, batch))


def gather_ahead(
    site: Site, at: Site, frontier: Frontier, sample: Sample, reference: Array, held_row: int, every: int = 1
) -> Gathered:
    """As of `collect_ahead`."""
    batch, x = frontier.data.batch, frontier.graph.input_of(site)
    sample, reference, held_row = _thinned(sample, reference, held_row, every)

    def rows() -> Iterator[Array]:
        for number, found in enumerate(frontier.beside(at, (x,))):
            yield patches(site.outline, sample.order.by_sample(found[x], batch), sample.of(number * batch, batch))

    return _gathered(Layer.of(site), rows(), reference, held_row)


def gather_block(
    block: Branch, first: Site, frontier: Frontier, sample: Sample, reference: Array, held_row: int
) -> Gathered:
    """Of what the original has behind the sum, the branch gives what the shortcut does not: the sum less the branch, in
    the network as it is now. Without a sum it gives all of it."""
    if block.is_plain:
        found = _patches(first, block.outline, frontier, sample)
        return _gathered(Layer.of_block(block), found, reference, held_row)
    batch, x = frontier.data.batch, frontier.graph.input_of(first)
    wide = np.result_type(reference, np.float32)  # differences in float16 may overflow
    wanted = reference.astype(wide)

    def rows() -> Iterator[Array]:
        for number, found in enumerate(frontier.beside(first, (block.output, block.response))):
            positions = sample.of(number * batch, batch)
            difference = found[block.output].astype(wide) - found[block.response]
            difference = sample.order.by_sample(difference, batch)
            shortcut = responses(difference, positions, channels_last=False)
            start = number * batch * positions.shape[1]
            wanted[start : start + len(shortcut)] -= shortcut
            yield patches(block.outline, sample.order.by_sample(found[x], batch), positions)

    return _gathered(Layer.of_block(block), rows(), wanted, held_row)


def _gathered(layer: Layer, found: Iterator[Array], reference: Array, held_row: int) -> Gathered:
    """From patches, a batch at a time, and the responses (rows, n_o), read after the patches."""
    sums: list[Sums] = []
    held: list[Array] = []
    block: list[Array] = []
    n = start = first = 0  # elements of a patch; first row of the block, and of the batch
    for rows in found:
        check_finite(layer.name, rows)
        n, fit = rows.shape[1], rows[: max(held_row - first, 0)]
        if len(fit) < len(rows):
            held.append(rows[len(fit) :])
        if len(fit):
            block.append(fit)
            end = first + len(fit)
            if end - start >= min(BLOCK_ROWS, max(BLOCK_ELEMENTS // n, 1)) or end >= held_row:
                xs, ys = layer.parts(np.concatenate(block)), layer.parts(reference[start:end])
                sums = sums or [Sums(x.shape[1], y.shape[1]) for x, y in zip(xs, ys, strict=True)]
                for own, x, y in zip(sums, xs, ys, strict=True):
                    own.add(x, y)
                block, start = [], end
        first += len(rows)
    kept = np.concatenate(held) if held else np.zeros((0, n), np.float32)
    return Gathered(tuple(sums), kept, reference[held_row:])


def _thinned(sample: Sample, reference: Array, held_row: int, every: int) -> tuple[Sample, Array, int]:
    """One of `every` positions of each image, the responses there, and the row from which on they are held out."""
    if every == 1:
        return sample, reference, held_row
    few = sample.thinned(every)
    return few, sample.thin(reference, every), held_row // sample.each * few.each


def _held_rows(data: Data, sample: Sample) -> int:
    return held_from(data.images, sample.each) * sample.each


def with_prior(layer: Layer, found: Gathered) -> Moments:
    """The moments of all images, which uses up the sums; of each group with a prior of its own."""
    weights = np.split(layer.weight(), layer.groups)
    made, strengths = [], []
    xs, ys = layer.parts(found.held), layer.parts(found.wanted)
    for own, weight, x, y in zip(found.sums, weights, xs, ys, strict=True):
        moments = own.moments()
        strengths.append(choose_strength(moments, weight, x, y))
        if len(x):
            own.add(x, y)
            moments = own.moments()
        made.append(regularised(moments, weight, strengths[-1]))
    n, prior = weights[0].shape[1], float(np.median(strengths))
    log.info("%s: %d patches of %d, prior %g", layer.name, made[0].count, n, prior)
    return Moments.beside(made)


def answer_step(sample: Sample, outputs: int) -> int:
    """Of how many patches one is answered, so that the answers of a kernel with so many outputs find room."""
    return -(-4 * outputs * sample.rows // MOST_ANSWERS)


def answers(
    site: Site, frontier: Frontier, sample: Sample, kernel: Array, columns: NDArray[np.intp] | None = None
) -> tuple[Array, int]:
    """What a kernel (n_o, n) makes of the site's patches, (S, n_o) float32, one for every `step` of them, and `step`.

    For fits that need more than moments, at the cost of another walk over the site's inputs. columns (n,): the part of
    a patch that the kernel reads; left out, all of it.
    """
    step = answer_step(sample, len(kernel))
    return answered(site, frontier, sample, kernel, columns, step), step


def answered(
    site: Site,
    frontier: Frontier,
    sample: Sample,
    kernel: Array,
    columns: NDArray[np.intp] | None,
    step: int,
    before: int = 0,
) -> Array:
    """As `answers`, over the frontier's images. before: patches of the images before them."""
    batch = frontier.data.batch
    thin = np.ascontiguousarray(kernel.T, np.float32)
    found = []
    for number, x in enumerate(frontier.advance(site)):
        rows = patches(site.outline, sample.order.by_sample(x, batch), sample.of(number * batch, batch))
        rows = rows[spread(len(rows), step, before + number * batch * sample.each)]
        found.append((rows if columns is None else rows[:, columns]) @ thin)
    return np.concatenate(found)
