"""kill -9 at moments of every stage, then --resume: the same bytes as undisturbed, and nothing lies about."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Forks
from scenarios import SCENARIOS, SEED, Undisturbed, assert_goes_on, needs_fork, prepared, run, skip_without_torch

pytestmark = needs_fork

KILLED = (-signal.SIGKILL, -signal.SIGALRM)
KILLS = {"planned": (5, 20), "timed": (4, 20), "refined": (3, 10)}  # in the suite, and with --long


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as started:
        yield started


@pytest.mark.parametrize("which", SCENARIOS)
def test_a_run_that_is_killed_ends_with_the_same_bytes(
    which: str, tmp_path: Path, forks: Forks, request: pytest.FixtureRequest
) -> None:
    skip_without_torch(which)
    scenario, rng = SCENARIOS[which], random.Random(SEED)
    undisturbed = Undisturbed.of(forks, scenario, tmp_path / "undisturbed")
    for number in undisturbed.chosen(KILLS[which][request.config.getoption("--long")], rng):
        after = rng.choice([0.0, 0.0, rng.uniform(1e-4, 0.05)])
        what = f"{undisturbed.about(number)}, killed {after:.4f} s after it"
        print(what)
        place = prepared(tmp_path / "killed")
        killed = run(forks, place, scenario.args, kill=number, after=after)
        assert killed.code in KILLED or (after and killed.code == 0), (what, killed)
        assert_goes_on(forks, place, scenario, undisturbed.wanted, what)
        shutil.rmtree(place.root)
