"""Peers of ndpass: what is claimed of them holds, models go to torch and back unharmed, and a plot is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from benchmark_rows import INTEL
from conftest import small_network
from models import network, normal, relative, run_ort
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.ndpass_command import RefusedError
from benchmarks.peer_tools.catalogue import INSTALL, PEERS, Peer, without_data
from benchmarks.peer_tools.task import Task
from benchmarks.results import curve_plot, peer_table, rows
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
    from benchmarks.networks.onnx_torch import OnnxModule

    model, image = residual(), normal(2, 3, 8, 8)
    net = OnnxModule(model).eval()
    (expected,) = run_ort(model, {"image": image})
    assert relative([expected], [torch_run(net, image)]) < 1e-5
    assert relative([expected], run_ort(net.to_onnx(), {"image": image})) < 1e-6


def test_channels_of_a_sum_and_of_the_output_stay() -> None:
    pytest.importorskip("torch", reason="the extra `peers` is not installed")
    from benchmarks.networks.onnx_torch import OnnxModule

    net = OnnxModule(residual())
    kept = {name for name, layer in net.layers.items() if any(layer is f for f in net.fixed())}
    assert kept == {"a", "c", "scores"}


@pytest.mark.filterwarnings("default")  # of the packages' own
def test_torch_pruning_at_ratio_zero_changes_nothing_and_prunes_where_asked() -> None:
    pytest.importorskip("torch_pruning", reason="the extra `peers` is not installed")
    import torch
    import torch_pruning as tp

    from benchmarks.networks.onnx_torch import OnnxModule
    from benchmarks.peer_tools.pruning import _prune

    model, image = residual(), normal(2, 3, 8, 8)
    expected = run_ort(model, {"image": image})
    for share, same in ((1.0, True), (0.7, False)):
        net = OnnxModule(model).eval()
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
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peer that writes the model as it is, one that has none at a setting, and one that is not installed."""
    model = results / "net.onnx"
    onnx.save(small_network(), model)
    np.savez(results / "data.npz", images=normal(20, 3, 8, 8), labels=np.arange(20) % 5)
    free, absent = (
        Peer("free", copied, ["same", "none"], "o"),
        Peer("absent", copied, ["same"], "o", ("no_such_module",)),
    )
    monkeypatch.setattr(peers, "PEERS", [absent, free])
    args = arguments(monkeypatch, peers, model, results, "--peers", "free", "absent")
    peers.build(model, "net", args)
    said = capsys.readouterr().out
    assert f"absent is left out: no_such_module not installed: {INSTALL}" in said
    done, refused = rows.read("peers_net")
    assert done["drop"] == 0
    assert done["macs"][0] == done["macs"][1] > 0
    assert done["layers"] == []
    assert refused == {"peer": "free", "setting": "none", "refused": "no such setting", "about": refused["about"]}
    assert (results / "models" / "net" / "free_same.onnx").exists()
    peers.build(model, "net", args)
    assert len(rows.read("peers_net")) == 2  # what is there is not run again


def copied(task: Task) -> rows.Row:
    if task.setting == "none":
        raise RefusedError("no such setting")
    task.out.write_bytes(task.model.read_bytes())
    return {"layers": []}


