"""Latencies of blocks: their values on a machine on paper, their form on this one, and their cache."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from models import normal
from paper_machine import EACH, PER_MAC, PaperMachine

from ndpass.conv import Block, Chain, Conv, Sum
from ndpass.graph.transposed import Transposed
from ndpass.measuring.block_latency import AT_ONCE, PRECISION, Latencies
from ndpass.measuring.block_model import COLD, copies_for, geometry, small_model
from ndpass.measuring.fake_int8 import quantised
from ndpass.measuring.latency_cache import LatencyCache, cache_folder
from ndpass.measuring.machine import ThisMachine
from ndpass.measuring.runtime import Feed, Precision, Runnable
from ndpass.measuring.target import Target
from ndpass.measuring.turns import Timed


def conv(n_o: int, n_i: int, *kernel: int, group: int = 1, bias: bool = False, stride: int = 1) -> Conv:
    """An outline: zeros that take no memory; padded so that the size stays."""
    weight = np.broadcast_to(np.float32(0), (n_o, n_i // group, *kernel))
    pads = tuple(k // 2 for k in kernel) * 2
    return Conv(weight, np.zeros(n_o, np.float32) if bias else None, (stride,) * len(kernel), pads, group=group)


def decoupled(n: int, rank: int) -> Block:
    """nd: 1x1 then depthwise 3x3, `rank` times, added."""
    return Sum(*(Chain(conv(n, n, 1, 1), conv(n, n, 3, 3, group=n, bias=t == 0)) for t in range(rank)))


def on_paper(block: Block, in_hw: tuple[int, ...], rows: int = 1) -> float:
    """Seconds that a block takes on a paper machine."""
    return EACH * len(list(block.leaves())) + rows * block.macs(in_hw) * PER_MAC


class CountingMachine(PaperMachine):
    """Counts the models that are compiled."""

    loads = 0

    def load(self, model: Path | Runnable, feed: Feed) -> Callable[[], Timed]:
        self.loads += 1
        return super().load(model, feed)


# --- latencies, on a machine whose times are planned ---


def test_blocks_take_what_they_take_in_the_small_model_without_what_is_around_them() -> None:
    dense = conv(64, 64, 3, 3, bias=True)
    blocks = [dense, Chain(conv(16, 64, 1, 1), conv(64, 16, 1, 1)), decoupled(64, 2), dense]
    found = Latencies(PaperMachine(), None).of(blocks, (14, 14))
    assert found == pytest.approx([on_paper(block, (14, 14)) for block in blocks])


def test_a_block_of_fewer_input_channels_has_a_base_of_its_own() -> None:
    """As pruning leaves them, alone and decomposed further; the head of a narrower model takes less."""
    blocks = [conv(64, 64, 3, 3), decoupled(64, 1), conv(64, 16, 3, 3), Chain(conv(8, 16, 3, 3), conv(64, 8, 1, 1))]
    found = Latencies(PaperMachine(), None).of(blocks, (32, 32))
    assert found == pytest.approx([on_paper(block, (32, 32)) for block in blocks])


def test_matrix_products_and_their_rows() -> None:
    blocks = [conv(256, 256, bias=True), Chain(conv(16, 256), conv(256, 16, bias=True))]
    latencies = Latencies(PaperMachine(Target(threads=1, batch=3)), None)
    for rows, asked in ((3, None), (512, 512)):
        assert latencies.of(blocks, (), asked) == pytest.approx([on_paper(block, (), rows) for block in blocks])


def test_more_blocks_than_are_compiled_at_once() -> None:
    blocks = [conv(32, 32, 3, 3), *(decoupled(32, rank) for rank in range(1, 2 * AT_ONCE))]
    found = Latencies(PaperMachine(), None).of(blocks, (8, 8))
    assert found == pytest.approx([on_paper(block, (8, 8)) for block in blocks])


def test_what_blocks_are_timed_beside_is_compiled_once_for_a_layer() -> None:
    """Candidates come a few at a time, of several widths; the dense layer and the bases are the same for all."""
    machine = CountingMachine()
    latencies, dense = Latencies(machine, None), conv(64, 64, 3, 3)
    latencies.of([dense, decoupled(64, 1)], (14, 14))
    assert machine.loads == 3  # base, dense, block
    found = latencies.of([dense, decoupled(64, 2), conv(64, 16, 3, 3)], (14, 14))
    assert machine.loads == 6  # a base of the narrower width, and two blocks
    assert found == pytest.approx([on_paper(b, (14, 14)) for b in (dense, decoupled(64, 2), conv(64, 16, 3, 3))])
    latencies.of([dense, decoupled(64, 3)], (7, 7))
    assert machine.loads == 9  # of another size nothing is


def test_a_machine_that_slows_down_is_slower_for_all_blocks() -> None:
    machine = PaperMachine()
    machine.noise = lambda: 1 + machine.seconds
    blocks = [conv(64, 64, 3, 3), decoupled(64, 2)]
    dense, block = Latencies(machine, None).of(blocks, (14, 14))
    expected = on_paper(blocks[1], (14, 14)) / on_paper(blocks[0], (14, 14))
    assert block / dense == pytest.approx(expected, rel=0.15)


def test_only_a_convolution_can_be_the_dense_original() -> None:
    with pytest.raises(ValueError, match="dense original"):
        Latencies(PaperMachine(), None).of([decoupled(8, 2)], (4, 4))


def test_noise_in_one_measurement_is_not_forgotten_after_the_next() -> None:
    rng, busy = np.random.default_rng(0), True
    machine = PaperMachine(noise=lambda: float(rng.lognormal(0, 1)) if busy else 1.0)
    latencies = Latencies(machine, None)
    assert (latencies.spread, latencies.noisy) == (0, False)
    latencies.of([conv(32, 32, 3, 3), decoupled(32, 1)], (8, 8))
    spread, busy = latencies.spread, False
    assert spread > PRECISION
    latencies.of([conv(16, 16, 3, 3), decoupled(16, 1)], (8, 8))
    assert latencies.noisy
    assert latencies.spread == spread


def test_a_quiet_machine_is_not_noisy() -> None:
    latencies = Latencies(PaperMachine(), None)
    latencies.of([conv(32, 32, 3, 3), decoupled(32, 1)], (8, 8))
    assert not latencies.noisy


# --- latencies of this machine: their form ---


@pytest.mark.parametrize(
    ("block", "in_hw"),
    [
        (conv(8, 3, 3, 3), (9, 7)),
        (conv(8, 8, 3, 3, stride=2), (1, 1)),
        (conv(8, 8, 3), (16,)),
        (conv(8, 8, 3, 3, 3), (4, 4, 4)),
        (conv(8, 8, 3, 3, group=4), (8, 8)),
        (conv(10, 64, bias=True), ()),
        (Chain(conv(8, 64, 1, 1), conv(64, 8, 1, 1)), (8, 8)),
        (decoupled(64, 2), (8, 8)),
    ],
)
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_every_kind_of_block_can_be_timed(block: Block, in_hw: tuple[int, ...], precision: Precision) -> None:
    latencies = Latencies(ThisMachine(Target(precision, threads=1, batch=2)), None, seconds=0.01)
    dense = block if isinstance(block, Conv) else conv(64, 64, 3, 3)
    found = latencies.of([dense, block], in_hw)
    assert len(found) == 2
    assert all(0 < seconds < math.inf for seconds in found)
    assert latencies.spread > 0


# --- the small model ---


def test_geometry_tells_apart_what_differs_and_nothing_else() -> None:
    blocks = [
        conv(8, 8, 3, 3),
        conv(8, 8, 3, 3, stride=2),
        conv(8, 8, 3, 3, bias=True),
        conv(8, 8, 3, 3, group=8),
        conv(8, 8, 1, 1),
        decoupled(8, 1),
        decoupled(8, 2),
        Chain(conv(8, 8, 1, 1), conv(8, 8, 1, 1)),
        Sum(conv(8, 8, 1, 1), conv(8, 8, 1, 1)),
    ]
    texts = [geometry(b) for b in blocks]
    assert len(set(texts)) == len(blocks)
    assert geometry(Conv(normal(8, 8, 3, 3), pads=(1, 1, 1, 1))) == texts[0]


def test_copies_are_many_for_small_layers_cold_for_wide_ones_and_one_for_huge_ones() -> None:
    assert copies_for(conv(16, 16, 3, 3), (8, 8), 1) == 8
    wide = conv(512, 512, 3, 3)
    assert copies_for(wide, (2, 2), 1) * wide.weight.size * 4 > COLD
    assert copies_for(conv(64, 64, 3, 3), (224, 224), 1) == 1
    assert copies_for(wide, (30, 30), 1) == 1  # 900 positions for each weight that is read
    assert copies_for(conv(4096, 25088), (), 1) == 1


def test_the_small_model_is_legal_and_holds_its_copies() -> None:
    model = onnx.load_from_string(small_model(decoupled(8, 2), conv(8, 8, 3, 3), (6, 6), 2, 3))
    onnx.checker.check_model(model, full_check=True)
    assert sum(n.op_type == "Conv" for n in model.graph.node) == 1 + 3 * 4
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [2, 3, 1, 1]


def test_the_same_model_twice_is_the_same_bytes() -> None:
    args = (decoupled(8, 2), conv(8, 8, 3, 3), (6, 6), 1, 2)
    assert small_model(*args) == small_model(*args)


PHASES = Transposed((64, 32, 4, 4), 2, (1, 1))


@pytest.mark.parametrize(
    ("block", "count", "transposed"),
    [
        (decoupled(64, 2), 4, None),
        (Chain(conv(32, 64, 3, 3, group=4), conv(64, 32, 1, 1, group=4)), 2, None),
        (Chain(conv(16, 64, 3, 3), conv(128, 16, 1, 1)), 2, PHASES),
        (PHASES.outline(bias=True), 1, PHASES),
    ],
    ids=["decoupled", "grouped", "phases", "transposed"],
)
def test_int8_runs_every_convolution_of_the_block_in_int8_kernels(
    block: Block, count: int, transposed: Transposed | None
) -> None:
    core, dense = ov.Core(), transposed.outline(bias=True) if transposed else conv(64, 64, 3, 3)
    read = quantised(core.read_model(small_model(block, dense, (8, 8), 1, 2, transposed=transposed)))
    compiled = core.compile_model(read, "CPU", Target("int8").properties())
    infos = [(op.get_friendly_name(), op.get_rt_info()) for op in compiled.get_runtime_model().get_ordered_ops()]
    kernels = [
        str(info["primitiveType"].astype(str))
        for name, info in infos
        if name != "head" and str(info["layerType"].astype(str)) in ("Convolution", "Deconvolution")
    ]
    assert len(kernels) == 2 * count
    assert all(kernel.upper().endswith("I8") for kernel in kernels)


# --- the cache ---


HERE = {"cpu": "a", "precision": "f32"}


def test_latencies_are_remembered_across_objects(tmp_path: Path) -> None:
    blocks, noise = [conv(16, 16, 3, 3), decoupled(16, 1)], np.random.default_rng(0).random
    first = Latencies(PaperMachine(noise=noise), tmp_path).of(blocks, (8, 8))
    again = Latencies(PaperMachine(noise=noise), tmp_path)
    assert again.of(blocks, (8, 8)) == first
    assert again.spread == 0  # nothing was measured
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_block_is_measured_against_the_remembered_dense_one(tmp_path: Path) -> None:
    """The machine has become three times as slow since then: the ratio of the two is what is measured."""
    blocks = [conv(16, 16, 3, 3), decoupled(16, 1)]
    first = Latencies(PaperMachine(), tmp_path).of(blocks[:1], (8, 8))
    again = Latencies(PaperMachine(noise=lambda: 3.0), tmp_path).of(blocks, (8, 8))
    assert again[0] == first[0]
    assert again == pytest.approx([on_paper(block, (8, 8)) for block in blocks])


def test_targets_do_not_share_latencies(tmp_path: Path) -> None:
    targets = [Target(), Target(threads=1), Target(batch=2), Target("int8")]
    assert len({str(t.environment()) for t in targets}) == len(targets)
    LatencyCache(tmp_path, HERE).put({"k": 1.0})
    assert LatencyCache(tmp_path, HERE | {"precision": "bf16"}).get("k") is None


def test_two_that_write_keep_what_both_found(tmp_path: Path) -> None:
    one, other = LatencyCache(tmp_path, HERE), LatencyCache(tmp_path, HERE)
    one.put({"a": 1.0})
    other.put({"b": 2.0})
    assert other.get("a") == 1.0
    reread = LatencyCache(tmp_path, HERE)
    assert (reread.get("a"), reread.get("b")) == (1.0, 2.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "environment": {}, "latencies": {}}', "\x80\x00"])
def test_a_file_that_is_corrupt_or_of_the_future_is_ignored_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = LatencyCache(tmp_path, HERE).path
    assert path is not None
    path.write_text(text, encoding="latin-1")
    cache = LatencyCache(tmp_path, HERE)
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()
    cache.put({"a": 1.0})
    assert LatencyCache(tmp_path, HERE).get("a") == 1.0


@pytest.mark.parametrize("value", ["0.1", 0, -1, 1e9, None, [1], "NaN", True])
def test_an_entry_that_is_no_latency_is_ignored_and_the_others_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    path = LatencyCache(tmp_path, HERE).path
    assert path is not None
    path.write_text(json.dumps({"version": 1, "environment": HERE, "latencies": {"good": 0.5, "bad": value}}))
    cache = LatencyCache(tmp_path, HERE)
    assert (cache.get("good"), cache.get("bad")) == (0.5, None)
    assert len(caplog.records) == 1


def test_a_file_of_another_machine_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = LatencyCache(tmp_path, HERE).path
    assert path is not None
    path.write_text(json.dumps({"version": 1, "environment": {"cpu": "b"}, "latencies": {"a": 0.5}}))
    assert LatencyCache(tmp_path, HERE).get("a") is None
    assert "another machine" in caplog.text


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = LatencyCache(tmp_path / "file" / "below", HERE)
    cache.put({"a": 1.0})
    cache.put({"b": 2.0})
    assert (cache.get("a"), cache.get("b")) == (1.0, 2.0)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NDPASS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("NDPASS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ndpass"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the XDG specification says to ignore
    assert cache_folder() == Path.home() / ".cache" / "ndpass"
