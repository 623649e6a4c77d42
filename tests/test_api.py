"""`ndpass.run` and `ndpass.convert_model`: every kind of model and of data, the roads give the same."""

from __future__ import annotations

import html
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from conftest import Command, small_network
from models import EXACT, SHARED, normal, relative
from numpy.typing import NDArray

import ndpass as package
from ndpass.errors import BudgetError, InputError, UsageError
from ndpass.measuring.runtime import OpenVINO
from ndpass.passes import ChannelDecomposition, NetworkDecoupling

IMAGES = normal(40, 3, 8, 8)
MOST = 1e-5  # difference of weights, relative to the largest


def halves(path: str) -> int:
    """How many constants in half precision are in it."""
    ops = ov.Core().read_model(path).get_ops()
    return sum(op.get_type_name() == "Constant" and op.get_element_type().to_string() == "f16" for op in ops)


def answers(model: Any) -> list[NDArray[np.float32]]:
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return list(OpenVINO(source)({"image": IMAGES}).values())


def ir_of(model: onnx.ModelProto | Path, path: Path, half: bool = False) -> Path:
    source = model if isinstance(model, Path) else model.SerializeToString()
    ov.save_model(ov.Core().read_model(source), path, compress_to_fp16=half)
    return path


def assert_refused(done: Any, code: int, *words: str) -> None:
    assert done.code == code, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert all(word in done.err for word in words), done.err


# -------------------------------------------------------------------------------------------------------- command line


def test_ir_in_and_out(folder: Path, ndpass: Command) -> None:
    model = small_network()
    ir_of(model, folder / "net.xml")
    assert ndpass("run", "net.xml", "--passes", "nd:rank=full", "-o", "out.xml", "-q").code == 0
    assert {p.name for p in folder.iterdir()} == {"net.xml", "net.bin", "out.xml", "out.bin"}
    assert relative(answers(model), answers(Path("out.xml"))) < 1e-4
    assert not halves("out.xml")


def test_without_a_name_the_result_is_of_the_same_kind(folder: Path, ndpass: Command) -> None:
    ir_of(small_network(), folder / "net.xml")
    assert ndpass("run", "net.xml", "--passes", "nd:rank=1", "-q").code == 0
    assert (folder / "net.ndpass.xml").exists()


@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_half_precision_is_stored_only_when_asked_for(folder: Path, ndpass: Command, kind: str) -> None:
    onnx.save(small_network(), folder / "net.onnx")
    ir_of(small_network(), folder / "net.xml")
    assert ndpass("run", f"net.{kind}", "--passes", "nd:rank=1", "-o", "out.xml", "-q", "--compress-to-fp16").code == 0
    assert halves("out.xml")
    done = ndpass("run", f"net.{kind}", "--passes", "nd:rank=1", "-o", "out.onnx", "-q", "--compress-to-fp16")
    assert_refused(done, 2, "--compress-to-fp16", "out.onnx")


def test_an_ir_in_half_precision_stays_so(folder: Path, ndpass: Command) -> None:
    for name, half in (("half", True), ("single", False)):
        ir_of(small_network(), folder / f"{name}.xml", half)
        done = ndpass("run", f"{name}.xml", "--passes", "nd:rank=1", "-o", f"{name}_out.xml", "-q", "--json", "r.json")
        assert done.code == 0, done.err
    sizes = {name: (folder / f"{name}_out.bin").stat().st_size for name in ("half", "single")}
    assert sizes["half"] < 0.55 * sizes["single"]
    assert not halves("single_out.xml")
    assert 0 < relative(answers(Path("single_out.xml")), answers(Path("half_out.xml"))) < 2e-3


def test_what_half_precision_rounds_off_is_measured(folder: Path, ndpass: Command) -> None:
    onnx.save(small_network(), folder / "net.onnx")
    moved = []
    for more in ([], ["--compress-to-fp16"]):
        done = ndpass("run", "net.onnx", "--passes", "nd:rank=full", "-o", "out.xml", "-q", "--json", "r.json", *more)
        assert done.code == 0, done.err
        moved.append(
            json.loads((folder / "r.json").read_text())["verified"]["the original on random inputs"]["relative_error"]
        )
    assert moved[0] < 1e-5 < moved[1]


def test_onnx_of_ir_is_refused(folder: Path, ndpass: Command) -> None:
    ir_of(small_network(), folder / "net.xml")
    assert_refused(ndpass("run", "net.xml", "-o", "out.onnx", "-q"), 2, "out.onnx", "name an .xml")


def test_inspect_evaluate_and_sensitivity_read_ir(folder: Path, ndpass: Command) -> None:
    ir_of(small_network(), folder / "net.xml", half=True)
    np.savez(folder / "data.npz", images=IMAGES, labels=np.arange(40) % 5)
    assert "3 layers" in ndpass("inspect", "net.xml").out
    assert "accuracy" in ndpass("evaluate", "net.xml", "--data", "data.npz").out
    assert "Conv" in ndpass("sensitivity", "net.xml", "--calibration", "data.npz").out


