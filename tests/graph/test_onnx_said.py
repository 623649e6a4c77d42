"""What a model says beside what it computes is in the rewritten one too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import EXACT, feed_of, network, normal, relative, run_ort
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ndpass.graph.graph import Graph, Site
from ndpass.passes import NetworkDecoupling

TEXT = "(float[n,3,8,8] x) => (float[n,4,6,6] y) { a = Relu(x) y = Conv(a, W) }"


def model() -> onnx.ModelProto:
    return network(TEXT, W=normal(4, 3, 3, 3))


def decoupled(given: onnx.ModelProto) -> onnx.ModelProto:
    """Every convolution decoupled at full rank."""
    graph, rule = Graph(given), NetworkDecoupling(rank="full")
    for site in [s for s in graph.sites() if isinstance(s, Site)]:
        graph.splice(site, rule.rewrite(site.conv, rule.settings(site.outline)[0]))
    graph.tidy()
    result = graph.to_model()
    onnx.checker.check_model(result, full_check=True)
    return result


def test_doc_strings_and_metadata_of_model_graph_node_and_input_stay() -> None:
    given = model()
    for part in (given, given.graph, given.graph.node[0], given.graph.input[0], given.graph.output[0]):
        part.doc_string = f"about {type(part).__name__}"
        entry = part.metadata_props.add()
        entry.key, entry.value = "made by", "hand"
    result = decoupled(given)
    relu = next(node for node in result.graph.node if node.op_type == "Relu")
    for part in (result, result.graph, relu, result.graph.input[0], result.graph.output[0]):
        assert part.doc_string == f"about {type(part).__name__}"
        assert [(e.key, e.value) for e in part.metadata_props] == [("made by", "hand")]


def test_denotations_of_inputs_stay() -> None:
    given = model()
    given.graph.input[0].type.denotation = "IMAGE"
    given.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    assert decoupled(given).graph.input[0] == given.graph.input[0]


def test_what_was_said_of_a_tensor_between_stays_while_it_holds() -> None:
    given = onnx.shape_inference.infer_shapes(model())
    (info,) = (i for i in given.graph.value_info if i.name == "a")
    info.doc_string = "rectified"
    (found,) = (i for i in decoupled(given).graph.value_info if i.name == "a")
    assert found == info


def test_a_graph_inside_a_node_keeps_its_words() -> None:
    text = """(float[1,3,8,8] x, bool c) => (float[1,4,6,6] y) {
        a = If(c) <
            then_branch = t () => (float[1,3,8,8] p) { p = Relu(x) },
            else_branch = e () => (float[1,3,8,8] q) { q = Neg(x) } >
        y = Conv(a, W)
    }"""
    given = network(text, W=normal(4, 3, 3, 3))
    inner = given.graph.node[0].attribute[0].g
    inner.doc_string, inner.node[0].doc_string, inner.output[0].doc_string = "a branch", "a node", "what it gives"
    found = decoupled(given).graph.node[0].attribute[0].g
    assert (found.doc_string, found.node[0].doc_string, found.output[0].doc_string) == (
        "a branch",
        "a node",
        "what it gives",
    )


def test_attributes_of_every_kind_stay() -> None:
    """A custom operator may have any: an empty list, a type, a sparse tensor, bytes that are no text."""
    given = model()
    given.opset_import.append(helper.make_opsetid("org.example", 1))
    attributes = [
        AttributeProto(name="nothing", type=AttributeProto.FLOATS),
        AttributeProto(name="kind", type=AttributeProto.TYPE_PROTO, tp=helper.make_tensor_type_proto(1, [2])),
        AttributeProto(name="several", type=AttributeProto.TENSORS, tensors=[numpy_helper.from_array(np.ones(2))]),
    ]
    node = given.graph.node[0]
    node.domain, node.op_type = "org.example", "Any"
    node.attribute.extend(attributes)
    graph = Graph(given)
    graph.macs()
    (found,) = (n for n in graph.to_model().graph.node if n.op_type == "Any")
    assert sorted(a.SerializeToString() for a in found.attribute) == sorted(a.SerializeToString() for a in attributes)


# defaults of inputs


def with_default(ir_version: int = 9) -> onnx.ModelProto:
    text = "(float[n,3,8,8] x, float gain) => (float[n,4,6,6] y) { a = Conv(x, W) y = Mul(a, gain) }"
    return network(text, ir_version=ir_version, W=normal(4, 3, 3, 3), gain=np.float32(2))


def test_an_input_with_a_default_may_still_be_fed() -> None:
    given = with_default()
    result = decoupled(given)
    assert [i.name for i in result.graph.input] == ["x", "gain"]
    x = normal(2, 3, 8, 8)
    for more in ({}, {"gain": np.array(3, np.float32)}):
        feed = {"x": x, **more}
        assert relative(run_ort(given, feed), run_ort(result, feed)) < EXACT


def test_an_input_with_a_default_need_not_be_fed() -> None:
    assert [spec.name for spec in Graph(with_default()).inputs()] == ["x"]


def test_what_depends_on_a_default_is_not_folded() -> None:
    text = "(float[n,3,8,8] x, float gain) => (float[n,4,6,6] y) { a = Conv(x, W) k = Exp(gain) y = Mul(a, k) }"
    given = network(text, ir_version=9, W=normal(4, 3, 3, 3), gain=np.float32(2))
    feed = {"x": normal(2, 3, 8, 8), "gain": np.array(0.5, np.float32)}
    assert relative(run_ort(given, feed), run_ort(decoupled(given), feed)) < EXACT


def test_a_default_that_nothing_reads_stays() -> None:
    text = "(float[n,3,8,8] x, float gain) => (float[n,4,6,6] y) { y = Conv(x, W) }"
    result = decoupled(network(text, ir_version=9, W=normal(4, 3, 3, 3), gain=np.float32(2)))
    assert [i.name for i in result.graph.input] == ["x", "gain"]
    assert "gain" in [t.name for t in result.graph.initializer]


@pytest.mark.parametrize("ir_version", [3, 6])
def test_weights_that_are_listed_as_inputs_are_weights(ir_version: int) -> None:
    """Exporters of before IR version 4 listed all initializers, and some did so later, too."""
    given = with_default(ir_version)
    given.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3, 3, 3]))
    result = decoupled(given)
    assert [i.name for i in result.graph.input] == ["x"]
    feed = feed_of(given, n=2)
    assert relative(run_ort(given, feed), run_ort(result, feed)) < EXACT
