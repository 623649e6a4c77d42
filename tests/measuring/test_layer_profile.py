"""What layers take inside a model, in real OpenVINO: to whom a time belongs, not how long it is."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from models import network, normal

from ndpass.measuring.layer_profile import node_shares
from ndpass.measuring.target import Target

NET = """(float[batch,3,32,32] image) => (float[batch,5] scores) {
    a = Conv<pads = [1,1,1,1]>(image, w1, b1)  r = Relu(a)
    b = Conv<pads = [1,1,1,1]>(r, w2)  s = Relu(b)
    p = GlobalAveragePool(s)  f = Flatten(p)  scores = Gemm(f, w3)
}"""


def net() -> bytes:
    weights = {"w1": normal(16, 3, 3, 3), "b1": normal(16), "w2": normal(256, 16, 3, 3), "w3": normal(256, 5)}
    return bytes(network(NET, **weights).SerializeToString())


def are_shares(found: Iterable[float]) -> bool:
    return all(0 <= share <= 1 and math.isfinite(share) for share in found)


def test_the_times_of_layers_go_by_the_names_of_sites() -> None:
    feed = {"image": np.ones((1, 3, 32, 32), np.float32)}
    shares = node_shares(net(), Target(threads=1), feed, ["a", "b", "scores"])
    assert {"a", "b", "scores"} <= set(shares) <= {"a", "b", "scores", ""}
    assert are_shares(shares.values())
    assert shares["b"] > 0  # 38 million MACs
    assert sum(shares.values()) <= 1 + 1e-9


def test_the_nodes_of_a_rewritten_layer_are_summed_under_its_name() -> None:
    model = onnx.load_from_string(net())
    for node, name in zip((n for n in model.graph.node if n.op_type == "Conv"), ("x/0_1x1", "x/1_3x3"), strict=True):
        node.name = name
    feed = {"image": np.ones((1, 3, 32, 32), np.float32)}
    apart = node_shares(model.SerializeToString(), Target(threads=1), feed, ["x/0_1x1", "x/1_3x3"])
    together = node_shares(model.SerializeToString(), Target(threads=1), feed, ["x", "absent"])
    assert together["absent"] == 0
    assert are_shares([*apart.values(), *together.values()])
    assert together["x"] > 0
    assert set(together) <= {"x", "absent", ""}


def test_the_last_layer_is_found_though_openvino_names_it_after_the_output() -> None:
    model = network("(float[1,2048] x) => (float[1,512] y) { y = Gemm(x, w) }", w=normal(2048, 512))
    model.graph.node[0].name = "last"
    shares = node_shares(model.SerializeToString(), Target(threads=1), {"x": np.ones((1, 2048), np.float32)}, ["last"])
    assert shares["last"] > 0


def test_without_sites_every_node_goes_under_its_own_name() -> None:
    shares = node_shares(net(), Target(threads=1), {"image": np.ones((2, 3, 32, 32), np.float32)})
    assert any(name == "a" or name.startswith("a/") for name in shares)