def damaged(folder: Path, name: str) -> None:
    """net.xml that cannot be read for the reason of this name."""
    path = ir_of(small_network(), folder / "net.xml")
    text, weights = path.read_text(), path.with_suffix(".bin")
    if name == "no .bin":
        weights.unlink()
    elif name == "short .bin":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif name == "long .bin":
        weights.write_bytes(weights.read_bytes() * 2)
    elif name == "newer":
        path.write_text(text.replace('version="11"', 'version="99"', 1))
    elif name == "truncated":
        path.write_text(text[: len(text) // 2])
    elif name == "no IR":
        path.write_text("<svg/>")
    else:
        values = np.fromfile(weights, np.float32)
        values[5] = np.nan
        values.tofile(weights)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("no .bin", "not beside it"),
        ("short .bin", "truncated"),
        ("long .bin", "another model"),
        ("newer", "version 99"),
        ("truncated", "truncated"),
        ("no IR", "not an OpenVINO IR"),
        ("NaN", "NaN"),
    ],
)
def test_ir_that_cannot_be_used(folder: Path, ndpass: Command, name: str, word: str) -> None:
    damaged(folder, name)
    assert_refused(ndpass("run", "net.xml", "-o", "out.xml", "-q"), 3, "net.", word)
    assert not (folder / "out.xml").exists()


# --------------------------------------------------------------------------------------------------------------- run


def test_the_roads_give_the_same(folder: Path) -> None:
    """ONNX file, ModelProto, IR file and ov.Model: one plan, one result."""
    model = small_network()
    onnx.save(model, folder / "net.onnx")
    ir = ir_of(model, folder / "net.xml")
    given = [folder / "net.onnx", model, str(ir), ov.Core().read_model(model.SerializeToString())]
    found = [package.run(m, "cd,nd", calibration=IMAGES, macs=0.6) for m in given]
    assert [isinstance(r.model, onnx.ModelProto) for r in found] == [True, True, False, False]
    settings = [[layer.setting for layer in r.report.layers] for r in found]
    assert settings[0] == settings[1] == settings[2] == settings[3]
    assert any(settings[0])
    assert len({r.report.model.macs for r in found}) == 1
    for other in found[1:]:
        assert relative(answers(found[0].model), answers(other.model)) < EXACT
    ours = sorted((onnx.numpy_helper.to_array(t) for t in found[0].model.graph.initializer), key=key)
    theirs = sorted((np.array(op.data) for op in found[3].model.get_ops() if op.get_type_name() == "Constant"), key=key)
    kernels = [[a for a in arrays if a.ndim >= 4 and max(a.shape) > 1] for arrays in (ours, theirs)]
    assert kernels[0]
    for a in kernels[0]:
        assert any(
            a.size == b.size and np.abs(a.ravel() - b.ravel()).max() < MOST * np.abs(a).max() for b in kernels[1]
        )


def key(array: NDArray[Any]) -> int:
    return array.size


def test_a_pipeline_is_run_with_its_passes() -> None:
    steps = [ChannelDecomposition(rank=4), NetworkDecoupling(rank=2)]
    result = package.Pipeline(steps)(small_network(), calibration=IMAGES)
    assert result.report.passes == ["cd", "nd"]
    again = package.run(small_network(), steps, calibration=IMAGES)
    assert result.model.SerializeToString() == again.model.SerializeToString()


def test_own_metric_and_int8_from_python() -> None:
    def norm(compiled: Any) -> float:
        return float(np.square(next(iter(compiled(IMAGES).values()))).mean())

    result = package.run(small_network(), "cd:rank=8", calibration=IMAGES, metric=norm, int8=True)
    assert isinstance(result.model, ov.Model)
    assert "FakeQuantize" in {op.get_type_name() for op in result.model.get_ops()}
    assert result.report.metric is not None
    assert result.report.metric.name == "norm"
    assert result.report.variants[3].metric == pytest.approx(norm(ov.compile_model(result.model, "CPU")), rel=1e-3)


def test_what_is_given_is_not_changed() -> None:
    model = small_network()
    before, other = model.SerializeToString(), ov.Core().read_model(model.SerializeToString())
    kinds = [op.get_type_name() for op in other.get_ordered_ops()]
    package.run(model, "nd:rank=1")
    package.run(other, "nd:rank=1")
    assert model.SerializeToString() == before
    assert [op.get_type_name() for op in other.get_ordered_ops()] == kinds


def stream() -> Iterator[NDArray[np.float32]]:
    yield from IMAGES


