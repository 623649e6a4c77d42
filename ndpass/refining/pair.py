"""The original and the rewritten network side by side: what of their answers is compared, and on what scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ndpass.calibration.feeds import Feed, Feeds
from ndpass.graph.input_spec import InputSpec, StaticBatch, static_batch
from ndpass.measuring.class_scores import are_logits, score_output
from ndpass.measuring.output_errors import least_variances
from ndpass.refining.layers import UnsupportedError
from ndpass.refining.loss import LEAST, Loss, Part
from ndpass.refining.network import Network, Tensors
from ndpass.refining.program import Program

FEW = 64  # samples that tell variances, and which outputs are class scores
TWO = 2  # samples that tell shapes
CLOSE = 1e-4  # relative difference between a batch and its halves that is taken for rounding
SHARE = 4  # of the memory, what outputs of samples that are looked at beforehand may take
TIMES = 3  # what training holds over the activations of one run: gradients and the original's answers


class NothingToRefineError(Exception):
    """There is nothing that training could make better; the text says why."""


class NoSamplesError(NothingToRefineError):
    """No answer can be told apart by samples, whatever they are."""


@dataclass(frozen=True)
class Pair:
    """teacher: the original, never trained. student: the rewritten network. size: samples that fit in one run.

    fixed: whether the networks take no fewer at once. left: outputs that are not trained to, for they have no axis for
    samples.
    """

    teacher: Network
    student: Network
    loss: Loss
    size: int
    fixed: bool
    left: Sequence[str] = ()

    def batch(self, wanted: int) -> int:
        """Samples of a step: those wanted, in whole runs."""
        return max(wanted - wanted % self.size, self.size) if self.fixed else wanted

    def answers(self, feed: Feed) -> Tensors:
        """The original's, without gradients."""
        with torch.no_grad():
            return self.teacher(feed)


