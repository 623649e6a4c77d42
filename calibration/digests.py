"""Hashes of samples, to tell whether another run has the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ndpass.calibration.collect import Data
from ndpass.calibration.feeds import Feed, Feeds

BATCH = 32  # samples that are hashed at once


def digest_data(data: Data) -> str:
    """Hash of all samples as the model gets them."""
    found = hashlib.blake2b(digest_size=16)
    for feed in data.batches():
        _add(found, feed)
    return found.hexdigest()


def digest_labelled(feeds: Feeds) -> str:
    """Hash of all samples as the model gets them and of their labels: all that a metric on them depends on."""
    found = hashlib.blake2b(digest_size=16)
    for feed in feeds.batches(BATCH):
        _add(found, feed)
    found.update(_labels(feeds))
    return found.hexdigest()


def digest_labels(feeds: Feeds) -> str:
    """Hash of the labels alone, in the order of the samples."""
    return hashlib.blake2b(_labels(feeds), digest_size=16).hexdigest()


def digest_of(digests: Iterable[str]) -> str:
    """Hash of hashes, in their order."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def _labels(feeds: Feeds) -> bytes:
    return b"" if feeds.labels is None else b"labels" + np.ascontiguousarray(feeds.labels).tobytes()


def _add(found: hashlib.blake2b, feed: Feed) -> None:
    for name in sorted(feed):
        found.update(np.ascontiguousarray(feed[name]).tobytes())
