"""What `inspect` says of each layer: its cost and what each pass could make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command
from models import network, normal

from ndpass.graph.graph import Graph
from ndpass.run.inspection import Row, inspect

RANK = 8  # of the 1x1 convolution that is planted; the least that cd offers here


def rows() -> dict[str, Row]:
    """A 1x1 convolution of low rank, one of full rank, a depthwise one, an LSTM-free head."""
    low = normal(32, RANK) @ normal(RANK, 32)
    text = """(float[1,32,8,8] x) => (float[1,32,8,8] y) {
        a = Conv(x, low)  b = Conv(a, full)  y = Conv<group=32, pads=[1,1,1,1]>(b, deep)
    }"""
    weights = {"low": low[:, :, None, None].astype(np.float32), "full": orthogonal(32), "deep": normal(32, 1, 3, 3)}
    return {row.name: row for row in inspect(Graph(network(text, **weights)))}


def orthogonal(n: int) -> np.ndarray:
    found, _ = np.linalg.qr(normal(n, n).astype(np.float64))
    return found[:, :, None, None].astype(np.float32)


def test_a_pointwise_layer_is_told_what_other_passes_could_do() -> None:
    low, full, deep = rows().values()
    assert low.reason is not None  # nd leaves 1x1 convolutions alone
    assert low.note == ""
    assert low.passes["cd"].macs is not None
    assert low.passes["cd"].macs <= 2 * RANK * 32 / 32**2  # 32 to RANK channels and back
    assert low.passes["cd"].setting.startswith("rank=")
    assert full.passes["cd"].macs == 1.0  # no direction is worth less than another
    assert {offer.refused != "" for offer in deep.passes.values()} == {True}
    assert "depthwise" in deep.note


def test_shares_are_of_the_whole_model() -> None:
    assert sum(row.share or 0 for row in rows().values()) == pytest.approx(1.0)


def test_the_table_and_the_json_say_the_same(ndpass: Command, folder: Path) -> None:
    onnx.save(
        network("(float[1,8,6,6] x) => (float[1,4,6,6] y) { y = Conv(x, W) }", W=normal(4, 8, 1, 1)), folder / "m.onnx"
    )
    done = ndpass("inspect", "m.onnx", "--json", "r.json")
    assert done.code == 0, done.err
    (row,) = json.loads(Path("r.json").read_text())
    share = row["passes"]["cd"]["macs"]
    assert f"{100 * share:.0f} %" in done.out
    assert "95 % of its weights' energy" in done.out


def test_blocks_are_listed_with_what_merging_leaves_or_why_not(ndpass: Command, tmp_path: Path) -> None:
    text = """(float[1,8,6,6] x) => (float[1,8,6,6] y) {
        a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)  b = Conv<pads=[1,1,1,1]>(r, B)  s = Add(b, x)
        c = Conv(s, C)  y = Add(s, c)
    }"""
    weights = {"A": normal(8, 8, 3, 3), "B": normal(8, 8, 3, 3), "C": normal(8, 8, 1, 1)}
    onnx.save(network(text, **weights), tmp_path / "net.onnx")
    lines = [line for line in ndpass("inspect", tmp_path / "net.onnx").out.splitlines() if line.startswith("block")]
    assert lines == [
        "block 's' (a, b): bm: kernel=none 0 %, kernel=1 6 %, kernel=3 50 % of 41.47 k MACs",
        "block 'y': its branch is one convolution already",
    ]


def test_blocks_that_are_left_for_one_reason_are_one_line(ndpass: Command, tmp_path: Path) -> None:
    sums = "  ".join(f"c{i} = Conv(s{i}, C)  s{i + 1} = Add(s{i}, c{i})" for i in range(5))
    text = f"""(float[1,8,6,6] x) => (float[1,8,6,6] y) {{ s0 = Relu(x)  {sums}
        a = Conv<pads=[1,1,1,1]>(s5, A)  r = Sigmoid(a)  q = Mul(a, r)  y = Conv<pads=[1,1,1,1]>(q, B) }}"""
    weights = {"A": normal(8, 8, 3, 3), "B": normal(8, 8, 3, 3), "C": normal(8, 8, 1, 1)}
    onnx.save(network(text, **weights), tmp_path / "net.onnx")
    out = ndpass("inspect", tmp_path / "net.onnx").out
    assert "chain a, y: bm: kernel=1 6 %, kernel=3 50 % of 41.47 k MACs\n" in out
    assert "blocks 's1', 's2', 's3' and 2 more: its branch is one convolution already\n" in out
