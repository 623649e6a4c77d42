"""Hashes of what a run has read, to tell whether another run is the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ndpass.calibration.collect import Data
from ndpass.calibration.feeds import Feed, Feeds
from ndpass.errors import reading

BATCH = 32  # samples that are hashed at once


def digest_file(*paths: Path) -> str:
    """Hash of the contents of files, in their order. Raises InputError for one that cannot be read."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        with reading(path), path.open("rb") as file:
            while chunk := file.read(1 << 22):
                found.update(chunk)
    return found.hexdigest()


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
    found.update(b"" if feeds.labels is None else b"labels" + np.ascontiguousarray(feeds.labels).tobytes())
    return found.hexdigest()


def _add(found: hashlib.blake2b, feed: Feed) -> None:
    for name in sorted(feed):
        found.update(np.ascontiguousarray(feed[name]).tobytes())