def test_what_chose_by_latency_is_built_anew_on_another_cpu(monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
    model = results / "net.onnx"
    onnx.save(small_network(), model)
    np.savez(results / "data.npz", images=normal(20, 3, 8, 8), labels=np.arange(20) % 5)
    monkeypatch.setattr(peers, "PEERS", [Peer(name, copied, ["same"], "o") for name in ("by MACs", "ndpass by ms")])
    args = arguments(monkeypatch, peers, model, results, "--peers", "by MACs", "ndpass by ms")
    for cpu in (rows.FIRST_CPU, INTEL, INTEL):
        monkeypatch.setattr(rows, "cpu", lambda cpu=cpu: cpu)
        peers.build(model, "net", args)
    built = [(row["peer"], row.get("cpu")) for row in rows.read("peers_net")]
    assert built == [("by MACs", None), ("ndpass by ms", rows.FIRST_CPU), ("ndpass by ms", INTEL)]


@pytest.mark.usefixtures("results")
def test_times_and_curves_are_those_of_one_cpu() -> None:
    """Each CPU has its last run of times, its own plans by milliseconds, and the accuracy that has no CPU."""
    rows.add("peers_net", made_row("DAC", "s", 1), made_row("ndpass by ms", "s", 2))
    rows.add("peers_net", {**made_row("ndpass by ms", "s", 3), "cpu": INTEL})
    run = {"threads": 1, "batch": 1, "models": [["DAC", "s"], ["ndpass by ms", "s"]], "original": timed_row(9)}
    rows.add("peers_timed_net", {**run, "times": [timed_row(2), timed_row(3)]})
    rows.add("peers_timed_net", {**run, "cpu": INTEL, "times": [timed_row(4), timed_row(5)]})
    for cpu, drop, ms in ((rows.FIRST_CPU, 2.0, [2, 3]), (INTEL, 3.0, [4, 5])):
        original, found = peer_table.timed("net", cpu)
        assert original is not None
        assert [row["ms"] for row in found] == ms
        assert [row["drop"] for row in found] == [1.0, drop]
    assert peer_table.timed("net", "Intel AMX") == (None, [])
    fitted = {"pipeline": "sd", "layers": [], "accuracy": 89.0, "drop": 1.0, "before": 90.0, "times_fewer": 2.0}
    rows.add("compression_net", {**fitted, "compensated": True, "slopes": True})
    chosen = {"precision": "f32", "refused": "", "pipeline": "auto", "layers": [], "drop": 0.5, "macs": [4, 1]}
    rows.add("max_drop_net", chosen, {**chosen, "cpu": INTEL, "drop": 0.25})
    accuracy = {cpu: [plan["accuracy"] for plan in curve_plot.plans("net", cpu)] for cpu in (rows.FIRST_CPU, INTEL)}
    assert accuracy == {rows.FIRST_CPU: [89.0, 89.0, 89.5], INTEL: [89.0, 89.0, 89.75]}  # sd, DAC, auto by ms


def test_plots_are_drawn_and_equal_for_equal_rows(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    monkeypatch.setattr(rows, "cpu", lambda: rows.FIRST_CPU)
    made = [made_row(peer.name, setting, i) for i, peer in enumerate(PEERS) for setting in peer.of("other")[:1]]
    rows.add("peers_net", *made)
    times = [timed_row(1.0 + i) for i in range(len(made))]
    keys = [[row["peer"], row["setting"]] for row in made]
    rows.add("peers_timed_net", {"threads": 1, "batch": 1, "models": keys, "original": timed_row(9), "times": times})
    curve_plot.plot("net", 10**6, 1)
    drawn = []
    for _ in range(2):
        peer_table.plot("net")
        drawn.append((results / "peers_net.svg").read_bytes())
    assert drawn[0] == drawn[1]
    assert (results / "peers_net.png").stat().st_size > 10_000
    assert b"<svg" in drawn[0]
    assert b"<svg" in (results / "curves_net.svg").read_bytes()


def test_ndpass_runs_as_a_command_and_says_why_it_refuses(tmp_path: Path) -> None:
    """What is kept is the plan; a refusal is the last line, with files by their names."""
    model = tmp_path / "net.onnx"
    onnx.save(small_network(), model)
    task = Task(model, tmp_path / "out.onnx", "--passes nd:rank=1", model, model, "", None, 1)
    kept = without_data(task)
    assert kept["pipeline"] == "nd"
    assert {layer["name"] for layer in kept["layers"]} == {"a", "b"}
    assert task.out.exists()
    absent = replace(task, model=tmp_path / "absent.onnx")
    with pytest.raises(RefusedError, match=r"^ndpass: absent\.onnx") as refused:
        without_data(absent)
    assert refused.value.seconds > 0


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
