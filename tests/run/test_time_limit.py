"""A limit that leaves no time for all samples: layers are fitted to fewer, and a run that goes on has as many."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from models import changed_options, run_options
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run.job import FITTED, Job, read
from ndpass.run.time_limit import LEAST, RUNS, SHARE, within_limit

Images = NDArray[np.float32]


@pytest.fixture
def data() -> Images:
    return np.random.default_rng(0).normal(size=(100, 3, 8, 8)).astype(np.float32)


def job_of(net: Path, data: Images, limit: float | None, *, resume: bool = False) -> Job:
    options = run_options(parse("cd"), Budget("macs", 0.6), calibration=partial(open_feeds, data))
    return read(net, changed_options(options, time_limit=limit, resume=resume), lambda *_: None)


def count(job: Job) -> int:
    assert job.fit is not None
    return len(job.fit)


def test_samples_are_as_many_as_the_time_that_is_left_allows(net: Path, data: Images) -> None:
    job = job_of(net, data, 100.0)
    inference = SHARE * (100 - 20) / (RUNS * 50)  # of 80 samples that are fitted to there is time for 50
    found = within_limit(job, inference * 0.999, 20.0, None)
    assert (count(job), count(found)) == (80, 50)
    why = "--time-limit leaves no time for all"
    assert found.warnings[-1] == f"layers are fitted to 50 of 80 samples ({why}): more may give a better model"
    assert found.given == job.given == 100  # so that advice and a plan count them as the user does
    assert len(found.measured) == len(job.measured)  # what the metric is measured on stays
    again = within_limit(job_of(net, data, 100.0), inference * 0.999, 20.0, None)
    assert found.fit is not None
    assert again.fit is not None
    assert [found.fit.name_of(i) for i in range(50)] == [again.fit.name_of(i) for i in range(50)]


def test_with_time_or_without_a_limit_all_samples_stay(net: Path, data: Images) -> None:
    for limit, inference in ((100.0, 1e-4), (None, 10.0), (100.0, None)):
        job = job_of(net, data, limit)
        assert within_limit(job, inference, 20.0, None) is job


def test_some_are_kept_whatever_the_limit(net: Path, data: Images) -> None:
    assert count(within_limit(job_of(net, data, 10.0), 1.0, 20.0, None)) == LEAST


@pytest.mark.parametrize(("noted", "kept"), [("31", 31), ("none", LEAST), ("0", 80)])
def test_a_run_that_goes_on_has_as_many_as_it_began_with(
    net: Path, data: Images, tmp_path: Path, noted: str, kept: int
) -> None:
    """Whatever the machine does now; a file that says nonsense is found out when the runs are compared."""
    checkpoint = Checkpoint(tmp_path / "resume")
    checkpoint.folder.mkdir()
    (checkpoint.folder / "run.json").write_text(json.dumps({FITTED: noted}))
    job = job_of(net, data, 10.0, resume=True)
    assert count(within_limit(job, 1.0, 20.0, checkpoint)) == kept
    free = within_limit(job_of(net, data, None, resume=True), None, 1.0, checkpoint)
    assert count(free) == (31 if noted == "31" else 80)  # whether or not there is a limit now
    fresh = job_of(net, data, 10.0)
    assert count(within_limit(fresh, 1.0, 20.0, checkpoint)) == LEAST