def paired(
    original: Program,
    rewritten: Program,
    names: Sequence[str] | None,
    feeds: Feeds,
    inputs: Sequence[InputSpec],
    memory: int,
    *,
    by_errors: bool = False,
) -> Pair:
    """Both networks, giving outputs and the responses that both have.

    names: the tensors that both are compared by, None for their outputs. feeds: of training. memory: bytes for
    activations. by_errors: whether class scores, too, are trained by their squared error. Raises NothingToRefineError
    where no answer can be trained to, UnsupportedError where torch cannot run them.
    """
    if any(not spec.batched for spec in inputs):
        raise NoSamplesError("an input has no axis for samples")
    fixed = static_batch(inputs)
    if fixed and len(feeds) < fixed.size:
        raise NothingToRefineError(f"the model takes {fixed.size} samples at once, there are {len(feeds)} to train on")
    outputs, own = (_outputs(program, names) for program in (original, rewritten))
    made = {name for step in rewritten.steps for name in step.outputs}
    inner = [name for name in original.responses() if name in made and name not in outputs and name not in own]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    feed = next(feeds.batches(max(FEW, fixed.size) if fixed else FEW))
    theirs, ours = (
        _by_samples(Network(program.giving([*given, *inner]), trained=False, device=device), feed, fixed)
        for program, given in ((original, outputs), (rewritten, own))
    )
    mine = {name: other for name, other in zip(outputs, own, strict=True) if name in theirs and other in ours}
    if not mine:
        raise NoSamplesError("no output has an axis for samples: nothing to train to")
    inner = [name for name in inner if name in theirs and theirs[name] == ours.get(name)]
    teacher = Network(original.giving([*mine, *inner]), trained=False, device=device)
    student = Network(rewritten.giving([*mine.values(), *inner]), trained=True, device=device)
    if not student.weights:
        raise NothingToRefineError("no layer has weights that could be trained")
    with torch.no_grad():
        size = _largest(teacher, feed, fixed.size if fixed else None, memory)
        shown = _Shown.of(teacher, _parts(feed, size, fixed is not None), list(mine), memory // SHARE)
    loss = _loss(shown, feeds, mine, by_errors=by_errors)
    left = [name for name in outputs if name not in mine]
    return Pair(teacher, student, loss, size, fixed is not None and size == fixed.size, left)


def _by_samples(network: Network, feed: Feed, fixed: StaticBatch | None) -> dict[str, tuple[int, ...]]:
    """The shapes of those tensors whose first axis grows with the samples, in a run of the model's own batch or of two.

    A mean over the batch, a temperature or a (steps, samples, channels) tensor is no answer to a sample.
    """
    one, *more = (_tiled(feed, count) for count in ([fixed.size] if fixed else [1, TWO]))
    with torch.no_grad():
        shapes = {name: tuple(x.shape) for name, x in network(one).items()}
        if fixed:
            return {name: shape for name, shape in shapes.items() if shape and shape[0] and not shape[0] % fixed.size}
        twice = {name: tuple(x.shape) for name, x in network(*more).items()}
    return {n: twice[n] for n, shape in shapes.items() if shape and twice[n] == (TWO * shape[0], *shape[1:]) != shape}


def _tiled(feed: Feed, count: int) -> Feed:
    """So many samples, the first ones again and again where there are fewer."""
    return {name: value.take(np.arange(count) % len(value), axis=0) for name, value in feed.items()}


@dataclass(frozen=True)
class _Shown:
    """The original's answers to some samples: its outputs, and of everything that is compared the mean over its
    elements of the variance over the samples. Responses of all layers are held of one part of the samples at a time.
    parts: of outputs, their channels of one scale where there are several.
    """

    feed: Feed
    outputs: Tensors
    variances: Mapping[str, float]
    parts: Mapping[str, Sequence[Part]]

    @classmethod
    def of(cls, teacher: Network, parts: Sequence[Feed], outputs: Sequence[str], room: int) -> _Shown:
        """room: bytes of outputs from which on no further part is looked at."""
        seen: dict[str, _Spread] = {}
        kept: list[Tensors] = []
        for part in parts:
            answers = teacher(part)
            for name, x in answers.items():
                if x.is_floating_point():
                    seen.setdefault(name, _Spread()).add(x)
            kept.append({name: answers[name] for name in outputs})
            if len(kept) * sum(x.nbytes for x in kept[0].values()) > room:
                break
        feed = {name: np.concatenate([part[name] for part in parts[: len(kept)]]) for name in parts[0]}
        joined, variances = _joined(kept), {name: float(spread.variance.mean()) for name, spread in seen.items()}
        scales = {name: _by_scale(y, seen[name].variance) for name, y in joined.items() if name in seen}
        return cls(feed, joined, variances, scales)


def _by_scale(y: torch.Tensor, variance: torch.Tensor) -> list[Part]:
    """The channels of each scale of an output (n, ...), none where all are of one. variance (...): of each element."""
    axis, groups = least_variances(y.cpu().numpy())
    if len(groups) < 2:
        return []
    means = [float(variance[None].narrow(axis, g.start, g.stop - g.start).mean()) for g, _ in groups]
    found = [Part(axis, group, max(mean, least)) for (group, least), mean in zip(groups, means, strict=True)]
    return [part for part in found if part.variance > LEAST]


class _Spread:
    """The variance of each element over samples, of which some come at a time (Chan, Golub & LeVeque 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: torch.Tensor) -> None:
        """Of (n, ...)."""
        n, mean = len(x), x.mean(0)
        share = n / (self.count + n)
        apart = mean - self.mean
        self.squares = self.squares + ((x - mean) ** 2).sum(0) + apart**2 * (self.count * share)
        self.mean, self.count = self.mean + share * apart, self.count + n

    @property
    def variance(self) -> torch.Tensor:
        """Of each element, (...)."""
        return self.squares / self.count


def _outputs(program: Program, names: Sequence[str] | None) -> list[str]:
    return list(program.outputs) if names is None else [program.aliases.get(name, name) for name in names]


def _loss(shown: _Shown, feeds: Feeds, mine: Mapping[str, str], *, by_errors: bool) -> Loss:
    """mine: outputs of the original -> those of the rewritten network.

    Raises NothingToRefineError for constant outputs.
    """
    values = {name: x.cpu().numpy() for name, x in shown.outputs.items() if x.is_floating_point()}
    scores = score_output(values, shown.feed, feeds.labels is not None)
    logits = scores is not None and are_logits(values[scores])
    variances = shown.variances
    flat = [name for name in values if not variances[name] > LEAST]
    if len(flat) == len(values):
        what = ", ".join(f"'{name}'" for name in flat) or "its outputs"
        raise NothingToRefineError(
            f"{what} of the original: the same for all samples, not finite or no floats: nothing to learn"
        )
    if scores in flat or by_errors:
        scores = None
    kept = {name: v for name, v in variances.items() if v > LEAST and name != scores}
    return Loss(scores, logits, kept, [name for name in values if name in kept], mine, shown.parts)


def _largest(teacher: Network, feed: Feed, fixed: int | None, memory: int) -> int:
    """Samples that go through at once: as many as fit the memory, or the model's own batch where it is no other's."""
    one = fixed or 1
    whole = teacher({name: value[:one] for name, value in feed.items()})
    each = max(teacher.bytes_made // one, 1)
    count = len(next(iter(feed.values())))
    most = max(1, min(count, memory // (TIMES * each)))
    if fixed is None:
        return most
    if most < 2 * fixed or count < 2 * fixed:
        return fixed
    first, second = ({n: v[i * fixed : (i + 1) * fixed] for n, v in feed.items()} for i in (0, 1))
    try:
        both = teacher({name: value[: 2 * fixed] for name, value in feed.items()})
    except UnsupportedError:
        return fixed
    halves = _joined([whole, teacher(second)])
    del first
    same = all(x.shape == both[n].shape and _close(x, both[n]) for n, x in halves.items())
    return most if same else fixed


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point() or not a.numel():
        return bool(torch.equal(a, b))
    difference, size = (a - b).abs().max(), a.abs().max()
    return bool(difference <= CLOSE * size.clamp_min(LEAST))


def _joined(answers: Sequence[Tensors]) -> dict[str, Any]:
    return {name: torch.cat([a[name] for a in answers]) for name in answers[0]}


def _parts(feed: Feed, size: int, fixed: bool) -> list[Feed]:
    """fixed: whether a part of fewer samples cannot be run."""
    count = len(next(iter(feed.values())))
    full = range(0, count - count % size if fixed and count >= size else count, size)
    return [{name: value[start : start + size] for name, value in feed.items()} for start in full]
