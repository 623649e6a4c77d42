"""Outputs, written whole or not at all, several of them together, and errors that name the user's file."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from models import network, normal
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from ndpass.errors import InputError, OutputError, VerificationError
from ndpass.files import onnx_file
from ndpass.files.placing import uninterrupted
from ndpass.files.staging import Outputs, staged, write_text
from ndpass.files.weight_files import stored_bytes


def model(weight: NDArray[np.floating] | None = None) -> ModelProto:
    text = "(float[1,3,8,8] x) => (float[1,16,6,6] y) { y = Conv(x, W) }"
    return network(text, W=normal(16, 3, 3, 3) if weight is None else weight)


def with_data(folder: Path) -> Path:
    """A model of which the weight lies in m.onnx.data."""
    onnx_file.save(model(), folder / "m.onnx", as_external=True)
    return folder / "m.onnx"


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


# one output


def test_a_staged_file_appears_when_it_is_committed_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "m.txt"
    with staged(target) as stage:
        stage.path.write_text("new")
        assert not target.exists()
        stage.commit()
        assert target.read_text() == "new"
    assert listing(tmp_path) == ["m.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError])
def test_nothing_is_left_and_nothing_is_lost_when_something_fails(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "m.onnx"
    target.write_text("old")

    def fail() -> None:
        with staged(target) as stage:
            stage.path.write_text("half")
            (stage.path.parent / "m.onnx.data").write_text("half")
            raise error("on purpose")

    with pytest.raises(error, match="on purpose"):
        fail()
    assert listing(tmp_path) == ["m.onnx"]
    assert target.read_text() == "old"


def test_without_commit_nothing_is_written(tmp_path: Path) -> None:
    with staged(tmp_path / "m.onnx") as stage:
        stage.path.write_text("never wanted")
    assert listing(tmp_path) == []


def test_a_model_and_its_data_are_replaced_together(tmp_path: Path) -> None:
    target = with_data(tmp_path)
    other = normal(16, 3, 3, 3, seed=9)
    with staged(target) as stage:
        onnx_file.save(model(other), stage.path, as_external=True)
        stage.commit()
    assert listing(tmp_path) == ["m.onnx", "m.onnx.data"]
    np.testing.assert_array_equal(numpy_helper.to_array(onnx_file.load(target).graph.initializer[0]), other)
    assert (tmp_path / "m.onnx.data").stat().st_size == other.nbytes


def test_data_that_the_older_model_does_not_name_stays(tmp_path: Path) -> None:
    onnx_file.save(model(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").write_text("somebody else's")
    with staged(tmp_path / "m.onnx") as stage:
        onnx_file.save(model(), stage.path)
        stage.commit()
    assert (tmp_path / "m.onnx.data").read_text() == "somebody else's"


def test_a_report_leaves_a_file_named_like_its_data(tmp_path: Path) -> None:
    (tmp_path / "report.json.data").write_text("mine")
    for text in ("first", "second"):
        write_text(tmp_path / "report.json", text)
    assert listing(tmp_path) == ["report.json", "report.json.data"]
    assert (tmp_path / "report.json.data").read_text() == "mine"


def test_a_model_without_data_leaves_no_data_of_an_older_one(tmp_path: Path) -> None:
    """Else the size on disk would count weights that belong to nobody."""
    target = with_data(tmp_path)
    with staged(target) as stage:
        onnx_file.save(model(), stage.path)
        stage.commit()
    assert onnx_file.load(target) == model()
    assert stored_bytes(target) == len(model().SerializeToString())


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "m.onnx"
    with (
        pytest.raises(
            OutputError, match=r"m\.onnx: cannot write into .*nowhere: No such file.*; make it: mkdir -p .*nowhere"
        ) as refusal,
        staged(target),
    ):
        pytest.fail("the body must not run")
    assert refusal.value.exit_code == 2


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write into"), staged(tmp_path / "file" / "m.onnx"):
        pytest.fail("the body must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into a read-only folder all the same")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), staged(tmp_path / "m.onnx"):
        pytest.fail("the body must not run")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.txt").mkdir()
    with pytest.raises(OutputError, match=r"m\.txt is a folder"):
        write_text(tmp_path / "m.txt", "text")
    assert listing(tmp_path) == ["m.txt"]


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first, and longer", "second: ×"):
        write_text(tmp_path / "r.json", text)
    assert (tmp_path / "r.json").read_text(encoding="utf-8") == "second: ×"
    assert listing(tmp_path) == ["r.json"]


def test_a_relative_target_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(Path("r.json"), "{}")
    assert listing(tmp_path) == ["r.json"]


# several outputs


def write_three(folder: Path, outputs: Outputs) -> None:
    """A model with data, a report and a folder two levels down, all with the text "new"."""
    stage = outputs.stage(folder / "m.onnx")
    for path in (stage.path, stage.path.with_name("m.onnx.data")):
        path.write_text("new")
    outputs.text(folder / "r.json", "new")
    (outputs.stage_folder(folder / "served" / "x" / "1").path / "model.xml").write_text("new")


THREE = ("m.onnx", "m.onnx.data", "r.json", "served/x/1/model.xml")


@pytest.mark.parametrize("old", [False, True], ids=["nothing there", "older ones there"])
def test_all_appear_at_the_commit_and_none_before(old: bool, tmp_path: Path) -> None:
    before = dict.fromkeys(("m.onnx", "r.json"), "old") if old else {}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with Outputs() as outputs:
        write_three(tmp_path, outputs)
        assert {name: (tmp_path / name).read_text() for name in before} == before
        assert not any((tmp_path / name).exists() for name in THREE if name not in before)
        outputs.commit()
    assert contents(tmp_path) == dict.fromkeys(THREE, "new")


@pytest.mark.parametrize("blocked", ["m.onnx", "m.onnx.data", "r.json", "served/x/1"])
def test_what_was_there_comes_back_when_one_cannot_be_put_in_place(blocked: str, tmp_path: Path) -> None:
    """A folder that appears at a place while the others are being written: no file can be renamed over it."""
    before = {name: f"old {name}" for name in ("m.onnx", "m.onnx.data", "r.json") if name != blocked}
    for name, text in before.items():
        (tmp_path / name).write_text(text)

    with Outputs() as outputs:
        write_three(tmp_path, outputs)
        (tmp_path / blocked / "in the way").mkdir(parents=True)
        with pytest.raises(OutputError, match=r"cannot be written: (Is a directory|Directory not empty)"):
            outputs.commit()
    assert contents(tmp_path) == before
    made = {blocked.split("/")[0], *before}
    assert set(listing(tmp_path)) == made


def test_folders_that_were_made_go_again_when_one_cannot_be_put_in_place(tmp_path: Path) -> None:
    with Outputs() as outputs:
        write_three(tmp_path, outputs)
        (tmp_path / "r.json" / "in the way").mkdir(parents=True)
        with pytest.raises(OutputError):
            outputs.commit()
    assert listing(tmp_path) == ["r.json"]


def test_a_link_in_the_place_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "r.json").symlink_to("real.json")
    write_text(tmp_path / "r.json", "new")
    assert not (tmp_path / "r.json").is_symlink()
    assert contents(tmp_path) == {"real.json": "old", "r.json": "new"}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_all_is_in_place(sign: signal.Signals) -> None:
    class EndedError(Exception):
        pass

    def end(number: int, _: object) -> None:
        raise EndedError(number)

    def hold() -> None:
        with uninterrupted():
            signal.raise_signal(sign)
            reached.append("the end of the block")

    reached: list[str] = []
    earlier = signal.signal(sign, end)
    try:
        with pytest.raises(EndedError):
            hold()
        assert signal.getsignal(sign) is end
    finally:
        signal.signal(sign, earlier)
    assert reached


# whose fault it is


def test_an_error_that_names_a_staged_file_names_the_output_instead(tmp_path: Path) -> None:
    target = tmp_path / "out.xml"
    for named in ("out.xml", "out.onnx", "out.bin", "out.onnx.data", "tmp123/result.xml"):
        with pytest.raises(VerificationError) as refusal, staged(target) as stage:
            raise VerificationError(f"{stage.path.parent / named}: not legal")
        assert str(refusal.value) == f"{target}: not legal"


def test_a_file_that_cannot_be_read_is_an_input_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.npy: cannot be read: No such file") as refusal, staged(tmp_path / "m"):
        (tmp_path / "data.npy").read_bytes()
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_is_an_output_error_whoever_meets_it(number: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^a file cannot be written: {os.strerror(number)}"), staged(tmp_path / "m"):
        raise OSError(number, os.strerror(number))


def test_a_read_error_without_a_name_is_an_input_error(tmp_path: Path) -> None:
    """What the kernel says of a page that is not mapped, as it would of a damaged disk."""
    with (
        pytest.raises(InputError, match=r"^a file cannot be read: Input/output error"),
        staged(tmp_path / "m"),
        Path("/proc/self/mem").open("rb") as memory,
    ):
        memory.read(1)
