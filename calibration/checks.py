"""What is wrong with the rows that a layer is fitted to: not finite, or too few."""

from __future__ import annotations

import logging

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


def check_enough(site: Site, images: int, rows: int) -> None:
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
