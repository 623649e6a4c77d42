"""The disk is full from some moment of a run on: one line says so, older outputs stay, and --resume goes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from scenarios import (
    GIVEN,
    SCENARIOS,
    SEED,
    assert_goes_on,
    found,
    needs_fork,
    prepared,
    run,
    skip_without_torch,
    undisturbed,
)

pytestmark = needs_fork

FULL = {"planned": (2, 40), "timed": (1, 40), "refined": (1, 20)}  # moments in the suite, and with --long


@pytest.mark.parametrize("which", SCENARIOS)
def test_a_disk_that_is_full_ends_a_run_in_one_line_and_loses_nothing(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No file grows any more, which the kernel enforces where no small disk can be mounted."""
    skip_without_torch(which)
    scenario, rng = SCENARIOS[which], random.Random(SEED)
    usual = undisturbed(which)
    for number in usual.chosen(FULL[which][request.config.getoption("--long")], rng):
        what = usual.about(number)
        print(what)
        place = prepared(tmp_path / "full")
        (place.work / "saved.json").write_text("older")
        ended = run(place, scenario.args, full=number)
        assert "Traceback" not in ended.err, (what, ended)
        if ended.code != 0:  # it had written everything by then
            assert ended.code == 2, (what, ended)
            assert "cannot be written" in ended.err.splitlines()[-1], (what, ended)
            assert found(place, scenario) == {"saved.json": b"older"}, what
            strays = place.strays([*GIVEN, *scenario.outputs])
            assert all(f".{scenario.model[0]}.resume" in name for name in strays), (what, strays)
        assert_goes_on(place, scenario, usual.wanted, what)
        shutil.rmtree(place.root)
