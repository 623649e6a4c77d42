"""Runs with budgets in milliseconds and in the metric, on a network that they pay for and a machine on paper."""

from __future__ import annotations

import filecmp
import json
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Command
from models import changed_options, deep, network, normal, run_options
from paper_machine import EACH, PER_MAC, PaperMachine
from planned_times import table

from ndpass import passes
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.walk import Walk
from ndpass.errors import BudgetError, UsageError
from ndpass.graph.graph import Site
from ndpass.planning import plan
from ndpass.planning.candidate import Budget
from ndpass.planning.drop_search import MOST_FITS
from ndpass.planning.latency_table import LatencyTable
from ndpass.planning.timed_search import SHORTENED
from ndpass.report import Layer, Report
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run import pipeline
from ndpass.run.clock import Clock
from ndpass.run.options import Options
from ndpass.run.resolution import check_resolution, held_out
from ndpass.run.tuning import pack_table, unpack_table

pytestmark = pytest.mark.usefixtures("folder")

SIDE, AS_28 = 14, 4 * PER_MAC  # on maps of 14x14 the machine on paper takes for a MAC what makes them as long as 28x28


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of latencies that no other run has filled."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NDPASS_CACHE", str(folder))
    return folder


@pytest.fixture
def model(folder: Path) -> Path:
    onnx.save(deep(SIDE), folder / "deep.onnx")
    return Path("deep.onnx")


@pytest.fixture
def data(folder: Path) -> Path:
    """Smooth images; their labels are the model's own answers, so that accuracy before is 100 %."""
    from ndpass.measuring.runtime import OpenVINO

    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((100, 64, 7, 7)).astype(np.float32)
    images = coarse.repeat(2, 2).repeat(2, 3)
    onnx.save(deep(SIDE), folder / "labelling.onnx")
    (scores,) = OpenVINO(folder / "labelling.onnx")({"image": images}).values()
    np.savez(folder / "data.npz", images=images, labels=scores.argmax(1))
    return Path("data.npz")


def report(path: str = "r.json") -> Report:
    return Report.model_validate_json(Path(path).read_text())


def options(budget: Budget, spec: str = "nd", **more: Any) -> Options:
    """Of a run whose times are planned; paper: what its machine is like."""
    machine = partial(PaperMachine, per_mac=AS_28, **more.pop("paper", {}))
    return run_options(passes.parse(spec), budget, threads=1, precision="f32", machine=machine, **more)


def rewritten(model: Path, budget: Budget, spec: str = "nd", **more: Any) -> Report:
    return pipeline.run(model, Path("fast.onnx"), options(budget, spec, **more))


def rows(found: Report) -> dict[str, Layer]:
    return {layer.name: layer for layer in found.layers}


# ------------------------------------------------------------------------------------------------ on a machine on paper


def test_a_speedup_is_reached_and_its_rows_say_how(model: Path) -> None:
    found = rewritten(model, Budget("speedup", 1.35))
    assert found.latency_ms is not None
    assert 1.35 <= found.latency_ms.speedup <= 1.35 * 1.04
    assert found.latency_ms.before / found.latency_ms.after == pytest.approx(found.latency_ms.speedup)
    assert found.budget == {"speedup": 1.35}
    assert not found.warnings
    before = 1e6 * (EACH + 64 * 64 * 9 * SIDE**2 * AS_28)
    done = [layer for layer in found.layers if layer.status == "done"]
    assert done
    for layer in done:
        assert layer.macs is not None
        nodes = 2 * int(layer.setting["nd"]["rank"])  # type: ignore[arg-type]
        assert layer.latency_us == pytest.approx((before, 1e6 * (nodes * EACH + layer.macs[1] * AS_28)))
        assert layer.latency_predicted_us == pytest.approx(layer.latency_us[1], rel=0.3)
    for layer in found.layers:
        if layer.status == "kept":
            assert layer.latency_us == pytest.approx((before, before))
            assert layer.latency_predicted_us is None
    assert rows(found)["scores"].latency_us is None  # nothing that could be rewritten


