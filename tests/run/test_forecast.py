"""What a run is expected to take: every stage that comes, in order, in proportion to what makes it long."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from models import changed_options, run_options
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.listener import Step, Watcher
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.run import pipeline
from ndpass.run.forecast import forecast
from ndpass.run.job import read
from ndpass.run.options import Options

Images = NDArray[np.float32]


class Recorded(Watcher):
    """Stages in the order in which they began, and what was expected."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.expected: dict[str, float] = {}
        self.layers: set[str] = set()

    def step(self, now: Step) -> None:
        if now.total and now.stage not in self.stages:
            self.stages.append(now.stage)
        self.layers.add(now.layer)

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.expected = dict(seconds)


def options(budget: Budget, data: Images | None = None, spec: str = "nd") -> Options:
    calibration = None if data is None else partial(open_feeds, data)
    return run_options(parse(spec), budget, calibration=calibration)


@pytest.fixture
def data() -> Images:
    return np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("budget", [Budget("macs", 0.6), Budget("energy", 0.9)])
def test_the_stages_that_come_were_expected_in_their_order(budget: Budget, net: Path, data: Images) -> None:
    heard = Recorded()
    pipeline.run(net, Path("out.onnx"), options(budget, data), heard)
    known = [stage for stage in heard.stages if stage in heard.expected]
    assert heard.stages == ["reading", "measuring the original", *known]
    assert known == [stage for stage in heard.expected if stage in known]
    assert set(heard.expected) - set(known) == set()
    assert len(heard.layers - {""}) == 3


def test_more_data_more_passes_and_a_slower_network_take_longer(net: Path, data: Images) -> None:
    def total(given: Options, inference: float) -> float:
        return sum(forecast(read(net, given, lambda *_: None), inference).values())

    short = options(Budget("max_error", 0.1), data)
    long = changed_options(short, calibration=partial(open_feeds, np.concatenate([data] * 5)))
    assert total(short, 1e-5) < total(long, 1e-5)
    assert total(short, 1e-6) < total(short, 1e-5)
    assert total(short, 1e-5) < total(options(Budget("max_error", 0.1), data, "cd,nd"), 1e-5)


def test_a_time_limit_bounds_what_is_expected(data: Images, net: Path) -> None:
    free = options(Budget("speedup", 1.5), data)
    bound = changed_options(free, time_limit=2.0)
    whole, short = (forecast(read(net, one, lambda *_: None), 0.1) for one in (free, bound))
    assert sum(whole.values()) > 2.0
    assert list(short) == list(whole)
    assert sum(short.values()) == pytest.approx(2.0)
    assert sum(forecast(read(net, bound, lambda *_: None), 0.1, passed=1.5).values()) == pytest.approx(0.5)
