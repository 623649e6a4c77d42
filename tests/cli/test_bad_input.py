"""What cannot be done ends in one line that says what, where and what to do, with its exit code and without a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command, Finished, assert_refused, small_network
from models import network, normal
from onnx import helper

USAGE, INPUT, BUDGET = 2, 3, 4

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones too, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def rewrite(ndpass: Command, model: object, output: object, *args: object) -> Finished:
    return ndpass("run", model, "-q", "--passes", "nd:rank=2", "-o", output, *args)


# -------------------------------------------------------------------------------------------------------- models

CONV = "(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv<pads = [1,1,1,1]>(x, w) }"
WEIGHT = normal(4, 3, 3, 3)


def broken(value: float, dtype: type[np.floating]) -> onnx.ModelProto:
    """A convolution with one number that is none."""
    weight = WEIGHT.astype(dtype)
    weight[1, 2, 0, 0] = value
    kind = {np.float32: "float", np.float16: "float16"}[dtype]
    return network(CONV.replace("float[", f"{kind}["), w=weight)


def with_external_data(path: Path) -> onnx.ModelProto:
    """The model at `path` as the file itself has it, its weights beside it in weights.bin."""
    onnx.save(small_network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return onnx.load(path, load_external_data=False)


def saved(model: onnx.ModelProto) -> Callable[[Path], object]:
    return lambda path: onnx.save(model, path)


def not_onnx(path: Path) -> None:
    path.write_text("this is a text about networks\n" * 20)


def truncated(path: Path) -> None:
    whole = small_network().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])


def empty(path: Path) -> None:
    path.touch()


def a_folder(path: Path) -> None:
    path.mkdir()


def failing_the_checker(path: Path) -> None:
    """It reads a tensor that nothing computes."""
    onnx.save(network("(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv(x, missing) }"), path)


def contradicting_itself(path: Path) -> None:
    """Weights for two channels on an input of three."""
    onnx.save(network(CONV, w=normal(4, 2, 3, 3)), path)


def constant_node_with_nan(path: Path) -> None:
    model = network("(float[1,3,8,8] x) => (float[1,4,8,8] y) { w = Constant()  y = Conv<pads = [1,1,1,1]>(x, w) }")
    value = onnx.numpy_helper.from_array(np.full((4, 3, 3, 3), np.nan, np.float32))
    model.graph.node[0].attribute.append(helper.make_attribute("value", value))
    onnx.save(model, path)


def external_data_missing(path: Path) -> None:
    with_external_data(path)
    path.with_name("weights.bin").unlink()


def external_data_truncated(path: Path) -> None:
    with_external_data(path)
    os.truncate(path.with_name("weights.bin"), 100)


def quantised(path: Path) -> None:
    """QuantizeLinear and DequantizeLinear on the input and on the weights, as NNCF and onnxruntime write them."""
    onnx.save(
        network(
            """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
                q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  v = DequantizeLinear(w, s, z)
                y = Conv<pads = [1,1,1,1]>(d, v) }""",
            s=np.float32(0.1),
            z=np.int8(0),
            w=np.ones((4, 3, 3, 3), np.int8),
        ),
        path,
    )


def quantised_operators(path: Path) -> None:
    onnx.save(
        network(
            """(uint8[1,3,8,8] x) => (uint8[1,4,8,8] y) {
                y = QLinearConv<pads = [1,1,1,1]>(x, s, z, w, s, z, s, z) }""",
            s=np.float32(0.1),
            z=np.uint8(0),
            w=np.ones((4, 3, 3, 3), np.uint8),
        ),
        path,
    )


def fused_by_onnxruntime(path: Path) -> None:
    node = helper.make_node("FusedConv", ["x", "w"], ["y"], "fused", domain="com.microsoft", activation="Relu")
    model = network(CONV, w=WEIGHT)
    del model.graph.node[:]
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)


UNREADABLE = network(  # OpenVINO does not know how many axes are left
    "(float[N,1,3,8,8] x) => (float[N,4,8,8] y) { s = Squeeze(x)  y = Conv<pads = [1,1,1,1]>(s, w) }", w=WEIGHT
)
NO_CONVOLUTION = network("(float[b,8] x) => (float[b,4] y) { y = Gemm(x, w) }", w=normal(8, 4))
OUTSIDE = "inside its folder"

BAD_MODELS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "not ONNX": (not_onnx, ("not an ONNX model", "export")),
    "truncated": (truncated, ("truncated", "export")),
    "empty": (empty, ("not a", "ONNX model")),
    "no file": (lambda _: None, ("no such file",)),
    "a folder": (a_folder, ("is a folder", "name the model in it")),
    "failing the checker": (failing_the_checker, ("not a valid ONNX model", "missing")),
    "contradicting itself": (contradicting_itself, ()),
    "unknown to OpenVINO": (saved(UNREADABLE), ("OpenVINO", "cannot read the model", "Conv")),
    "no convolution": (saved(NO_CONVOLUTION), ("no convolution",)),
    "NaN": (saved(broken(np.nan, np.float32)), ("'w'", "NaN", "export")),
    "infinity": (saved(broken(-np.inf, np.float32)), ("'w'", "infinite", "export")),
    "infinity in half precision": (saved(broken(np.inf, np.float16)), ("'w'", "infinite", "export")),
    "NaN in a Constant": (constant_node_with_nan, ("NaN",)),
    "external data missing": (external_data_missing, ("external data", "weights.bin", OUTSIDE)),
    "external data truncated": (external_data_truncated, ("external data",)),
    "quantised": (quantised, ("quantised", "run ndpass before quantising")),
    "quantised operators": (quantised_operators, ("QLinearConv", "run ndpass before quantising")),
    "fused by onnxruntime": (fused_by_onnxruntime, ("optimised by onnxruntime", "FusedConv", "from before that")),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(name: str, folder: Path, ndpass: Command) -> None:
    make, words = BAD_MODELS[name]
    make(folder / "bad.onnx")
    before = contents(folder)
    assert_refused(rewrite(ndpass, "bad.onnx", "out.onnx"), INPUT, "bad.onnx", *words)
    assert contents(folder) == before


@pytest.mark.parametrize("location", ["../weights.bin", "{folder}/weights.bin"], ids=["parent", "absolute"])
def test_external_data_outside_the_folder(location: str, folder: Path, ndpass: Command) -> None:
    """The file is there and readable: a model from elsewhere must not make ndpass copy it into the output."""
    (folder / "inner").mkdir()
    model = with_external_data(folder / "inner/bad.onnx")
    (folder / "inner/weights.bin").rename(folder / "weights.bin")
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location.format(folder=folder)
    (folder / "inner/bad.onnx").write_bytes(model.SerializeToString())
    before = contents(folder)
    done = ndpass("run", "inner/bad.onnx", "-q", "--passes", "nd:rank=2", "-o", "out.onnx")
    assert_refused(done, INPUT, "inner/bad.onnx", "external data", OUTSIDE)
    assert contents(folder) == before


def test_external_data_behind_a_symbolic_link(folder: Path, ndpass: Command) -> None:
    with_external_data(folder / "bad.onnx")
    (folder / "secret").mkdir()
    (folder / "weights.bin").rename(folder / "secret/weights.bin")
    (folder / "weights.bin").symlink_to(folder / "secret/weights.bin")
    before = contents(folder)
    done = ndpass("run", "bad.onnx", "-q", "--passes", "nd:rank=2", "-o", "out.onnx")
    assert_refused(done, INPUT, "bad.onnx", "external data", OUTSIDE)
    assert contents(folder) == before


def test_intermediate_representation(folder: Path, ndpass: Command) -> None:
    (folder / "net.xml").write_text("<net/>")
    assert_refused(ndpass("run", "net.xml", "-q"), INPUT, "net.xml", "not an OpenVINO IR")


def test_nothing_to_rewrite_within_the_budget(folder: Path, ndpass: Command) -> None:
    """White noise: a pass could act, but no rank below the full one keeps so much."""
    noise = network("(float[1,8,8,8] x) => (float[1,8,6,6] y) { y = Conv(x, w) }", w=normal(8, 8, 3, 3))
    onnx.save(noise, folder / "noise.onnx")
    done = ndpass("run", "noise.onnx", "-q", "--passes", "cd", "--energy", "0.999", "-o", "out.onnx")
    assert_refused(done, BUDGET, "noise.onnx", "nothing cheaper keeps 0.999 of the energy")
    assert not (folder / "out.onnx").exists()


def test_nothing_to_rewrite(folder: Path, ndpass: Command) -> None:
    """1x1 and grouped convolutions only: an error with the reasons, not a copy of the model."""
    text = "(float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w)  y = Conv<group = 4, pads = [1,1,1,1]>(a, v) }"
    onnx.save(network(text, w=normal(4, 4, 1, 1), v=normal(4, 1, 3, 3)), folder / "thin.onnx")
    done = ndpass("run", "thin.onnx", "-q", "--passes", "nd:rank=2", "-o", "out.onnx")
    assert_refused(done, INPUT, "thin.onnx", "nothing to rewrite", "one element", "depthwise", "ndpass inspect")
    assert not (folder / "out.onnx").exists()


# ---------------------------------------------------------------------------------------------------------- data


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write_data(folder: Path) -> None:
    """Data of every wrong kind."""
    np.save(folder / "small.npy", np.zeros((4, 3, 7, 8), np.float32))
    np.save(folder / "grey.npy", np.zeros((4, 1, 8, 8), np.float32))
    np.save(folder / "pixels.npy", pixels(4, 9, 9, 3))
    np.save(folder / "nan.npy", np.full((4, 3, 8, 8), np.nan, np.float32))
    np.savez(folder / "labels.npz", images=pixels(4, 8, 8, 3), labels=np.arange(3))
    np.savez(folder / "classes.npz", images=pixels(4, 8, 8, 3), labels=np.array([0, 1, 2, 99]))
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    (folder / "data.csv").write_text("1,2,3\n")
    (folder / "nothing").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures/note.png").write_text("no picture")


FITTING = "size=8,scale=1/255"
BAD_DATA: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "wrong size": ("small.npy", None, ("(batch, 3, 8, 8)", "(batch, 3, 7, 8)", "give")),
    "wrong channels": ("grey.npy", None, ("(batch, 3, 8, 8)", "(batch, 1, 8, 8)", "give")),
    "pixels of the wrong size": ("pixels.npy", "scale=1/255", ("(batch, 3, 9, 9)", "size=8x8")),
    "pixels of the wrong colours": ("pixels.npy", "size=8,color=grey", ("'image'", "--preprocess size=8x8")),
    "no preprocessing": ("pixels.npy", None, ("--preprocess", "imagenet")),
    "not finite": ("nan.npy", None, ("nan.npy", "NaN")),
    "labels of the wrong length": ("labels.npz", FITTING, ("4 samples", "(3,)")),
    "labels of other classes": ("classes.npz", FITTING, ("99", "0 to 4")),
    "empty folder": ("nothing", FITTING, ("nothing", "at least one")),
    "no picture": ("pictures", FITTING, ("note.png", "cannot be read")),
    "damaged archive": ("damaged.npz", FITTING, ("damaged.npz", "cannot be read")),
    "another kind": ("data.csv", FITTING, ("data.csv", "folder of images, .npz or .npy")),
    "missing": ("nowhere.npz", FITTING, ("nowhere.npz", "no such file")),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name: str, net: Path, folder: Path, ndpass: Command) -> None:
    path, preprocess, words = BAD_DATA[name]
    write_data(folder)
    before = contents(folder)
    how = ["--preprocess", preprocess] if preprocess else []
    done = ndpass("run", net, "-q", "--passes", "nd:rank=2", "--validation", path, *how, "-o", "out.onnx")
    assert_refused(done, INPUT, *words)
    assert contents(folder) == before


def test_one_array_for_two_inputs(folder: Path, ndpass: Command) -> None:
    text = "(float[b,3,8,8] x, float[b,4,6,6] z) => (float[b,4,6,6] y) { a = Conv(x, w)  y = Add(a, z) }"
    onnx.save(network(text, w=WEIGHT), folder / "two.onnx")
    np.save(folder / "data.npy", np.zeros((4, 3, 8, 8), np.float32))
    done = ndpass("run", "two.onnx", "-q", "--passes", "nd:rank=2", "--validation", "data.npy", "-o", "out.onnx")
    assert_refused(done, INPUT, "data.npy", "x", "z")
    np.savez(folder / "data.npz", x=np.zeros((4, 3, 8, 8), np.float32), y=np.zeros((4, 4, 6, 6), np.float32))
    done = ndpass("run", "two.onnx", "-q", "--passes", "nd:rank=2", "--validation", "data.npz", "-o", "out.onnx")
    assert_refused(done, INPUT, "data.npz: an archive has an array for each input of the model", "name them x, z")


# --------------------------------------------------------------------------------------------------------- usage

BAD_USAGE: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "pass": (["--passes", "prune"], USAGE, ("'prune'", "nd")),
    "no pass": (["--passes", ""], USAGE, ("the passes are", "nd")),
    "setting": (["--passes", "nd:rnk=2"], USAGE, ("'rnk'", "rank", "form")),
    "rank of zero": (["--passes", "nd:rank=0"], USAGE, ("rank=0", "at least 1")),
    "rank of a word": (["--passes", "nd:rank=two"], USAGE, ("rank=two", "whole number")),
    "form": (["--passes", "nd:form=dw"], USAGE, ("form=dw", "pw-dw or dw-pw")),
    "setting without value": (["--passes", "nd:rank"], USAGE, ("key=value",)),
    "ignored name": (["--ignore", "conv9"], USAGE, ("conv9", "matches no layer", "ndpass inspect")),
    "ignored pattern": (["--ignore", "re:conv.*"], USAGE, ("re:conv.*", "matches no layer")),
    "regular expression": (["--ignore", "re:["], USAGE, ("re:[", "regular expression")),
    "MACs of zero": (["--macs", "0"], USAGE, ("--macs 0", "between 0 and 1")),
    "MACs in per cent": (["--macs", "60"], USAGE, ("--macs 60", "between 0 and 1")),
    "MACs of nothing": (["--macs", "nan"], USAGE, ("--macs nan", "between 0 and 1")),
    "energy": (["--energy", "-0.5"], USAGE, ("--energy -0.5", "between 0 and 1")),
    "two budgets": (["--macs", "0.5", "--energy", "0.5"], USAGE, ("one budget",)),
    "out of reach": (["--macs", "0.01"], BUDGET, ("0.01", "cannot be reached", "the least is")),
}


@pytest.mark.parametrize("name", BAD_USAGE)
def test_bad_usage(name: str, net: Path, folder: Path, ndpass: Command) -> None:
    args, code, words = BAD_USAGE[name]
    before = contents(folder)
    rest = [] if "--passes" in args or "--macs" in args else ["--passes", "nd:rank=2"]
    assert_refused(ndpass("run", net, "-q", *rest, *args, "-o", "out.onnx"), code, *words)
    assert contents(folder) == before


def test_a_budget_that_is_missed_for_want_of_time_says_so(net: Path, folder: Path, ndpass: Command) -> None:
    np.save(folder / "data.npy", np.random.default_rng(0).standard_normal((40, 3, 8, 8), dtype=np.float32))
    args = ("--passes", "cd", "--macs", "0.5", "--calibration", "data.npy", "--time-limit", "0.001s")
    done = ndpass("run", net, "-q", *args, "-o", "out.onnx")
    assert_refused(done, BUDGET, "--macs 0.5 cannot be reached", "--time-limit left no time for 3 layers", "100.0% of")


@pytest.mark.parametrize("args", [["--threads", "0"], ["--seed", "-1"], ["--batch", "x"], ["--no-such-option"]])
def test_option_that_the_parser_refuses(args: list[str], net: Path, folder: Path, ndpass: Command) -> None:
    done = ndpass("run", net, *args, "-o", "out.onnx")
    assert (done.code, done.out) == (USAGE, "")
    assert args[0] in done.err
    assert not (folder / "out.onnx").exists()


# -------------------------------------------------------------------------------------------------------- output


def test_output_of_another_kind(net: Path, ndpass: Command) -> None:
    assert_refused(rewrite(ndpass, net, "out.pb"), USAGE, "out.pb", ".onnx", ".xml")


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
def test_output_is_the_input(link: str, net: Path, folder: Path, ndpass: Command) -> None:
    output = folder / ("net.onnx" if link == "itself" else "other.onnx")
    if link == "symbolic":
        output.symlink_to(folder / net)
    if link == "hard":
        output.hardlink_to(folder / net)
    before = contents(folder)
    assert_refused(rewrite(ndpass, net, output), USAGE, "is the input itself", "another name")
    assert contents(folder) == before


def test_output_folder_is_missing(net: Path, folder: Path, ndpass: Command) -> None:
    before = contents(folder)
    assert_refused(rewrite(ndpass, net, "no/where/out.onnx"), USAGE, "out.onnx", "no/where", "No such file")
    assert contents(folder) == before


def test_output_folder_is_a_file(net: Path, folder: Path, ndpass: Command) -> None:
    before = contents(folder)
    assert_refused(rewrite(ndpass, net, "net.onnx/out.onnx"), USAGE, "out.onnx", "Not a directory")
    assert contents(folder) == before


def test_output_is_a_folder(net: Path, folder: Path, ndpass: Command) -> None:
    (folder / "out.onnx").mkdir()
    before = contents(folder)
    assert_refused(rewrite(ndpass, net, "out.onnx"), USAGE, "out.onnx", "folder")
    assert contents(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_output_folder_is_read_only(net: Path, folder: Path, ndpass: Command) -> None:
    (folder / "closed").mkdir(mode=0o500)
    assert_refused(rewrite(ndpass, net, "closed/out.onnx"), USAGE, "out.onnx", "closed", "Permission denied")
    assert contents(folder / "closed") == {}


@pytest.mark.parametrize("output", ["out.onnx", "out.xml"])
def test_disk_quota_is_reached(output: str, net: Path, folder: Path) -> None:
    """No file may grow beyond 4 kB, which the kernel enforces where no small disk can be mounted."""
    before = contents(folder)
    limit = "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    code = f"{limit}sys.argv[0] = 'ndpass'; runpy.run_module('ndpass', run_name='__main__')"
    command = [sys.executable, "-B", "-c", code, "run", str(net), "-q", "--passes", "nd:rank=2", "-o", output]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    finished = Finished(done.returncode, done.stdout, done.stderr)
    assert_refused(finished, USAGE, output, "cannot be written", os.strerror(27))
    assert contents(folder) == before


@pytest.fixture
def small_disk(folder: Path) -> object:
    """A disk of 4 kB at `disk`, which root can make."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here: a full disk cannot be made")
    if done.returncode:
        pytest.skip(f"a full disk takes the right to mount one: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("output", ["out.onnx", "out.xml"])
def test_disk_is_full(output: str, net: Path, small_disk: Path, ndpass: Command) -> None:
    done = rewrite(ndpass, net, small_disk / output)
    assert_refused(done, USAGE, output, "cannot be written", "No space left")
    assert contents(small_disk) == {}


def test_what_was_there_stays_when_a_run_fails(net: Path, folder: Path, ndpass: Command) -> None:
    (folder / "out.onnx").write_bytes(b"an older model")
    before = contents(folder)
    assert_refused(ndpass("run", net, "-q", "--macs", "0.01", "-o", "out.onnx"), BUDGET)
    assert contents(folder) == before


@pytest.mark.parametrize("report", ["no/where/r.json", "net.onnx", "out.onnx"])
def test_report_that_cannot_be_written(report: str, net: Path, folder: Path, ndpass: Command) -> None:
    """Known before the run, so it costs no run and no model is left."""
    before = contents(folder)
    assert_refused(rewrite(ndpass, net, "out.onnx", "--json", report), USAGE, report)
    assert contents(folder) == before
