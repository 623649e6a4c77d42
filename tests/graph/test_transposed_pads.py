"""Transposed convolutions that say how large their output is: ONNX's rule, in both runtimes and in what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from models import EXACT, feed_of, network, normal, relative, rewritten, run_options, run_ort, run_ov

from ndpass.errors import InputError
from ndpass.graph.graph import Graph
from ndpass.graph.openvino.onnx_pads import give_onnx_pads
from ndpass.measuring.openvino_core import shared_core
from ndpass.measuring.runtime import OpenVINO
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.run import pipeline

SAID = {  # attributes, and the output's height and width at an input of 9×9; of a kernel of k
    "same-upper": (3, 'auto_pad="SAME_UPPER", strides=[2,2]', 18),
    "same-lower": (3, 'auto_pad="SAME_LOWER", strides=[2,2]', 18),
    "same-upper-5": (5, 'auto_pad="SAME_UPPER", strides=[2,2]', 18),
    "same-of-a-small-kernel": (1, 'auto_pad="SAME_UPPER", strides=[2,2]', 17),
    "same-with-output-padding": (4, 'auto_pad="SAME_LOWER", strides=[2,2], output_padding=[1,1]', 18),
    "same-with-dilation": (3, 'auto_pad="SAME_LOWER", strides=[2,2], dilations=[2,2]', 18),
    "valid": (3, 'auto_pad="VALID", strides=[2,2]', 19),
    "output-shape": (3, "output_shape=[18,18], strides=[2,2]", 18),
    "output-shape-and-pads": (3, "output_shape=[17,17], strides=[2,2], pads=[1,0,1,0]", 17),
    "output-shape-upper": (3, 'output_shape=[16,16], auto_pad="SAME_UPPER", strides=[2,2]', 16),
    "output-shape-beyond": (4, "output_shape=[21,21], strides=[2,2]", 21),
}
every_way = pytest.mark.parametrize("said", SAID.values(), ids=SAID)


def model(kernel: int, attrs: str, size: int | str, axes: str = "9,9", group: int = 1) -> onnx.ModelProto:
    """A layer of these attributes between two others."""
    text = f"""(float[N,3,{axes}] x) => (float[N,2,{size},{size}] y) {{
        a = Conv(x, V)  r = Relu(a)  t = ConvTranspose<{attrs}, group={group}>(r, W, B)  y = Conv(t, U) }}"""
    weights = {"V": normal(6, 3, 1, 1), "W": normal(6, 4 // group, kernel, kernel), "B": normal(4)}
    return network(text, **weights, U=normal(2, 4, 1, 1))


def saved(made: onnx.ModelProto, path: Path) -> Path:
    onnx.save(made, path)
    return path


@every_way
@pytest.mark.parametrize("group", [1, 2])
def test_pads_are_written_as_onnxruntime_reads_them(said: tuple[int, str, int], group: int) -> None:
    """In the model as it is, in what is written of it, and in what OpenVINO reads of the file: one network."""
    original = model(*said, group=group)
    feed = feed_of(original, N=2)
    expected = run_ort(original, feed)
    assert expected[0].shape[2:] == (said[2], said[2])
    graph = Graph(original)
    assert graph.without_pads() == []
    written = graph.to_model()
    (layer,) = (node for node in written.graph.node if node.op_type == "ConvTranspose")
    assert {a.name for a in layer.attribute} >= {"pads", "output_padding"}
    assert not {a.name for a in layer.attribute} & {"auto_pad", "output_shape"}
    assert relative(expected, run_ort(written, feed)) < EXACT
    assert relative(expected, run_ov(written, feed)) < EXACT
    assert relative(expected, list(OpenVINO(original.SerializeToString())(feed).values())) < EXACT


def test_odd_pads_go_where_onnx_puts_them() -> None:
    """SAME_UPPER cuts more at the end, all else at the begin."""
    for attrs, pads in (
        ('auto_pad="SAME_UPPER"', [0, 0, 1, 1]),
        ('auto_pad="SAME_LOWER"', [1, 1, 0, 0]),
        ("output_shape=[18,18]", [1, 1, 0, 0]),
    ):
        written = Graph(model(3, f"{attrs}, strides=[2,2]", 18)).to_model()
        (layer,) = (node for node in written.graph.node if node.op_type == "ConvTranspose")
        assert [list(a.ints) for a in layer.attribute if a.name == "pads"] == [pads]


@pytest.mark.parametrize("name", ["same-upper", "same-lower", "output-shape", "output-shape-upper"])
def test_such_layers_are_rewritten(name: str) -> None:
    original = model(*SAID[name])
    feed = feed_of(original, N=2)
    result, done = rewritten(original, lambda site: site.conv if site.op == "ConvTranspose" else None)
    assert done == 1
    assert relative(run_ort(original, feed), run_ort(result, feed)) < EXACT
    assert relative(run_ort(original, feed), run_ov(result, feed)) < EXACT


def test_same_needs_no_fixed_size_and_output_shape_does() -> None:
    assert Graph(model(3, 'auto_pad="SAME_UPPER", strides=[2,2]', "P", "H,W")).without_pads() == []
    assert Graph(model(3, "output_shape=[18,18], strides=[2,2]", "P", "H,W")).without_pads() == ["t"]
    assert Graph(model(3, "output_shape=[40,40], strides=[2,2]", 40)).without_pads() == ["t"], "no such layer"


def test_a_layer_that_is_not_known_stays_as_openvino_reads_it() -> None:
    """An IR has OpenVINO's rule, and a layer with explicit pads is not touched."""
    explicit = model(3, "pads=[1,1,0,0], strides=[2,2]", 18)
    read = shared_core().read_model(explicit.SerializeToString())
    before = [op.get_friendly_name() for op in read.get_ordered_ops()]
    assert [op.get_friendly_name() for op in give_onnx_pads(read).get_ordered_ops()] == before


