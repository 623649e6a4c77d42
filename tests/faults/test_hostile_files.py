"""Files that were made to do harm: each ends in one line and a documented exit code, and nothing of it is used.

What a model may not reach, external data behind `..`, an absolute path or a symbolic link, `tests/cli/test_bad_input`
has.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from conftest import small_network
from many_commands import Commands, Outcome
from models import network, normal
from onnx import helper, numpy_helper

from ndpass.calibration import archives
from ndpass.calibration.feeds import open_feeds
from ndpass.errors import InputError, one_line
from ndpass.graph.input_spec import InputSpec, static_batch

INPUT = 3
RUN = ("-q", "--passes", "nd:rank=1", "--no-latency")
WEIGHT = normal(4, 3, 3, 3)


@pytest.fixture(scope="module")
def command() -> Iterator[Commands]:
    running = Commands()
    yield running
    running.close()


def run(command: Commands, folder: Path, model: onnx.ModelProto | str) -> Outcome:
    """`ndpass run` on an ONNX model, or on the XML of the small network's IR."""
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, folder / "m.onnx")
        return command(folder, "run", "m.onnx", *RUN, "-o", "out.onnx")
    (folder / "m.xml").write_text(model)
    return command(folder, "run", "m.xml", *RUN, "-o", "out.xml")


def assert_refused(found: Outcome, folder: Path, *words: str) -> None:
    assert found.code == INPUT, found
    assert found.is_documented, found
    assert not list(folder.glob("*out*"))
    for word in words:
        assert word in found.err


# -------------------------------------------------------------------------------------------------------- models


def on(text: str, **weights: Any) -> onnx.ModelProto:
    return network(text, w=WEIGHT, **weights)


HUGE = {
    "input": on("(float[1,3,1000000,1000000] x) => (float[1,4,1000000,1000000] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"),
    "batch": on("(float[900000000,3,8,8] x) => (float[900000000,4,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"),
    "padding": on(
        "(float[1,3,8,8] x) => (float[1,4,p,q] y) { y = Conv<pads=[100000000,100000000,1000000000,1000000000]>(x, w) }"
    ),
    "constant": on(
        """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
            c = ConstantOfShape(s)  d = ReduceSum<keepdims=0>(c)  a = Conv<pads=[1,1,1,1]>(x, w)  y = Add(a, d) }""",
        s=np.array([1_000_000, 40, 8000, 8000], np.int64),
    ),
}


@pytest.mark.parametrize("what", HUGE)
def test_shapes_of_terabytes(what: str, command: Commands, folder: Path) -> None:
    """Refused before anything of the size is made."""
    assert_refused(run(command, folder, HUGE[what]), folder, "m.onnx", "memory")


def test_a_batch_of_nothing(command: Commands, folder: Path) -> None:
    model = on("(float[0,3,8,8] x) => (float[0,4,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }")
    found = run(command, folder, model)
    assert found.is_documented, found
    with pytest.raises(InputError, match="batches of 0 samples"):
        static_batch([InputSpec("x", (0, 3, 8, 8), np.dtype(np.float32))])


CONTRADICTIONS = {
    "cycle": "{ a = Conv<pads=[1,1,1,1]>(x, w)  b = Add(a, c)  c = Relu(b)  y = Relu(c) }",
    "a tensor made twice": "{ y = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(y) }",
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_graphs_that_cannot_be(what: str, command: Commands, folder: Path) -> None:
    model = on(f"(float[1,3,8,8] x) => (float[1,4,8,8] y) {CONTRADICTIONS[what]}")
    assert_refused(run(command, folder, model), folder, "m.onnx", "not a valid ONNX model")


def test_a_weight_of_two_values(command: Commands, folder: Path) -> None:
    model = small_network()
    model.graph.initializer.append(model.graph.initializer[0])
    assert_refused(run(command, folder, model), folder, "m.onnx", "not unique")


def test_nodes_of_one_name_are_told_apart(command: Commands, folder: Path) -> None:
    """Names of nodes mean nothing in ONNX."""
    model = small_network()
    for node in model.graph.node:
        node.name = "same"
    found = run(command, folder, model)
    assert found.code == 0, found


def test_names_that_would_change_the_terminal(command: Commands, folder: Path) -> None:
    model = small_network()
    for tensor in model.graph.initializer[:1]:
        tensor.name = "w\x1b[2J\nndpass: done"
        tensor.dims[0] = 7
    for name in (i for node in model.graph.node[:1] for i in range(len(node.input)) if node.input[i] == "w1"):
        model.graph.node[0].input[name] = "w\x1b[2J\nndpass: done"
    assert_refused(run(command, folder, model), folder, r"w\x1b[2J\nndpass: done")


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert str(InputError("a\nb\x1b[2J\u202e")) == r"a\nb\x1b[2J\u202e"
    assert len(one_line("x" * 10**6)) < 3_000


def test_many_nodes(command: Commands, folder: Path, request: pytest.FixtureRequest) -> None:
    count = 100_000 if request.config.getoption("--long") else 5_000
    nodes = [helper.make_node("Conv", ["x", "w"], ["t0"], "conv", pads=[1, 1, 1, 1])]
    nodes += [
        helper.make_node("MaxPool", [f"t{i}"], [f"t{i + 1}"], f"pool{i}", kernel_shape=[1, 1]) for i in range(count)
    ]
    faces = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 8, 8])
        for name, channels in (("x", 3), (f"t{count}", 4))
    ]
    graph = helper.make_graph(nodes, "many", faces[:1], faces[1:], [numpy_helper.from_array(WEIGHT, "w")])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "m.onnx")
    found = command(folder, "inspect", "m.onnx")
    assert found.code == 0, found