@pytest.mark.parametrize("data", [IMAGES, list(IMAGES), [{"image": x} for x in IMAGES], stream, "data.npy"])
def test_calibration_data_of_any_kind(folder: Path, data: Any) -> None:
    np.save(folder / "data.npy", IMAGES)
    result = package.run(small_network(), "cd:rank=8", calibration=data() if callable(data) else data)
    same = package.run(small_network(), "cd:rank=8", calibration=IMAGES)
    assert relative(answers(result.model), answers(same.model)) < EXACT
    assert result.report.metric is None or result.report.metric.samples == 8


@pytest.mark.parametrize("name", ["fast.xml", "fast.onnx"])
def test_a_result_is_saved(folder: Path, name: str) -> None:
    result = package.run(small_network(), [ChannelDecomposition(rank=8), NetworkDecoupling(rank=1)])
    result.save(name)
    result.save(name)  # saving takes nothing out of the model
    assert relative(answers(result.model), answers(folder / name)) < EXACT
    assert result.plan.passes == ["cd", "nd"]
    assert result.report.model.macs[1] < result.report.model.macs[0]


def test_an_openvino_model_is_saved_as_ir_only(folder: Path) -> None:
    result = package.run(ov.Core().read_model(small_network().SerializeToString()), "nd:rank=1")
    with pytest.raises(UsageError, match=r"cannot be written as ONNX"):
        result.save("fast.onnx")
    result.save("fast.xml", compress_to_fp16=True)
    assert halves("fast.xml")
    assert {p.name for p in folder.iterdir()} == {"fast.xml", "fast.bin"}


def test_a_plan_is_applied_again() -> None:
    model = small_network()
    first = package.run(model, "cd,nd", macs=0.6)
    again = package.run(model, plan=first.plan)
    assert relative(answers(first.model), answers(again.model)) < EXACT


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": 3}, UsageError, "got int"),
        ({"model": "none.onnx"}, InputError, "no such file"),
        ({"model": "none.xml"}, InputError, "no such file"),
        ({"macs": 2.0}, UsageError, "share lies between"),
        ({"calibration": "none"}, InputError, "none: no such file or folder"),
        ({"passes": "nd", "ignore": ["re:.*"]}, InputError, "the model in memory: nothing to rewrite"),
        ({"passes": "nd", "ignore": ["re:.*"], "macs": 0.5}, InputError, "nothing to rewrite with nd .*: ignored"),
        ({"passes": "nd", "energy": 0.999999}, BudgetError, "nothing to rewrite with nd .*give --calibration DATA"),
    ],
)
def test_what_cannot_be_done(folder: Path, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    del folder
    with pytest.raises(error, match=words):
        package.run(**{"model": small_network(), **arguments})


# -------------------------------------------------------------------------------------------------------------- result


def test_a_result_shows_itself_in_a_line_a_table_and_a_page(folder: Path) -> None:
    result = package.run(small_network(), passes="nd:rank=2", latency=False)
    assert "\n" not in repr(result)
    assert re.fullmatch(r"<ndpass\.Result: [\d.]+ % of the MACs, 1 of 3 layers rewritten>", repr(result))
    table = str(result)
    assert all(layer.name in table for layer in result.report.layers)
    assert "MACs: " in table
    result.save_html("r.html")
    page = Path("r.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "nd:rank=2" in page
    frame = result._repr_html_()
    assert frame.startswith("<iframe ")
    assert html.unescape(frame.partition('srcdoc="')[2].rpartition('" style')[0]) == page
    assert sorted(p.name for p in folder.iterdir()) == ["r.html"]


def test_a_page_does_not_replace_the_model(net: Path) -> None:
    result = package.run(net, passes="nd:rank=2", latency=False)
    with pytest.raises(UsageError, match=r"net\.onnx is the input itself"):
        result.save_html(net)


def test_a_listener_hears_the_steps_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, int, int]] = []
    package.run(small_network(), passes="nd:rank=2", latency=False, progress=lambda *step: heard.append(step))
    assert ("rewriting", 2, 3) in heard
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------------------------------- convert_model


def test_a_misspelt_option_of_convert_model_is_named(net: Path) -> None:
    with pytest.raises(UsageError, match=r"no option passses, .*; did you mean 'passes'\?"):
        package.convert_model(net, passses="nd")
    with pytest.raises(UsageError, match=r"did you mean 'example_input'\?"):
        package.convert_model(net, example_inputs=1)


def test_convert_model_shows_every_option() -> None:
    names = list(inspect.signature(package.convert_model).parameters)
    assert names[0] == "source"
    assert set(inspect.signature(package.run).parameters) - {"model"} < set(names)


def test_what_hands_options_on_shows_them_too() -> None:
    options = set(inspect.signature(package.run).parameters) - {"model", "passes"}
    assert set(inspect.signature(package.Pipeline.__call__).parameters) == {"self", "model"} | options
    shown = set(inspect.signature(package.openvino.optimize).parameters)
    assert shown == {"model", "passes", "ignored_scope"} | options - {"ignore"}


