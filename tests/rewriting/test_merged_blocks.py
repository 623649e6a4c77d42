"""Residual blocks as one convolution through the pipeline: planted branches, drift, rows, budgets, plans, refusals."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from models import EXACT, network, normal, relative, run_options, run_ort
from numpy.typing import NDArray

from ndpass.calibration.feeds import open_feeds
from ndpass.errors import InputError
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.report import Layer, Report
from ndpass.run import pipeline
from ndpass.run.options import Options
from ndpass.run.plan_file import PlanFile

F = NDArray[np.floating[Any]]

pytestmark = pytest.mark.usefixtures("folder")

BLOCKS = """(float[N,3,8,8] image) => (float[N,5] scores, float[N,12,4,4] i) {
    a = Conv<pads=[1,1,1,1]>(image, W1)  r = Relu(a)
    b = Conv<pads=[2,2,2,2]>(r, W2, B2)  s = Relu(b)  c = Conv(s, W3)  d = Add(c, r)  e = Relu(d)
    q = Conv<strides=[2,2]>(e, W6)  f = Conv<strides=[2,2], pads=[1,1,1,1]>(e, W4, B4)  g = Relu(f)
    h = Conv(g, W5)  i = Add(h, q)  j = Relu(i)
    p = GlobalAveragePool(j)  v = Flatten(p)  scores = Gemm<transB=1>(v, W7)
}"""


def blocks(offset: float = 100.0) -> onnx.ModelProto:
    """Two residual blocks, the second with a stride and a projection. offset: of the biases before the inner ReLUs, so
    that with a large one these never clip, and each branch is one convolution."""
    return network(
        BLOCKS,
        W1=normal(8, 3, 3, 3),
        W2=normal(8, 8, 5, 5),
        B2=np.full(8, offset, np.float32),
        W3=normal(8, 8, 1, 1, seed=1) / 2,
        W4=normal(12, 8, 3, 3),
        B4=np.full(12, offset, np.float32),
        W5=normal(12, 12, 1, 1) / 2,
        W6=normal(12, 8, 1, 1),
        W7=normal(5, 12),
    )


def pooled() -> onnx.ModelProto:
    """Two convolutions with a pool between: no chain."""
    return network(
        """(float[N,3,8,8] image) => (float[N,5,3,3] y) {
            a = Conv<pads=[1,1,1,1]>(image, W1)  m = MaxPool<kernel_shape=[2,2], strides=[1,1]>(a)
            r = Relu(m)  y = Conv<strides=[2,2]>(r, W2)
        }""",
        W1=normal(8, 3, 3, 3),
        W2=normal(5, 8, 3, 3),
    )


def chained(offset: float = 100.0) -> onnx.ModelProto:
    """Two chains in a row, SiLU between and behind, and a layer that reads them. offset: of the biases of inner layers:
    with a large one SiLU lets all through, so that each chain is one convolution."""
    silus = {i: f"g{i} = Sigmoid({i})  r{i} = Mul({i}, g{i})" for i in "abcd"}
    return network(
        f"""(float[N,3,8,8] image) => (float[N,5] scores) {{
            o = Conv<pads=[1,1,1,1]>(image, W0)  p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(o)
            a = Conv<pads=[2,2,2,2]>(p, W1, B1)  {silus["a"]}  b = Conv(ra, W2)  {silus["b"]}
            c = Conv<pads=[2,2,2,2]>(rb, W3, B3)  {silus["c"]}  d = Conv(rc, W4)  {silus["d"]}
            v = GlobalAveragePool(rd)  f = Flatten(v)  scores = Gemm<transB=1>(f, W5)
        }}""",
        W0=normal(8, 3, 3, 3),
        W1=normal(12, 8, 3, 3),
        B1=np.full(12, offset, np.float32),
        W2=normal(10, 12, 3, 3, seed=1) / 4,
        W3=normal(12, 10, 3, 3, seed=2) / 2,
        B3=np.full(12, offset, np.float32),
        W4=normal(10, 12, 3, 3, seed=3) / 4,
        W5=normal(5, 10),
    )


def separable() -> onnx.ModelProto:
    """Branches that never clip, of rank 2 in their outputs, and with one spatial kernel for all channels, which is of
    rank 1: what they become as one convolution, nd at rank 1, cd at rank 2 and sd at rank 2 write without error."""
    model = blocks()
    arrays = {t.name: t for t in model.graph.initializer}
    for name in ("W2", "W4"):
        w = onnx.numpy_helper.to_array(arrays[name])
        line = normal(w.shape[2], seed=3)
        arrays[name].CopyFrom(onnx.numpy_helper.from_array(w[:, :, :1, :1] * np.outer(line, line), name))
    for name in ("W3", "W5"):
        w = onnx.numpy_helper.to_array(arrays[name])
        low = w[:, :2, 0, 0] @ w[:2, :, 0, 0]
        arrays[name].CopyFrom(onnx.numpy_helper.from_array(low[:, :, None, None], name))
    return model


def constant() -> onnx.ModelProto:
    """The same with branches that are constant: their inner ReLUs let nothing through, and their last layers have a
    bias."""
    model = blocks(offset=-100.0)
    for node in (n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in ("W3", "W5")):
        width = 8 if node.input[1] == "W3" else 12
        node.input.append(f"mean{width}")
        model.graph.initializer.append(onnx.numpy_helper.from_array(normal(width, 1)[:, 0], f"mean{width}"))
    return model


def added_constants(path: str) -> int:
    """How many sums of a file are of a map and one number a channel, the biases of an IR's layers left out."""
    if path.endswith(".onnx"):
        model = onnx.load(path)
        known = {t.name for t in model.graph.initializer}
        return sum(n.op_type == "Add" and any(name in known for name in n.input) for n in model.graph.node)
    adds = [op for op in ov.Core().read_model(path).get_ops() if op.get_type_name() == "Add"]
    kinds = [{op.input_value(i).get_node().get_type_name() for i in (0, 1)} for op in adds]
    return sum("Constant" in kind and not kind & {"Convolution", "MatMul"} for kind in kinds)


