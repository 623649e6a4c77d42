"""A metric of one's own, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command, small_network

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.errors import UsageError
from ndpass.measuring.runtime import OpenVINO
from ndpass.run import digits
from ndpass.run.judge import Judge, drop_of

pytestmark = pytest.mark.usefixtures("folder")

TOP2 = """
import numpy as np
from ndpass.run import digits

def top2(compiled):
    images, labels = digits.images()[1]
    scores = next(iter(compiled({"image": images}).values()))
    return 100 * float((np.argsort(scores, axis=1)[:, -2:] == labels[:, None]).any(axis=1).mean())

def misses(compiled):
    return 100 - top2(compiled)

misses.higher_is_better = False
"""


def top2(compiled: Any) -> float:
    images, labels = digits.images()[1]
    (scores,) = compiled({"image": images}).values()
    return 100 * float((np.argsort(scores, axis=1)[:, -2:] == labels[:, None]).any(axis=1).mean())


def noise(count: int = 8) -> Feeds:
    images = np.random.default_rng(0).random((count, 1, 28, 28)).astype(np.float32)
    inputs = OpenVINO(digits.model_path()).inputs
    return open_feeds(images[(slice(None), *map(slice, (i or count for i in inputs[0].shape[1:])))], inputs)


def test_own_metric_stands_in_the_place_of_accuracy() -> None:
    found = Judge(digits.model_path(), noise(), 1, top2)(digits.model_path())
    assert found.before == found.after
    assert found.before is not None
    assert found.before.name == "top2"
    assert found.before.value == pytest.approx(top2(OpenVINO(digits.model_path()).compiled))


def test_drop_of_a_metric_that_should_be_low() -> None:
    def size(compiled: Any) -> float:
        return float(next(iter(compiled(np.ones((1, 3, 8, 8), np.float32)).values())).sum())

    size.higher_is_better = False  # type: ignore[attr-defined]
    onnx.save(small_network(), "a.onnx")
    model = small_network()
    (bias,) = [t for t in model.graph.initializer if t.name == "b1"]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, "b1"))
    onnx.save(model, "b.onnx")
    inputs = OpenVINO(Path("a.onnx")).inputs
    feeds = open_feeds(np.ones((2, 3, 8, 8), np.float32), inputs)
    found = Judge(Path("a.onnx"), feeds, 1, size)(Path("b.onnx"))
    assert found.before is not None
    assert found.after is not None
    assert drop_of(found) == pytest.approx(found.after.value - found.before.value)


def test_metric_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no function"):
        Judge(digits.model_path(), noise(), 1, "math:nothing")


@pytest.mark.parametrize(("name", "better"), [("top2", True), ("misses", False)])
def test_report_shows_the_own_metric(name: str, better: bool, ndpass: Command) -> None:
    Path(f"own_{name}.py").write_text(TOP2)
    done = ndpass(
        "run", "-q", "--passes", "nd:rank=2", "--metric", f"own_{name}:{name}", "-o", "out.onnx", "--json", "r.json"
    )
    assert done.code == 0, done.err
    metric = json.loads(Path("r.json").read_text())["metric"]
    assert (metric["name"], metric["higher_is_better"]) == (name, better)
    right = top2(OpenVINO(Path("out.onnx")).compiled)
    assert metric["after"] == pytest.approx(right if better else 100 - right, abs=1e-6)


def test_metric_that_raises(ndpass: Command) -> None:
    Path("own_raising.py").write_text("def broken(compiled):\n    return 1 / 0\n")
    done = ndpass("run", "-q", "--passes", "nd:rank=2", "--metric", "own_raising:broken", "-o", "out.onnx")
    assert done.code == 2
    assert "ZeroDivisionError" in done.err
    assert not Path("out.onnx").exists()
