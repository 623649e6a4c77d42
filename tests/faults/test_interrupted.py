"""Ctrl-C, Ctrl-C twice and a request to end at moments of every stage: what is said then is true, and nothing is left.

Beside it what else other processes and the machine do: a second run into the same output, a clock that jumps.
"""

from __future__ import annotations

import ast
import random
import shutil
import signal
from pathlib import Path

import pytest
from forks import Ended, Place
from models import ROOT
from scenarios import GIVEN, SCENARIOS, SEED, Scenario, assert_goes_on, found, needs_fork, prepared, run, undisturbed

from ndpass.rewriting.checkpoint import Checkpoint

pytestmark = needs_fork

TIMES = (1, 15)  # moments for each kind of interruption, in the suite and with --long
KINDS = {"Ctrl-C": (signal.SIGINT, False), "Ctrl-C twice": (signal.SIGINT, True), "SIGTERM": (signal.SIGTERM, False)}


def assert_true(ended: Ended, place: Place, scenario: Scenario, wanted: dict[str, bytes], what: str) -> None:
    """What the last line says is what is there."""
    assert ended.code == 130, (what, ended)
    assert "Traceback" not in ended.err, (what, ended)
    last = ended.err.splitlines()[-1]
    if "was written, verified and whole" in last:
        assert found(place, scenario) == wanted, what
    elif "interrupted twice" not in last:
        assert "no model was written" in last, (what, last)
        assert not found(place, scenario), what
        kept = (place.work / f".{scenario.model[0]}.resume" / "run.json").exists()
        assert kept == ("--resume" in last), (what, last)
    assert found(place, scenario) in ({}, wanted), what
    if "interrupted twice" not in last:  # else the main thread may have made a folder until the very end
        assert all(".resume" in name for name in place.strays([*GIVEN, *scenario.outputs])), what


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_says_what_is_there_and_goes_on(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    scenario, rng = SCENARIOS["timed"], random.Random(f"{SEED}{kind}")
    number, twice = KINDS[kind]
    for moment in undisturbed("timed").chosen(TIMES[request.config.getoption("--long")], rng):
        what = undisturbed("timed").about(moment)
        print(what)
        place = prepared(tmp_path / "place")
        ended = run(place, scenario.args, kill=moment, signal=number, twice=twice)
        assert_true(ended, place, scenario, undisturbed("timed").wanted, what)
        assert_goes_on(place, scenario, undisturbed("timed").wanted, what)
        shutil.rmtree(place.root)


def test_a_second_run_into_the_same_output_is_refused_and_the_first_loses_nothing(tmp_path: Path) -> None:
    place, scenario = prepared(tmp_path), SCENARIOS["timed"]
    first = Checkpoint.beside(place.work / "out.onnx")
    (place.work / ".out.onnx.resume").mkdir()
    first.start({"of": "another process"})
    for more in ((), ("--resume",)):
        ended = run(place, (*scenario.args, *more))
        assert ended.code == 2
        assert "another run with this output is at work" in ended.err.splitlines()[-1]
        assert (place.work / ".out.onnx.resume" / "run.json").read_text() == '{\n "of": "another process"\n}'
    first.remove()
    assert place.strays(GIVEN) == []


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    place, scenario = prepared(tmp_path), SCENARIOS["timed"]
    ended = run(place, (*scenario.args, "--time-limit", "10min"), leap=True)
    assert ended.code == 0, ended.err
    assert found(place, scenario)["out.onnx"] == undisturbed("timed").wanted["out.onnx"]


def test_a_run_starts_no_process_that_could_die() -> None:
    """What works side by side are threads: `planning.threads` hands on what one of them raises.

    The standard library asks `uname` for the platform, and takes no answer for one.
    """
    assert {moment.split()[-1] for moment in undisturbed("timed").moments if ": process" in moment} <= {"uname"}


@pytest.mark.parametrize("wing", ["ndpass", "passes", "calibration"])
def test_durations_are_taken_by_clocks_that_only_go_forward(wing: str) -> None:
    """`time.time` and dates may jump; nothing needs them."""
    for path in (ROOT / wing).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr in ("perf_counter", "monotonic", "sleep"), path
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert "datetime" not in names, path