def images(count: int, seed: int = 0) -> F:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def options_for(spec: str, budget: Budget | None = None, count: int = 150, **changed: Any) -> Options:
    return run_options(
        parse(spec),
        budget or Budget("pinned"),
        calibration=lambda inputs: open_feeds(images(count), inputs),
        validation=lambda inputs: open_feeds(images(16, seed=1), inputs),
        threads=1,
        **changed,
    )


def run(
    model: onnx.ModelProto | Path, spec: str, budget: Budget | None = None, output: str = "out.onnx", **changed: Any
) -> Report:
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, "in.onnx")
        model = Path("in.onnx")
    return pipeline.run(model, Path(output), options_for(spec, budget, **changed))


def by_name(report: Report) -> dict[str, Layer]:
    return {layer.name: layer for layer in report.layers}


def answers(path: str, x: F) -> list[Any]:
    if path.endswith(".onnx"):
        return run_ort(onnx.load(path), {"image": x})
    compiled = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(x).values())


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_branches_that_are_linear_are_recovered(kind: str) -> None:
    """An identity with 5x5 and 1x1 behind it, and a projection with a strided 3x3 and 1x1."""
    onnx.save(blocks(), "in.onnx")
    if kind == "xml":
        ov.save_model(ov.Core().read_model("in.onnx"), "in.xml", compress_to_fp16=False)
    report = run(Path(f"in.{kind}"), "bm:kernel=full", output=f"out.{kind}")
    x = images(8, seed=2)
    assert relative(answers(f"out.{kind}", x), answers(f"in.{kind}", x)) < 1e-3
    merged = [row for row in report.layers if row.setting]
    assert [row.setting for row in merged] == [{"bm": {"kernel": 5}}, {"bm": {"kernel": 3}}]
    assert all(row.error_measured == pytest.approx(0, abs=5e-3) for row in merged)  # the prior lets half through


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_branches_that_are_constant_are_dropped_without_error(kind: str) -> None:
    """The mean of the first is added to the shortcut, which a ReLU makes, that of the second to a projection's bias."""
    onnx.save(constant(), "in.onnx")
    if kind == "xml":
        ov.save_model(ov.Core().read_model("in.onnx"), "in.xml", compress_to_fp16=False)
    report = run(Path(f"in.{kind}"), "bm:kernel=none", output=f"out.{kind}")
    x = images(8, seed=2)
    assert relative(answers(f"out.{kind}", x), answers(f"in.{kind}", x)) < EXACT
    dropped = [row for row in report.layers if row.setting]
    assert [row.setting for row in dropped] == [{"bm": {"kernel": "none"}}] * 2
    assert [row.error_predicted for row in dropped] == [row.error_measured for row in dropped] == [0, 0]
    assert [row.macs[1] for row in report.layers if row.macs and row.reason.startswith("dropped with")] == [0, 0]
    assert [row.macs[1] for row in dropped if row.macs] == [0, 0]
    assert sum(row.macs[1] for row in report.layers if row.macs) == report.model.macs[1]
    assert dropped[0].reason.endswith(f"{dropped[0].name} is dropped, its mean stays")
    assert added_constants(f"out.{kind}") == 1