def test_the_package_lists_its_public_words() -> None:
    words = {"run", "convert_model", "Pipeline", "Result", "openvino", "passes", "errors", "report", "testing"}
    assert words <= set(dir(package))
    for word in dir(package):
        assert getattr(package, word) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "inf"}, "not infinite"),
        ({"memory": "1XB"}, "write a size as 512MB or 4GB"),
        ({"max_drop": "one"}, "--max-drop 'one' is not a number"),
        ({"speedup": True}, "--speedup True is not a number"),
        ({"max_error": 2}, "--max-error 2: a share of an output's variance lies between 0 and 1"),
        ({"passes": []}, "give each pass once, and at least one"),
        ({"passes": ["nd", "nd"]}, "give each pass once"),
        ({"precision": "f64"}, "--precision f64: give f32, bf16, int8"),
        ({"seed": -1}, "seed=-1: give a whole number from 0 on"),
        ({"jobs": 1.5}, "jobs=1.5: give a whole number from 1 on"),
        ({"samples": "many"}, "samples='many': give a whole number"),
    ],
)
def test_values_that_make_no_sense_are_told_by_their_keyword(net: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as e:
        package.run(net, **options)
    assert words in str(e.value)


def test_values_may_be_text_as_on_the_command_line(net: Path) -> None:
    texts = package.run(net, ["cd", "nd"], macs="0.7", memory="1GB", threads="1", latency=False, ignore="a")
    values = package.run(net, "cd,nd", macs=0.7, memory=10**9, threads=1, latency=False, ignore=["a"])
    assert texts.model == values.model


def test_convert_model_stands_where_openvinos_stood(net: Path) -> None:
    model = package.convert_model(net, passes="nd:rank=full", input=[2, 3, 8, 8])
    assert isinstance(model, ov.Model)
    assert model.inputs[0].shape == ov.Shape([2, 3, 8, 8])
    assert relative(answers(small_network()), answers(model)) < 1e-4
    with pytest.raises(UsageError, match="input: there is nothing to convert"):
        package.convert_model(model, input=[1, 3, 8, 8])
    with pytest.raises(InputError, match="no such file"):
        package.convert_model("none.onnx")
    (net.parent / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an ONNX model"):
        package.convert_model("bad.onnx")


@pytest.mark.filterwarnings("ignore")  # OpenVINO traces the model, which torch no longer likes
def test_a_torch_model() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Residual(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            nn = torch.nn
            self.head = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
            self.body = nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1),
                nn.ReLU6(),
                nn.Conv2d(16, 16, 3, padding=1, groups=16),
                nn.BatchNorm2d(16),
            )
            self.tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

        def forward(self, x: Any) -> Any:
            y = self.head(x)
            return self.tail(torch.relu(self.body(y) + y))

    net = Residual().eval()
    images = torch.from_numpy(IMAGES)
    with torch.no_grad():
        wanted = net(images).numpy()
    exact = package.convert_model(net, passes="nd:rank=full", example_input=images[:1])
    fast = package.convert_model(net, passes="cp,cd,nd", calibration=images, macs=0.6, example_input=images[:1])
    for model, most in ((exact, 1e-4), (fast, 0.5)):
        run = OpenVINO(model)
        (found,) = run({run.inputs[0].name: IMAGES}).values()
        assert relative([wanted], [found]) < most


# ------------------------------------------------------------------------------------------------------------- package


def test_importing_the_package_imports_no_runtime() -> None:
    code = "import sys, ndpass, ndpass.cli.app; print([m for m in ('openvino', 'onnx', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not SHARED.exists(), reason="../shared with the trained models is not beside this checkout")
@pytest.mark.parametrize(
    ("name", "spec", "budget"), [("resnet20", "cd", {"macs": 0.6}), ("vgg16", "cd:rank=64,nd:rank=2", {})]
)
def test_trained_models_by_either_road(
    tmp_path: Path, name: str, spec: str, budget: dict[str, float], request: pytest.FixtureRequest
) -> None:
    """Compositions by either road are tested on nets drawn at random, too."""
    if name == "vgg16" and not request.config.getoption("--long"):
        pytest.skip("the larger one: with --long")
    source = SHARED / f"models/{name}_cifar10.onnx"
    ir = ir_of(source, tmp_path / "net.xml")
    a, b = (package.run(path, spec, latency=False, **budget) for path in (source, ir))
    assert [layer.setting for layer in a.report.layers] == [layer.setting for layer in b.report.layers]
    feed = {"image": normal(4, 3, 32, 32)}
    found = [list(OpenVINO(m)(feed).values()) for m in (a.model.SerializeToString(), b.model)]
    assert relative(*found) < EXACT
