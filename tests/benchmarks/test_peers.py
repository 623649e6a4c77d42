"""Peers of ndpass: what is claimed of them holds, models go to torch and back unharmed, and a plot is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import small_network
from models import network, normal, relative, run_ort
from numpy.typing import NDArray

from benchmarks import curves, peers, rows
from benchmarks.peer_tools import INSTALL, PEERS, Peer, without_data
from ndpass.conv import Conv
from ndpass.passes.network_decoupling import NetworkDecoupling

Array = NDArray[Any]


def dac(weight: Array, rank: int) -> Array:
    """DAC's algorithm written out (Li et al. 2018, section 3): the kernel that its two layers are together.

    For every input channel the SVD of its (n_o, K) matrix: `rank` depthwise kernels, and the columns of a pointwise
    convolution that reads n_i * rank channels.
    """
    n_o, n_i, kernel = weight.shape
    depthwise, pointwise = np.zeros((n_i * rank, kernel)), np.zeros((n_o, n_i * rank))
    for i in range(n_i):
        u, s, v = np.linalg.svd(weight[:, i], full_matrices=False)
        for r in range(rank):
            depthwise[i * rank + r] = v[r]
            pointwise[:, i * rank + r] = u[:, r] * s[r]
    together = np.zeros((n_o, n_i, kernel))
    for c in range(n_i * rank):
        together[:, c // rank] += np.outer(pointwise[:, c], depthwise[c])
    return together


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_dac_is_nd_of_depthwise_first_without_data(rank: int) -> None:
    weight = normal(12, 7, 3, 3)
    block = NetworkDecoupling(rank=rank, form="dw-pw").rewrite(Conv(weight), {"rank": rank, "form": "dw-pw"})
    expected = dac(weight.reshape(12, 7, 9).astype(np.float64), rank)
    np.testing.assert_allclose(block.dense().matrix.reshape(12, 7, 9), expected, atol=1e-5)


def test_a_model_comes_back_from_torch_as_it_was() -> None:
    """With every operator of the models measured, and after pruning of nothing."""
    pytest.importorskip("torch", reason="the extra `peers` is not installed")
    from benchmarks.onnx_torch import Network

    model, image = residual(), normal(2, 3, 8, 8)
    net = Network(model).eval()
    (expected,) = run_ort(model, {"image": image})
    assert relative([expected], [torch_run(net, image)]) < 1e-5
    assert relative([expected], run_ort(net.to_onnx(), {"image": image})) < 1e-6


def test_channels_of_a_sum_and_of_the_output_stay() -> None:
    pytest.importorskip("torch", reason="the extra `peers` is not installed")
    from benchmarks.onnx_torch import Network

    net = Network(residual())
    kept = {name for name, layer in net.layers.items() if any(layer is f for f in net.fixed())}
    assert kept == {"a", "c", "scores"}


@pytest.mark.filterwarnings("default")  # of the packages' own
def test_torch_pruning_at_ratio_zero_changes_nothing_and_prunes_where_asked() -> None:
    pytest.importorskip("torch_pruning", reason="the extra `peers` is not installed")
    import torch
    import torch_pruning as tp

    from benchmarks.onnx_torch import Network
    from benchmarks.peer_tools import _prune

    model, image = residual(), normal(2, 3, 8, 8)
    expected = run_ort(model, {"image": image})
    for share, same in ((1.0, True), (0.7, False)):
        net = Network(model).eval()
        _prune(net, tp.importance.GroupMagnitudeImportance(p=2), False, share, torch.from_numpy(image[:1]))
        pruned = net.to_onnx()
        found = run_ort(pruned, {"image": image})
        assert found[0].shape == expected[0].shape
        assert relative(found, [torch_run(net, image)]) < 1e-5
        assert (relative(expected, found) < 1e-6) == same
        widths = {t.name: t.dims[0] for t in pruned.graph.initializer}
        assert widths["wa"] == widths["wc"] == 16
        assert (widths["wb"] == 16) == same


def test_a_missing_peer_says_what_to_install_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    model = tmp_path / "net.onnx"
    onnx.save(small_network(), model)
    np.savez(tmp_path / "data.npz", images=normal(20, 3, 8, 8), labels=np.arange(20) % 5)
    free = Peer("free", without_data, ["--passes nd:rank=1", "--passes nd --macs 0.001"], "o")
    absent = Peer("absent", without_data, ["--passes nd:rank=1"], "o", ("no_such_module",))
    monkeypatch.setattr(peers, "PEERS", [absent, free])
    args = arguments(monkeypatch, peers, model, tmp_path, "--peers", "free", "absent")
    peers.build(model, "net", args)
    said = capsys.readouterr().out
    assert f"absent is left out: no_such_module not installed: {INSTALL}" in said
    done, refused = rows.read("peers_net")
    assert done["layers"]
    assert "reach" in refused["refused"] or "MACs" in refused["refused"]
    assert (tmp_path / "models" / "net" / "free_passes_nd_rank=1.onnx").exists()
    peers.build(model, "net", args)
    assert len(rows.read("peers_net")) == 2  # what is there is not run again


def test_plots_are_drawn_and_equal_for_equal_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    made = [made_row(peer.name, setting, i) for i, peer in enumerate(PEERS) for setting in peer.of("other")[:1]]
    rows.add("peers_net", *made)
    times = [timed_row(1.0 + i) for i in range(len(made))]
    keys = [[row["peer"], row["setting"]] for row in made]
    rows.add("peers_timed_net", {"threads": 1, "batch": 1, "models": keys, "original": timed_row(9), "times": times})
    drawn = []
    for _ in range(2):
        peers.plot("net")
        curves.plot("net", 10**6, 1)
        drawn.append([(tmp_path / f"{name}_net.svg").read_bytes() for name in ("peers", "curves")])
    assert drawn[0] == drawn[1]
    assert (tmp_path / "peers_net.png").stat().st_size > 10_000
    assert b"<svg" in drawn[0][0]


def test_every_setting_has_a_file_of_its_own() -> None:
    names = [peers.file_of(p, s) for p in PEERS for m in ("vgg16_cifar10", "others") for s in dict.fromkeys(p.of(m))]
    pairs = [(p.name, s) for p in PEERS for m in ("vgg16_cifar10", "others") for s in dict.fromkeys(p.of(m))]
    assert len(set(names)) == len(set(pairs))


def residual() -> onnx.ModelProto:
    """A stem, a block whose shortcut is padded as in ResNets for CIFAR, pooling and a linear layer."""
    text = """(float[batch,3,8,8] image) => (float[batch,5] scores) {
        a = Conv<pads = [1,1,1,1]>(image, wa)  an = BatchNormalization(a, g, h, m, v)  ar = Relu(an)
        b = Conv<pads = [1,1,1,1], strides = [2,2]>(ar, wb, bb)  br = Relu(b)
        c = Conv<pads = [1,1,1,1]>(br, wc)
        cut = Slice(ar, starts, ends, axes, steps)  shortcut = Pad(cut, pads)
        sum = Add(c, shortcut)  r = Relu(sum)  p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
        q = GlobalAveragePool(p)  f = Flatten(q)  scores = Gemm<transB = 1>(f, w, k)
    }"""
    ones = np.abs(normal(16)) + 1
    integers = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3], "steps": [2, 2], "pads": [0] * 8}
    weights = {
        "wa": normal(16, 3, 3, 3),
        "g": ones,
        "h": normal(16),
        "m": normal(16),
        "v": ones,
        "wb": normal(16, 16, 3, 3),
        "bb": normal(16),
        "wc": normal(16, 16, 3, 3),
        "w": normal(5, 16),
        "k": normal(5),
    }
    model = network(text, **weights, **{name: np.array(value, np.int64) for name, value in integers.items()})
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def torch_run(net: Any, image: Array) -> Array:
    import torch

    with torch.no_grad():
        found: Array = net(torch.from_numpy(image)).numpy()
    return found


def made_row(peer: str, setting: str, i: int) -> rows.Row:
    return {
        "peer": peer,
        "setting": setting,
        "refused": "",
        "before": 90.0,
        "accuracy": 90.0 - i,
        "drop": float(i),
        "macs": [100, 50 + i],
        "build_s": 1.0,
        "pipeline": "nd",
        "layers": [],
    }


def timed_row(ms: float) -> rows.Row:
    return {"ms": ms, "spread_ms": [0.9 * ms, 1.1 * ms], "speedup": 9 / ms, "spread": [8 / ms, 10 / ms], "rounds": 10}


def arguments(monkeypatch: pytest.MonkeyPatch, command: Any, model: Path, folder: Path, *more: str) -> Any:
    data = str(folder / "data.npz")
    given = [str(model), "--calibration", data, "--validation", data, "--models", str(folder / "models"), *more]
    monkeypatch.setattr("sys.argv", ["peers", *given])
    return command.arguments()
