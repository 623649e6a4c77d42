"""From a model file to a verified one: formats, shapes, reasons, figures that others can count, failed verification."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command, small_network
from models import EXACT, SHARED, Arrays, feed_of, network, normal, relative, run_options, run_ort, run_ov
from numpy.typing import NDArray

from ndpass import passes
from ndpass.calibration.preprocess import Preprocess
from ndpass.conv import Block, Conv, Sum
from ndpass.errors import VerificationError
from ndpass.measuring.evaluate import Agreement
from ndpass.measuring.runtime import OnnxRuntime, OpenVINO
from ndpass.passes import NetworkDecoupling, Setting
from ndpass.planning.candidate import Budget
from ndpass.report import Report
from ndpass.run import pipeline, verify
from ndpass.run.job import read

DIMS = {"batch": 3}

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in


def run(model: onnx.ModelProto | Path, output: str = "out.onnx", spec: str = "nd:rank=2") -> Report:
    """Rewrite a model, written to in.onnx if it is none yet, without data."""
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, "in.onnx")
        model = Path("in.onnx")
    return pipeline.run(model, Path(output), run_options(passes.parse(spec), Budget("pinned")))


def counted_macs(path: Path, **dims: int) -> int:
    """Multiply-accumulates of the convolutions and Gemms in a file, from onnx's own shape inference."""
    model = onnx.load(path)
    for info in model.graph.input:
        for axis in info.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = dims[axis.dim_param]
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    shapes |= {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.value_info}
    shapes |= {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in [*graph.input, *graph.output]}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]][2:]) * math.prod(shapes[node.input[1]])
        if node.op_type == "Gemm":
            total += math.prod(shapes[node.input[1]])
    return total


def open_vino(path: Path, feed: Arrays) -> list[NDArray[np.float32]]:
    return list(OpenVINO(path)(feed).values())


# ------------------------------------------------------------------------------------------------------- figures


def test_macs_and_parameters_are_what_the_files_hold() -> None:
    report = run(small_network())
    files = Path("in.onnx"), Path("out.onnx")
    assert report.model.macs == tuple(counted_macs(path, batch=1) for path in files)
    held = [sum(math.prod(t.dims) for t in onnx.load(path).graph.initializer) for path in files]
    assert list(report.model.params) == held
    assert report.model.macs == tuple(sum(layer.macs[i] for layer in report.layers if layer.macs) for i in (0, 1))
    assert list(report.model.bytes) == [path.stat().st_size for path in files]


def test_error_is_what_the_weights_lost() -> None:
    """Two terms of the singular value decomposition of each input's (n_o, K) matrix, by the paper's formula."""
    report = run(small_network(), spec="nd:rank=2:form=dw-pw")
    for name, weight in (("a", normal(16, 3, 3, 3)), ("b", normal(32, 16, 3, 3))):
        values = (
            np.linalg.svd(weight.swapaxes(0, 1).reshape(*weight.shape[1::-1], 9).astype(np.float64), compute_uv=False)
            ** 2
        )
        (layer,) = (layer for layer in report.layers if layer.name == name)
        expected = values[:, 2:].sum() / values.sum()
        assert layer.error_predicted == pytest.approx(expected, rel=1e-6)
        assert layer.error_measured == pytest.approx(expected, rel=1e-6)


def test_full_rank_is_exact() -> None:
    report = run(small_network(), spec="nd:rank=full")
    feed = feed_of(onnx.load("in.onnx"), **DIMS)
    assert relative(run_ort(onnx.load("in.onnx"), feed), run_ort(onnx.load("out.onnx"), feed)) < EXACT
    assert report.verified["the original on random inputs"].relative_error < EXACT


def test_two_runs_give_the_same_file() -> None:
    run(small_network(), "one.onnx")
    run(small_network(), "two.onnx")
    assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes()


