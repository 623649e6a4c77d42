"""One look at all data before anything is run: what cannot be read ends the run, what is suspicious is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ndpass.calibration.feeds import Feeds
from ndpass.calibration.images import order_text

BATCH = 32
PIXELS = 16.0  # a float input whose values reach beyond this holds pixels that nobody scaled
NO_PREPROCESS = "if these are pixels, give the --preprocess that the model was trained with"
NO_SCALE = "if the model takes pixels from 0 to 1, add scale=1/255 to --preprocess"


@dataclass(frozen=True)
class Survey:
    """What all samples of one input have in common. constant: samples whose elements are all the same number."""

    low: float
    high: float
    constant: int
    samples: int

    def merge(self, other: Survey) -> Survey:
        """Of the samples of both."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Survey(low, high, self.constant + other.constant, self.samples + other.samples)


def survey(feeds: Feeds) -> dict[str, Survey]:
    """Input name -> range and count of constant samples, from one pass over the data.

    Raises InputError for a sample that cannot be read, does not fit the input or is not finite.
    """
    found: dict[str, Survey] = {}
    for feed in feeds.batches(BATCH):
        for name, rows in feed.items():
            flat = rows.reshape(len(rows), -1)
            lows, highs = flat.min(axis=1), flat.max(axis=1)
            constant = int(np.sum(lows == highs)) if flat.shape[1] > 1 else 0
            own = Survey(float(lows.min()), float(highs.max()), constant, len(rows))
            found[name] = found[name].merge(own) if name in found else own
    return found


def warnings_of(
    feeds: Feeds,
    what: str,
    *,
    remedy: str | None = NO_PREPROCESS,
    look: Callable[[Feeds], Mapping[str, Survey]] = survey,
) -> list[str]:
    """What is suspicious about the data, a sentence each.

    what: their name in these sentences, as calibration data. remedy: what to do about values that look like pixels;
    None: somebody has said how pixels become inputs, and some models are meant to see a range of hundreds. look: how
    they are surveyed.
    """
    said = []
    floats = {name for name, rows in next(feeds.batches(1)).items() if rows.dtype.kind == "f" and rows.ndim > 2}
    for name, seen in look(feeds).items():
        if seen.constant:
            said.append(f"{seen.constant} of {seen.samples} samples of the {what} are one constant (input '{name}')")
        if remedy is not None and name in floats and max(abs(seen.low), abs(seen.high)) > PIXELS:
            said.append(f"the {what} range from {seen.low:g} to {seen.high:g} (input '{name}'): {remedy}")
    if feeds.labels is not None and len(feeds) > 1 and len(set(feeds.labels.tolist())) == 1:
        said.append(f"all labels of the {what} are {int(feeds.labels[0])}: a metric on one class says little")
    if text := order_text(feeds.class_names or (), feeds.labels):
        said.append(text)
    return said