def test_a_layer_that_is_slower_in_place_goes_back(model: Path) -> None:
    found = rewritten(model, Budget("speedup", 1.5), paper={"slow": {"b": 9.0}})
    layer = rows(found)["b"]
    assert (layer.status, layer.setting) == ("reverted", {})
    assert layer.reason.startswith("in place it took")
    assert layer.latency_us is not None
    assert layer.latency_us[0] == layer.latency_us[1]
    assert {name for name, layer in rows(found).items() if layer.status == "done"} <= {"a", "c"}


def test_a_layer_that_counters_do_not_show_counts_with_the_whole(model: Path) -> None:
    found = rewritten(model, Budget("speedup", 1.8), paper={"hidden": "b"})
    layer = rows(found)["b"]
    assert (layer.status, layer.latency_us) == ("done", None)
    slow = rewritten(model, Budget("speedup", 1.5), paper={"hidden": "b", "slow": {"b": 9.0}})
    layer = rows(slow)["b"]
    assert (layer.status, layer.latency_us) == ("reverted", None)
    assert layer.reason.startswith("counters do not show it")


def test_noise_is_in_the_report(model: Path) -> None:
    rng = np.random.default_rng(0)
    found = rewritten(model, Budget("speedup", 1.2), paper={"noise": lambda: float(rng.lognormal(0, 0.3))})
    assert any("too noisy to tell latencies 6 % apart" in text for text in found.warnings)


