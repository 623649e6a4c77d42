"""kill -9 at moments of every stage, then --resume: the same bytes as undisturbed, and nothing lies about."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from forks import Ended, Forks, Place
from models import network, normal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks, which this system has not")

SEED = int(os.environ.get("NDPASS_SEED") or random.SystemRandom().randrange(10**6))
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
NOTHING_TO_GO_ON_WITH = "no run to go on with"
GIVEN = ("net.onnx", "data.npz")


@dataclass(frozen=True)
class Scenario:
    """args: of the run. outputs: what it writes. few, many: kills in the short suite and with --long."""

    args: Sequence[str]
    outputs: Sequence[str]
    few: int
    many: int


SCENARIOS = {
    "planned": Scenario(
        ("--passes", "cp,nd", "--macs", "0.5", "-o", "out.xml", "--no-latency"), ("out.xml", "out.bin"), 5, 20
    ),
    "timed": Scenario(("--passes", "nd", "--speedup", "1.3", "-o", "out.onnx"), ("out.onnx",), 4, 20),
    "refined": Scenario(
        ("--passes", "nd:rank=2", "--refine", "3", "-o", "out.onnx", "--no-latency"), ("out.onnx",), 3, 10
    ),
}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as started:
        yield started


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


def run(forks: Forks, place: Place, args: Sequence[str], **how: object) -> Ended:
    fixed = ("--calibration", "data.npz", "--threads", "1", "--jobs", "1", "--save-plan", "plan.json")
    return forks.run(place, ("run", "net.onnx", *fixed, *args), paper=True, **how)


def stages(moments: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """The stage of each moment; from where outputs take their places on it is `placing`."""
    first = next(i for i, m in enumerate(moments) if m.split(" ")[-1] in outputs and "os." in m)
    return [m.partition(":")[0] if i < first else "placing" for i, m in enumerate(moments)]


def chosen(of: Sequence[str], count: int, rng: random.Random) -> list[int]:
    """Numbers of moments, from 1: at least one in each stage, as far as the count goes."""
    picked: list[int] = []
    while len(picked) < count:
        for stage in rng.sample(sorted(set(of)), len(set(of))):
            picked.append(rng.choice([i for i, other in enumerate(of, 1) if other == stage]))
    return picked[:count]


@pytest.mark.parametrize("which", SCENARIOS)
def test_a_run_that_is_killed_ends_with_the_same_bytes(
    which: str, tmp_path: Path, forks: Forks, request: pytest.FixtureRequest
) -> None:
    if which == "refined" and not find_spec("torch"):
        pytest.skip("torch is not installed")
    scenario, rng = SCENARIOS[which], random.Random(SEED)
    written = (*scenario.outputs, "plan.json")
    undisturbed = prepared(tmp_path / "undisturbed")
    ended = run(forks, undisturbed, scenario.args)
    assert ended.code == 0, ended.err
    wanted = {name: (undisturbed.work / name).read_bytes() for name in written}
    assert undisturbed.strays([*GIVEN, *written]) == []
    of = stages(ended.moments, written)
    count = scenario.many if request.config.getoption("--long") else scenario.few
    for number in chosen(of, count, rng):
        after = rng.choice([0.0, 0.0, rng.uniform(1e-4, 0.05)])
        moment = f"moment {number}, {of[number - 1]}: {ended.moments[number - 1]!r}"
        what = f"NDPASS_SEED={SEED}, killed {after:.4f} s after {moment}"
        print(what)
        place = prepared(tmp_path / "killed")
        killed = run(forks, place, scenario.args, kill=number, after=after)
        assert killed.code in KILLED or (after and killed.code == 0), (what, killed)
        gone_on = run(forks, place, (*scenario.args, "--resume"))
        if gone_on.code == 2 and NOTHING_TO_GO_ON_WITH in gone_on.err:
            gone_on = run(forks, place, scenario.args)
        assert gone_on.code == 0, (what, gone_on)
        assert {name: (place.work / name).read_bytes() for name in written} == wanted, what
        assert place.strays([*GIVEN, *written]) == [], what
        shutil.rmtree(place.root)
