"""What a run says beforehand about its memory, beside what runs took."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import deep, run_options

from ndpass.calibration.feeds import open_feeds
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.run import digits, memory, pipeline
from ndpass.run.memory import Needs

GIGABYTE = 10**9

# network: what it needs, bytes of its file, samples that it was fitted to, peak of a run with --memory 1GB
RUNS = {
    "YOLOv8n, 320x320": (Needs(127_401_984, 698_866_776, 1_638_400, 32), 12_150_158, 160, 1.92e9),
    "text detector, 384x384": (Needs(509_607_936, 3_793_065_048, 37_748_736, 3), 83_058_449, 48, 4.26e9),
    "VGG16, 240x240": (Needs(509_607_936, 3_011_953_752, 14_745_600, 8), 65_465_382, 96, 3.71e9),
    "PP-OCR, 384x384": (Needs(17_915_904, 118_784_280, 4_718_592, 26), 4_745_517, 160, 2.27e9),
}


@pytest.mark.parametrize("network", RUNS)
def test_runs_have_taken_no_more_than_is_said_and_over_half_of_it(network: str) -> None:
    needs, weights, samples, peak = RUNS[network]
    said = needs.most(weights, samples, GIGABYTE, GIGABYTE)
    assert 0.5 * said < peak <= said


def test_without_data_nothing_is_stored_of_them() -> None:
    needs = Needs.of(graph := Graph(deep()), [s for s in graph.sites() if isinstance(s, Site)], 16)
    assert needs.widest == 3 * 8 * 576**2
    assert needs.layers >= 3 * needs.widest
    assert needs.most(0, 0, GIGABYTE, GIGABYTE) == memory.LEAST + memory.TENSORS * 16 * needs.tensor
    assert needs.most(0, 100, GIGABYTE, GIGABYTE) > needs.most(0, 0, GIGABYTE, GIGABYTE)
    assert needs.most(0, 10_000, 10**6, GIGABYTE) < needs.most(0, 10_000, GIGABYTE, GIGABYTE)
    assert needs.most(0, 100, GIGABYTE, 0) + needs.widest == needs.most(0, 100, GIGABYTE, 2 * needs.widest)


@pytest.mark.parametrize(("worth", "here", "said"), [(0, 10**12, "takes at most about"), (0, 10**6, "may take")])
def test_it_is_said_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, worth: int, here: int, said: str
) -> None:
    assert folder
    monkeypatch.setattr(pipeline, "WORTH_SAYING", worth)
    monkeypatch.setattr(pipeline, "memory_here", lambda: here)
    heard: list[str] = []
    few = digits.images()[0][0][:16]
    options = run_options(parse("cd:rank=4"), Budget("pinned"), calibration=lambda inputs: open_feeds(few, inputs))
    pipeline.run(digits.model_path(), Path("out.onnx"), options, lambda stage, *_: heard.append(stage))
    (line,) = [stage for stage in heard if "GB of memory" in stage]
    assert line.startswith(said)
    assert heard.index(line) < heard.index("calibrating")
