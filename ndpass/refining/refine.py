"""A rewritten model trained to its original's answers: prepared, sized, run, judged, kept or taken back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from numpy.typing import NDArray

from ndpass.calibration.feeds import Feeds
from ndpass.graph.input_spec import InputSpec
from ndpass.listener import Listener
from ndpass.refining import from_onnx
from ndpass.refining.allocation import kept_pages
from ndpass.refining.course import BATCH, Course
from ndpass.refining.layers import UnsupportedError
from ndpass.refining.options import Refine
from ndpass.refining.orthonormal import Regulariser, regularised
from ndpass.refining.pair import NothingToRefineError, Pair, paired
from ndpass.refining.program import Program
from ndpass.refining.samples import Samples
from ndpass.refining.trainer import Held, Trainer
from ndpass.report import Refinement

if TYPE_CHECKING:
    import openvino as ov

log = logging.getLogger(__name__)

MOST_HELD = 1000  # samples that the held-out figure is of
FEWEST = 100  # images, below which training is likely to learn them by heart
APART = 3.0  # times the figure on the samples trained on from which on the held-out one tells of too few of them

Model = Any  # an onnx.ModelProto or an openvino.Model


@dataclass(frozen=True)
class Task:
    """What is trained, to what, on what.

    original, rewritten: models of one kind. names: the tensors that both are compared by, None for their outputs. fit:
    the samples of training; held: those that it is judged by. inputs: of the original. memory: bytes for activations.
    state: a file that training can go on from, None keeps none. by_errors: whether class scores, too, are trained by
    their squared error, as a budget of errors wants it.
    """

    original: Model
    rewritten: Model
    names: Sequence[str] | None
    inputs: Sequence[InputSpec]
    fit: Feeds
    held: Feeds
    asked: Refine
    seed: int = 0
    memory: int = 1 << 30
    threads: int | None = None
    state: Path | None = None
    by_errors: bool = False


@dataclass(frozen=True)
class Refined:
    """weights: of the rewritten model, by their names in its program, None where it stays as it is; what came of it."""

    weights: Mapping[str, NDArray[Any]] | None
    report: Refinement


def program_of(model: Model | ov.Model) -> Program:
    """The model as steps that torch can run."""
    if isinstance(model, onnx.ModelProto):
        return from_onnx.read(model)
    from ndpass.refining import from_openvino

    return from_openvino.read(model)


def with_weights(model: Model, weights: Mapping[str, NDArray[Any]]) -> Model:
    """The model with these weights: a copy of an ONNX model, an OpenVINO model itself."""
    if isinstance(model, onnx.ModelProto):
        return from_onnx.write(model, weights)
    from ndpass.refining import from_openvino

    return from_openvino.write(model, weights)


def refused(asked: Refine, images: int, reason: str) -> Refinement:
    """The report of a refinement that has not begun."""
    return Refinement(asked=asked.text, images=images, reason=reason)


def refine(task: Task, listen: Listener) -> Refined:
    """Train, and give the weights if the held-out figure has fallen.

    An interruption ends training: the best weights so far are given if they are better than those at the start,
    otherwise it goes on up. Raises InputError for samples that cannot be read.
    """
    with torch_threads(task.threads), kept_pages():
        try:
            original, fitted = program_of(task.original), program_of(task.rewritten)
            rewritten, regulariser = regularised(fitted, original, task.asked.orthonormal)
            pair = paired(original, rewritten, task.names, task.fit, task.inputs, task.memory, by_errors=task.by_errors)
            return _trained(task, pair, regulariser, listen)
        except UnsupportedError as e:
            return Refined(None, refused(task.asked, len(task.fit), f"torch's side does not know {e}"))
        except NothingToRefineError as e:
            return Refined(None, refused(task.asked, len(task.fit), str(e)))
        except torch.OutOfMemoryError:
            return Refined(None, refused(task.asked, len(task.fit), "the device has too little memory for one sample"))


def _trained(task: Task, pair: Pair, regulariser: Regulariser | None, listen: Listener) -> Refined:
    begun = time.perf_counter()
    samples = Samples(task.fit, pair.batch(min(BATCH, len(task.fit))), task.seed, task.memory // 4)
    held = Held.of(pair, task.held, _most_held(pair, task))
    trainer = Trainer(pair, samples, held, labelled=task.asked.labels, regulariser=regulariser)
    course = Course(trainer, task.asked, task.state, listen)
    if pair.left:
        listen(f"refining: {', '.join(pair.left)}: no axis for samples, not trained to", 0, 0)
    if len(task.fit) < FEWEST:
        listen(f"refining on {len(task.fit)} images, which it is likely to learn by heart: give {FEWEST} or more", 0, 0)
    if regulariser is not None and regulariser.nothing:
        listen(f"refining: {regulariser.nothing}", 0, 0)
    course.run(begun)
    after, weights = course.best
    kept = weights is not None and course.is_better
    report = Refinement(
        asked=task.asked.text,
        images=len(task.fit),
        epochs=course.state.step / trainer.samples.steps,
        steps=course.state.step,
        seconds=time.perf_counter() - begun + course.earlier,
        rate=course.state.rate,
        batch=trainer.samples.size,
        measure=pair.loss.measure,
        before=course.before,
        after=after if math.isfinite(after) else None,
        kept=kept,
        interrupted=course.interrupted,
        reason=_reason(course, kept, len(task.fit)),
        orthonormal=regulariser.report(weights or trainer.start) if regulariser else None,
    )
    if weights is None or not kept:
        return Refined(None, report)
    return Refined({name: w.cpu().numpy() for name, w in weights.items()}, report)


def _most_held(pair: Pair, task: Task) -> int:
    """Samples of the held-out figure that fit a quarter of the memory, with the answers to them.

    Raises NothingToRefineError where there are fewer than the networks take at once.
    """
    if pair.fixed and len(task.held) < pair.size:
        law = f"the model takes {pair.size} samples at once"
        raise NothingToRefineError(f"{law}, {len(task.held)} are held out: give more")
    feed = next(task.held.batches(pair.size))
    count = len(next(iter(feed.values())))
    answers = pair.answers(feed)
    each = sum(x.nbytes for x in feed.values()) + sum(answers[name].nbytes for name in pair.loss.given)
    return int(max(pair.size, min(MOST_HELD, task.memory // 4 * count // max(each, 1))))


def _reason(course: Course, kept: bool, images: int) -> str:
    """Why the result is kept or taken back, and whether there were too few images."""
    after, _ = course.best
    ended = f"interrupted after {course.state.step} of {course.state.steps} steps; " if course.interrupted else ""
    if course.diverged:
        return f"{ended}the loss was not finite, at half the rate neither: taken back"
    own = course.own_figure()
    heart = own is not None and after > APART * own
    few = f"; {images} samples are few" if heart or images < FEWEST else ""
    few += f": {own:.3g} on them, {after:.3g} on others, give more" if heart else ""
    if kept:
        return f"{ended}the held-out figure fell{few}"
    return f"{ended}the held-out figure did not fall ({course.before:.4g} before, {after:.4g} after): taken back{few}"


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Torch with this many threads in the block."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
