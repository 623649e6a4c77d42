"""What `python -m benchmarks` lists can be run, and says how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from benchmarks import machine, models
from benchmarks.__main__ import FOLDER, commands
from benchmarks.networks.layers import seeded
from benchmarks.networks.vgg import vgg
from benchmarks.results import rows


def test_every_command_is_listed_with_its_minutes() -> None:
    listed = {command.module: command for command in commands()}
    assert {"benchmarks.models", "benchmarks.cost", "benchmarks.training.ssd300"} <= set(listed)
    assert all(len(command.line) > 20 and command.minutes > 0 for command in listed.values())
    files = {path for path in FOLDER.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    modules = {".".join(["benchmarks", *path.relative_to(FOLDER).with_suffix("").parts]) for path in files}
    assert modules - {"benchmarks.__main__"} == set(listed)


def test_every_command_says_what_it_is_called() -> None:
    """Its docstring begins with the command, and lines after it show how to run it."""
    for command in commands():
        path = FOLDER.parent.joinpath(*command.module.split(".")).with_suffix(".py")
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f'"""`python -m {command.module}`: '), path
        assert f"\n    python -m {command.module}" in text, path


def test_the_list_is_printed_without_importing_a_command() -> None:
    """Some of them need torch."""
    code = "import sys, runpy; runpy.run_module('benchmarks', run_name='__main__'); print(sorted(sys.modules))"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=FOLDER.parent, check=True, capture_output=True, text=True).stdout
    *lines, loaded = said.splitlines()
    assert len([line for line in lines if line.startswith("python -m ")]) == len(list(commands()))
    assert "'benchmarks.speed'" not in loaded
    assert "'numpy'" not in loaded


def test_models_are_written_with_seeded_and_with_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed gives other weights; a file gives its own."""
    monkeypatch.setattr(models, "PUBLISHED", {"vgg16": lambda: vgg(11, 0.02, 32)})
    paths = [tmp_path / f"{name}.onnx" for name in ("first", "second", "third")]
    for path, more in zip(paths, ([], ["--seed", "3"], ["--weights", str(paths[1])]), strict=True):
        monkeypatch.setattr(sys, "argv", ["models", "vgg16", str(path), *more])
        models.main()
    first, second, third = (path.read_bytes() for path in paths)
    assert first == seeded(vgg(11, 0.02, 32)).SerializeToString()
    assert first != second
    assert second == third
    onnx.checker.check_model(paths[0], full_check=True)


def test_a_file_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent, out = tmp_path / "absent.onnx", tmp_path / "out.onnx"
    monkeypatch.setattr(sys, "argv", ["models", "vgg16", str(out), "--weights", str(absent)])
    with pytest.raises(SystemExit, match="2"):
        models.main()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"argument --weights: there is no {absent}")
    assert not out.exists()


def test_the_machine_is_told_what_is_not_measured_on_its_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of another CPU do not count; the most wanted comes first; nothing is left in the end."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    kinds = {table.file: [] for table in machine.WANTED}
    for table in machine.WANTED:
        kinds[table.file] += [table.key, {**table.key, "cpu": "Intel AVX-512"}]
    kinds["speed"] = [{"network": "vgg16"}, {"network": "ssd300", "cpu": "Intel AVX-512"}]
    kinds["cost"] = [{"what": "ndpass"}]
    for name, found in kinds.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    left = [table.command for table in machine.missing("Intel AVX-512")]
    assert left == ["speed --networks vgg16", "cost"]
    monkeypatch.setattr(rows, "cpu", lambda: "Intel AVX-512")
    monkeypatch.setattr(sys, "argv", ["machine"])
    machine.main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "Intel AVX-512: no rows of 2 of 14 tables, 89 minutes on two cores"
    assert lines == ["  85 min  python -m benchmarks.speed --networks vgg16", "   4 min  python -m benchmarks.cost"]
    (only,) = machine.lines("AMD AVX-512", [machine.WANTED[0]])
    assert only == "AMD AVX-512: every table has rows"


def test_what_the_machine_is_told_can_be_run() -> None:
    """The commands exist, the files are those that hold times, and VGG16 and SSD300 come first."""
    listed = {command.module for command in commands()}
    assert [table.command.split()[0] for table in machine.WANTED[:3]] == ["speed", "speed", "max_drop"]
    for table in machine.WANTED:
        assert f"benchmarks.{table.command.split()[0]}" in listed
        assert table.file.startswith(rows.TIMED)
    assert {name for name in rows.TIMED if not any(t.file.startswith(name) for t in machine.WANTED)} == set()
