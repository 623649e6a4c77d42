"""Layers that read the same channels are pruned together, whatever the budget, the road and what comes between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from models import network, normal, run_ort
from test_rewriter import F, by_name, images, run

from ndpass.errors import InputError
from ndpass.planning.candidate import Budget
from ndpass.run.plan_file import PlanFile

EXACT = 1e-4  # relative, of a network that loses only what nothing reads
READ = [0, 2, 3, 5, 7]  # channels of eight that layers read

pytestmark = pytest.mark.usefixtures("folder")


def only_read(weight: F) -> F:
    """The weight with the columns of all other channels zero."""
    weight[:, np.setdiff1d(np.arange(weight.shape[1]), READ)] = 0
    return weight


def fork() -> onnx.ModelProto:
    """Two layers of unlike kernels and strides read one map, a third behind a pool; each but some of its channels."""
    return network(
        """(float[N,3,8,8] image) => (float[N,6,8,8] p, float[N,4,4,4] q, float[N,5,4,4] s) {
            a = Conv<pads=[1,1,1,1]>(image, W1, B1)  r = Relu(a)
            p = Conv<pads=[1,1,1,1]>(r, W2)  q = Conv<strides=[2,2]>(r, W3)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)  s = Conv<pads=[1,1,1,1]>(m, W4)
        }""",
        W1=normal(8, 3, 3, 3),
        B1=normal(8),
        W2=only_read(normal(6, 8, 3, 3)),
        W3=only_read(normal(4, 8, 1, 1)),
        W4=only_read(normal(5, 8, 3, 3, seed=1)),
    )


def stream() -> onnx.ModelProto:
    """Two residual blocks; every layer that reads the stream reads the same channels of it."""
    return network(
        """(float[N,3,8,8] image) => (float[N,6,8,8] y) {
            s = Conv<pads=[1,1,1,1]>(image, W0)  t = Relu(s)
            a = Conv<pads=[1,1,1,1]>(t, W1)  ar = Relu(a)  b = Conv<pads=[1,1,1,1]>(ar, W2)  u = Add(b, t)  v = Relu(u)
            c = Conv<pads=[1,1,1,1]>(v, W3)  cr = Relu(c)  d = Conv<pads=[1,1,1,1]>(cr, W4)  w = Add(d, v)  z = Relu(w)
            y = Conv<pads=[1,1,1,1]>(z, W5)
        }""",
        W0=normal(8, 3, 3, 3),
        W1=only_read(normal(7, 8, 3, 3)),
        W2=normal(8, 7, 3, 3),
        W3=only_read(normal(6, 8, 3, 3)),
        W4=normal(8, 6, 3, 3),
        W5=only_read(normal(6, 8, 3, 3, seed=2)),
    )


def detector() -> onnx.ModelProto:
    """A C2f block, which splits a map and adds to a half of it, and a neck that resizes to the size of another map."""
    return network(
        """(float[N,3,H,W] image) => (float[N,5,H,W] y, float[N,4,P,Q] z) {
            s = Conv<pads=[1,1,1,1]>(image, W0)  t = Relu(s)  h, g = Split<axis=1>(t)
            a = Conv<pads=[1,1,1,1]>(g, W1)  ar = Relu(a)  b = Conv<pads=[1,1,1,1]>(ar, W2)  u = Add(b, g)
            c = Concat<axis=1>(h, g, u)  d = Conv(c, W3)  dr = Relu(d)
            e = Conv<pads=[1,1,1,1], strides=[2,2]>(dr, W4)  er = Relu(e)
            k = Shape(er)  l = Slice(k, zero, two)  m = Shape(image)  n = Slice(m, two, four)
            sizes = Concat<axis=0>(l, n)  r = Resize<mode="nearest">(er, , , sizes)
            y = Conv<pads=[1,1,1,1]>(r, W5)  z = Conv(er, W6)
        }""",
        W0=normal(16, 3, 3, 3),
        W1=only_read(normal(7, 8, 3, 3)),
        W2=normal(8, 7, 3, 3),
        W3=normal(10, 24, 1, 1),
        W4=normal(8, 10, 3, 3),
        W5=only_read(normal(5, 8, 3, 3)),
        W6=only_read(normal(4, 8, 1, 1)),
        zero=np.array([0]),
        two=np.array([2]),
        four=np.array([4]),
    )


def c2f(parts: bool) -> onnx.ModelProto:
    """A map that is split, and added to a half of it; parts: whether the sizes are given."""
    weight = normal(9, 24, 1, 1)
    weight[:, 8:16], weight[:, 16:] = only_read(weight[:, 8:16]), only_read(weight[:, 16:])
    return network(
        f"""(float[N,3,8,8] image) => (float[N,9,8,8] y) {{
            s = Conv<pads=[1,1,1,1]>(image, W0)  t = Relu(s)  h, g = Split<axis=1>(t{", parts" if parts else ""})
            a = Conv<pads=[1,1,1,1]>(g, W1)  ar = Relu(a)  b = Conv<pads=[1,1,1,1]>(ar, W2)  u = Add(b, g)
            c = Concat<axis=1>(h, g, u)  y = Conv(c, W3)
        }}""",
        W0=normal(16, 3, 3, 3),
        W1=only_read(normal(9, 8, 3, 3)),
        W2=normal(8, 9, 3, 3),
        W3=weight,
        **({"parts": np.array([8, 8])} if parts else {}),
    )


def as_ir(model: onnx.ModelProto) -> Path:
    onnx.save(model, "in.onnx")
    ov.save_model(ov.Core().read_model("in.onnx"), "in.xml", compress_to_fp16=False)
    return Path("in.xml")


def run_ov_file(path: str, feed: dict[str, F]) -> list[F]:
    """The answers of OpenVINO in f32."""
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(feed).values())


@pytest.mark.parametrize("road", ["onnx", "ir"])
@pytest.mark.parametrize(
    ("make", "readers"),
    [
        (fork, {"p", "q", "s"}),
        (stream, {"a", "c", "y"}),
        (partial(c2f, parts=True), {"a", "y"}),
        (partial(c2f, parts=False), {"a", "y"}),
    ],
)
def test_channels_that_no_reader_needs_go_and_nothing_is_lost(
    make: Callable[[], onnx.ModelProto], readers: set[str], road: str
) -> None:
    model = make()
    given, output = (model, "out.onnx") if road == "onnx" else (as_ir(model), "out.xml")
    report = run(given, f"cp:channels={len(READ)}", Budget("macs", 0.75), output=output)
    rows = [row for row in report.layers if row.setting]
    assert len(rows) == len(readers)
    assert road == "ir" or {row.name for row in rows} == readers
    assert all(row.setting["cp"]["channels"] == len(READ) for row in rows)
    assert all(row.macs[1] < row.macs[0] for row in rows if row.macs)
    feed = {"image": images(4, seed=3)}
    wanted = run_ort(model, feed)
    for found in [run_ov_file(output, feed), *([run_ort(onnx.load(output), feed)] if road == "onnx" else [])]:
        for before, after in zip(wanted, found, strict=True):
            assert np.abs(before - after).max() <= EXACT * np.abs(before).max()


def test_channels_go_through_a_split_and_a_resize_to_a_size_that_is_read_off() -> None:
    """Two layers behind the Resize and beside it lose what neither reads; those behind the Split what costs least."""
    model = detector()
    report = run(model, f"cp:channels={len(READ)}")
    rows = by_name(report)
    assert rows["y"].setting == rows["z"].setting == {"cp": {"channels": len(READ), "criterion": "greedy"}}
    assert rows["a"].setting == rows["d"].setting == rows["y"].setting
    assert rows["d"].shape == "10x24x1x1"
    assert rows["e"].macs[1] < rows["e"].macs[0]
    assert rows["y"].error_measured < 0.5
    after = onnx.load("out.onnx")
    for size in (8, 12):
        feed = {"image": np.resize(images(2, seed=3), (2, 3, size, size))}
        before, found = run_ort(model, feed), run_ort(after, feed)
        assert [a.shape for a in before] == [a.shape for a in found]
        assert all(np.isfinite(a).all() for a in found)


def test_a_layer_is_fitted_anew_to_the_channels_that_are_left_it() -> None:
    """Without data the lost columns are lost, with data others make up for them."""
    model = fork()
    report = run(model, "cp:channels=3")
    blind = run(model, "cp:channels=3:criterion=l2", Budget("pinned"))
    for name in ("p", "q", "s"):
        fitted, kept = by_name(report)[name], by_name(blind)[name]
        assert 0 < fitted.error_measured < 1
        assert kept.setting["cp"]["channels"] == 3


@pytest.mark.parametrize(("passes", "budget"), [("cp", Budget("energy", 0.8)), ("cp,cd", Budget("macs", 0.5))])
def test_budgets_prune_layers_that_read_the_same_alike(passes: str, budget: Budget) -> None:
    report = run(fork(), passes, budget)
    rows = [by_name(report)[name] for name in ("p", "q", "s")]
    assert len({str(row.setting.get("cp")) for row in rows}) == 1
    assert "cp" in rows[0].setting
    if budget.kind == "energy":
        assert all(row.error_measured <= 0.2 + 1e-6 for row in rows)
    else:
        assert report.model.macs[1] <= 0.5 * report.model.macs[0]


def gates() -> onnx.ModelProto:
    """Two squeeze-and-excite gates, one behind the other, and a layer: all of them read the same channels."""
    return network(
        """(float[N,3,8,8] image) => (float[N,4,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(image, W0)  r = Relu(a)
            p = GlobalAveragePool(r)  b = Conv(p, W1)  br = Relu(b)  c = Conv(br, W2)  cs = Sigmoid(c)  g = Mul(r, cs)
            q = GlobalAveragePool(g)  d = Conv(q, W3)  dr = Relu(d)  e = Conv(dr, W4)  es = Sigmoid(e)  h = Mul(g, es)
            y = Conv(h, W5)
        }""",
        W0=normal(8, 3, 3, 3),
        W1=normal(4, 8, 1, 1),
        W2=normal(8, 4, 1, 1),
        W3=normal(4, 8, 1, 1, seed=1),
        W4=normal(8, 4, 1, 1, seed=1),
        W5=normal(4, 8, 1, 1, seed=2),
    )


@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_where_the_first_of_several_readers_keeps_its_channels_the_others_are_rewritten_by_themselves(
    ending: str,
) -> None:
    """At the last of them the one before it, whose input is behind the frontier, is not looked at."""
    onnx.save(gates(), "net.onnx")
    if ending == "xml":
        ov.save_model(ov.Core().read_model("net.onnx"), "net.xml", compress_to_fp16=False)
    rows = by_name(run(Path(f"net.{ending}"), "cp:channels=8,cd:rank=2", output=f"out.{ending}"))
    assert not any("cp" in row.setting for row in rows.values())
    assert {rows[name].status for name in ("b", "d", "y")} <= {"done", "kept"}


def test_a_layer_that_is_ignored_keeps_its_channels_and_so_do_those_beside_it() -> None:
    with pytest.raises(InputError, match="p: cp: its input channels also feed 'q': it is left as it is"):
        run(fork(), "cp", Budget("energy", 0.5), ignore=("q",))
    rows = by_name(run(fork(), "cp,cd", Budget("macs", 0.8), ignore=("q",)))
    assert not any("cp" in row.setting for row in rows.values())
    assert rows["q"].macs[0] == rows["q"].macs[1]


def test_a_plan_that_prunes_them_unlike_is_refused() -> None:
    run(fork(), "cp", Budget("macs", 0.6), save_plan=Path("plan.json"))
    plan = PlanFile.model_validate_json(Path("plan.json").read_text())
    assert plan.layers["p"] == plan.layers["q"] == plan.layers["s"] != {}
    changed = plan.model_copy(update={"layers": {**plan.layers, "q": {}}})
    Path("plan.json").write_text(changed.model_dump_json())
    with pytest.raises(InputError, match="'p' and 'q' read the same channels: give both the same cp, or neither"):
        run(fork(), "cp", Budget("macs", 0.6), plan=Path("plan.json"))