def test_a_branch_that_varies_leaves_its_mean() -> None:
    """Behind each sum every channel has the original's mean."""
    report = run(blocks(offset=0.1), "bm:kernel=none")
    x = images(150)
    before, after = (answers(path, x)[1] for path in ("in.onnx", "out.onnx"))
    np.testing.assert_allclose(after.mean((0, 2, 3)), before.mean((0, 2, 3)), atol=1e-4 * before.std())
    assert [by_name(report)[name].error_measured for name in "ch"] == [1.0, 1.0]
    assert report.model.macs[1] == sum(row.macs[1] for row in report.layers if row.macs)


def test_a_block_makes_up_for_what_those_before_it_did_to_the_shortcut() -> None:
    """Behind the second sum the mean of every channel is the original's, though the shortcut's is another now."""
    run(blocks(offset=0.1), "bm:kernel=1")
    x = images(150)
    before, after = (answers(path, x)[1] for path in ("in.onnx", "out.onnx"))
    spread = before.std((0, 2, 3))
    assert (np.abs(after - before).std((0, 2, 3)) > 0.1 * spread).any()  # it is not the same
    np.testing.assert_allclose(after.mean((0, 2, 3)), before.mean((0, 2, 3)), atol=1e-4 * spread.max())


def test_every_layer_has_its_row_and_the_macs_add_up() -> None:
    report = run(blocks(), "bm:kernel=3")
    rows = by_name(report)
    assert sum(row.macs[1] for row in report.layers if row.macs) == report.model.macs[1]
    first, last = (next(row for row in report.layers if row.setting and row.macs), None)
    assert last is None
    members = [row for row in report.layers if row.reason.startswith("merged into")]
    assert [row.macs[1] for row in members if row.macs] == [0, 0]
    assert all(row.status == "done" for row in members)
    assert first.reason == f"stands for {members[0].name}, {first.name}"
    assert rows[members[0].name].reason == f"merged into '{first.name}'"


def test_what_stays_behind_a_merged_block_is_fitted_anew() -> None:
    report = run(blocks(offset=0.1), "bm:kernel=1")
    assert [row.name for row in report.layers if "refitted" in row.reason] == ["q", "scores"]


@pytest.mark.parametrize("kind", ["onnx", "xml"])
@pytest.mark.parametrize("behind", ["nd:rank=1", "cd:rank=2", "sd:rank=2", "cd:rank=2,nd:rank=1"])
def test_what_merging_leaves_is_rewritten_by_the_passes_behind(behind: str, kind: str) -> None:
    """Both branches without error, in the layers that they become and in no other."""
    onnx.save(separable(), "in.onnx")
    if kind == "xml":
        ov.save_model(ov.Core().read_model("in.onnx"), "in.xml", compress_to_fp16=False)
    report = run(
        Path(f"in.{kind}"), f"bm:kernel=full,{behind}", output=f"out.{kind}", ignore=("re:(a|q|scores|v)(/.*)?",)
    )
    x = images(8, seed=2)
    assert relative(answers(f"out.{kind}", x), answers(f"in.{kind}", x)) < 2e-3
    merged = [row for row in report.layers if row.setting]
    names = ["bm", *(one.partition(":")[0] for one in behind.split(","))]
    assert [list(row.setting) for row in merged] == [names] * 2
    assert all(row.error_measured == pytest.approx(0, abs=5e-3) for row in merged)  # the prior lets half through
    assert sum(row.macs[1] for row in report.layers if row.macs) == report.model.macs[1]
    alone = run(Path(f"in.{kind}"), "bm:kernel=full", output=f"alone.{kind}")
    assert report.model.macs[1] < alone.model.macs[1]


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ("bm", 0.6),
        ("cp,sd,bm", 0.3),
        ("cp,sd,bm", 0.7),
        ("bm,cd", 0.3),
        ("bm,nd", 0.4),
        ("bm,sd", 0.3),
        ("bm,cp,cd,sd,nd", 0.2),
    ],
)
def test_a_budget_of_macs_is_kept_whatever_competes(spec: str, share: float) -> None:
    report = run(blocks(offset=0.1), spec, Budget("macs", share))
    before, after = report.model.macs
    assert after <= share * before


