"""Nodes out of order are put in order, the others stay."""

from __future__ import annotations

from pathlib import Path

import onnx
from models import EXACT, feed_of, network, normal, relative, run_ort

from ndpass.files.onnx_file import load
from ndpass.graph.node_order import sort_nodes

TEXT = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { a = Relu(x) b = Conv(a, W) c = Relu(b) y = Neg(c) }"


def shuffled(*order: int) -> onnx.ModelProto:
    model = network(TEXT, W=normal(4, 3, 3, 3))
    nodes = list(model.graph.node)
    copies = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def test_each_node_stands_behind_what_it_reads() -> None:
    model = shuffled(3, 1, 0, 2)
    assert sort_nodes(model.graph)
    assert [n.output[0] for n in model.graph.node] == ["a", "b", "c", "y"]


def test_nodes_in_order_are_not_touched() -> None:
    model = shuffled(0, 1, 2, 3)
    assert not sort_nodes(model.graph)


def test_nodes_that_wait_for_each_other_stay_last() -> None:
    model = network("(float[4] x) => (float[4] y) { p = Add(x, q) q = Neg(p) y = Relu(x) }")
    sort_nodes(model.graph)
    assert [n.output[0] for n in model.graph.node] == ["y", "p", "q"]


def test_what_a_branch_reads_stands_before_it() -> None:
    text = """(float[4] x, bool c) => (float[4] y) {
        y = If(c) <
            then_branch = t () => (float[4] p) { p = Relu(r) r = Neg(a) },
            else_branch = e () => (float[4] q) { q = Neg(x) } >
        a = Exp(x)
    }"""
    model = network(text)
    assert sort_nodes(model.graph)
    assert [n.op_type for n in model.graph.node] == ["Exp", "If"]
    assert [n.op_type for n in model.graph.node[1].attribute[0].g.node] == ["Neg", "Relu"]


def test_a_file_out_of_order_is_read(tmp_path: Path) -> None:
    """Both runtimes load it; converters to float16 write such files."""
    model = shuffled(1, 0, 3, 2)
    onnx.save(model, tmp_path / "m.onnx")
    read = load(tmp_path / "m.onnx")
    onnx.checker.check_model(read, full_check=True)
    assert relative(run_ort(model, feed_of(model)), run_ort(read, feed_of(model))) < EXACT
