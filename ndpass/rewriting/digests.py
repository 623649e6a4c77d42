"""Hashes of files that a run has read, to tell whether another run is the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ndpass.errors import reading


def digest_file(*paths: Path) -> str:
    """Hash of the contents of files, in their order. Raises InputError for one that cannot be read."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        with reading(path), path.open("rb") as file:
            while chunk := file.read(1 << 22):
                found.update(chunk)
    return found.hexdigest()
