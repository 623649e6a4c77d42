"""Milliseconds before and after: one number, the median of paired rounds, and all others follow from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import small_network
from models import feed_of
from paper_machine import PaperMachine

from ndpass.measuring.evaluate import Agreement, Evaluation
from ndpass.run.before_after import compare_variants, timed


@pytest.fixture
def models(folder: Path) -> tuple[Path, Path]:
    """A network, and the same without its second convolution's stride: it takes longer."""
    before, after = small_network(), small_network()
    strides = next(a for n in after.graph.node for a in n.attribute if a.name == "strides")
    strides.ints[:] = [1, 1]
    for name, model in (("slow", after), ("fast", before)):
        onnx.save(model, folder / f"{name}.onnx")
    return folder / "slow.onnx", folder / "fast.onnx"


def drifting() -> PaperMachine:
    """Three times as slow for a third of the time, for all models alike."""
    machine = PaperMachine()
    machine.noise = lambda: 3.0 if int(machine.seconds * 10) % 3 == 0 else 1.0
    return machine


def feed() -> dict[str, np.ndarray]:
    return feed_of(small_network(), batch=1)


def test_before_over_after_is_the_speedup(models: tuple[Path, Path]) -> None:
    quiet = timed(*models, PaperMachine(), feed())
    noisy = timed(*models, drifting(), feed())
    for found in (quiet, noisy):
        assert found.before / found.after == pytest.approx(found.speedup)
        assert found.spread[0] <= found.speedup <= found.spread[1]
    assert noisy.speedup == pytest.approx(quiet.speedup, rel=0.05)
    assert quiet.speedup > 1
    assert quiet.is_faster
    assert not noisy.is_slower


def test_what_takes_the_same_time_is_neither_faster_nor_slower(models: tuple[Path, Path]) -> None:
    found = timed(models[0], models[0], PaperMachine(), feed())
    assert not found.is_faster
    assert not found.is_slower


def test_a_result_that_is_slower_is_said(models: tuple[Path, Path]) -> None:
    slow, fast = models
    found = timed(fast, slow, PaperMachine(), feed())
    assert found.is_slower
    assert found.speedup < 1


def test_all_rows_of_int8_are_relative_to_the_original_as_it_is(models: tuple[Path, Path]) -> None:
    machine, agreement = drifting(), Evaluation(Agreement(1, 100.0, 0.0, "scores"), None, None)
    pairs = (models, models)
    found = compare_variants(*pairs, agreement, lambda *_: agreement, (machine, machine), feed())  # type: ignore[arg-type]
    original, original8, *_ = found.rows
    assert original.speedup == 1
    for row in found.rows:
        assert original.latency_ms / row.latency_ms == pytest.approx(row.speedup)
    assert found.latency.before == original8.latency_ms
    assert found.latency.before / found.latency.after == pytest.approx(found.latency.speedup)
