"""Runs in one process leave no thread, no open file and no temporary file; `soak.py` has the long version."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from soak import rounds


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
def test_a_second_run_leaves_no_more_than_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = rounds(2, networks=1)
    assert second.python_threads <= first.python_threads
    assert second.files <= first.files
    assert (first.temporary, second.temporary) == (0, 0)
