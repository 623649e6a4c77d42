"""What is given as a model and is none: one line that says what it is and what to type."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command, assert_refused

import ndpass
from ndpass.calibration.archives import load_arrays
from ndpass.errors import InputError
from ndpass.files.model_path import check_model_path

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in


def torch_archive(path: Path) -> None:
    """As torch.save lays files out: an archive whose first entry is data.pkl."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


def torch_pickle(path: Path) -> None:
    """As torch.save wrote them before 1.6."""
    path.write_bytes(pickle.dumps({}, protocol=2))


def folder_with_a_model(path: Path) -> None:
    path.mkdir()
    (path / "b.onnx").touch()
    (path / "a.txt").touch()


def folder_of_pictures(path: Path) -> None:
    path.mkdir()
    (path / "cat.PNG").touch()


def weights_of_an_ir(path: Path) -> None:
    path.touch()
    path.with_suffix(".xml").touch()


def near_by(path: Path) -> None:
    path.with_name("resnet.onnx").touch()


EXPORT = 'torch.onnx.export(network.eval(), torch.zeros(1, 3, 224, 224), "net.onnx")'

WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    ".pt": ("net.pt", Path.touch, EXPORT),
    ".pth": ("net.pth", Path.touch, EXPORT),
    "PyTorch under another name": ("net.onnx", torch_archive, EXPORT),
    "an old PyTorch under another name": ("net.bin", torch_pickle, EXPORT),
    "a folder": ("dir", folder_with_a_model, "dir is a folder: name the model in it, as dir/b.onnx"),
    "a folder of data": ("dir", folder_of_pictures, "dir is a folder: it holds data, no model; the model comes first"),
    "a folder without models": ("dir", Path.mkdir, "there is no .onnx and no .xml directly in it"),
    "data": ("data.npz", Path.touch, "data.npz is an array file, no model: the model comes first"),
    "an image": ("cat.JPG", Path.touch, "cat.JPG is an image, no model: the model comes first"),
    "weights of an IR": ("m.bin", weights_of_an_ir, "m.bin holds only the weights of an OpenVINO IR: give m.xml"),
    "Keras": ("m.keras", Path.touch, "model.export('m.onnx', format='onnx')"),
    "nothing": ("m.onnx", lambda _: None, "m.onnx: no such file"),
    "a slip": ("resnt.onnx", near_by, "resnt.onnx: no such file: did you mean resnet.onnx?"),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_is_no_model_is_told_in_one_line(which: str) -> None:
    name, make, words = WRONG[which]
    make(Path(name))
    with pytest.raises(InputError) as refusal:
        check_model_path(Path(name))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_model_passes() -> None:
    Path("m.onnx").write_bytes(b"\x08\x08\x12\x00")
    check_model_path(Path("m.onnx"))


def test_a_model_in_the_place_of_data() -> None:
    Path("m.onnx").touch()
    with pytest.raises(InputError, match=r"m\.onnx is a model, no data: the model comes first"):
        load_arrays(Path("m.onnx"))


def test_a_pytorch_file_is_told_in_python_too() -> None:
    torch_archive(Path("net.pt"))
    for call in (ndpass.run, ndpass.convert_model):
        with pytest.raises(InputError, match=r"net\.pt is a PyTorch file.*torch\.onnx\.export"):
            call("net.pt")


COMMANDS = {
    "run": ("run", "net.pt", "-q"),
    "inspect": ("inspect", "net.pt"),
    "bench": ("bench", "net.pt"),
    "evaluate": ("evaluate", "net.pt", "--data", "data.npy"),
    "sensitivity": ("sensitivity", "net.pt", "-q", "--calibration", "data.npy"),
}


@pytest.mark.parametrize("which", COMMANDS)
def test_every_command_says_so(which: str, request: pytest.FixtureRequest) -> None:
    Path("net.pt").touch()
    Path("data.npy").touch()
    command: Command = request.getfixturevalue("ndpass")
    assert_refused(command(*COMMANDS[which]), 3, "net.pt is a PyTorch file", "torch.onnx.export")
