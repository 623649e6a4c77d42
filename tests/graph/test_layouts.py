"""Networks that work on channels last between their convolutions: turns that cancel go, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from models import feed_of, network, normal, run_ort

from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph, Site
from ndpass.graph.layouts import drop_casts, undo_turns
from ndpass.graph.normalise import import_graph, normalise

LAST, FIRST = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"
WEIGHTS = {
    "A": normal(8, 3, 3, 3),
    "B": normal(8, 8, 3, 3, seed=1),
    "C": normal(8, 8, 3, 3, seed=2),
    **{name: normal(8, seed=i) for i, name in enumerate(("m1", "s1", "b1", "m2", "s2", "b2", "slope"), 3)},
    "two": np.float32(2),
}
RESIDUAL = f"""(float[N,3,6,5] x) => (float[N,8,6,5] y) {{
    a = Conv<pads=[1,1,1,1]>(x, A)  al = {LAST}(a)
    ac = Cast<to=1>(al)  a1 = Sub(ac, m1)  a2 = Mul(a1, s1)  a3 = Add(b1, a2)  a4 = Relu(a3)
    af = {FIRST}(a4)  b = Conv<pads=[1,1,1,1]>(af, B)  bl = {LAST}(b)
    b1_ = Sub(bl, m2)  b2_ = Div(b1_, two)  b3 = Relu(b2_)
    bf = {FIRST}(b3)  c = Conv<pads=[1,1,1,1]>(bf, C)  cl = {LAST}(c)
    c1 = Add(cl, b2)  s = Add(c1, a4)  r = Relu(s)
    y = {FIRST}(r)
}}"""


def turns(graph: gs.Graph) -> int:
    return sum(node.op == "Transpose" for node in graph.nodes)


def check_same(model: onnx.ModelProto, graph: gs.Graph) -> None:
    feed = feed_of(model, N=2)
    for before, after in zip(run_ort(model, feed), run_ort(gs.export_onnx(graph), feed), strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def undone(text: str, **weights: np.ndarray) -> tuple[onnx.ModelProto, gs.Graph, int]:
    model = network(text, **weights)
    graph = import_graph(model).toposort()
    gone = undo_turns(graph)
    check_same(model, graph)
    return model, graph, gone


def test_a_residual_block_on_channels_last_is_found_as_any_other() -> None:
    model = network(RESIDUAL, **WEIGHTS)
    graph = Graph(model)
    (block,) = [one for one in graph.blocks() if isinstance(one, Branch) and not one.is_plain]
    assert block.layers == ("b", "c")
    for site in [s for s in graph.sites() if isinstance(s, Site)]:
        assert site.conv.bias is not None  # all that was written out behind them
    last = next(site for site in graph.sites() if isinstance(site, Site) and site.name == "c")
    assert not isinstance(graph.channel_group(last), str)
    plain = import_graph(model)
    assert turns(plain) == 6
    normalise(plain)
    assert sorted(node.op for node in plain.nodes) == [
        "Add",
        "Conv",
        "Conv",
        "Conv",
        "Identity",
        "Relu",
        "Relu",
        "Relu",
    ]
    check_same(model, plain)


def test_every_operand_is_turned_with_its_node() -> None:
    """Numbers a channel, one number, a whole map; limits of a Clip; joined channels; slopes; in one and three axes."""
    text = f"""(float[N,4,6,5] x, float[N,4,6,5] z) => (float[N,8,6,5] y) {{
        xl = {LAST}(x)  zl = {LAST}(z)
        p = PRelu(xl, slope)  q = Clip(zl, low, high)
        t = Mul(p, map)  u = Pow(q, two)  v = Max(t, u, one)
        w = Concat<axis=-1>(v, q)  yl = Tanh(w)
        y = {FIRST}(yl)
    }}"""
    numbers = {"low": np.float32(-1), "high": np.float32(0.5), "two": np.float32(2), "one": np.float32(0.1)}
    _, graph, gone = undone(text, slope=normal(1, 1, 4), map=normal(6, 5, 4), **numbers)
    assert (gone, turns(graph)) == (3, 0)
    line = """(float[N,4,6] x) => (float[N,4,6] y) {
        xl = Transpose<perm=[0,2,1]>(x)  a = Add(xl, b)  c = Relu(a)  y = Transpose<perm=[0,2,1]>(c)
    }"""
    assert undone(line, b=normal(4))[2] == 2
    cube = """(float[N,4,3,2,5] x) => (float[N,4,3,2,5] y) {
        xl = Transpose<perm=[0,2,3,4,1]>(x)  a = Add(xl, b)  y = Transpose<perm=[0,4,1,2,3]>(a)
    }"""
    assert undone(cube, b=normal(4))[2] == 2


def test_what_is_read_with_channels_last_stays_so() -> None:
    """An output of the model between, its shape, and an operator that looks along an axis; one turn each is put in."""
    text = f"""(float[N,4,6,5] x) => (float[N,6,5,4] r, float[N,4,6,5] y, int64[4] n, float[N,6,5,4] m) {{
        xl = {LAST}(x)  a = Add(xl, b)  r = Relu(a)  s = Sigmoid(r)  n = Shape(s)  m = Softmax<axis=-1>(s)
        af = {FIRST}(s)  c = Conv<pads=[1,1,1,1]>(af, C)  cl = {LAST}(c)  d = Mul(cl, s)
        df = {FIRST}(d)  ef = {FIRST}(d)  y = Add(df, ef)
    }}"""
    _, graph, gone = undone(text, b=normal(4), C=normal(4, 4, 3, 3))
    assert (gone, turns(graph)) == (3, 2)
    assert [t.name for t in graph.outputs] == ["r", "y", "n", "m"]


@pytest.mark.parametrize(
    "body",
    [
        f"xl = {LAST}(x)  y = Relu(xl)",
        "xl = Transpose<perm=[0,2,1,3]>(x)  a = Relu(xl)  y = Transpose<perm=[0,2,1,3]>(a)",
        f"xl = {LAST}(x)  a = Add(xl, x2)  y = {FIRST}(a)",
        f"xl = {LAST}(x)  a = Softmax<axis=1>(xl)  y = {FIRST}(a)",
        f"xl = {LAST}(x)  a = PRelu(xl, slope)  y = {FIRST}(a)",
    ],
    ids=["no way back", "other axes", "an operand that is not turned", "along an axis", "a slope of one axis"],
)
def test_turns_that_do_not_cancel_stay(body: str) -> None:
    text = f"(float[N,4,4,4] x, float[N,4,4,4] x2) => (float[N,4,4,4] y) {{ u = Neg(x2)  {body} }}".replace(
        "u = Neg(x2)  ", ""
    )
    _, graph, gone = undone(text, **({"slope": normal(4)} if "slope" in body else {}))
    assert (gone, turns(graph)) == (0, body.count("Transpose"))


def test_operands_that_are_aligned_by_an_attribute_stay() -> None:
    """Before opset 7: the axis would be another one."""
    text = f"""(float[2,4,6,4] x) => (float[2,4,6,4] y) {{
        xl = {LAST}(x)  a = Add<broadcast=1, axis=1>(xl, b)  y = {FIRST}(a)
    }}"""
    graph = import_graph(network(text, opset=6, b=normal(6))).toposort()
    assert undo_turns(graph) == 0


def test_casts_to_the_type_that_is_there_go_and_no_others() -> None:
    text = """(float[N,3,4,4] x) => (float[N,4,4,4] y, float[N,3,4,4] z) {
        a = Cast<to=1>(x)  b = Cast<to=10>(a)  c = Cast<to=1>(b)  d = Cast<to=1>(c)
        e = Conv<pads=[1,1,1,1]>(d, W)  f = Cast<to=1>(e)  y = Relu(f)
        z = Cast<to=1>(x)
    }"""
    model = network(text, W=normal(4, 3, 3, 3))
    graph = import_graph(model).toposort()
    drop_casts(graph)
    left = sorted(node.outputs[0].name for node in graph.nodes if node.op == "Cast")
    assert left == ["b", "c", "z"]  # there and back through half precision, and an output
    check_same(model, graph)


def test_a_graph_inside_a_node_reads_what_it_read() -> None:
    text = f"""(float[N,4,6,5] x, bool[1] k) => (float[N,4,6,5] y, float[N,6,5,4] w) {{
        xl = {LAST}(x)  xc = Cast<to=1>(xl)  a = Relu(xc)  y = {FIRST}(a)
        w = If(k) <then_branch = t () => (float[N,6,5,4] o) {{ o = Neg(a) }},
                   else_branch = e () => (float[N,6,5,4] p) {{ p = Abs(xc) }}>
    }}"""
    model = network(text)
    graph = import_graph(model).toposort()
    drop_casts(graph)
    undo_turns(graph)
    for answer in (True, False):
        feed = {**feed_of(model, N=2), "k": np.array([answer])}
        for before, after in zip(run_ort(model, feed), run_ort(gs.export_onnx(graph), feed), strict=True):
            np.testing.assert_array_equal(after, before)
