"""Rows of the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import JsonValue

from ndpass.errors import VerificationError
from ndpass.graph.graph import Found, Site
from ndpass.planning.candidate import Candidate
from ndpass.report import Layer, Status

log = logging.getLogger(__name__)


def done(site: Site, candidate: Candidate, macs: int, error: float) -> Layer:
    """The row of a layer, or of a block's last layer, that takes so many MACs now and errs by so much.

    Raises VerificationError where that is more than was promised.
    """
    before = site.macs(site.outline)
    if before is None or macs > candidate.macs:  # fewer where fewer channels than planned were left
        raise VerificationError(f"layer '{site.name}' takes {macs} MACs, {candidate.macs} were promised")
    setting: dict[str, dict[str, JsonValue]] = {n: dict(options) for n, options in candidate.setting.items()}
    log.info("%s: %s, %d of %d MACs, error %.4f", site.name, setting, macs, before, error)
    return Layer(
        name=site.name,
        op=site.op,
        shape=shape_text(site.shape),
        status="done",
        setting=setting,
        macs=(before, macs),
        error_predicted=candidate.error,
        error_measured=error,
    )


def left_alone(found: Found, status: Status, reason: str) -> Layer:
    """The row of a layer that is not fitted itself."""
    site = found.skipped(reason) if isinstance(found, Site) else found
    return Layer(
        name=site.name,
        op=site.op,
        shape=shape_text(site.shape),
        status=status,
        reason=reason,
        macs=None if site.macs is None else (site.macs, site.macs),
    )


def shape_text(shape: Sequence[int] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape))