def test_hard_link_to_external_data(command: Commands, folder: Path) -> None:
    """Newer versions of onnx refuse it; no path tells it from a file of its own."""
    (folder / "elsewhere").mkdir()
    onnx.save(small_network(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(folder / "elsewhere/secret.bin")
    os.link(folder / "elsewhere/secret.bin", folder / "weights.bin")
    found = command(folder, "run", "m.onnx", *RUN, "-o", "out.onnx")
    assert found.is_documented, found
    assert found.code in (0, INPUT)


# ---------------------------------------------------------------------------------------------------------- XML


@pytest.fixture(scope="module")
def xml(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    path = tmp_path_factory.mktemp("ir") / "m.xml"
    ov.save_model(ov.Core().read_model(small_network().SerializeToString()), path, compress_to_fp16=False)
    return path.read_text(), path.with_suffix(".bin").read_bytes()


def laughs(text: str) -> str:
    """Entities that grow to 20^9 times their length."""
    entities = "".join(f'<!ENTITY {chr(98 + i)} "{("&" + chr(97 + i) + ";") * 20}">' for i in range(9))
    return f'<!DOCTYPE net [<!ENTITY a "aaaa">{entities}]>' + text.replace("</net>", "<rt>&j;</rt></net>")


def outside(text: str) -> str:
    return '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + text.replace("</net>", "<rt>&a;</rt></net>")


def cycle(text: str) -> str:
    edges = re.findall(r"<edge [^>]*/>", text)
    last = re.findall(r'from-layer="(\d+)"', edges[-1])[0]
    return text.replace(edges[0], re.sub(r'from-layer="\d+"', f'from-layer="{last}"', edges[0]))


def one_number(text: str) -> str:
    return re.sub(r' id="3"', ' id="2"', text)


def vast(text: str) -> str:
    return re.sub(r"shape=\"\?,3,8,8\"", 'shape="?,3,100000000,100000000"', text)


XMLS: dict[str, Callable[[str], str]] = {
    "entities that grow": laughs, "an entity from outside": outside, "cycle": cycle, "numbers given twice": one_number,
    "shapes of terabytes": vast,
}  # fmt: skip


@pytest.mark.parametrize("what", XMLS)
def test_xml(what: str, xml: tuple[str, bytes], command: Commands, folder: Path) -> None:
    text, weights = xml
    (folder / "m.bin").write_bytes(weights)
    changed = XMLS[what](text[text.index("<net") :])
    assert changed != text[text.index("<net") :]
    assert_refused(run(command, folder, changed), folder, "m.xml")


# ---------------------------------------------------------------------------------------------------------- data

SPEC = [InputSpec("x", (None, 3, 8, 8), np.dtype(np.float32))]


class Harm:
    """What a pickle would run when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("harm",))


def objects(path: Path) -> None:
    np.save(path, np.array([Harm()], object), allow_pickle=True)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Harm()))


def objects_in_an_archive(path: Path) -> None:
    np.savez(path, images=np.array([Harm()], object), allow_pickle=True)


def beyond(path: Path) -> None:
    """A header that promises terabytes, and nothing behind it."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 3, 800, 800)}
        np.lib.format.write_array_header_1_0(file, header)


DATA: dict[str, tuple[str, Callable[[Path], None]]] = {
    "objects": ("a.npy", objects),
    "a pickle": ("a.npy", pickled),
    "a pickle for an archive": ("a.npz", pickled),
    "objects in an archive": ("a.npz", objects_in_an_archive),
    "a header without data": ("a.npy", beyond),
}


@pytest.mark.parametrize("what", DATA)
def test_arrays(what: str, folder: Path) -> None:
    name, write = DATA[what]
    write(folder / name)
    with pytest.raises(InputError, match=rf"{name}: cannot be read as arrays"):
        open_feeds(folder / name, SPEC)
    assert not Path("harm").exists()


def test_an_archive_that_unpacks_to_more_than_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of its size on the disk."""
    np.savez_compressed(folder / "a.npz", images=np.zeros((20_000, 3, 8, 8), np.float32))
    assert (folder / "a.npz").stat().st_size < 100_000
    assert len(open_feeds(folder / "a.npz", SPEC)) == 20_000
    monkeypatch.setattr(archives, "memory_here", lambda: 10_000_000)
    with pytest.raises(InputError, match=r"a\.npz: holds an array of .* GB, this machine has"):
        open_feeds(folder / "a.npz", SPEC)


def test_an_archive_with_a_path_in_it_writes_nothing(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("../outside.npy", b"x")
    with pytest.raises(InputError):
        open_feeds(folder / "a.npz", SPEC)
    assert [path.name for path in folder.iterdir()] == ["a.npz"]


# --------------------------------------------------------------------------------------- passes of other packages

RAISING = """
from ndpass.passes import ChannelDecomposition

class Boom(ChannelDecomposition):
    name, summary = "boom", "raises where it rewrites"

    def rewrite(self, conv, setting, moments=None):
        return {}["no such key"]
"""


def test_a_pass_of_another_package_that_raises(
    net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, ndpass: Callable[..., Any]
) -> None:
    info = folder / "site/boom-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "site/boom_pass.py").write_text(RAISING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boom\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ndpass.passes]\nboom = boom_pass:Boom\n")
    monkeypatch.syspath_prepend(folder / "site")
    done = ndpass("run", net, "-q", "--passes", "boom:rank=2", "-o", "out.onnx")
    assert done.code == 2
    assert done.err == "ndpass: pass 'boom' of boom_pass:Boom fails in rewrite: KeyError: 'no such key'\n"
    assert not (folder / "out.onnx").exists()