@pytest.mark.parametrize(
    ("spec", "budget"),
    [
        ("bm", Budget("macs", 0.6)),
        ("bm:kernel=none", Budget("pinned")),
        ("bm:kernel=full,nd:rank=1", Budget("pinned")),
        ("bm,cd,sd,nd", Budget("macs", 0.25)),
    ],
)
def test_a_plan_gives_the_same_model_again(spec: str, budget: Budget) -> None:
    run(blocks(offset=0.1), spec, budget, save_plan=Path("plan.json"))
    first = run_ort(onnx.load("out.onnx"), {"image": images(4)})
    assert any("bm" in own for own in PlanFile.read(Path("plan.json")).layers.values())
    run(Path("in.onnx"), spec.replace(":kernel=none", ""), plan=Path("plan.json"), output="again.onnx")
    assert relative(run_ort(onnx.load("again.onnx"), {"image": images(4)}), first) == 0


def test_a_plan_that_merges_what_is_no_block_is_refused() -> None:
    run(blocks(offset=0.1), "bm:kernel=1", save_plan=Path("plan.json"))
    plan = PlanFile.read(Path("plan.json"))
    plan.layers["b"] = {"bm": {"kernel": 1}}
    plan.save(Path("plan.json"))
    with pytest.raises(InputError, match="it is the last layer of none"):
        run(Path("in.onnx"), "bm", plan=Path("plan.json"))


def test_a_plan_with_a_pass_that_rewrites_nothing_that_merging_leaves_is_refused() -> None:
    run(blocks(offset=0.1), "cd,bm:kernel=1", Budget("macs", 0.6), save_plan=Path("plan.json"))
    plan = PlanFile.read(Path("plan.json"))
    plan.layers["c"] = {"bm": {"kernel": 1}, "cd": {"rank": 2}}
    plan.save(Path("plan.json"))
    with pytest.raises(InputError, match="has settings of bm, cd: beside bm there may be no other"):
        run(Path("in.onnx"), "cd,bm", plan=Path("plan.json"))


def test_a_block_with_a_depthwise_layer_is_merged(caplog: pytest.LogCaptureFixture) -> None:
    text = """(float[N,3,8,8] image) => (float[N,8,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(image, A)  b = Conv(a, B)  r = Relu(b)
        c = Conv<pads=[1,1,1,1], group=24>(r, C)  s = Relu(c)  d = Conv(s, D)  y = Add(a, d)
    }"""
    weights = {"A": normal(8, 3, 3, 3), "B": normal(24, 8, 1, 1), "C": normal(24, 1, 3, 3), "D": normal(8, 24, 1, 1)}
    report = run(network(text, **weights), "bm,sd", Budget("macs", 0.6))
    merged = by_name(report)["d"]
    assert merged.reason == "stands for b, c, d"
    assert "bm" in merged.setting
    assert not [record for record in caplog.records if "patches" in record.getMessage()]


def test_too_few_images_make_the_kernel_smaller_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    report = run(blocks(), "bm:kernel=full", count=3)  # 192 positions, 200 unknowns
    assert by_name(report)["c"].setting == {"bm": {"kernel": 3}}
    assert "block 'd': bm: the data are too few for a larger kernel" in caplog.text


def test_an_ignored_layer_keeps_its_block() -> None:
    report = run(blocks(), "bm:kernel=3", ignore=("re:b",))
    assert [row.name for row in report.layers if row.setting] == ["h"]


