"""How much a metric may fall where nobody said, and drops that no rewrite keeps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import network, normal, run_options

from ndpass.calibration.feeds import open_feeds
from ndpass.errors import UsageError
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.run.arguments import DEFAULT, budget_of
from ndpass.run.default_drop import drop_of_pictures, with_drop
from ndpass.run.job import Job, read

ASKED = Budget("max_drop", 1.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = "(float[N,3,16,16] x) => (float[N,3,16,16] y) { y = Conv<pads=[1,1,1,1]>(x, W) }"
    onnx.save(network(text, W=normal(3, 3, 3, 3)), tmp_path / "picture.onnx")
    return tmp_path / "picture.onnx"


def job_for(model: Path, budget: Budget, metric: str | None) -> Job:
    data = np.random.default_rng(0).random((24, 3, 16, 16), dtype=np.float32)
    options = run_options(parse("sd"), budget, calibration=partial(open_feeds, data), metric=metric)
    return read(model, options, lambda *_: None)


def test_of_pictures_a_visible_difference_is_the_default(model: Path) -> None:
    heard: list[str] = []
    job = with_drop(job_for(model, budget_of({}, DEFAULT[True]), "psnr"), lambda stage, *_: heard.append(stage))
    assert job.options.budget.to_json() == {"max_drop": 60.0}
    assert heard == ["budget: --max-drop 60, which keeps 40 dB"]


@pytest.mark.parametrize("metric", ["explained", None])
def test_of_all_else_it_is_a_point(model: Path, metric: str | None) -> None:
    job = with_drop(job_for(model, budget_of({}, DEFAULT[True]), metric), lambda *_: None)
    expected = 60.0 if job.judge.metric and job.judge.metric.name == "psnr" else 1.0
    assert job.options.budget.to_json() == {"max_drop": expected}


def test_a_drop_that_no_rewrite_keeps_is_refused_with_what_to_type(model: Path) -> None:
    with pytest.raises(UsageError, match=r"no rewrite keeps 99: give --max-drop 60, which keeps 40 dB"):
        with_drop(job_for(model, ASKED, "psnr"), lambda *_: None)
    wide = Budget("max_drop", 55.0)
    assert with_drop(job_for(model, wide, "psnr"), lambda *_: None).options.budget == wide
    assert with_drop(job_for(model, ASKED, "explained"), lambda *_: None).options.budget == ASKED


@pytest.fixture
def denoiser(tmp_path: Path) -> Path:
    """Its picture is the input's but for a hundredth of the variance: plain copies have about 40 dB."""
    text = """(float[N,3,16,16] x) => (float[N,3,16,16] y) {
        c = Conv<pads=[1,1,1,1]>(x, W)  d = Mul(c, k)  y = Add(x, d)
    }"""
    onnx.save(network(text, W=normal(3, 3, 3, 3), k=np.array(0.1, np.float32)), tmp_path / "denoiser.onnx")
    return tmp_path / "denoiser.onnx"


def test_of_pictures_of_the_input_a_tenth_of_what_is_added_is_the_default(denoiser: Path) -> None:
    heard: list[str] = []
    job = with_drop(job_for(denoiser, budget_of({}, DEFAULT[True]), "psnr"), lambda stage, *_: heard.append(stage))
    metric, drop = job.judge.metric, job.options.budget.value
    assert metric is not None
    assert metric.plain is not None
    assert drop is not None
    assert metric.plain + 10 <= 100 - drop < metric.plain + 11
    assert heard == [f"budget: --max-drop {drop:g}, which keeps {100 - drop:g} dB"]
    assert not job.warnings


def test_a_drop_that_leaves_plain_interpolation_is_warned_of(denoiser: Path) -> None:
    job = with_drop(job_for(denoiser, Budget("max_drop", 75.0), "psnr"), lambda *_: None)
    (said,) = job.warnings
    assert "half of what the network adds may be lost" in said
    assert with_drop(job_for(denoiser, Budget("max_drop", 30.0), "psnr"), lambda *_: None).warnings == ()


@pytest.mark.parametrize(("plain", "drop"), [(None, 60), (25.0, 60), (36.9, 53), (75.0, 20)])
def test_a_tenth_or_what_is_hardly_seen_and_no_less_than_can_be_kept(plain: float | None, drop: float) -> None:
    assert drop_of_pictures(plain) == drop
