"""Whether torch runs a model as the runtime does and can train it, known before anything is spent on rewriting it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ndpass.calibration.feeds import Feeds
from ndpass.graph.input_spec import InputSpec, single, static_batch
from ndpass.measuring.class_scores import check_classes
from ndpass.measuring.runtime import Runner
from ndpass.refining.layers import UnsupportedError
from ndpass.refining.network import Network
from ndpass.refining.pair import TWO, NoSamplesError, NothingToRefineError, paired
from ndpass.refining.program import Program
from ndpass.refining.refine import Model, program_of
from ndpass.refining.rules import RULES
from ndpass.refining.samples import Samples
from ndpass.refining.trainer import Held, NotFiniteError, Trainer

SAME = 1e-3  # relative difference between torch and the runtime that is taken for rounding
CHECKED = 4  # samples that both are compared on


def refusal(
    original: Model,
    names: Sequence[str] | None,
    inputs: Sequence[InputSpec],
    feeds: Feeds,
    runner: Runner,
    memory: int = 1 << 30,
    *,
    labelled: bool = False,
) -> str:
    """Why torch cannot run or train the model, or runs it otherwise than the runtime; empty where all is well.

    runner: the model in a runtime, giving the tensors `names`, or its outputs. memory: bytes for activations.
    labelled: whether it is trained to the labels, too. Raises InputError for those that are none of its classes.
    """
    whole = program_of(original)
    program = whole.giving(whole.outputs if names is None else names)
    if missing := program.missing(RULES):
        texts = [f"{op} ('{name}')" for op, name in missing[:3]]
        return f"torch's side has no operator {', '.join(texts)}"
    fixed = static_batch(inputs)
    count = fixed.size if fixed else min(CHECKED, len(feeds))
    feed = single(next(feeds.batches(count)), inputs)
    try:
        with torch.no_grad():
            found = Network(program, trained=False)(feed)
    except UnsupportedError as e:
        return f"torch's side does not know {e}"
    for (name, own), other in zip(found.items(), runner(feed).values(), strict=False):
        if text := _difference(own.numpy(), np.asarray(other, np.float64)):
            return f"output '{name}' {text}"
    few = feeds.take(range(min(len(feeds), fixed.size if fixed else TWO)))
    return _untrained(whole, names, inputs, few, memory, feeds.labels if labelled else None)


def _difference(own: NDArray[np.generic], theirs: NDArray[np.float64]) -> str:
    """What torch answers otherwise than the runtime; what is not a number in both is alike."""
    if own.shape != theirs.shape:
        return f"is {own.shape} in torch and {theirs.shape} in the runtime"
    ours = own.astype(np.float64)
    size = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0))
    alike = np.isclose(ours, theirs, rtol=0, atol=SAME * max(size, 1e-6), equal_nan=True)
    if alike.all():
        return ""
    a, b = ours[~alike], theirs[~alike]
    if not (np.isfinite(a) & np.isfinite(b)).all():
        return "is not finite in torch or the runtime alone"
    return f"differs by {np.abs(a - b).max():.2g} between torch and the runtime"


def _untrained(
    program: Program,
    names: Sequence[str] | None,
    inputs: Sequence[InputSpec],
    few: Feeds,
    memory: int,
    labels: NDArray[np.int64] | None,
) -> str:
    """Why a step of training the model to itself fails, empty where it does not. labels: of all samples, if any."""
    try:
        pair = paired(program, program, names, few, inputs, memory)
        samples = Samples(few, pair.batch(len(few)), 0, memory)
        if labels is not None and pair.loss.scores is not None:
            check_classes(labels, pair.answers(samples.batch(0).feed)[pair.loss.scores].shape[1])
        Trainer(pair, samples, Held(()), labelled=labels is not None).step(0, 0.0)
    except NoSamplesError as e:
        return str(e)
    except NothingToRefineError:
        return ""  # as far as these few samples tell
    except UnsupportedError as e:
        return f"torch's side does not know {e}"
    except NotFiniteError:
        return "what the model answers is not finite"
    except torch.OutOfMemoryError:
        return "the device has too little memory for one sample"
    except (RuntimeError, ValueError, TypeError, LookupError) as e:
        return f"torch cannot train it: {' '.join(str(e).split())[:200]}"
    return ""
