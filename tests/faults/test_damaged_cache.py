"""Whatever lies in the cache or among what a run has kept: it is used, or left alone with a line in the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndpass.conv import Conv
from ndpass.measuring.latency_cache import LatencyCache
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.shelf import Shelf
from ndpass.report import Layer
from ndpass.rewriting.checkpoint import Checkpoint, Record

ENVIRONMENT = {"cpu": "a", "threads": "1"}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

Examples = Callable[[int, int], Any]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def damaged(draw: st.DataObject, whole: bytes) -> bytes:
    """Some bytes changed, cut off, or anything at all."""
    kind = draw.draw(st.sampled_from(["one byte", "cut off", "zeros", "anything", "json"]))
    at = draw.draw(st.integers(0, len(whole) - 1))
    if kind == "one byte":
        return whole[:at] + bytes([draw.draw(st.integers(0, 255))]) + whole[at + 1 :]
    if kind == "cut off":
        return whole[:at]
    if kind == "zeros":
        return whole[:at] + bytes(len(whole) - at)
    if kind == "json":
        return json.dumps(draw.draw(JSON)).encode()
    return draw.draw(st.binary(max_size=200))


def test_a_damaged_cache_gives_seconds_or_nothing_and_can_be_written(examples: Examples, tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path, ENVIRONMENT)
    cache.put({"conv a @ 8x8": 1e-3, "conv b @ 8x8": 2e-3})
    assert cache.path is not None
    whole = cache.path.read_bytes()

    @examples(100, 5_000)
    @given(st.data())
    def check(draw: st.DataObject) -> None:
        assert cache.path is not None
        cache.path.write_bytes(damaged(draw, whole))
        found = LatencyCache(tmp_path, ENVIRONMENT)
        for key in ("conv a @ 8x8", "conv b @ 8x8"):
            value = found.get(key)
            assert value is None or 0 < value < 3600
        found.put({"conv c @ 8x8": 3e-3})
        assert LatencyCache(tmp_path, ENVIRONMENT).get("conv c @ 8x8") == 3e-3

    check()


ROW = Layer(name="a", status="done", setting={"cd": {"rank": 3}}, macs=(10, 5), op="Conv", shape="4x3x3x3")
KEPT: dict[str, tuple[Callable[[Checkpoint], object], Callable[[Checkpoint], object]]] = {
    "record": (
        lambda c: c.save(3, Record(ROW, True, Conv(np.ones((4, 3, 3, 3))), np.array([0, 2]))),
        lambda c: c.load(3),
    ),
    "plan": (
        lambda c: c.save_plan({"a": Choice(Candidate(12, 0.3, {"nd": {"rank": 2}}))}),
        lambda c: c.load_plan(),
    ),
    "candidates": (
        lambda c: c.save_candidates("a", [Candidate(12, 0.3, {"nd": {"rank": 2}})]),
        lambda c: c.load_candidates("a"),
    ),
}


@pytest.mark.parametrize("which", KEPT)
def test_what_a_run_has_kept_may_be_damaged(which: str, examples: Examples, tmp_path: Path) -> None:
    """It comes back or is made again; nothing else is raised."""
    save, load = KEPT[which]
    checkpoint = Checkpoint.beside(tmp_path / "out.onnx")
    checkpoint.start({})
    save(checkpoint)
    (file,) = [p for p in checkpoint.folder.iterdir() if p.name not in ("run.json", "lock")]
    whole = file.read_bytes()

    @examples(80, 5_000)
    @given(st.data())
    def check(draw: st.DataObject) -> None:
        file.write_bytes(damaged(draw, whole))
        load(checkpoint)

    check()
    checkpoint.remove()


def test_moments_that_are_damaged_are_made_again(examples: Examples, tmp_path: Path) -> None:
    from ndpass.calibration.moments import Moments

    moments = Moments(5, np.ones(2), np.ones(3), np.eye(2), np.ones((2, 3)), np.ones(3), None)
    moments.__dict__["best"] = np.ones((3, 2))
    Shelf(tmp_path, 1 << 20).put("a", moments)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()

    @examples(80, 5_000)
    @given(st.data())
    def check(draw: st.DataObject) -> None:
        file.write_bytes(damaged(draw, whole))
        Shelf(tmp_path, 1 << 20).get("a")

    check()
