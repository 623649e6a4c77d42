"""Small runs whose times are on paper, so that each gives the same bytes whenever it is run, and what disturbs them."""

from __future__ import annotations

import atexit
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from forks import Ended, Forks, Place
from models import network, normal

SEED = int(os.environ.get("NDPASS_SEED") or random.SystemRandom().randrange(10**6))
NOTHING_TO_GO_ON_WITH = "no run to go on with"
GIVEN = ("net.onnx", "data.npz")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks, which this system has not")


@dataclass(frozen=True)
class Scenario:
    """args: of the run; model: the files of the model that it writes, beside saved.json."""

    args: Sequence[str]
    model: Sequence[str]

    @property
    def outputs(self) -> tuple[str, ...]:
        return *self.model, "saved.json"


SCENARIOS = {
    "planned": Scenario(
        ("--passes", "cp,nd", "--macs", "0.5", "-o", "out.xml", "--no-latency"), ("out.xml", "out.bin")
    ),
    "timed": Scenario(("--passes", "nd", "--speedup", "1.3", "-o", "out.onnx"), ("out.onnx",)),
    "refined": Scenario(("--passes", "nd:rank=2", "--refine", "3", "-o", "out.onnx", "--no-latency"), ("out.onnx",)),
}


@cache
def forks() -> Forks:
    """The process that runs are forked from, one for all tests."""
    started = Forks()
    atexit.register(started.close)
    return started


@cache
def undisturbed(which: str) -> Undisturbed:
    """What the scenario does that nothing disturbs."""
    with tempfile.TemporaryDirectory() as folder:
        return Undisturbed.of(SCENARIOS[which], Path(folder))


def skip_without_torch(which: str) -> None:
    if which == "refined" and not find_spec("torch"):
        pytest.skip("torch is not installed")


def prepared(root: Path) -> Place:
    """A place with a network of two convolutions, and data for it."""
    place = Place.made(root)
    text = """(float[batch,3,12,12] image) => (float[batch,5] scores) {
        a = Conv<pads = [1,1,1,1]>(image, w1, b1)  r = Relu(a)
        b = Conv<pads = [1,1,1,1]>(r, w2)  s = Relu(b)
        p = GlobalAveragePool(s)  f = Flatten(p)  scores = Gemm(f, w3)
    }"""
    weights = {"w1": normal(16, 3, 3, 3), "b1": normal(16), "w2": normal(48, 16, 3, 3), "w3": normal(48, 5)}
    onnx.save(network(text, **weights), place.work / "net.onnx")
    images = np.random.default_rng(0).standard_normal((24, 3, 12, 12), dtype=np.float32)
    np.savez(place.work / "data.npz", image=images)
    return place


def run(place: Place, args: Sequence[str], **how: object) -> Ended:
    fixed = ("--calibration", "data.npz", "--threads", "1", "--jobs", "1", "--save-plan", "saved.json")
    return forks().run(place, ("run", "net.onnx", *fixed, *args), paper=True, **how)


@dataclass(frozen=True)
class Undisturbed:
    """What a run does that nothing disturbs. stages: of each of its moments, which are numbered from 1."""

    wanted: dict[str, bytes]
    moments: Sequence[str]
    stages: Sequence[str]

    @classmethod
    def of(cls, scenario: Scenario, root: Path) -> Undisturbed:
        place = prepared(root)
        ended = run(place, scenario.args)
        assert ended.code == 0, ended.err
        assert place.strays([*GIVEN, *scenario.outputs]) == []
        return cls(found(place, scenario), ended.moments, _stages(ended.moments, scenario.outputs))

    def chosen(self, count: int, rng: random.Random) -> list[int]:
        """Moments: one in each stage, and again, as far as the count goes."""
        names, picked = sorted(set(self.stages)), list[int]()
        while len(picked) < count:
            for stage in rng.sample(names, len(names)):
                picked.append(rng.choice([i for i, other in enumerate(self.stages, 1) if other == stage]))
        return picked[:count]

    def about(self, number: int) -> str:
        return f"NDPASS_SEED={SEED}, moment {number}, {self.stages[number - 1]}: {self.moments[number - 1]!r}"


def _stages(moments: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """The stage of each moment; from where outputs take their places on it is `placing`."""
    first = next(i for i, m in enumerate(moments) if m.split(" ")[-1] in outputs and "os." in m)
    return [m.partition(":")[0] if i < first else "placing" for i, m in enumerate(moments)]


def found(place: Place, scenario: Scenario) -> dict[str, bytes]:
    """The outputs that are there."""
    return {n: (place.work / n).read_bytes() for n in scenario.outputs if (place.work / n).exists()}


def assert_goes_on(place: Place, scenario: Scenario, wanted: dict[str, bytes], what: str) -> None:
    """With --resume, or anew where that says that there is nothing to go on with, it ends as if undisturbed."""
    ended = run(place, (*scenario.args, "--resume"))
    if ended.code == 2 and NOTHING_TO_GO_ON_WITH in ended.err:
        ended = run(place, scenario.args)
    assert ended.code == 0, (what, ended)
    assert found(place, scenario) == wanted, what
    assert place.strays([*GIVEN, *scenario.outputs]) == [], what