@pytest.mark.parametrize("spec", ["bm:kernel=1", "bm:kernel=none", "bm:kernel=3,cd:rank=2"])
def test_a_run_that_is_cut_off_goes_on(spec: str) -> None:
    class CutOffError(Exception):
        pass

    def listen(stage: str, done: int, _total: int) -> None:
        if (stage, done) == ("rewriting", 4):
            raise CutOffError

    onnx.save(blocks(offset=0.1), "in.onnx")
    wanted = run(Path("in.onnx"), spec, output="whole.onnx")
    chosen = options_for(spec)
    with pytest.raises(CutOffError):
        pipeline.run(Path("in.onnx"), Path("out.onnx"), chosen, listen)
    report = run(Path("in.onnx"), spec, resume=True)
    assert [row.setting for row in report.layers] == [row.setting for row in wanted.layers]
    assert filecmp.cmp("out.onnx", "whole.onnx", shallow=False)


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_chains_that_are_linear_are_recovered(kind: str) -> None:
    """Each as one 3x3 convolution; of what the 5x5 answers it leaves the border."""
    onnx.save(chained(), "in.onnx")
    ov.save_model(ov.Core().read_model("in.onnx"), "in.xml", compress_to_fp16=False)
    report = run(Path(f"in.{kind}"), "bm:kernel=3", output=f"out.{kind}")
    reasons = [row.reason for row in report.layers if row.status == "done"]
    assert [reason.split()[0] for reason in reasons] == ["merged", "stands", "merged", "stands"]
    dense = 64 * (27 * 8 + 9 * (8 * 10 + 10 * 10)) + 10 * 5
    assert report.model.macs[1] == dense
    loose, tight = (by_name(run(chained(), spec))["b"].error_measured for spec in ("bm:kernel=1", "bm:kernel=3"))
    assert tight is not None
    assert loose is not None
    assert tight < 0.5 * loose


def test_the_whole_field_of_a_linear_chain_is_exact() -> None:
    """1x1 and 3x3 are one 3x3."""
    model = chained()
    for name, seed in (("W1", 5), ("W3", 6)):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(normal(12, tensor.dims[1], 1, 1, seed=seed), name))
    for node in (n for n in model.graph.node if n.name in ("a", "c") or n.output[0] in ("a", "c")):
        node.attribute[0].ints[:] = [1, 1, 1, 1]
    run(model, "bm:kernel=full", count=300)
    assert relative(answers("out.onnx", images(4)), answers("in.onnx", images(4))) < 10 * EXACT  # of values near 100


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
@pytest.mark.parametrize("spec", ["bm", "bm,cp", "cp,bm,cd,sd,nd"])
def test_chains_keep_a_budget_of_macs_and_both_runtimes_agree(spec: str, share: float) -> None:
    """Neither a layer that goes is pruned, for that would save nothing, nor is a chain dropped for its mean."""
    report = run(chained(offset=0.1), spec, Budget("macs", share))
    before, after = report.model.macs
    assert after <= share * before
    assert all(row.macs is None or row.macs[1] > 0 or "merged into" in row.reason for row in report.layers)
    ov.save_model(ov.Core().read_model("out.onnx"), "again.xml", compress_to_fp16=False)
    assert relative(answers("out.onnx", images(4)), answers("again.xml", images(4))) < 1e-4


def test_networks_without_blocks_and_runs_without_data_say_why() -> None:
    for spec in ("bm:kernel=3", "bm:kernel=none"):
        with pytest.raises(InputError, match="it is in no residual branch, nor in a chain"):
            run(pooled(), spec)
        onnx.save(blocks(), "in.onnx")
        with pytest.raises(InputError, match="fitted to data only: give --calibration"):
            pipeline.run(Path("in.onnx"), Path("out.onnx"), run_options(parse(spec), Budget("pinned")))


def test_layers_that_nothing_changed_before_stay_as_they_are() -> None:
    """Beside the chain that is merged, not behind it; and weights that are whole numbers were never trained."""
    model = network(
        """(float[N,3,8,8] image) => (float[N,5,4,4] y, float[N,8,6,6] z, float[N,1,4,4] w) {
            o = Conv(image, O)  p = Relu(o)  a = Conv(p, A)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, B)
            s = MaxPool<kernel_shape=[1,1]>(p)  z = Conv(s, C)  t = MaxPool<kernel_shape=[1,1]>(y)  w = Conv(t, D)
        }""",
        O=normal(8, 3, 3, 3),
        A=normal(8, 8, 3, 3),
        B=normal(5, 8, 3, 3, seed=1),
        C=normal(8, 8, 1, 1),
        D=np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1),
    )
    rows = by_name(run(model, "bm:kernel=1"))
    assert rows["y"].reason == "stands for a, y"
    assert "refitted" not in rows["z"].reason
    assert "refitted" not in rows["w"].reason
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load("out.onnx").graph.initializer}
    for name in ("C", "D"):
        assert np.array_equal(
            kept[name], onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
        )
