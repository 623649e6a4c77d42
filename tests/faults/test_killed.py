"""kill -9 at moments of every stage, then --resume: the same bytes as undisturbed, and nothing lies about."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from scenarios import SCENARIOS, SEED, assert_goes_on, needs_fork, prepared, run, skip_without_torch, undisturbed

pytestmark = needs_fork

KILLED = (-signal.SIGKILL, -signal.SIGALRM)
KILLS = {"planned": (5, 20), "timed": (4, 20), "refined": (3, 10)}  # in the suite, and with --long


@pytest.mark.parametrize("which", SCENARIOS)
def test_a_run_that_is_killed_ends_with_the_same_bytes(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    skip_without_torch(which)
    scenario, rng = SCENARIOS[which], random.Random(SEED)
    usual = undisturbed(which)
    for number in usual.chosen(KILLS[which][request.config.getoption("--long")], rng):
        after = rng.choice([0.0, 0.0, rng.uniform(1e-4, 0.05)])
        what = f"{usual.about(number)}, killed {after:.4f} s after it"
        print(what)
        place = prepared(tmp_path / "killed")
        killed = run(place, scenario.args, kill=number, after=after)
        assert killed.code in KILLED or (after and killed.code == 0), (what, killed)
        assert_goes_on(place, scenario, usual.wanted, what)
        shutil.rmtree(place.root)