def test_trained_network_at_full_rank() -> None:
    model = SHARED / "models/resnet20_cifar10.onnx"
    if not model.exists():
        pytest.skip(f"needs {model.name}, which is not part of the project")
    run(model, spec="nd:rank=full")
    images = np.load(SHARED / "data/cifar10_validation.npz")["images"][:32] / 255
    x = ((images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype(np.float32)
    for runtime in (OnnxRuntime, OpenVINO):
        expected, found = (list(runtime(path)({"image": x}).values()) for path in (model, Path("out.onnx")))
        assert relative(expected, found) < EXACT


# -------------------------------------------------------------------------------------------------------- formats


def test_intermediate_representation(folder: Path) -> None:
    """The .xml with its .bin computes what the .onnx does, and no number in it was shortened to fp16."""
    import openvino as ov

    run(small_network(), "out.onnx")
    report = run(Path("in.onnx"), "out.xml")
    feed = feed_of(onnx.load("in.onnx"), **DIMS)
    assert relative(open_vino(Path("out.onnx"), feed), open_vino(Path("out.xml"), feed)) < EXACT
    constants = (op for op in ov.Core().read_model("out.xml").get_ops() if op.get_type_name() == "Constant")
    kinds = {op.get_element_type() for op in constants}
    assert ov.Type.f32 in kinds
    assert ov.Type.f16 not in kinds
    assert report.model.bytes[1] == sum(Path(f"out.{kind}").stat().st_size for kind in ("xml", "bin"))
    assert {p.name for p in folder.iterdir()} == {"in.onnx", "out.onnx", "out.xml", "out.bin"}


def test_intermediate_representation_with_a_pattern_in_its_name(folder: Path) -> None:
    run(small_network(), "out[1].xml")
    assert {p.name for p in folder.iterdir()} == {"in.onnx", "out[1].xml", "out[1].bin"}


@pytest.fixture
def beside() -> Path:
    """in.onnx, whose weights lie in weights.bin."""
    onnx.save(small_network(), "in.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
    return Path("in.onnx")


def test_external_data_stay_external(beside: Path, folder: Path) -> None:
    report = run(beside)
    assert {p.name for p in folder.iterdir()} == {"in.onnx", "weights.bin", "out.onnx", "out.onnx.data"}
    inside = onnx.load("out.onnx", load_external_data=False).graph.initializer
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in inside)
    pairs = (("in.onnx", "weights.bin"), ("out.onnx", "out.onnx.data"))
    assert list(report.model.bytes) == [sum(Path(name).stat().st_size for name in pair) for pair in pairs]


def test_external_data_compute_the_same(beside: Path) -> None:
    """Over an older output too, whose data are of another size."""
    run(beside, spec="nd:rank=1")
    run(beside)
    onnx.save(small_network(), "plain.onnx")
    run(Path("plain.onnx"), "expected.onnx")
    feed = feed_of(onnx.load("plain.onnx"), **DIMS)
    expected = run_ort(onnx.load("expected.onnx"), feed)
    assert relative(expected, list(OnnxRuntime(Path("out.onnx"))(feed).values())) < EXACT
    assert relative(expected, open_vino(Path("out.onnx"), feed)) < EXACT
    onnx.checker.check_model("out.onnx", full_check=True)


def test_external_data_may_be_read_by_whoever_may_read_the_model(beside: Path) -> None:
    run(beside)
    assert Path("out.onnx.data").stat().st_mode == Path("out.onnx").stat().st_mode


def test_external_data_to_intermediate_representation(beside: Path, folder: Path) -> None:
    run(beside, "out.xml")
    assert {p.name for p in folder.iterdir()} == {"in.onnx", "weights.bin", "out.xml", "out.bin"}


# --------------------------------------------------------------------------------------------------------- shapes


def test_static_batch(ndpass: Command) -> None:
    """Five samples through a model that takes two at a time."""
    text = "(float[2,3,8,8] x) => (float[2,4] y) { a = Conv(x, w)  g = GlobalAveragePool(a)  y = Flatten(g) }"
    onnx.save(network(text, w=normal(4, 3, 3, 3)), "in.onnx")
    np.savez("data.npz", images=normal(5, 3, 8, 8), labels=np.array([0, 1, 2, 3, 0]))
    done = ndpass(
        "run",
        "in.onnx",
        "-q",
        "--passes",
        "nd:rank=1",
        "--validation",
        "data.npz",
        "--json",
        "r.json",
        "-o",
        "out.onnx",
    )
    assert (done.code, done.err) == (0, "")
    report = json.loads(Path("r.json").read_text())
    assert report["metric"]["samples"] == 5
    assert report["model"]["macs"] == [counted_macs(Path("in.onnx")) * 2, counted_macs(Path("out.onnx")) * 2]


def test_dynamic_height_and_width(ndpass: Command) -> None:
    """Costs are counted at the size of the samples, and the axes stay open in the output."""
    onnx.save(
        network("(float[n,3,h,w] x) => (float[n,4,h,w] y) { y = Conv<pads = [1,1,1,1]>(x, k) }", k=normal(4, 3, 3, 3)),
        "in.onnx",
    )
    np.save("data.npy", normal(3, 3, 20, 12))
    done = ndpass(
        "run",
        "in.onnx",
        "-q",
        "--passes",
        "nd:rank=1",
        "--validation",
        "data.npy",
        "--json",
        "r.json",
        "-o",
        "out.onnx",
    )
    assert (done.code, done.err) == (0, "")
    assert json.loads(Path("r.json").read_text())["model"]["macs"] == [
        counted_macs(Path(name), n=1, h=20, w=12) for name in ("in.onnx", "out.onnx")
    ]
    for side in (onnx.load("out.onnx").graph.input, onnx.load("out.onnx").graph.output):
        assert [d.dim_param for d in side[0].type.tensor_type.shape.dim] == ["n", "", "h", "w"]


def test_dynamic_height_and_width_without_data() -> None:
    report = run(
        network("(float[n,3,h,w] x) => (float[n,4,h,w] y) { y = Conv<pads = [1,1,1,1]>(x, k) }", k=normal(4, 3, 3, 3)),
        spec="nd:rank=1",
    )
    assert report.model.macs[0] == counted_macs(Path("in.onnx"), n=1, h=224, w=224)


def test_several_inputs_and_outputs() -> None:
    text = """(float[b,3,8,8] x, float[b,4,6,6] z) => (float[b,4,6,6] y, float[b,4,6,6] a) {
        a = Conv(x, w)  y = Add(a, z) }"""
    report = run(network(text, w=normal(4, 3, 3, 3)), spec="nd:rank=full")
    feed = feed_of(onnx.load("in.onnx"), b=2)
    assert report.verified["the original on random inputs"].relative_error < EXACT
    assert relative(run_ort(onnx.load("in.onnx"), feed), run_ort(onnx.load("out.onnx"), feed)) < EXACT


# -------------------------------------------------------------------------------------------------------- reasons


def test_whatever_is_left_alone_says_why() -> None:
    model = network(
        """(float[1,4,8,8] x, float[4,4,3,3] v) => (float[1,4,8,8] y) {
            plain = Conv<pads = [1,1,1,1]>(x, w)
            grouped = Conv<pads = [1,1,1,1], group = 2>(plain, g)
            depthwise = Conv<pads = [1,1,1,1], group = 4>(grouped, d)
            thin = Conv(depthwise, o)
            back = ConvTranspose<pads = [1,1,1,1], group = 2>(thin, t)
            late = Conv<pads = [1,1,1,1]>(back, v)
            asked = Conv<pads = [1,1,1,1]>(late, w)
            y = MatMul(asked, m) }""",
        w=normal(4, 4, 3, 3),
        g=normal(4, 2, 3, 3),
        d=normal(4, 1, 3, 3),
        o=normal(4, 4, 1, 1),
        m=normal(8, 8),
        t=normal(4, 2, 3, 3, seed=1),
    )
    onnx.save(model, "in.onnx")
    options = run_options(passes.parse("nd:rank=1"), Budget("pinned"), ignore=["re:ask.*"])
    report = pipeline.run(Path("in.onnx"), Path("out.onnx"), options)
    reasons = {layer.name: (layer.status, layer.reason) for layer in report.layers}
    assert reasons["plain"] == ("done", "")
    words = {
        "grouped": "grouped",
        "depthwise": "depthwise",
        "thin": "one element",
        "back": "transposed",
        "late": "run time",
        "asked": "as asked",
        "y": "matrix product",
    }
    assert reasons.keys() == {"plain", *words}
    for name, word in words.items():
        assert reasons[name][0] == "skipped"
        assert word in reasons[name][1]


# --------------------------------------------------------------------------------------------------- verification


def test_runtimes_that_differ_on_the_original_too_are_warned_of() -> None:
    """OpenVINO takes a weight that a convolution and a transposed one share for the same in both."""
    model = network(
        """(float[1,4,8,8] x) => (float[1,4,8,8] y) {
            a = Conv<pads = [1,1,1,1]>(x, w)
            b = ConvTranspose<pads = [1,1,1,1]>(a, v)
            y = Conv<pads = [1,1,1,1]>(b, v) }""",
        w=normal(4, 4, 3, 3),
        v=normal(4, 4, 3, 3, seed=1),
    )
    onnx.save(model, "in.onnx")
    x = {"x": normal(1, 4, 8, 8)}
    if relative(run_ov(model, x), run_ort(model, x)) < verify.AGREEMENT:
        pytest.skip("this OpenVINO agrees with onnxruntime on a shared weight")
    options = run_options(passes.parse("nd:rank=2"), Budget("pinned"), ignore=["b", "y"])
    report = pipeline.run(Path("in.onnx"), Path("out.onnx"), options)
    assert any("differ on the original already" in text for text in report.warnings)


def test_what_onnxruntime_cannot_run_is_checked_in_openvino_alone() -> None:
    """It has no Mul of opset 6."""
    model = network(
        "(float[1,3,8,8] x) => (float[1,4,8,8] y) { a = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, A) "
        "m = Mul<broadcast=1, axis=1>(a, s) y = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(m, B) }",
        opset=6,
        A=normal(8, 3, 3, 3),
        s=normal(8),
        B=normal(4, 8, 3, 3),
    )
    report = run(model, spec="cd:rank=full")
    assert [row.status for row in report.layers].count("done") >= 1
    (warning,) = [text for text in report.warnings if "onnxruntime" in text]
    assert warning.startswith("onnxruntime does not run the original, so that the result was run in OpenVINO alone: ")
    assert "Mul(6)" in warning
    feed = feed_of(model)
    assert relative(run_ov(model, feed), run_ov(onnx.load("out.onnx"), feed)) < EXACT


def test_runtimes_that_differ_more_than_on_the_original_are_an_error() -> None:
    def agreement(error: float) -> Agreement:
        return Agreement(10, None, error, "y")

    assert verify.check_agreement(agreement(1e-4), lambda: agreement(math.nan)) is None
    assert "by 0.02 (relative)" in (verify.check_agreement(agreement(0.03), lambda: agreement(0.02)) or "")
    for found, before in ((0.03, 1e-6), (0.03, math.nan), (math.nan, 0.02)):
        with pytest.raises(VerificationError, match=f"differ by {found:.2g} .* by {before:.2g} on the original"):
            verify.check_agreement(agreement(found), lambda before=before: agreement(before))


class Unfaithful(NetworkDecoupling):
    """A pass of somebody else's, with a mistake: what it builds from weights is not what it planned from geometry."""

    name = "unfaithful"

    def rewrite(self, conv: Conv, setting: Setting) -> Block:
        block = super().rewrite(conv, setting)
        return self.spoil(block) if conv.weight.any() else block

    def spoil(self, block: Block) -> Block:
        raise NotImplementedError


def leaf(block: Block, change: float) -> Block:
    """The block with the weights of its first leaf multiplied."""
    if isinstance(block, Conv):
        return replace(block, weight=block.weight * np.float32(change))
    first, *rest = block.blocks
    return type(block)(leaf(first, change), *rest)


class Dearer(Unfaithful):
    """One term more than promised."""

    def spoil(self, block: Block) -> Block:
        assert isinstance(block, Sum)
        return Sum(*block.blocks, block.blocks[0])


class NotFinite(Unfaithful):
    """Weights that overflow."""

    def spoil(self, block: Block) -> Block:
        return leaf(block, np.nan)


FAULTS = ((Dearer, "promised"), (NotFinite, "inf"))


@pytest.mark.parametrize(("rule", "word"), FAULTS, ids=lambda f: getattr(f, "__name__", ""))
def test_unfaithful_pass_is_found_out(rule: type[Unfaithful], word: str, folder: Path) -> None:
    onnx.save(small_network(), "in.onnx")
    Path("out.onnx").write_bytes(b"an older model")
    options = run_options([rule(rank=2)], Budget("pinned"))
    with pytest.raises(VerificationError, match=word):
        pipeline.run(Path("in.onnx"), Path("out.onnx"), options)
    assert sorted(p.name for p in folder.iterdir()) == ["in.onnx", "out.onnx"]
    assert Path("out.onnx").read_bytes() == b"an older model"


def test_failed_verification_has_its_exit_code(
    net: Path, folder: Path, ndpass: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES", (NotFinite,))
    done = ndpass("run", net, "-q", "--passes", "unfaithful:rank=2", "-o", "out.onnx")
    assert (done.code, done.out, done.err.count("\n")) == (5, "", 1)
    assert "inf" in done.err
    assert [p.name for p in folder.iterdir()] == ["net.onnx"]


def test_a_model_without_data_is_compared_on_pictures_through_its_preprocessing() -> None:
    onnx.save(small_network(), "net.onnx")
    options = run_options(passes.parse("nd:rank=2"), Budget("pinned"))
    made = []
    for preprocess in (None, Preprocess.parse("scale=1/255")):
        asked = replace(options, data=replace(options.data, preprocess=preprocess))
        job = read(Path("net.onnx"), asked, lambda *_: None)
        assert job.guessed
        assert len(job.measured) == 16
        made.append(next(job.measured.batches(16))["image"])
    assert (made[0].mean(), made[0].std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    assert 0 <= made[1].min() < made[1].max() <= 1


def test_without_data_layers_are_weighed_by_what_their_errors_do_to_the_outputs(folder: Path) -> None:
    """Two equal layers side by side, of which one hardly counts: that one pays for the budget."""
    kernel = normal(8, 3, 3, 3)
    model = network(
        """(float[N, 3, 16, 16] x) => (float[N, 8, 16, 16] y) {
            loud = Conv<pads = [1, 1, 1, 1]>(x, w)
            soft = Conv<pads = [1, 1, 1, 1]>(x, v)
            softer = Mul(soft, little)
            y = Add(loud, softer)
        }""",
        w=kernel,
        v=kernel[::-1].copy(),
        little=np.float32(1e-3).reshape(1),
    )
    onnx.save(model, folder / "two.onnx")
    report = pipeline.run(Path("two.onnx"), Path("out.onnx"), run_options(passes.parse("sd"), Budget("macs", 0.7)))
    loud, soft = (layer.macs for layer in report.layers)
    assert loud is not None
    assert soft is not None
    assert loud[1] == loud[0]
    assert soft[1] < 0.5 * soft[0]