def test_noise_is_named_where_a_speedup_is_out_of_reach(model: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(BudgetError, match=r"cannot be reached.*too noisy to tell .*: try again when it does less"):
        rewritten(model, Budget("speedup", 99), paper={"noise": lambda: float(rng.lognormal(0, 0.3))})
    with pytest.raises(BudgetError) as e:
        rewritten(model, Budget("speedup", 99))
    assert "noisy" not in str(e.value)


def test_a_saved_plan_gives_the_same_bytes(model: Path) -> None:
    rewritten(model, Budget("speedup", 1.3), save_plan=Path("plan.json"))
    again = options(Budget("pinned"), plan=Path("plan.json"), save_plan=Path("again.json"))
    pipeline.run(model, Path("again.onnx"), again)
    assert Path("fast.onnx").read_bytes() == Path("again.onnx").read_bytes()
    saved, second = (json.loads(Path(name).read_text()) for name in ("plan.json", "again.json"))
    assert saved["layers"] == second["layers"]
    assert saved["passes"] == ["nd"]


def test_max_drop_is_kept_on_the_validation_data(model: Path, data: Path) -> None:
    found = rewritten(model, Budget("max_drop", 10.0), "sd,nd", calibration=partial(open_feeds, data))
    assert found.metric is not None
    assert found.latency_ms is not None
    assert found.metric.before == 100
    assert found.metric.after >= 90
    assert found.latency_ms.speedup > 1
    assert found.metric.samples == 30  # what a drop of 10 points needs, which leaves enough of 100 to fit to
    assert not any("only roughly" in text for text in found.warnings)


def test_max_error_is_kept_by_the_worst_output_without_labels(model: Path, data: Path) -> None:
    images = np.load(data)["images"]
    found = rewritten(model, Budget("max_error", 0.4), "cd", calibration=lambda inputs: open_feeds(images, inputs))
    errors = found.verified["the original"].outputs
    assert errors
    assert 0 < max(error or 0.0 for error in errors.values()) <= 0.4
    assert found.budget == {"max_error": 0.4}
    assert any(text.startswith("the error is measured on 20 samples") for text in found.warnings)
    (chosen,) = [one for one in found.plans if one.chosen]
    assert 0 < chosen.loss <= 40
    assert found.latency_ms is not None
    assert found.latency_ms.speedup > 1


def convolutions(compiled: Any) -> float:
    """A metric that falls by a point for each layer that becomes two."""
    kinds = [one.get_rt_info()["layerType"] for one in compiled.get_runtime_model().get_ops()]
    return -float(kinds.count("Convolution"))


def test_where_time_is_over_after_a_fit_that_lost_too_much_a_part_of_it_is_taken_as_it_is(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric falls by a point for each layer that is rewritten, and two may be: the first fit has three."""
    seconds, fitted = [0.0], Counter[str]()
    monkeypatch.setattr(pipeline, "Clock", lambda: Clock(lambda: seconds[0]))
    moments = Rewriter._moments

    def counted(self: Rewriter, site: Site, walk: Walk | None) -> Moments | None:
        fitted.update([site.name])
        return moments(self, site, walk)

    monkeypatch.setattr(Rewriter, "_moments", counted)

    def listen(stage: str, _done: int, _total: int) -> None:
        if stage.startswith("fit 1"):
            seconds[0] = 1e6

    given = options(
        Budget("max_drop", 2.0), "cd", calibration=partial(open_feeds, data), metric=convolutions, time_limit=1000.0
    )
    found = pipeline.run(model, Path("fast.onnx"), given, listen)
    assert [layer.status for layer in found.layers[:3]] == ["done", "kept", "kept"]
    assert all(rows(found)[name].reason.startswith(SHORTENED) for name in "bc")
    assert [(one.loss, one.chosen) for one in found.plans] == [(3.0, False), (1.0, True)]
    assert fitted == {"a": 1, "b": 1, "c": 1}
    assert (
        "--time-limit left no time to time other plans, nor to fit another: more time may give a faster model"
        in found.warnings
    )


@pytest.mark.parametrize("drop", [1.0, 2.0])
def test_a_run_that_goes_on_late_keeps_the_plan_that_it_had(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, drop: float
) -> None:
    """It was cut off in its second fit; parts of the first plan are not what was being fitted."""
    seconds = [0.0]
    monkeypatch.setattr(pipeline, "Clock", lambda: Clock(lambda: seconds[0]))
    given = options(
        Budget("max_drop", drop), "cd", calibration=partial(open_feeds, data), metric=convolutions, time_limit=1000.0
    )
    pipeline.run(model, Path("whole.onnx"), given)

    def cut_off(stage: str, _done: int, _total: int) -> None:
        if stage.startswith("fit 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(model, Path("fast.onnx"), given, cut_off)
    seconds[0] = 1e6
    pipeline.run(model, Path("fast.onnx"), changed_options(given, resume=True))
    assert filecmp.cmp("fast.onnx", "whole.onnx", shallow=False)


@pytest.mark.parametrize("stage", ["timing plans", f"fit 1 of at most {MOST_FITS}"])
def test_a_run_that_was_cut_off_goes_on_with_the_plan_that_it_had(model: Path, data: Path, stage: str) -> None:
    budget = Budget("speedup", 1.2) if stage == "timing plans" else Budget("max_drop", 10.0)
    calibration = partial(open_feeds, data)
    given = options(budget, calibration=calibration, save_plan=Path("plan.json"))

    class CutOffError(Exception):
        pass

    def listen(now: str, done: int, _total: int) -> None:
        if now == stage and done >= (2 if stage.startswith("fit") else 0):
            raise CutOffError

    with pytest.raises(CutOffError):
        pipeline.run(model, Path("out.onnx"), given, listen)
    folder = Path(".out.onnx.resume")
    table = (folder / "table.json").read_text()
    timed = list(folder.glob("fit*/timed_plan.json"))
    records = sorted(p.name for p in folder.glob("fit0/*.npz"))
    pipeline.run(model, Path("out.onnx"), changed_options(given, resume=True))
    assert not folder.exists()
    assert json.loads(table)["candidates"]
    assert len(timed) == (1 if stage.startswith("fit") else 0)
    assert len(records) == (2 if stage.startswith("fit") else 0)
    pipeline.run(
        model, Path("planned.onnx"), options(Budget("pinned"), calibration=calibration, plan=Path("plan.json"))
    )
    assert filecmp.cmp("out.onnx", "planned.onnx", shallow=False)  # a diff of bytes would take minutes


def test_a_run_that_is_cut_off_between_fits_that_plans_ask_for_gives_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a composition is fitted, after one of them, and before the plan is."""
    monkeypatch.setattr(plan, "NARROW", 0)
    model, images = folder / "two.onnx", np.random.default_rng(0).standard_normal((40, 48, 7, 7)).repeat(2, 2)
    text = """(float[batch,48,14,7] image) => (float[batch,4] scores) {
        a = Conv<pads = [1,1,1,1]>(image, w1)  r = Relu(a)
        b = Conv<pads = [1,1,1,1]>(r, w2)
        p = GlobalAveragePool(b)  f = Flatten(p)  scores = Gemm(f, w3)
    }"""
    weights = {f"w{i}": normal(48, 48, 3, 3, seed=i) for i in (1, 2)}
    onnx.save(network(text, **weights, w3=normal(48, 4)), model)
    calibration = partial(open_feeds, images.astype(np.float32))
    given = options(Budget("speedup", 2.0), "cd,nd:form=dw-pw", calibration=calibration)
    stages: list[str] = []
    pipeline.run(model, Path("whole.onnx"), given, lambda stage, *_: stages.append(stage))
    assert stages.count("fitting candidates") >= 2

    class CutOffError(Exception):
        pass

    begun = False
    for stage, times in (("fitting candidates", 1), ("fitting candidates", 2), ("rewriting", 1)):
        seen: list[str] = []

        def listen(now: str, *_: int, stage: str = stage, times: int = times, seen: list[str] = seen) -> None:
            seen.append(now)
            if seen.count(stage) == times:
                raise CutOffError

        with pytest.raises(CutOffError):
            pipeline.run(model, Path("out.onnx"), changed_options(given, resume=begun), listen)
        begun = True
    pipeline.run(model, Path("out.onnx"), changed_options(given, resume=True))
    assert filecmp.cmp("out.onnx", "whole.onnx", shallow=False)


def test_a_table_is_the_same_after_it_was_kept() -> None:
    known = LatencyTable(table().candidates, 3e-4, {"a": 1e-4, "b": 1e-4}, {"a": "slow"}, 0.9)
    again = unpack_table(json.loads(json.dumps(pack_table(known))))
    assert again == known


def test_a_speedup_out_of_reach_is_refused_with_what_was_measured(model: Path) -> None:
    with pytest.raises(BudgetError) as refusal:
        rewritten(model, Budget("speedup", 500))
    offered = re.search(r"the best measured is ([\d.]+) times as fast; ask for --speedup ([\d.]+)", str(refusal.value))
    assert offered
    assert not Path("fast.onnx").exists()
    found = rewritten(model, Budget("speedup", float(offered[2])))
    assert found.latency_ms is not None
    assert float(offered[2]) <= found.latency_ms.speedup <= float(offered[1]) + 0.01


def test_nothing_is_faster(net_of_one: Path) -> None:
    """A convolution of so few MACs that more nodes only take more time."""
    with pytest.raises(BudgetError, match="no rewrite was measured faster than the original"):
        rewritten(net_of_one, Budget("speedup", 1.5))
    assert not Path("fast.onnx").exists()


@pytest.fixture
def net_of_one(folder: Path) -> Path:
    text = """(float[1,2,6,6] image) => (float[1,2,6,6] y) { y = Conv<pads = [1,1,1,1]>(image, w) }"""
    onnx.save(network(text, w=normal(2, 2, 3, 3)), folder / "one.onnx")
    return Path("one.onnx")


# ---------------------------------------------------------------------------------------------------- on this machine


def test_a_run_on_this_machine_gives_a_report_of_the_same_form_or_says_what_it_measured(
    ndpass: Command, model: Path
) -> None:
    """Which of the two depends on the machine and on what else it does."""
    how = ("--passes", "sd:rank=8:order=vh", "--speedup", 1.2, "--threads", 1, "--precision", "f32")
    done = ndpass("run", model, *how, "-o", "fast.onnx", "--json", "r.json")
    assert done.code in (0, 4), done.err
    assert Path("fast.onnx").exists() == Path("r.json").exists() == (done.code == 0)
    if done.code == 4:
        assert "measured" in done.err or "slower" in done.err
        return
    found = report()
    assert found.target.precision == "f32"
    assert found.latency_ms is not None
    assert found.latency_ms.before / found.latency_ms.after == pytest.approx(found.latency_ms.speedup)
    for layer in found.layers:
        assert layer.latency_us is None or all(0 < us < math.inf for us in layer.latency_us)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--speedup", 1), "more than 1"),
        (("--speedup", "nan"), "more than 1"),
        (("--max-drop", 0), "above 0"),
        (("--max-drop", 1), "--max-drop is measured on data"),
        (("--speedup", 2, "--macs", 0.5), "give one budget"),
        (("--plan", "p.json", "--macs", 0.5), "leave --macs out"),
    ],
)
def test_budgets_that_make_no_sense(ndpass: Command, model: Path, arguments: tuple[object, ...], said: str) -> None:
    done = ndpass("run", model, *arguments, "-o", "fast.onnx")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1 or "reading" in done.err


