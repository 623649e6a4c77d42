"""Studies of parts of a network and the command `sensitivity`: figures confirmed another way, streams, bad input."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command, assert_refused
from models import network, normal, run_options
from numpy.typing import NDArray

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.run import digits, pipeline, studies
from ndpass.run.options import Options

F = NDArray[np.floating[Any]]
FIT, MEASURED = 96, 200
ONE = "nd:rank=2:form=dw-pw"  # one setting for each layer
HEAD = "head"  # which nd leaves alone, and a run fits anew behind what it rewrites; a study does not
AGREE = 1e-5  # relative, of two ways in f32

INPUT, USAGE = 3, 2

pytestmark = pytest.mark.usefixtures("folder")


def opener(images: F, labels: Any = None) -> studies.OpenData:
    def open_data(inputs: Any) -> Feeds:
        return open_feeds(images, inputs, labels=labels)

    return open_data


def options(spec: str, labelled: bool = True) -> Options:
    (fit, _), (measured, labels) = digits.images()
    shown = opener(measured[:MEASURED], labels[:MEASURED] if labelled else None)
    return run_options(
        parse(spec) if spec else [],
        Budget("pinned"),
        calibration=opener(fit[:FIT]),
        validation=shown,
        threads=1,
    )


def subject(spec: str, labelled: bool = True) -> studies.Subject:
    return studies.Subject.open(digits.model_path(), options(spec, labelled))


@cache
def studied(which: str, spec: str) -> tuple[studies.Subject, list[Any]]:
    """The subject and all rows of its study, `ranks` or `depth`, done once for all tests that ask for them."""
    study = subject(spec)
    return study, list(getattr(study, which)())


def run(spec: str, ignore: list[str]) -> Any:
    """The report of a whole run on the same data."""
    return pipeline.run(digits.model_path(), Path("out.onnx"), replace(options(spec), ignore=ignore))


# ----------------------------------------------------------------------------------------------------------- ranks


def test_a_row_of_ranks_is_what_a_run_on_that_layer_alone_gives() -> None:
    study, found = studied("ranks", ONE)
    rows = {row.layer: row for row in found}
    names = [site.name for site in study.sites]
    assert list(rows) == names
    for name in ("block1.conv1", "block2.conv2"):
        report = run(ONE, [*(n for n in names if n != name), HEAD])
        (layer,) = [layer for layer in report.layers if layer.status == "done"]
        row = rows[name]
        assert (layer.name, layer.macs, layer.setting) == (name, row.macs, {"nd": row.setting})
        assert row.error == pytest.approx(layer.error_measured, rel=1e-3)
        assert row.score.metric == pytest.approx(report.metric.after)
        assert study.yardstick.original == pytest.approx(report.metric.before)
        assert row.score.kl == pytest.approx(report.verified["the original"].kl, rel=1e-2)


@pytest.fixture(scope="module")
def rows() -> list[studies.Rank]:
    """Of the digits model, with nothing pinned but a form."""
    return list(subject("nd:form=dw-pw,cd").ranks())


def test_ranks_are_spread_over_what_saves_macs(rows: list[studies.Rank]) -> None:
    assert {row.curve for row in rows} == {"nd:form=dw-pw", "cd"}
    for curve in {(row.layer, row.curve) for row in rows}:
        chosen = [row for row in rows if (row.layer, row.curve) == curve]
        assert 1 <= len(chosen) <= studies.MOST_SETTINGS
        left = [row.macs[1] for row in chosen]
        assert left == sorted(set(left))
        assert all(after < before for before, after in (row.macs for row in chosen))
        assert chosen[-1].error < chosen[0].error or len(chosen) == 1
    wide = [row.setting["rank"] for row in rows if (row.layer, row.curve) == ("block2.conv2", "nd:form=dw-pw")]
    assert wide == [1, 2, 3, 5, 6, 7]


def test_more_rank_less_divergence(rows: list[studies.Rank]) -> None:
    found = [row.score.kl or 0.0 for row in rows if (row.layer, row.rule) == ("block1.conv1", "nd")]
    assert len(found) == studies.MOST_SETTINGS
    assert found == sorted(found, reverse=True)


def test_channel_pruning_is_a_pass_like_others() -> None:
    study = subject("cp")
    rows = list(study.ranks())
    assert {row.curve for row in rows} == {"cp:criterion=greedy"}
    assert 0 < len({row.layer for row in rows}) < len(study.graph.sites())


def test_settings_given_are_kept_to_even_where_they_save_nothing() -> None:
    rows = list(subject("nd:rank=full:form=dw-pw").ranks())
    assert rows
    for row in rows:
        assert row.macs[1] > row.macs[0]
        assert row.score.relative_error < 0.05  # all but exact: fitted to the original's own activations


# ----------------------------------------------------------------------------------------------------------- depth


def test_all_layers_deep_is_a_whole_run() -> None:
    study, rows = studied("depth", ONE)
    count = len(study.sites)
    ends = [("first", k) for k in range(1, count + 1)] + [("last", k) for k in range(1, count + 1)]
    assert [(row.end, row.count) for row in rows] == ends
    assert all(row.done == row.count for row in rows)
    report = run(ONE, [])
    for row in (rows[count - 1], rows[-1]):
        assert row.macs == report.model.macs
        assert row.score.metric == pytest.approx(report.metric.after)
        assert row.score.kl == pytest.approx(report.verified["the original"].kl, rel=1e-2)


def test_one_layer_deep_is_a_row_of_ranks() -> None:
    study, deep = studied("depth", ONE)
    ranks = {row.layer: row for row in studied("ranks", ONE)[1]}
    rows = [row for row in deep if row.count == 1]
    assert [row.layer for row in rows] == [study.sites[0].name, study.sites[-1].name]
    for row in rows:
        assert row.score.kl == pytest.approx(ranks[row.layer].score.kl, rel=1e-2)
        before, after = ranks[row.layer].macs
        assert row.macs[0] - row.macs[1] == before - after


def test_the_last_layers_make_up_for_those_before() -> None:
    """As in a run that leaves the first ones alone."""
    study, rows = studied("depth", ONE)
    names = [site.name for site in study.sites]
    (row,) = [row for row in rows if (row.end, row.count) == ("last", 3)]
    report = run(ONE, [*names[:-3], HEAD])
    assert row.macs == report.model.macs
    assert row.score.kl == pytest.approx(report.verified["the original"].kl, rel=1e-2)


# ---------------------------------------------------------------------------------------------------- the yardstick


def test_without_labels_the_metric_is_agreement() -> None:
    study = subject("nd:rank=2:form=dw-pw", labelled=False)
    row = next(iter(study.ranks()))
    assert (study.yardstick.name, study.yardstick.original) == ("top-1 agreement", 100.0)
    assert row.score.metric < 100


def test_without_class_scores_it_is_the_relative_error() -> None:
    model = network("(float[N,3,8,8] x) => (float[N,6,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, W) }", W=normal(6, 3, 3, 3))
    onnx.save(model, "map.onnx")
    x = normal(40, 3, 8, 8)
    study = studies.Subject.open(
        Path("map.onnx"), run_options(parse("nd:rank=1"), Budget("pinned"), calibration=opener(x), validation=opener(x))
    )
    assert (study.yardstick.name, study.yardstick.original) == ("relative error", 0.0)
    for row in study.ranks():
        assert row.score.kl is None
        assert row.score.metric == row.score.relative_error > 0.01


# ----------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def data(folder: Path) -> Path:
    """cal.npz without labels and val.npz with them, in the working folder."""
    (fit, _), (measured, labels) = digits.images()
    np.savez(folder / "cal.npz", images=fit[:FIT])
    np.savez(folder / "val.npz", images=measured[:MEASURED], labels=labels[:MEASURED])
    return folder


def call(ndpass: Command, *args: object) -> Any:
    return ndpass("sensitivity", digits.model_path(), "--calibration", "cal.npz", "--threads", "1", *args)


@pytest.mark.usefixtures("data")
def test_slopes_are_printed_and_written(ndpass: Command) -> None:
    done = call(ndpass, "--json", "s.json", "--plot", "s.png")
    assert (done.code, done.err) == (0, "ndpass: calibrating\nndpass: probing\n")
    found = json.loads(Path("s.json").read_text())
    lines = done.out.splitlines()
    assert lines[0].split() == ["layer", "op", "shape", "MACs", "slope", "of", "the", "mean"]
    rows, _, steps = "\n".join(lines[1:]).partition("\n\nnext:\n")
    assert [line.split()[0] for line in rows.splitlines()] == [row["layer"] for row in found["rows"]]
    steepest = max(found["rows"], key=lambda row: row["slope"])["layer"]
    assert f"--ignore {steepest}" in steps
    assert found["study"] == "slopes"
    assert np.mean([row["relative"] for row in found["rows"]]) == pytest.approx(1)
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("data")
def test_passes_narrow_the_slopes_down(ndpass: Command) -> None:
    assert call(ndpass, "-q", "--passes", "nd", "--json", "s.json").out == ""
    rows = json.loads(Path("s.json").read_text())["rows"]
    assert rows
    assert all(row["op"] == "Conv" for row in rows)


@pytest.mark.usefixtures("data")
def test_ranks_are_printed_and_written(ndpass: Command) -> None:
    done = call(
        ndpass,
        "--validation",
        "val.npz",
        "--study",
        "ranks",
        "--passes",
        "sd:rank=16:order=vh,nd:rank=2",
        "--json",
        "r.json",
        "--plot",
        "r.svg",
    )
    assert done.code == 0, done.err
    found = json.loads(Path("r.json").read_text())
    assert found["metric"]["name"] == "accuracy"
    assert found["metric"]["samples"] == MEASURED
    assert found["passes"] == [{"name": "sd", "rank": 16, "order": "vh"}, {"name": "nd", "rank": 2}]
    assert done.out.splitlines()[0].startswith(f"accuracy of the original: {found['metric']['original']:.2f} %")
    assert len(done.out.splitlines()) == len(found["rows"]) + 2
    assert {row["rule"] for row in found["rows"]} == {"sd", "nd"}
    picture = Path("r.svg").read_text()
    assert "<svg" in picture


@pytest.mark.usefixtures("data")
def test_depth_measures_on_a_fifth_held_out(ndpass: Command) -> None:
    done = call(ndpass, "--study", "depth", "--passes", "nd:rank=1:form=dw-pw", "--json", "d.json", "--plot", "d.svg")
    assert done.code == 0, done.err
    found = json.loads(Path("d.json").read_text())
    assert found["metric"]["samples"] == round(0.2 * FIT)
    assert found["calibration_samples"] <= FIT - found["metric"]["samples"]
    assert [row["end"] for row in found["rows"]] == ["first"] * 6 + ["last"] * 6
    assert len(done.out.splitlines()) == 14


@pytest.mark.usefixtures("data")
def test_same_seed_same_bytes(ndpass: Command) -> None:
    for name in ("a", "b"):
        done = call(
            ndpass,
            "-q",
            "--study",
            "ranks",
            "--passes",
            "nd:rank=2:form=dw-pw",
            "--json",
            f"{name}.json",
            "--plot",
            f"{name}.svg",
            "--seed",
            "3",
        )
        assert done.out == ""
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


def test_what_is_not_finite_is_null_in_json() -> None:
    row = studies.Slope("a", "Conv", (1, 2), 3, math.inf, math.nan)
    (written,) = json.loads(studies.to_json("slopes", [row]))["rows"]
    assert (written["slope"], written["relative"], written["shape"]) == (None, None, [1, 2])


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--study", "ranks"], ["--passes nd:rank=2"]),
        (["--study", "depth"], ["--passes nd:rank=2"]),
        (["--study", "depth", "--passes", "nd"], ["one setting", "nd:rank=2"]),
        (["--validation", "val.npz"], ["--validation", "slopes"]),
        (["--passes", "xy"], ["no pass 'xy'"]),
        (["--plot", "s.pdf"], [".png or an .svg"]),
        (["--plot", "nowhere/s.png"], ["nowhere/s.png"]),
        (["--json", "nowhere/s.json"], ["nowhere/s.json"]),
        (["--json", "s.png", "--plot", "s.png"], ["s.png"]),
        (["--preprocess", "sepia"], ["sepia"]),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_computed(
    args: list[str], words: list[str], data: Path, ndpass: Command
) -> None:
    before = sorted(p.name for p in data.iterdir())
    assert_refused(call(ndpass, *args), USAGE, *words)
    assert sorted(p.name for p in data.iterdir()) == before


@pytest.mark.usefixtures("data")
def test_without_matplotlib_a_plot_is_refused_with_the_remedy(ndpass: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert_refused(call(ndpass, "--plot", "s.png"), USAGE, "matplotlib", "pip install")
    assert call(ndpass, "-q").code == 0


@pytest.mark.usefixtures("data")
def test_bad_models_and_data(ndpass: Command) -> None:
    Path("text.onnx").write_text("no model")
    relu = network("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }")
    onnx.save(relu, "relu.onnx")
    np.save("x.npy", normal(8, 3, 8, 8))
    quiet = ("-q", "--calibration", "x.npy")
    assert_refused(ndpass("sensitivity", "text.onnx", *quiet), INPUT, "text.onnx")
    assert_refused(ndpass("sensitivity", "none.onnx", *quiet), INPUT, "none.onnx")
    assert_refused(ndpass("sensitivity", "relu.onnx", *quiet), INPUT, "relu.onnx", "no layer")
    assert_refused(ndpass("sensitivity", digits.model_path(), *quiet), INPUT, "x.npy")
    assert_refused(ndpass("sensitivity", digits.model_path(), "-q", "--calibration", "gone"), INPUT, "gone")
