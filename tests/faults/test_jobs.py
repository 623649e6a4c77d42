"""As many jobs as one likes, on a machine that is busy with other work: the same bytes as of one job on an idle one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenarios import SCENARIOS, found, needs_fork, prepared, run, undisturbed

pytestmark = needs_fork

JOBS = {False: (3,), True: (2, 3, 4, 8) * 5}  # in the suite, and with --long


WORK = """
import os, threading
threading.Thread(target=lambda: os._exit(len(os.read(0, 1)))).start()  # it ends with its input
while True:
    pass
"""


@pytest.fixture
def busy() -> Iterator[None]:
    """Processes that want all cores, and one more."""
    count = (os.cpu_count() or 1) + 1
    others = [subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE) for _ in range(count)]
    yield
    for other in others:
        other.communicate()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("which", ["planned", "timed"])
def test_jobs_under_load_give_the_same_bytes(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    scenario = SCENARIOS[which]
    for jobs in JOBS[request.config.getoption("--long")]:
        place = prepared(tmp_path / "busy")
        ended = run(place, (*scenario.args, "--jobs", jobs))
        assert ended.code == 0, ended.err[-3000:]
        assert found(place, scenario) == undisturbed(which).wanted, jobs
        shutil.rmtree(place.root)