def test_a_drop_that_the_samples_cannot_tell(ndpass: Command, model: Path, data: Path) -> None:
    done = ndpass("run", model, "--calibration", data, "--max-drop", 1, "-o", "fast.onnx")  # a fifth of 100 is held out
    assert done.code == 2
    assert "one of the 20 samples held out of 100 is 5 points: give --calibration with at least 600" in done.err
    assert "or --validation with 300, or allow --max-drop 15, or use --max-error" in done.err


def test_resolution_of_a_drop_in_answers_of_which_a_sample_has_several() -> None:
    assert check_resolution(20, 1.0, 100, answers=300) is None
    assert check_resolution(20, 1.0, 100, answers=120) == (
        "120 answers in 20 samples held out of 100 tell a drop of 1 points only roughly: give --calibration with at "
        "least 250 or --validation with 50, or allow --max-drop 2.5, or use --max-error"
    )
    with pytest.raises(UsageError, match="one of the 50 answers in 20 validation samples is 2 points: give --valid"):
        check_resolution(20, 1.0, answers=50)


def test_resolution_of_a_drop() -> None:
    assert check_resolution(300, 1.0) is None
    assert "give --validation with at least 300, or allow --max-drop 1.5, or use" in (check_resolution(200, 1.0) or "")
    assert check_resolution(24, 12.5) is None
    assert "allow --max-drop 12.5," in (check_resolution(24, 12.4) or "")
    with pytest.raises(UsageError):
        check_resolution(99, 1.0)


