"""What is wrong with the rows that a layer is fitted to: not finite, or too few."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np

from ndpass.conv import Array
from ndpass.errors import InputError
from ndpass.graph.graph import Site

log = logging.getLogger(__name__)

ENOUGH = 4  # patches for each unknown that a warning of too few asks for


def check_finite(name: str, array: Array) -> None:
    """Raise InputError for a layer that gives anything else."""
    if not np.isfinite(array).all():
        raise InputError(f"layer '{name}' gives NaN or infinite values on the calibration data: does --preprocess fit?")


def check_enough(sites: Iterable[Site], images: int, rows: Callable[[Site], int]) -> None:
    """Warn in one line where the patches are fewer than what is unknown of each output. rows: patches of a layer."""
    few = [(site, rows(site)) for site in sites if rows(site) < site.outline.unknowns]
    if not few:
        return
    needed = max(-(-ENOUGH * site.outline.unknowns * images // own) for site, own in few)
    least, own = min(few, key=lambda one: one[1] / one[0].outline.unknowns)
    said = (
        f"layer '{least.name}' has {own} patches for {least.outline.unknowns} unknowns and stays close to its weights"
    )
    others = f", as do {len(few) - 1} others" if len(few) > 2 else ", as does another" if len(few) == 2 else ""
    log.warning("%s%s: give %d images or more", said, others, needed)
