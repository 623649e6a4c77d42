"""The engine that times models: statistics on recorded times, and the form of what a real run gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import small_network

from benchmarks import speed
from benchmarks.engine import Condition, Timed, ratios, read, time_models
from benchmarks.networks.paper import Built
from benchmarks.results import plots, rows

REPORT = {"rows": [{"model": "a", "times_ms": [4.0, 8.0, 6.0]}, {"model": "b", "times_ms": [2.0, 2.0, 3.0]}]}


def test_ratios_are_taken_within_rounds() -> None:
    """The median of 4/2, 8/2 and 6/3, not the ratio of the medians."""
    first, second = read(REPORT)
    assert ratios(first.times_ms, second.times_ms)[1] == 2.0
    figures = second.figures()
    assert figures["ms"] == 2.0
    assert figures["speedup"] == 2.0
    assert figures["spread"] == pytest.approx(np.percentile([2.0, 4.0, 2.0], (10, 90)))
    assert figures["spread_ms"] == pytest.approx(np.percentile([2.0, 2.0, 3.0], (10, 90)))
    assert figures["rounds"] == 3
    assert first.figures()["speedup"] == 1.0


def test_models_are_timed_in_rounds_under_a_condition(tmp_path: Path) -> None:
    """For real, with a batch, one thread and an older instruction set; of the times only the form is known."""
    path = tmp_path / "net.onnx"
    onnx.save(small_network(), path)
    found = time_models([path, path], Condition(threads=1, batch=2, isa="AVX2"), 0.1)
    assert len(found) == 2
    assert len(found[0].times_ms) == len(found[1].times_ms) >= 10
    assert min(found[0].times_ms) > 0
    assert found[1].original_ms == found[0].times_ms


def test_a_model_that_cannot_run_ends_the_measurement(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The reason is what ndpass bench says."""
    with pytest.raises(subprocess.CalledProcessError):
        time_models([tmp_path / "absent.onnx"], Condition(), 0.1)
    assert "absent.onnx" in capfd.readouterr().err


def test_speed_measures_each_cpu_for_itself(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the first CPU neither stand for those of this one nor are replaced; the second time nothing is timed."""
    asked: list[tuple[str, Condition]] = []

    def recorded(models: list[Path], condition: Condition, _: float) -> list[Timed]:
        asked.append((models[-1].name, condition))
        return [Timed([2.0, 2.0], [4.0, 4.0]) for _ in models]

    def built(folder: Path, network: str, pipeline: str = "", **_: object) -> Built:
        return Built(folder / f"{network}{pipeline}.onnx", pipeline, 100, 2.0, 1 if network == "ssd300" else None)

    old = {"network": "vgg16", "condition": "OpenVINO f32", "threads": 2, "batch": 1, "pipeline": "nd", "speedup": 9.0}
    (results / "speed_quick.json").write_text(f"[{str(old).replace(chr(39), chr(34))}]")
    monkeypatch.setattr(rows, "cpu", lambda: "Intel AVX-512")
    monkeypatch.setattr(speed, "time_models", recorded)
    monkeypatch.setattr(speed, "built", built)
    monkeypatch.setattr(plots, "draw", lambda _: None)
    monkeypatch.setattr("sys.argv", ["speed", "--quick", "--networks", "vgg16", "ssd300"])
    for _ in range(2):
        speed.main()
    assert asked == [(name, Condition(threads=2)) for name in ("vgg16sd.onnx", "ssd300nd.onnx")]
    first, *found = rows.read("speed_quick")
    assert first == old
    assert [(row["network"], row["pipeline"]) for row in found] == [
        ("vgg16", ""),
        ("vgg16", "nd"),
        ("vgg16", "sd"),
        ("ssd300", ""),
        ("ssd300", "nd"),
    ]
    assert all(row["cpu"] == "Intel AVX-512" and row["speedup"] == 2.0 for row in found)


def test_int8_times_the_quantised_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What int8 does not quantise runs in bf16 where the CPU has it, and in f32 where not."""
    asked: list[tuple[list[str], str]] = []

    def recorded(models: list[Path], condition: Condition, _: float) -> list[Timed]:
        asked.append(([path.name for path in models], condition.precision))
        return [Timed([1.0], [1.0])]

    monkeypatch.setattr(speed, "time_models", recorded)
    for capabilities in ((), ("BF16",)):
        monkeypatch.setattr(speed, "environment", type("Environment", (), {"capabilities": capabilities}))
        speed.timed([Built(tmp_path / "net.onnx", "", 1, 1.0, None)], Condition(precision="int8"), 1.0)
    assert asked == [(["net.xml"], "f32"), (["net.xml"], "bf16")]
