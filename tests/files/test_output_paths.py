"""No output replaces an input, another output, or a model that it is not an older version of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from conftest import small_network

from ndpass.errors import OutputError, UsageError
from ndpass.files import onnx_file
from ndpass.files.output_paths import check_outputs
from ndpass.files.staging import Outputs

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in

NET = Path("net.onnx")
IR = Path("ir.xml")
OUTSIDE = Path("weights.bin")  # of far.onnx
REMEDY = "another name"


@pytest.fixture(autouse=True)
def inputs(folder: Path) -> dict[str, bytes]:
    """A model in one file, one with weights.bin, an IR and images; what is in the folder before the test."""
    onnx.save(small_network(), NET)
    onnx.save(small_network(), "far.onnx", save_as_external_data=True, location=OUTSIDE.name, size_threshold=0)
    ov.save_model(ov.Core().read_model(NET), IR, compress_to_fp16=False)
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        Path("photos", name).write_bytes(b"an image")
    np.save("data.npy", np.zeros(3))
    return listing(folder)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def linked(target: str) -> Path:
    Path("link.json").symlink_to(target)
    return Path("link.json")


def hard_linked(target: str) -> Path:
    Path("hard.json").hardlink_to(target)
    return Path("hard.json")


SAME: dict[str, Callable[[], Path]] = {
    "the same name": lambda: NET,
    "a relative path": lambda: Path("photos/../net.onnx"),
    "an absolute path": NET.absolute,
    "a symbolic link": lambda: linked("net.onnx"),
    "a hard link": lambda: hard_linked("net.onnx"),
}


@pytest.mark.parametrize("how", SAME)
@pytest.mark.parametrize("option", ["--json", "--plot", "--save-plan", "--report"])
def test_a_report_on_the_model_is_refused(how: str, option: str, folder: Path) -> None:
    path = SAME[how]()
    before = listing(folder)
    with pytest.raises(UsageError, match=f"^{option} {path} is the input itself.*{REMEDY}"):
        check_outputs([NET], {option: path})
    assert listing(folder) == before


@pytest.mark.parametrize("how", SAME)
def test_a_model_on_the_model_is_refused(how: str) -> None:
    path = SAME[how]()
    with pytest.raises(UsageError, match=f"^{path} is the input itself.*{REMEDY}"):
        check_outputs([NET, None], {}, model=path)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_each_of_many_inputs_counts(position: int) -> None:
    given = [Path("far.onnx"), IR, Path("data.npy")]
    given.insert(position, NET)
    with pytest.raises(UsageError, match=r"net\.onnx is the input itself"):
        check_outputs(given, {"--json": NET})


WEIGHTS = {
    "of an IR": (IR, Path("ir.bin")),
    "of an ONNX model": (Path("far.onnx"), OUTSIDE),
}


@pytest.mark.parametrize("which", WEIGHTS)
def test_a_report_on_weights_of_the_input_is_refused(which: str) -> None:
    given, weights = WEIGHTS[which]
    with pytest.raises(UsageError, match=f"^--json {weights}: it would overwrite those of the input {given}"):
        check_outputs([given], {"--json": weights})


def test_a_model_whose_weights_would_fall_on_those_of_the_input_is_refused() -> None:
    """weights.xml takes weights.bin, which far.onnx reads."""
    with pytest.raises(UsageError, match=r"^weights\.xml: its weights would overwrite those of the input far\.onnx"):
        check_outputs([Path("far.onnx")], {}, model=Path("weights.xml"))


@pytest.mark.parametrize("name", ["ir.bin", "weights.bin", "net.onnx", "ir.xml"])
def test_a_report_on_a_model_or_weights_that_are_no_input_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"^--json {name} would overwrite a model or its weights: give {REMEDY}"):
        check_outputs([Path("data.npy")], {"--json": Path(name)})


@pytest.mark.parametrize(("output", "weights"), [("weights.xml", "weights.bin"), ("m.onnx", "m.onnx.data")])
def test_a_model_on_weights_of_another_one_is_refused(output: str, weights: str) -> None:
    Path(weights).touch()
    with pytest.raises(UsageError, match=f"^{output}: its weights would overwrite {weights}, which belongs to another"):
        check_outputs([NET], {}, model=Path(output))


def test_an_older_model_with_its_weights_may_be_replaced(folder: Path) -> None:
    onnx_file.save(small_network(), Path("old.onnx"), as_external=True)
    before = listing(folder)
    check_outputs([NET], {"--json": Path("r.json")}, model=Path("old.onnx"))
    check_outputs([NET], {"--json": Path("r.json")}, model=IR)
    assert listing(folder) == before


def test_data_beside_a_report_are_nobody_s_weights() -> None:
    Path("report.json.data").touch()
    check_outputs([NET], {"--json": Path("report.json")}, model=Path("out.onnx"))


@pytest.mark.parametrize("report", ["out.xml", "out.bin", "./out.xml"])
def test_two_outputs_on_one_file_are_refused(report: str) -> None:
    with pytest.raises(UsageError, match=r"out\.xml and --json .* would both be written to out\.(xml|bin)"):
        check_outputs([NET], {"--json": Path(report)}, model=Path("out.xml"))
    with pytest.raises(UsageError, match=r"--json r\.json and --save-plan r\.json would both"):
        check_outputs([NET], {"--json": Path("r.json"), "--save-plan": Path("r.json")})


def test_a_picture_on_an_image_of_the_data_is_refused_and_a_new_report_among_them_is_not() -> None:
    with pytest.raises(UsageError, match=r"--plot photos/a\.png is a file of the input photos"):
        check_outputs([NET, Path("photos")], {"--plot": Path("photos/a.png")})
    check_outputs([NET, Path("photos")], {"--json": Path("photos/r.json")})


def test_the_model_server_s_folder_is_no_input() -> None:
    with pytest.raises(UsageError, match="--model-server photos is the input itself"):
        check_outputs([NET, Path("photos")], {}, served=Path("photos"))
    check_outputs([NET, Path("photos")], {}, served=Path("new/served"))
    assert not Path("new").exists()


NOWHERE = {
    "a missing folder": (Path("no/where/r.json"), "cannot write into .*no/where: No such file"),
    "a file as folder": (Path("data.npy/r.json"), r"cannot write into .*data\.npy: Not a directory"),
    "a folder as file": (Path("photos"), "photos is a folder: name a file in it"),
}


@pytest.mark.parametrize("which", NOWHERE)
def test_where_nothing_can_be_written_is_told_at_once(which: str, folder: Path) -> None:
    path, words = NOWHERE[which]
    before = listing(folder)
    with pytest.raises(OutputError, match=words):
        check_outputs([NET], {"--json": path})
    assert listing(folder) == before


def test_a_model_server_s_folder_that_is_a_file() -> None:
    with pytest.raises(OutputError, match=r"data\.npy/1: cannot write into .*data\.npy: Not a directory"):
        check_outputs([NET], {}, served=Path("data.npy"))


def test_what_was_checked_can_be_written(folder: Path) -> None:
    before = listing(folder)
    check_outputs([NET], {"--json": Path("r.json")})
    with Outputs() as outputs:
        outputs.text(Path("r.json"), "{}")
        outputs.commit()
    assert listing(folder) == {**before, "r.json": b"{}"}


KILLED = """
import os
from pathlib import Path
from ndpass.files import placing
from ndpass.files.staging import Outputs

make, made = placing._make, []
def make_one(move):
    if made:
        os._exit(9)
    made.append(make(move))
placing._make = make_one
with Outputs() as outputs:
    stage = outputs.stage(Path("out.xml"))
    stage.path.write_text("a model")
    stage.path.with_suffix(".bin").write_bytes(b"its weights")
    outputs.commit()
"""


def test_weights_that_a_killed_process_has_put_in_place_alone_are_no_other_models(folder: Path) -> None:
    """A run that was killed between both renames could not be resumed: its own weights stood in its way."""
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=folder, check=False).returncode == 9
    assert Path("out.bin").exists()
    assert not Path("out.xml").exists()
    check_outputs([], {}, Path("out.xml"))
    assert not Path("out.bin").exists()