def test_names_stay_where_openvino_is_given_pads() -> None:
    """What is compared is found by the names of tensors, and layers by those of operators."""
    original = model(3, 'auto_pad="SAME_UPPER", strides=[2,2]', 18)
    before, after = (shared_core().read_model(original.SerializeToString()) for _ in range(2))
    give_onnx_pads(after)

    def names(read: Any) -> list[tuple[str, set[str]]]:
        return sorted((op.get_friendly_name(), op.output(0).get_names()) for op in read.get_ops() if _named(op))

    assert names(after) == names(before)


def _named(op: Any) -> bool:
    return bool(op.outputs() and op.output(0).get_names())


def test_a_run_of_a_decoder_with_same_pads_is_exact(tmp_path: Path) -> None:
    """It ended at the very end: the original had other sizes in OpenVINO than the result."""
    path = saved(model(3, 'auto_pad="SAME_UPPER", strides=[2,2]', 18), tmp_path / "same.onnx")
    options = run_options(parse("cd:rank=full"), Budget("pinned"))
    report = pipeline.run(path, tmp_path / "out.onnx", options)
    done = {layer.name for layer in report.layers if layer.status == "done"}
    assert "t" in done
    assert len(report.verified) == 2, "beside the original, and in onnxruntime"
    assert all(found.relative_error < 1e-5 for found in report.verified.values())


def test_sizes_that_are_open_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    """The runtimes are asked, whatever the size; where they agree, as on a kernel without rest, the run goes on."""
    path = saved(model(3, "output_shape=[18,18], strides=[2,2]", "P", "H,W"), tmp_path / "open.onnx")
    options = run_options(parse("cd:rank=full"), Budget("pinned"), size="9x9")
    with pytest.raises(InputError, match=r"ConvTranspose 't' differently.*with a fixed height and width"):
        pipeline.run(path, tmp_path / "out.onnx", options)
