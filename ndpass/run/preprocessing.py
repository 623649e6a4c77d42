"""Is the preprocessing right? Others are tried on labelled data, before minutes go into a model that sees noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ndpass.calibration.feeds import Feeds
from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.calibration.preprocess_text import preprocess_text
from ndpass.calibration.survey import NO_PREPROCESS, NO_SCALE, warnings_of
from ndpass.engine.looking import look_at
from ndpass.errors import InputError, UsageError
from ndpass.measuring.evaluate import accuracy
from ndpass.measuring.runtime import OpenVINO
from ndpass.run.arguments import Opener
from ndpass.run.options import Options

if TYPE_CHECKING:
    from ndpass.engine.cluster import Cluster

log = logging.getLogger(__name__)

SAMPLES = 200  # of which each preprocessing is tried
BATCH = 32
MARGIN = 10.0  # points by which another preprocessing has to be better
SIGMAS = 3.0  # standard deviations of a share of that many samples, by which it has to be better too
UNSUSPICIOUS = 90.0  # per cent; a model that is right more often sees what it was trained on
COLOURS = {"rgb": "bgr", "bgr": "rgb"}
RANGES = {"0..1": (0.0, 1.0), "-1..1": (0.5, 0.5)}  # mean and std after a scale of 1/255


@dataclass(frozen=True)
class Better:
    """Another preprocessing, as it is typed, and the accuracies in per cent on `samples` samples."""

    text: str
    accuracy: float
    given: float
    samples: int


def better_preprocessing(
    model: Path, opener: Opener, found: Feeds, threads: int | None, batch: int = BATCH
) -> Better | None:
    """A preprocessing with which the model is right far more often, or None.

    opener: of pixels with labels. found: what it opened, or a part. Other presets, the other order of colours and other
    scales are tried, on SAMPLES samples each. batch: samples that are run at once.
    """
    if opener.preprocess is None:
        return None
    few = found.take(_spread(len(found)))
    runner = OpenVINO(model, threads=threads)
    try:
        now = accuracy(runner, few, batch)
    except (InputError, UsageError):  # no labels, or outputs that are no class scores
        return None
    if now >= UNSUSPICIOUS:
        return None
    best: Better | None = None
    for other in _others(opener.preprocess):
        try:
            feeds = Opener(opener.data, other)(runner.inputs).take(few.indices)
        except (InputError, UsageError):  # a preprocessing that does not fit the model's input
            continue
        seen = accuracy(runner, feeds, batch)
        log.info("preprocessing %s: accuracy %.1f %%", preprocess_text(other), seen)
        if best is None or seen > best.accuracy:
            best = Better(preprocess_text(other), seen, now, len(few))
    return best if best is not None and best.accuracy >= now + _least_gain(now, len(few)) else None


def refuse_worse(better: Better | None) -> None:
    """Raise UsageError where another preprocessing was found, with what to type."""
    if better is not None:
        raise UsageError(
            f"the original is right on {better.given:.1f} % of {better.samples} labelled samples with this "
            f"preprocessing and on {better.accuracy:.1f} % with another: give --preprocess {better.text}, or --anyway "
            "to go on as it is"
        )


def _others(given: Preprocess) -> Iterator[Preprocess]:
    """Every other preset at the same size, the other order of colours, and the usual scales; none twice."""
    tried = [given]
    candidates = [
        replace(preset, size=given.size, crop=given.crop, layout=given.layout)
        for preset in PRESETS.values()
        if preset.channels == given.channels
    ]
    for mean, std in RANGES.values():
        candidates.append(replace(given, scale=1 / given.white, mean=(mean,), std=(std,)))
    candidates.append(replace(given, scale=1.0, mean=(0.0,), std=(1.0,)))
    for candidate in [given, *candidates]:
        for colour in dict.fromkeys((candidate.color, COLOURS.get(candidate.color, candidate.color))):
            other = replace(candidate, color=colour, mean=_mean(candidate, colour), std=_std(candidate, colour))
            if other not in tried:
                tried.append(other)
                yield other


def _mean(preprocess: Preprocess, colour: str) -> tuple[float, ...]:
    """The means in the order of the colours: each stays with its colour."""
    return preprocess.mean if colour == preprocess.color else preprocess.mean[::-1]


def _std(preprocess: Preprocess, colour: str) -> tuple[float, ...]:
    return preprocess.std if colour == preprocess.color else preprocess.std[::-1]


def _least_gain(per_cent: float, samples: int) -> float:
    """Points that are no chance: SIGMAS deviations of a share that was seen on so many samples."""
    share = min(max(per_cent / 100, 1 / samples), 1 - 1 / samples)
    return max(MARGIN, SIGMAS * 100 * math.sqrt(2 * share * (1 - share) / samples))


def _spread(count: int) -> Sequence[int]:
    """The numbers of at most SAMPLES samples, evenly spread over all classes that lie behind one another."""
    return [round(i * (count - 1) / max(min(count, SAMPLES) - 1, 1)) for i in range(min(count, SAMPLES))]


def surveyed(
    model: Path, options: Options, fit: Feeds | None, measured: Feeds | None, batch: int, cluster: Cluster | None
) -> list[str]:
    """What is suspicious about the data, all of which are read. Raises UsageError for a wrong preprocessing.

    batch: samples that are run at once.
    """
    said, remedy = list[str](), remedy_for(options.data.preprocess)
    fitted, held_out = "calibration data", options.data.validation is None
    for what, feeds in ((fitted, fit), ("validation data", measured)):
        found = [] if feeds is None else warnings_of(feeds, what, remedy=remedy, look=look_at(cluster))
        # what was held out of the same data is seldom news
        said += [text for text in found if not held_out or text.replace(what, fitted) not in said]
    said = list(dict.fromkeys(said))  # of class folders both may say the same
    for text in said:
        log.warning(text)
    opener = options.data.validation or options.data.calibration
    if isinstance(opener, Opener) and measured is not None and measured.labels is not None and not options.data.anyway:
        refuse_worse(better_preprocessing(model, opener, measured, options.target.threads, batch))
    return said


def remedy_for(preprocess: Preprocess | None) -> str | None:
    """What to do about data that look like pixels as they are stored; None where their range is what was asked for."""
    if preprocess is None:
        return NO_PREPROCESS
    return None if preprocess.changes_range else NO_SCALE