def test_what_is_held_out_for_a_drop() -> None:
    """A fifth, or what the drop needs where half are left to fit to."""
    assert held_out(5000, None) == held_out(5000, 1.0) == 0.2
    assert held_out(1000, 1.0) == 0.3
    assert held_out(600, 1.0) == 0.5
    assert held_out(400, 1.0) == 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "not a plan"),
        ("{}", "not a plan: model"),
        ('{"model": "x", "passes": ["nd"], "layers": {}}', "made for another model"),
    ],
)
def test_files_that_are_no_plans_for_this_model(ndpass: Command, model: Path, text: str, said: str) -> None:
    Path("p.json").write_text(text)
    done = ndpass("run", model, "--plan", "p.json", "-o", "fast.onnx")
    assert done.code == 3
    assert said in done.err
    assert not Path("fast.onnx").exists()


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"zzz": {"nd": {"rank": 1, "form": "dw-pw"}}}, "layer 'zzz'"),
        ({"a": {"sd": {"rank": 1, "order": "vh"}}}, "names pass 'sd'"),
        ({"a": {"nd": {"rank": 1}}}, "lacks form"),
        ({"a": {"nd": {"rank": 0, "form": "dw-pw"}}}, "at least 1"),
    ],
)
def test_plans_that_do_not_fit(ndpass: Command, model: Path, layers: dict[str, Any], said: str) -> None:
    ndpass("run", model, "--energy", 0.3, "-o", "one.onnx", "--save-plan", "p.json")
    plan = json.loads(Path("p.json").read_text())
    names = list(plan["layers"])
    plan["layers"] = {names[0] if key == "a" else key: value for key, value in layers.items()}
    Path("p.json").write_text(json.dumps(plan))
    done = ndpass("run", model, "--plan", "p.json", "-o", "fast.onnx")
    assert done.code == 3, done.err
    assert said in done.err


def test_budget_error_is_an_exit_code_of_its_own() -> None:
    assert BudgetError("x").exit_code == 4
