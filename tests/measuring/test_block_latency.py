"""Latencies of blocks on this machine and their cache; all in real OpenVINO."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from models import normal

from ndpass.conv import Block, Chain, Conv, Sum
from ndpass.measuring.block_latency import PRECISION, Latencies
from ndpass.measuring.block_model import COLD, copies_for, geometry, small_model
from ndpass.measuring.fake_int8 import quantised
from ndpass.measuring.latency_cache import LatencyCache, cache_folder
from ndpass.measuring.runtime import Precision
from ndpass.measuring.target import Target


def conv(n_o: int, n_i: int, *kernel: int, group: int = 1, bias: bool = False, stride: int = 1) -> Conv:
    """An outline: zeros that take no memory; padded so that the size stays."""
    weight = np.broadcast_to(np.float32(0), (n_o, n_i // group, *kernel))
    pads = tuple(k // 2 for k in kernel) * 2
    return Conv(weight, np.zeros(n_o, np.float32) if bias else None, (stride,) * len(kernel), pads, group=group)


def decoupled(n: int, rank: int) -> Block:
    """nd: 1x1 then depthwise 3x3, `rank` times, added."""
    return Sum(*(Chain(conv(n, n, 1, 1), conv(n, n, 3, 3, group=n, bias=t == 0)) for t in range(rank)))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndpass.measuring.block_latency.SECONDS", 0.05)


# --- latencies ---


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_layer_with_sixteen_times_the_work_is_slower(precision: Precision) -> None:
    latencies = Latencies(Target(precision, threads=1), None)
    (small,) = latencies.of([conv(32, 32, 3, 3)], (16, 16))
    (large,) = latencies.of([conv(128, 128, 3, 3)], (16, 16))
    assert 0 < 2 * small < large < 1


def test_a_much_cheaper_block_is_faster_and_order_is_kept() -> None:
    dense = conv(256, 256, 3, 3, bias=True)
    cheap = Chain(conv(16, 256, 1, 1), conv(256, 16, 1, 1))
    first, second, third = Latencies(Target(threads=1), None).of([dense, cheap, dense], (14, 14))
    assert first == third
    assert second < first / 2


@pytest.mark.parametrize(
    ("block", "in_hw"),
    [
        (conv(8, 3, 3, 3), (9, 7)),
        (conv(8, 8, 3, 3, stride=2), (1, 1)),
        (conv(8, 8, 3), (16,)),
        (conv(8, 8, 3, 3, 3), (4, 4, 4)),
        (conv(8, 8, 3, 3, group=4), (8, 8)),
        (conv(10, 64, bias=True), ()),
    ],
)
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_every_kind_of_convolution_can_be_timed(block: Conv, in_hw: tuple[int, ...], precision: Precision) -> None:
    (seconds,) = Latencies(Target(precision, threads=1, batch=2), None).of([block], in_hw)
    assert 0 < seconds < 1


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_block_of_fewer_input_channels_is_timed_beside_the_others(precision: Precision) -> None:
    """As cp leaves them, alone and decomposed further."""
    blocks = [conv(64, 64, 3, 3), decoupled(64, 1), conv(64, 16, 3, 3), Chain(conv(8, 16, 3, 3), conv(64, 8, 1, 1))]
    dense, _, pruned, both = Latencies(Target(precision, threads=1), None).of(blocks, (32, 32))
    assert 0 < both < dense
    assert 0 < pruned < dense


def test_matrix_products_and_their_rows() -> None:
    dense = conv(256, 256, bias=True)
    low = Chain(conv(16, 256), conv(256, 16, bias=True))
    latencies = Latencies(Target(threads=1), None)
    one = latencies.of([dense, low], ())
    many = latencies.of([dense, low], (), rows=512)
    assert many[0] > 4 * one[0]
    assert many[1] < many[0]


def test_only_a_convolution_can_be_the_dense_original() -> None:
    with pytest.raises(ValueError, match="dense original"):
        Latencies(Target(), None).of([decoupled(8, 2)], (4, 4))


def test_spread_and_noise_of_the_last_measurement() -> None:
    latencies = Latencies(Target(threads=1), None)
    latencies.of([conv(32, 32, 3, 3), decoupled(32, 1)], (8, 8))
    assert latencies.spread > 0
    assert latencies.noisy == (latencies.spread > PRECISION)


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
    assert copies_for(conv(4096, 25088), (), 1) == 1


def test_the_small_model_is_legal_and_holds_its_copies() -> None:
    model = onnx.load_from_string(small_model(decoupled(8, 2), conv(8, 8, 3, 3), (6, 6), 2, 3))
    onnx.checker.check_model(model, full_check=True)
    assert sum(n.op_type == "Conv" for n in model.graph.node) == 1 + 3 * 4
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [2, 3, 1, 1]


def test_the_same_model_twice_is_the_same_bytes() -> None:
    args = (decoupled(8, 2), conv(8, 8, 3, 3), (6, 6), 1, 2)
    assert small_model(*args) == small_model(*args)


def test_int8_runs_every_convolution_of_the_block_in_int8_kernels() -> None:
    core = ov.Core()
    read = quantised(core.read_model(small_model(decoupled(64, 2), conv(64, 64, 3, 3), (8, 8), 1, 2)))
    compiled = core.compile_model(read, "CPU", Target("int8").properties())
    infos = [(op.get_friendly_name(), op.get_rt_info()) for op in compiled.get_runtime_model().get_ordered_ops()]
    kernels = [
        str(info["primitiveType"].astype(str))
        for name, info in infos
        if name.startswith("block") and str(info["layerType"].astype(str)) == "Convolution"
    ]
    assert len(kernels) == 8
    assert all(kernel.upper().endswith("I8") for kernel in kernels)


# --- the cache ---


HERE = {"cpu": "a", "precision": "f32"}


def test_latencies_are_remembered_across_objects(tmp_path: Path) -> None:
    blocks = [conv(16, 16, 3, 3), decoupled(16, 1)]
    first = Latencies(Target(threads=1), tmp_path).of(blocks, (8, 8))
    again = Latencies(Target(threads=1), tmp_path)
    assert again.of(blocks, (8, 8)) == first
    assert again.spread == 0  # nothing was measured
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_block_is_measured_against_the_remembered_dense_one(tmp_path: Path) -> None:
    dense = conv(16, 16, 3, 3)
    first = Latencies(Target(threads=1), tmp_path).of([dense], (8, 8))
    again = Latencies(Target(threads=1), tmp_path)
    assert again.of([dense, decoupled(16, 1)], (8, 8))[0] == first[0]
    assert again.spread > 0


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
