"""The folder that OpenVINO Model Server reads: versions appear whole, with the model, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from ndpass.errors import OutputError
from ndpass.files.model_server import stage_version
from ndpass.files.staging import Outputs
from ndpass.measuring.runtime import OpenVINO
from ndpass.run import digits


def served(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_version_appears_when_the_outputs_are_committed(net: Path, folder: Path) -> None:
    before = served(folder)
    with Outputs() as outputs:
        assert stage_version(net, Path("a/served"), outputs) == Path("a/served/1/model.xml")
        assert not Path("a").exists()
        outputs.commit()
    made = ["a", "a/served", "a/served/1", "a/served/1/model.bin", "a/served/1/model.xml"]
    assert served(folder) == [*made, *before]
    assert Path("a/served/1").stat().st_mode & 0o777 == 0o755


def test_the_next_version_is_one_above_those_that_are_there(net: Path, folder: Path) -> None:
    for name in ("1", "10", "9", "notes"):
        (folder / "served" / name).mkdir(parents=True)
    with Outputs() as outputs:
        assert stage_version(net, Path("served"), outputs) == Path("served/11/model.xml")


def test_folders_that_were_made_go_when_another_output_fails(net: Path, folder: Path) -> None:
    before = served(folder)
    with Outputs() as outputs:
        stage_version(net, Path("a/served"), outputs)
        outputs.text(Path("r.json"), "{}")
        Path("r.json/in the way").mkdir(parents=True)
        with pytest.raises(OutputError, match=r"r\.json: cannot be written"):
            outputs.commit()
    Path("r.json/in the way").rmdir()
    Path("r.json").rmdir()
    assert served(folder) == before


@pytest.mark.usefixtures("folder")
def test_model_server_gets_version_after_version(ndpass: Command) -> None:
    """As OpenVINO Model Server lays models out: NAME/VERSION/model.xml and .bin, and nothing else."""
    for version in ("1", "2"):
        done = ndpass("run", "--passes", "nd:rank=2", "-o", "out.onnx", "--model-server", "served/digits")
        assert done.code == 0, done.err
        assert f"served/digits/{version}/model.xml" in done.out
    assert sorted(p.name for p in Path("served/digits").iterdir()) == ["1", "2"]
    assert sorted(p.name for p in Path("served/digits/1").iterdir()) == ["model.bin", "model.xml"]
    image = digits.images()[1][0][:4]
    (wanted,) = OpenVINO(Path("out.onnx"))({"image": image}).values()
    (found,) = OpenVINO(Path("served/digits/1/model.xml"))({"image": image}).values()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_run_that_fails_leaves_no_folder_for_the_model_server(ndpass: Command, folder: Path) -> None:
    done = ndpass("run", "-q", "--passes", "nd", "--macs", "0.001", "-o", "out.onnx", "--model-server", "served/digits")
    assert done.code == 4
    assert not (folder / "served").exists()


def test_model_server_folder_that_is_a_file(ndpass: Command, folder: Path) -> None:
    (folder / "served").write_text("")
    done = ndpass("run", "-q", "--passes", "nd:rank=2", "-o", "out.onnx", "--model-server", "served")
    assert done.code == 2
    assert "served" in done.err
    assert not Path("out.onnx").exists()
